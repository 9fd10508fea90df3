"""PURE. A reference: one feature of one segment as it was, and the cells that it cuts the values into.

For numbers with distinct reference values u_0 < ... < u_{K-1} the code of x is 2 * #(u < x) + [x is one of u]: every gap
and every equality is a cell, so all that rank statistics need survives, ties and infinities included, and counts of any
split of the rows add up to the counts of the whole. Values beyond the range have codes that say how far (`outside`). For categories the code is the index, K for a value without a name.
Null and NaN are counted apart. The detectors read the same counts on at most 512 coarse cells (`coarse`; `grid` counts
them directly). A rhythm changes no cell: each slot is another law over the same ones.

Knows no windows, no thresholds, no files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipeline.contract import MonitoredFeature
from stream_processors.reference.counts import EMPTY, Counts, from_dense
from stream_processors.reference.lookup import Lookup, codes_of, counted, lookup_of
from stream_processors.reference.outside import Outside, outside_of
from stream_processors.reference.slots import Slots, Temper

Kind = Literal["numeric", "categorical"]

WHOLE = "*"
KEPT_ROWS = 200_000  # rows of a numeric reference if the contract says nothing; of N > kept every (N/kept)-th in order
MOST_ROWS = 10_000_000  # that a contract may ask for: 360 MB a feature, 1.3 GB while it is built
CELLS, SEGMENT_CELLS = 512, 64  # coarse cells of the whole and of a segment
ROWS_A_CELL = 20  # a coarse cell that holds fewer reference rows is too badly known to be alarmed on
NAMED_CATEGORIES = 1_000  # by count, then name; rows of the others are `other` and count as values never seen
CHOSEN_ABOVE = 62  # categories: with more, some are chosen over others, by a fifth of the rows; the rest say the shares
CHOOSING = 0.2
EXACT = 2**53  # whole numbers below are each a float64
INEXACT = 0.001  # share of a reference beyond that does no harm


@dataclass(frozen=True, slots=True, eq=False)
class FeatureReference:
    """One feature of one segment as it was: what windows are compared with. Equal only to itself; compare digests."""

    feature: str
    segment: str
    kind: Kind
    version: int
    effective_from: int  # ms, event time
    rows: int  # with a value, as kept here: the R of every formula
    nulls: int  # null or NaN, of `source_rows + nulls`
    source_rows: int  # with a value, before thinning
    values: np.ndarray  # numeric: distinct, sorted, float64[K]
    categories: tuple[str, ...]  # categorical: sorted by name
    counts: np.ndarray  # int64[K], rows equal to each value or category
    other: int = 0  # rows with a category that is not named; they count as unseen
    cardinality: int = 0  # distinct values that there were, named or not
    choosing: np.ndarray | None = (
        None  # int64[K], rows by which names and cells were chosen; none of them is in `counts`
    )
    slots: Slots | None = None  # a rhythm; None = one law at all times
    temper: Temper | None = None  # None = rows are independent
    evidence: Mapping[str, float] = field(default_factory=dict)  # of rhythm and dependence, found or not, for people
    model: str = ""  # version of the model whose answers these are; empty = no answers
    inexact: int = 0  # of `source_rows`, whole numbers that float64 may not tell from their neighbours
    cumulative: np.ndarray = field(init=False, repr=False)  # int64[K], rows <= each value
    lookup: Lookup | None = field(init=False, repr=False)
    outside: Outside | None = field(init=False, repr=False)
    cell_of: np.ndarray = field(init=False, repr=False)  # coarse cell of each code; [value cells..., unseen, null]
    cell_rows: np.ndarray = field(init=False, repr=False)  # reference rows of each coarse cell

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "cumulative", np.cumsum(self.counts, dtype=np.int64))
        put(self, "lookup", lookup_of(self.values) if self.kind == "numeric" else None)
        put(self, "outside", outside_of(self.values) if self.kind == "numeric" else None)
        cell_of, cells = _coarse_cells(self)
        put(self, "cell_of", cell_of)
        codes = 2 * np.arange(len(self.counts)) + 1 if self.kind == "numeric" else np.arange(len(self.counts))
        rows = np.bincount(cell_of[codes], weights=self.counts, minlength=cells + 2).astype(np.int64)
        rows[-2:] = self.other, self.nulls
        put(self, "cell_rows", rows)

    @property
    def key(self) -> tuple[str, str]:
        return self.feature, self.segment

    @property
    def cells(self) -> int:
        """Coarse cells that hold values, those beyond the range included; `unseen` and `null` come on top."""
        return len(self.cell_rows) - 2

    @property
    def fences(self) -> tuple[np.ndarray, np.ndarray]:
        """float64, ascending: what parts the coarse cells below the range, and those above it."""
        if self.outside is None or self.discrete or not len(self.values):
            return np.empty(0), np.empty(0)
        return self.outside.coarse_below[::-1], self.outside.coarse_above

    @property
    def code_count(self) -> int:
        return len(self.cell_of)

    @property
    def discrete(self) -> bool:
        """Few distinct values, so that a value between them is news."""
        return self.kind == "categorical" or len(self.values) <= self.cells_wanted // 2

    @property
    def cells_wanted(self) -> int:
        most = CELLS if self.segment == WHOLE else SEGMENT_CELLS
        rows = self.rows if self.slots is None else int(self.slots.judged_rows.min(initial=self.rows))
        return max(1, min(most, rows // ROWS_A_CELL))

    @property
    def rounded(self) -> str | None:
        """Why silence says little of its whole numbers, which count as float64; None if it does.

        Rounding keeps their order, so distances are never larger than the true ones, and alarms are kept as rare; but
        numbers that differ may count as equal. Where only a share e of the reference lies beyond 2**53 on one side D is
        wrong by e at most: up to there both distribution functions are exact, and the reference's is 1 - e or more.
        """
        if self.inexact <= INEXACT * self.source_rows:
            return None
        share = f"{self.inexact / self.source_rows:.1%}"
        return f"{share} of the reference's rows are whole numbers beyond 2^53, which are rounded, so a change may not show: watch their difference from a constant, or their text"

    @property
    def null_ratio(self) -> float:
        return self.nulls / max(1, self.source_rows + self.nulls)

    def slot_cell_rows(self, slot: int) -> np.ndarray:
        """int64 reference rows of each coarse cell in one slot: those of values, then `unseen`, then `null`."""
        if self.slots is None:
            raise ValueError(f"reference of {self.feature} {self.segment}: expected slots, it has no rhythm")
        return coarse(self, self.slots.counts[slot])


def build(
    feature: MonitoredFeature,
    segment: str,
    column: pa.Array | pa.ChunkedArray,
    *,
    version: int,
    effective_from: int,
    kept: int = KEPT_ROWS,
    plan: Slots | None = None,
    times: np.ndarray | None = None,
    named: tuple[str, ...] = (),
) -> FeatureReference:
    """The reference of one feature from its rows; by slot of `plan` if the rows' event times (ms) come with it.

    The categories `named` have a name even if no row holds them.

    More than `kept` rows with a number are thinned to evenly spaced order statistics, which puts at most 1 / (2 kept) on D.
    """
    slot = plan.at_each(times) if plan is not None and times is not None else None
    if feature.kind == "categorical":
        return _build_categorical(feature, segment, column, version, effective_from, plan, slot, named)
    numbers = floats(column)
    valued = ~np.isnan(numbers)
    total, order = int(valued.sum()), None
    if slot is None:
        kept_values = np.sort(numbers[valued]) + 0.0  # -0.0 becomes 0.0
    else:
        numbers, own = numbers[valued] + 0.0, slot[valued]
        order = np.lexsort((own, numbers))
        kept_values = numbers[order]
    if total > kept:
        chosen = ((np.arange(kept) + 0.5) * (total / kept)).astype(np.int64)
        kept_values, order = kept_values[chosen], None if order is None else order[chosen]
    values, counts = np.unique(kept_values, return_counts=True)
    slots = None
    if plan is not None and slot is not None:
        codes = 2 * np.searchsorted(values, kept_values) + 1
        slots = _slotted(plan, codes, own[order], np.bincount(slot[~valued], minlength=len(plan.names)))
    return FeatureReference(
        feature.name, segment, "numeric", version, effective_from, len(kept_values), len(column) - total, total,
        values, (), counts.astype(np.int64), cardinality=len(values), slots=slots, inexact=_inexact(column),
    )  # fmt: skip


def _build_categorical(
    feature: MonitoredFeature,
    segment: str,
    column: pa.Array | pa.ChunkedArray,
    version: int,
    effective_from: int,
    plan: Slots | None,
    slot: np.ndarray | None,
    always: tuple[str, ...],
) -> FeatureReference:
    column = texts(column)
    valued = np.asarray(column.is_valid())
    every = tuple(sorted(set(pc.unique(column.drop_null()).to_pylist()) | set(always)))
    codes, total = _indices(every, column)[valued], int(valued.sum())
    held = np.bincount(codes, minlength=len(every))
    plans = plan if plan is not None and slot is not None else None
    own = slot[valued] if plans is not None and slot is not None else None
    cardinality = int((held > 0).sum())
    choosing, chosen = None, np.arange(len(every))
    if cardinality > CHOSEN_ABOVE:
        keep = _kept(codes, own, len(every))
        choosing = np.bincount(codes[~keep], minlength=len(every))
        codes, own = codes[keep], None if own is None else own[keep]
        order = np.argsort(-choosing, kind="stable")[:NAMED_CATEGORIES]
        asked = np.flatnonzero(np.isin(np.array(every), np.array(always, dtype=str))) if always else order[:0]
        chosen = np.unique(np.concatenate((order[choosing[order] > 0], asked)))
        choosing = choosing[chosen].astype(np.int64)
    place = np.full(len(every), len(chosen), np.int64)
    place[chosen] = np.arange(len(chosen))
    codes = place[codes]
    counts = np.bincount(codes, minlength=len(chosen) + 1).astype(np.int64)
    slots = None
    if plans is not None and slot is not None and own is not None:
        slots = _slotted(plans, codes, own, np.bincount(slot[~valued], minlength=len(plans.names)))
    return FeatureReference(
        feature.name, segment, "categorical", version, effective_from, len(codes), len(column) - total, total,
        np.empty(0), tuple(every[i] for i in chosen), counts[:-1], int(counts[-1]), cardinality, choosing, slots,
    )  # fmt: skip


def _kept(codes: np.ndarray, slot: np.ndarray | None, size: int) -> np.ndarray:
    """bool of each row: whether it says shares; the others choose. As many of equal rows whatever their order.

    What is most frequent in a sample is less frequent outside of it, and what is rare more: shares of categories that the
    same rows have chosen are biased, and every later row would be evidence against them. So a row does one or the other.
    """
    group = codes if slot is None else slot.astype(np.int64) * size + codes
    order = np.argsort(group, kind="stable")
    keep = np.empty(len(codes), bool)
    keep[order] = np.random.Generator(np.random.PCG64(1)).random(len(codes)) >= CHOOSING
    return keep


def _slotted(plan: Slots, codes: np.ndarray, slot: np.ndarray, nulls: np.ndarray) -> Slots:
    """The plan with the counts of its slots."""
    counts = []
    for s in range(len(plan.names)):
        found, n = np.unique(codes[slot == s], return_counts=True)
        counts.append(Counts(found.astype(np.uint32), n.astype(np.int64), int(nulls[s])))
    return Slots(plan.of, plan.names, tuple(counts), plan.judged)


def count(reference: FeatureReference, column: pa.Array | pa.ChunkedArray) -> Counts:
    """Count a column's values in the reference's cells, exactly."""
    if not len(column):
        return EMPTY
    if reference.lookup is not None:
        numbers = floats(column)
        codes, n = counted(reference.lookup, numbers)
        nulls = len(column) - int(n.sum())
        return _with_outside(reference, Counts(codes, n, nulls), numbers)
    return from_dense(*category_counts(reference, column))


def category_counts(reference: FeatureReference, column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """(int64 rows of each category and of those without a name, nulls); fast on a column that is dictionary-encoded."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    named = len(reference.categories)
    if isinstance(flat, pa.DictionaryArray) and not flat.dictionary.null_count:
        index = _indices(reference.categories, texts(flat.dictionary))
        held = np.bincount(flat.indices.drop_null().to_numpy(), minlength=len(index))
        dense = np.bincount(index, weights=held, minlength=named + 1).astype(np.int64)
        return dense, flat.null_count
    flat = texts(flat)
    dense = np.bincount(_indices(reference.categories, flat), minlength=named + 1)
    dense[-1] -= flat.null_count
    return dense, flat.null_count


def codes(reference: FeatureReference, numbers: np.ndarray) -> np.ndarray:
    """uint32 code of each number, NaN left out, in their order."""
    assert reference.lookup is not None and reference.outside is not None
    found, outside = codes_of(reference.lookup, numbers), reference.outside
    beyond = np.flatnonzero((found == 0) | (found == outside.inner))
    if len(beyond) and len(reference.values):
        numbers = numbers[~np.isnan(numbers)] if len(found) < len(numbers) else numbers
        found[beyond] = outside.code(numbers[beyond])
    return found


def inside(reference: FeatureReference, counts: Counts) -> Counts:
    """The counts as they are without fences: what lies beyond the range in the gap beside it."""
    if reference.outside is None or not len(counts.codes) or counts.codes[-1] <= reference.outside.inner:
        return counts
    folded = reference.outside.inside(counts.codes.astype(np.int64))
    distinct, place = np.unique(folded, return_inverse=True)
    n = np.bincount(place, weights=counts.n).astype(np.int64)
    return Counts(distinct.astype(np.uint32), n, counts.nulls)


def _with_outside(reference: FeatureReference, counts: Counts, numbers: np.ndarray) -> Counts:
    outside = reference.outside
    assert outside is not None
    if (
        not len(counts.codes)
        or not len(reference.values)
        or not (counts.codes[0] == 0 or counts.codes[-1] == outside.inner)
    ):
        return counts
    codes, n = np.unique(outside.code(numbers[(numbers < outside.low) | (numbers > outside.high)]), return_counts=True)
    held = (counts.codes > 0) & (counts.codes < outside.inner)
    codes, n = np.concatenate((counts.codes[held], codes)), np.concatenate((counts.n[held], n))
    order = np.argsort(codes, kind="stable")
    return Counts(codes[order].astype(np.uint32), n[order].astype(np.int64), counts.nulls)


def category_indices(reference: FeatureReference, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64 code of each row of a categorical column, -1 for null."""
    flat = texts(column)
    return np.where(np.asarray(flat.is_valid()), _indices(reference.categories, flat), -1)


def coarse(reference: FeatureReference, counts: Counts) -> np.ndarray:
    """int64 counts of the coarse cells: those of values, then `unseen`, then `null`."""
    if len(counts.codes) and counts.codes[-1] >= len(reference.cell_of):
        raise ValueError(
            f"counts of {reference.feature} {reference.segment}: expected codes below {len(reference.cell_of)}, "
            f"got {counts.codes[-1]}; were they counted against another reference?"
        )
    made = np.zeros(len(reference.cell_rows), np.int64)  # compiled code takes a microsecond to give back one of its own
    _coarse(reference.cell_of, counts.codes, counts.n, counts.nulls, made)
    return made


def to_arrow(reference: FeatureReference) -> bytes:
    """The reference as an Arrow stream; equal references give equal bytes."""
    facts = {
        "feature": reference.feature, "segment": reference.segment, "kind": reference.kind, "version": reference.version,
        "effective_from": reference.effective_from, "rows": reference.rows, "nulls": reference.nulls,
        "source_rows": reference.source_rows, "other": reference.other, "cardinality": reference.cardinality,
        "evidence": dict(reference.evidence), "temper": asdict(reference.temper) if reference.temper else None,
        "choosing": None if reference.choosing is None else reference.choosing.tolist(),
        "slots": _plan_of(reference.slots),
        **({"model": reference.model} if reference.model else {}),
        **({"inexact": reference.inexact} if reference.inexact else {}),
    }  # fmt: skip
    slots = [s.to_bytes() for s in reference.slots.counts] if reference.slots else []
    numeric = reference.kind == "numeric"
    values = pa.array(reference.values) if numeric else pa.array(reference.categories, pa.string())
    text = json.dumps(facts, sort_keys=True)
    schema = pa.schema([("value", values.type), ("count", pa.int64())], {"driftline.reference": text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        batch = pa.record_batch([values, pa.array(reference.counts)], schema=schema)
        writer.write_batch(batch, custom_metadata={f"slot.{i}": held for i, held in enumerate(slots)})
    return sink.getvalue().to_pybytes()


def _plan_of(slots: Slots | None) -> dict[str, object] | None:
    if slots is None:
        return None
    apart = {"judged": slots.judged} if slots.some_apart else {}
    return {"of": slots.of, "names": slots.names, **apart}


def from_arrow(value: bytes) -> FeatureReference:
    """ValueError if the bytes hold no reference."""
    reader = pa.ipc.open_stream(value)
    text = (reader.schema.metadata or {}).get(b"driftline.reference")
    if text is None:
        raise ValueError("reference: expected schema metadata driftline.reference, got none")
    facts = json.loads(text)
    batch, more = reader.read_next_batch_with_custom_metadata()
    slots, temper, choosing = facts.pop("slots"), facts.pop("temper"), facts.pop("choosing", None)
    if slots:
        held = tuple(Counts.from_bytes(more[f"slot.{i}".encode()]) for i in range(len(slots["names"])))
        slots = Slots(tuple(slots["of"]), tuple(slots["names"]), held, slots.get("judged", -1))
    numeric = facts["kind"] == "numeric"
    return FeatureReference(
        **facts,
        values=batch.column(0).to_numpy().copy() if numeric else np.empty(0),
        categories=() if numeric else tuple(batch.column(0).to_pylist()),
        counts=batch.column(1).to_numpy().astype(np.int64),
        choosing=None if choosing is None else np.array(choosing, np.int64),
        slots=slots,
        temper=Temper(**temper) if temper else None,
    )


def digest(reference: FeatureReference) -> str:
    """SHA-256 of everything that the reference says."""
    return hashlib.sha256(to_arrow(reference)).hexdigest()


def floats(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """float64 with NaN for null; dates and times as their integers."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_temporal(flat.type):
        flat = flat.cast(pa.int32() if pa.types.is_date32(flat.type) else pa.int64())
    if pa.types.is_decimal(flat.type):
        flat = flat.cast(pa.string())  # Arrow multiplies it by a power of ten, and 0.3 becomes 0.30000000000000004
    if flat.type != pa.float64():
        flat = flat.cast(pa.float64(), safe=False)
    return flat.to_numpy(zero_copy_only=False)


def _inexact(column: pa.Array | pa.ChunkedArray) -> int:
    """Rows with a whole number from 2**53 on, either sign: the next one has the same float64."""
    if not pa.types.is_integer(column.type) or column.type.bit_width < 64:
        return 0
    numbers = column.drop_null().to_numpy()
    return int(np.count_nonzero((numbers >= EXACT) | (numbers <= -EXACT)))


def texts(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return flat if flat.type == pa.string() else flat.cast(pa.string())


def _indices(categories: tuple[str, ...], column: pa.Array) -> np.ndarray:
    """Index of each text among the categories; their number for every other text and for null."""
    found = pc.index_in(column, value_set=pa.array(categories, pa.string()), skip_nulls=True)
    return found.fill_null(len(categories)).to_numpy(zero_copy_only=False)


def _coarse_cells(reference: FeatureReference) -> tuple[np.ndarray, int]:
    """(coarse cell of each code, number of cells that hold values)."""
    numeric = reference.kind == "numeric"
    cells = _runs(reference.counts, reference.cells_wanted, reference.rows) if numeric else _common(reference)
    number = int(cells.max()) + 1 if len(cells) else 0
    if not numeric:
        return np.append(cells, number).astype(np.int32), number
    assert reference.outside is not None
    size, of = 2 * len(cells) + 1, np.empty(max(1, reference.outside.codes), np.int32)
    if reference.discrete:
        of[1:size:2], of[0:size:2], of[size:] = cells, number, number  # between and beyond all known values: unseen
        return of, number
    below, above = reference.fences
    first, last = len(below), len(below) + max(0, number - 1)
    of[1:size:2] = first + cells
    of[0 : size - 1 : 2], of[size - 1] = first + cells, last  # a gap belongs to the value above it
    of[size:] = np.concatenate((last + reference.outside.cells(True), first - reference.outside.cells(False)))
    return of, number + len(below) + len(above)


@njit(cache=True, nogil=True)
def _coarse(cell_of, codes, n, nulls, dense):
    for i in range(codes.size):
        dense[cell_of[codes[i]]] += n[i]
    dense[dense.size - 1] += nulls


@njit(cache=True)
def _runs(counts, wanted, rows):
    """Cell of each value: runs of neighbours that hold at least rows / wanted each; the last takes what remains."""
    least = rows / wanted
    cells, cell, held, whole = np.zeros(len(counts), np.int64), 0, 0, 0
    for i in range(len(counts)):
        cells[i] = cell
        held += counts[i]
        if held >= least:
            whole = cell
            cell, held = cell + 1, 0
    for i in range(len(counts) - 1, -1, -1):
        if cells[i] <= whole:
            break
        cells[i] = whole
    return cells


def _common(reference: FeatureReference) -> np.ndarray:
    """Cell of each category: the most frequent ones have their own, the rest share one."""
    rows, least = reference.counts, float(ROWS_A_CELL)
    if reference.choosing is not None:  # twice the rows, so that hardly a cell turns out too rare for its own law
        rows, least = reference.choosing, 2 * ROWS_A_CELL * CHOOSING / (1 - CHOOSING)
    order = np.argsort(-rows, kind="stable")
    own = order[: reference.cells_wanted - 1 if len(order) > reference.cells_wanted else len(order)]
    own = np.sort(own[rows[own] >= least])
    cells = np.full(len(order), len(own), np.int64)
    cells[own] = np.arange(len(own))
    return cells
