"""PURE. Counts of values in the cells that a reference sample cuts: exact, sparse, additive.

For numbers with distinct reference values u_0 < ... < u_{K-1} the code of x is 2 * #(u < x) + [x is one of u]: every gap
and every equality is a cell, so all that rank statistics need survives, ties and infinities included, and counts of any
split of the rows add up to the counts of the whole. For categories the code is the index, K for a value never seen.
Null and NaN are counted apart. The bank and the scan read the same counts on at most 512 coarse cells.

Knows no windows, no thresholds, no files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import MonitoredFeature
from stream_processors.lookup import Lookup, codes_of, lookup_of

Kind = Literal["numeric", "categorical"]

WHOLE = "*"
KEPT_ROWS = 200_000  # rows of a numeric reference; of a larger sample every (N/200,000)-th order statistic is kept
CELLS, SEGMENT_CELLS = 512, 64  # coarse cells of the whole and of a segment
ROWS_A_CELL = 20  # a coarse cell that holds fewer reference rows is too badly known to be alarmed on
_MAGIC = b"C1"


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
    cumulative: np.ndarray = field(init=False, repr=False)  # int64[K], rows <= each value
    lookup: Lookup | None = field(init=False, repr=False)
    cell_of: np.ndarray = field(init=False, repr=False)  # coarse cell of each code; [value cells..., unseen, null]
    cell_rows: np.ndarray = field(init=False, repr=False)  # reference rows of each coarse cell

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "cumulative", np.cumsum(self.counts, dtype=np.int64))
        put(self, "lookup", lookup_of(self.values) if self.kind == "numeric" else None)
        cell_of, cells = _coarse_cells(self)
        put(self, "cell_of", cell_of)
        rows = np.zeros(cells + 2, np.int64)
        codes = 2 * np.arange(len(self.counts)) + 1 if self.kind == "numeric" else np.arange(len(self.counts))
        np.add.at(rows, cell_of[codes], self.counts)
        rows[-1] = self.nulls
        put(self, "cell_rows", rows)

    @property
    def key(self) -> tuple[str, str]:
        return self.feature, self.segment

    @property
    def cells(self) -> int:
        """Coarse cells that hold values; `unseen` and `null` come on top."""
        return len(self.cell_rows) - 2

    @property
    def discrete(self) -> bool:
        """Few distinct values, so that a value between them is news."""
        return self.kind == "categorical" or len(self.values) <= self.cells_wanted // 2

    @property
    def cells_wanted(self) -> int:
        most = CELLS if self.segment == WHOLE else SEGMENT_CELLS
        return max(1, min(most, self.rows // ROWS_A_CELL))

    @property
    def null_ratio(self) -> float:
        return self.nulls / max(1, self.source_rows + self.nulls)


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How many values fell in each cell; an abelian group under + and -."""

    codes: np.ndarray  # uint32, sorted, distinct
    n: np.ndarray  # int64, never 0
    nulls: int = 0

    @property
    def rows(self) -> int:
        """Rows with a value."""
        return int(self.n.sum())

    @property
    def empty(self) -> bool:
        return not len(self.n) and not self.nulls

    def __add__(self, other: Counts) -> Counts:
        if other.empty:
            return self
        if self.empty:
            return other
        return _added(self, other, 1)

    def __sub__(self, other: Counts) -> Counts:
        """Retract what was added; a ValueError if it was not."""
        left = _added(self, other, -1)
        if left.nulls < 0 or (len(left.n) and left.n.min() < 0):
            raise ValueError("counts to retract: expected at most what was added, got more in some cell")
        return left

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counts):
            return NotImplemented
        same = np.array_equal(self.codes, other.codes) and np.array_equal(self.n, other.n)
        return same and self.nulls == other.nulls

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Equal counts give equal bytes: gaps between codes, then counts, each in the least width that fits."""
        gaps = np.diff(self.codes.astype(np.int64), prepend=0)
        body = [_MAGIC, len(self.n).to_bytes(4, "little"), self.nulls.to_bytes(8, "little")]
        return b"".join([*body, *_packed(gaps), *_packed(self.n)])

    @staticmethod
    def from_bytes(value: bytes) -> Counts:
        if value[:2] != _MAGIC:
            raise ValueError(f"counts: expected bytes that begin with {_MAGIC!r}, got {value[:2]!r}")
        size, nulls = int.from_bytes(value[2:6], "little"), int.from_bytes(value[6:14], "little")
        gaps, at = _unpacked(value, 14, size)
        n, at = _unpacked(value, at, size)
        if at != len(value):
            raise ValueError(f"counts: expected {at} bytes, got {len(value)}")
        return Counts(np.cumsum(gaps).astype(np.uint32), n, nulls)


EMPTY = Counts(np.empty(0, np.uint32), np.empty(0, np.int64))


def build(
    feature: MonitoredFeature, segment: str, column: pa.Array | pa.ChunkedArray, *, version: int, effective_from: int
) -> FeatureReference:
    """The reference of one feature from its rows."""
    if feature.kind == "categorical":
        return _build_categorical(feature, segment, column, version, effective_from)
    numbers = _floats(column)
    valued = np.sort(numbers[~np.isnan(numbers)]) + 0.0  # -0.0 becomes 0.0
    total = len(valued)
    if total > KEPT_ROWS:
        valued = valued[((np.arange(KEPT_ROWS) + 0.5) * (total / KEPT_ROWS)).astype(np.int64)]
    values, counts = np.unique(valued, return_counts=True)
    return FeatureReference(
        feature.name, segment, "numeric", version, effective_from, len(valued), len(column) - total, total,
        values, (), counts.astype(np.int64),
    )  # fmt: skip


def _build_categorical(
    feature: MonitoredFeature, segment: str, column: pa.Array | pa.ChunkedArray, version: int, effective_from: int
) -> FeatureReference:
    found = pc.value_counts(_texts(column).drop_null())
    pairs = sorted(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
    counts = np.array([c for _, c in pairs], np.int64)
    rows = int(counts.sum())
    return FeatureReference(
        feature.name, segment, "categorical", version, effective_from, rows, len(column) - rows, rows,
        np.empty(0), tuple(v for v, _ in pairs), counts,
    )  # fmt: skip


def count(reference: FeatureReference, column: pa.Array | pa.ChunkedArray) -> Counts:
    """Count a column's values in the reference's cells."""
    if not len(column):
        return EMPTY
    if reference.lookup is not None:
        codes = codes_of(reference.lookup, _floats(column))
        codes.sort()
        starts = (
            np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1]))) if len(codes) else np.empty(0, np.int64)
        )
        n = np.diff(starts, append=len(codes)).astype(np.int64)
        return Counts(codes[starts], n, len(column) - len(codes))
    texts = _texts(column)
    found = pc.index_in(texts, value_set=pa.array(reference.categories, pa.string()), skip_nulls=True)
    index = found.fill_null(len(reference.categories)).to_numpy(zero_copy_only=False)
    dense = np.bincount(index, minlength=len(reference.categories) + 1)
    dense[-1] -= texts.null_count
    return from_dense(dense, texts.null_count)


def from_dense(dense: np.ndarray, nulls: int = 0) -> Counts:
    """Counts from one number for each code."""
    codes = np.flatnonzero(dense)
    return Counts(codes.astype(np.uint32), dense[codes].astype(np.int64), nulls)


def coarse(reference: FeatureReference, counts: Counts) -> np.ndarray:
    """int64 counts of the coarse cells: those of values, then `unseen`, then `null`."""
    size = len(reference.cell_rows)
    dense = np.bincount(reference.cell_of[counts.codes], weights=counts.n, minlength=size).astype(np.int64)
    dense[-1] += counts.nulls
    return dense


def to_arrow(reference: FeatureReference) -> bytes:
    """The reference as an Arrow stream; equal references give equal bytes."""
    facts = {
        "feature": reference.feature, "segment": reference.segment, "kind": reference.kind, "version": reference.version,
        "effective_from": reference.effective_from, "rows": reference.rows, "nulls": reference.nulls,
        "source_rows": reference.source_rows,
    }  # fmt: skip
    numeric = reference.kind == "numeric"
    values = pa.array(reference.values) if numeric else pa.array(reference.categories, pa.string())
    schema = pa.schema([("value", values.type), ("count", pa.int64())], {"driftline.reference": json.dumps(facts)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch([values, pa.array(reference.counts)], schema=schema))
    return sink.getvalue().to_pybytes()


def from_arrow(value: bytes) -> FeatureReference:
    """ValueError if the bytes hold no reference."""
    table = pa.ipc.open_stream(value).read_all()
    text = (table.schema.metadata or {}).get(b"driftline.reference")
    if text is None:
        raise ValueError("reference: expected schema metadata driftline.reference, got none")
    facts = json.loads(text)
    column, counts = table.column("value").combine_chunks(), table.column("count").to_numpy().astype(np.int64)
    numeric = facts["kind"] == "numeric"
    return FeatureReference(
        **facts,
        values=column.to_numpy().copy() if numeric else np.empty(0),
        categories=() if numeric else tuple(column.to_pylist()),
        counts=counts,
    )


def digest(reference: FeatureReference) -> str:
    """SHA-256 of everything that the reference says."""
    return hashlib.sha256(to_arrow(reference)).hexdigest()


def _floats(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """float64 with NaN for null; dates and times as their integers."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_temporal(flat.type):
        flat = flat.cast(pa.int32() if pa.types.is_date32(flat.type) else pa.int64())
    if flat.type != pa.float64():
        flat = flat.cast(pa.float64(), safe=False)
    return flat.to_numpy(zero_copy_only=False)


def _texts(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return flat if flat.type == pa.string() else flat.cast(pa.string())


def _coarse_cells(reference: FeatureReference) -> tuple[np.ndarray, int]:
    """(coarse cell of each code, number of cells that hold values)."""
    numeric = reference.kind == "numeric"
    cells = _runs(reference.counts, reference.cells_wanted, reference.rows) if numeric else _common(reference)
    number = int(cells.max()) + 1 if len(cells) else 0
    if not numeric:
        return np.append(cells, number).astype(np.int32), number
    of = np.empty(2 * len(cells) + 1, np.int32)
    of[1::2] = cells
    if reference.discrete:
        of[0::2] = number  # between, below and above all known values: unseen
    else:
        of[0:-1:2], of[-1] = cells, max(0, number - 1)  # a gap belongs to the value above it
    return of, number


def _runs(counts: np.ndarray, wanted: int, rows: int) -> np.ndarray:
    """Cell of each value: runs of neighbours that hold at least rows / wanted each; the last takes what remains."""
    least = rows / wanted
    cells, cell, held, whole = np.zeros(len(counts), np.int64), 0, 0, 0
    for i, c in enumerate(counts.tolist()):
        cells[i] = cell
        held += c
        if held >= least:
            cell, held, whole = cell + 1, 0, cell
    cells[cells > whole] = whole
    return cells


def _common(reference: FeatureReference) -> np.ndarray:
    """Cell of each category: the most frequent ones have their own, the rest share one."""
    order = np.argsort(-reference.counts, kind="stable")
    own = order[: reference.cells_wanted - 1 if len(order) > reference.cells_wanted else len(order)]
    own = np.sort(own[reference.counts[own] >= ROWS_A_CELL])
    cells = np.full(len(order), len(own), np.int64)
    cells[own] = np.arange(len(own))
    return cells


def _added(left: Counts, right: Counts, sign: int) -> Counts:
    codes = np.concatenate((left.codes, right.codes))
    n = np.concatenate((left.n, sign * right.n))
    order = np.argsort(codes, kind="stable")
    codes, n = codes[order], n[order]
    if len(codes):
        starts = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
        codes, n = codes[starts], np.add.reduceat(n, starts)
    kept = n != 0
    return Counts(codes[kept], n[kept], left.nulls + sign * right.nulls)


def _packed(values: np.ndarray) -> Sequence[bytes]:
    top = int(values.max(initial=0))
    width = next(w for w in (1, 2, 4, 8) if top < 1 << (8 * w) or w == 8)
    return bytes([width]), values.astype(f"<u{width}").tobytes()


def _unpacked(value: bytes, at: int, size: int) -> tuple[np.ndarray, int]:
    width, end = value[at], at + 1 + size * value[at]
    return np.frombuffer(value, f"<u{width}", size, at + 1).astype(np.int64), end
