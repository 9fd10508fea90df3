"""PURE. Block x references -> partials: integer counts per event-time pane, feature and segment.

Rows without a reference are only counted. Segments are those that the reference set holds: `*`, the values it was built
with, and the pool of a grouping, if it has one, where rows count whose value has no segment or one that could not page by
itself. A row with a null in a grouping counts in `*` only.
Rejected rows count in the feature `reject` alone (`rejects`). Of a block of scores the rows that another model version
answered than the judging reference's are placed, and counted in no feature.
Cost: one stable sort of the rows by pane for `*` and one for each grouping; then one call for each feature and segment.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blocks import Block
from pipeline.contract import MODEL_VERSION, RAW_OFFSET, REJECT, Contract
from pipeline.lateness import reached_before
from stream_processors.detectors.budget import segments_of
from stream_processors.judging.panes import WHOLE, Clock, Key, pooled_name, segment_name
from stream_processors.judging.partial import PaneCounts, PanePart, Partial
from stream_processors.judging.timeline import Members, ReferenceSet, Timeline
from stream_processors.reference import rejects
from stream_processors.reference.grouped import Column, codes_of_reference, packed
from stream_processors.reference.rejects import Outcomes

# A partial must fit its topic (1 MiB, as sent): before compression a row takes some 6 bytes a feature and segment,
# 45 where hardly two rows share pane and segment, which gzip takes to 9. The cut depends on the block alone, so that a block
# counted again under another reference has the same coordinates.
COUNTED_VALUES = 120_000
_NO_COUNTS = b""
Counted = tuple[dict[int, dict[Key, bytes]], dict[int, dict[Key, bytes]]]  # by pane, on time and late


@dataclass(frozen=True, slots=True)
class _Rows:
    """The valid rows of a piece that are counted: pane, punctuality and raw offset of each, and its columns."""

    batch: pa.RecordBatch
    panes: np.ndarray
    late: np.ndarray
    offsets: np.ndarray
    kept: np.ndarray  # indices; the others came too late
    models: pa.Array | None  # of scores: the version that answered each row
    columns: dict[str, Column]

    def answered_by(self, order: np.ndarray, members: Members) -> np.ndarray:
        """Of the rows those that the references' own model answered; all of them where the rows are no answers."""
        model = next((r.model for r in members.values() if r.model), None)
        if self.models is None or model is None:
            return order
        return order[pc.equal(self.models, model).to_numpy(zero_copy_only=False)[order]]

    def column(self, name: str, kind: str) -> Column:
        if name not in self.columns:
            self.columns[name] = Column(self.batch.column(name), kind)
        return self.columns[name]


def summarise(
    block: Block, message_offset: int, contract: Contract, clock: Clock, timeline: Timeline
) -> Iterator[Partial]:
    """The block's partials, gap-free over its [start, end): one, or several if it has many rows."""
    rows, times = _placed(block, contract)
    counted_in = 1 + 2 * len(contract.drift.segments)  # the whole, and of each grouping a segment and the pool
    limit = max(1, COUNTED_VALUES // (len(contract.drift.features) * counted_in or 1))
    header, start, maximum = block.header, block.header.start, block.header.watermark
    before = reached_before(times, maximum)
    reached, offsets = np.maximum(before, times), rows.column(RAW_OFFSET).to_numpy()
    late = times < before - clock.lateness
    beyond = np.zeros(len(times), bool)
    if clock.revise_within is not None:
        beyond = times < before - clock.lateness - clock.revise_within
    outcomes = rejects.outcomes_of(block, offsets, reached, clock.pane) if contract.drift.rejects else None
    models = rows.column(MODEL_VERSION) if contract.judges_scores else None
    for low in range(0, max(1, rows.num_rows), limit):
        piece = slice(low, low + limit)
        more = low + limit < rows.num_rows
        end = int(offsets[low + limit]) if more else header.end
        after = int(reached[piece][-1]) if len(reached[piece]) else maximum
        told = outcomes.between(start, end) if outcomes is not None else None
        counted = _Rows(
            rows.slice(low, limit),
            times[piece] // clock.pane * clock.pane,
            late[piece],
            offsets[piece],
            np.flatnonzero(~beyond[piece]),
            None if models is None else models[piece],
            {},
        )
        panes, other_model = _panes(counted, told, contract, timeline)
        yield Partial(
            header.contract, header.partition, start, end, message_offset, not more, timeline.generation, maximum, after,
            int(beyond[piece].sum()), panes, told.unplaced if told else 0, other_model,
        )  # fmt: skip
        start, maximum = end, after


def _placed(block: Block, contract: Contract) -> tuple[pa.RecordBatch, np.ndarray]:
    """(the columns to count of the valid rows that have an event time, these times in ms)."""
    plan, time = contract.drift, contract.time.field
    needed = dict.fromkeys((time, *(f.name for f in plan.features), *(c for s in plan.segments for c in s), RAW_OFFSET))
    if contract.judges_scores:
        needed[MODEL_VERSION] = None
    whole = block.rows
    for name in needed:
        if name not in whole.schema.names:  # written before the contract watched it
            kind = next((f.arrow_type for f in contract.fields if f.name == name), pa.float64())
            whole = whole.append_column(name, pa.nulls(whole.num_rows, kind))
    rows, rejected = whole.select(list(needed)), whole.column(REJECT)
    if rejected.null_count < len(rejected) or rows.column(time).null_count:
        rows = rows.filter(pc.and_(pc.is_null(rejected), pc.is_valid(rows.column(time))))
    return rows, rows.column(time).cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy()


def _panes(
    rows: _Rows, outcomes: Outcomes | None, contract: Contract, timeline: Timeline
) -> tuple[tuple[PanePart, ...], int]:
    """(what is added to each pane, rows that another model answered)."""
    order = rows.kept[_sorted(rows.panes[rows.kept], rows.late[rows.kept])]
    bounds = _bounds(rows.panes[order], rows.late[order])
    held: dict[int, list[int]] = {}  # pane -> on-time rows, late rows, first offset, last offset
    own, firsts = rows.offsets[order], order[bounds[:-1]]
    ends = (np.minimum.reduceat(own, bounds[:-1]), np.maximum.reduceat(own, bounds[:-1])) if len(own) else (own, own)
    runs = (rows.panes[firsts], rows.late[firsts], np.diff(bounds), *ends)
    for start, late, number, first, last in zip(*(run.tolist() for run in runs), strict=True):
        pane = held.setdefault(start, [0, 0, 2**62, -1])
        pane[late] += number
        pane[2:] = min(pane[2], first), max(pane[3], last)
    by_pane = dict(outcomes.by_pane()) if outcomes is not None else {}
    sets = {pane: timeline.at(pane) for pane in sorted({*held, *by_pane})}
    counted: Counted = {pane: {} for pane in sets}, {pane: {} for pane in sets}
    other_model = 0
    for found in {s.version: s for s in sets.values() if s is not None}.values():
        other_model += _count_under(found, rows, sets, contract, counted)
    for pane, told in by_pane.items():
        found = sets[pane]
        reference = found.load().get((REJECT, WHOLE)) if found else None
        if reference is not None and outcomes is not None:
            counts = rejects.counts_of(reference, outcomes.names, told)
            counted[0][pane][REJECT, WHOLE] = counts.to_bytes()
    parts = tuple(
        _part(pane, found, held.get(pane, [0, 0, 0, -1]), counted[0][pane], counted[1][pane])
        for pane, found in sets.items()
        if pane in held or counted[0][pane]
    )
    return parts, other_model


def _part(
    pane: int,
    found: ReferenceSet | None,
    held: Sequence[int],
    in_time: Mapping[Key, bytes],
    too_late: Mapping[Key, bytes],
) -> PanePart:
    on_time, late, first, last = held
    keys = sorted({**in_time, **too_late})
    counts = tuple([PaneCounts(*key, in_time.get(key, _NO_COUNTS), too_late.get(key, _NO_COUNTS)) for key in keys])
    return PanePart(pane, found.version if found else 0, on_time, late, first, last + 1, counts)


def _count_under(
    found: ReferenceSet, rows: _Rows, sets: dict[int, ReferenceSet | None], contract: Contract, counted: Counted
) -> int:
    """Count the panes that one reference version judges; how many of their rows another model answered."""
    own = [pane for pane, judge in sets.items() if judge is not None and judge.version == found.version]
    placed = rows.kept if len(own) == len(sets) else rows.kept[np.isin(rows.panes[rows.kept], own)]
    members = found.load()
    kept = rows.answered_by(placed, members)
    _count(rows, kept[_sorted(rows.panes[kept], rows.late[kept])], members, WHOLE, contract, counted)
    small = segments_of(members)
    for columns in contract.drift.segments:
        codes, names = _segment_codes(rows.batch, columns, small)
        inside = kept[codes[kept] >= 0]
        order = inside[_sorted(codes[inside], rows.panes[inside], rows.late[inside])]
        edges = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for name, (low, high) in zip(names, itertools.pairwise(edges.tolist()), strict=True):
            if low < high:
                _count(rows, order[low:high], members, name, contract, counted)
        pool = pooled_name(columns)
        if pool in small:
            pooled = inside[np.array([*(small[name] for name in names), True])[codes[inside]]]
            order = pooled[_sorted(rows.panes[pooled], rows.late[pooled])]
            _count(rows, order, members, pool, contract, counted)
    return len(placed) - len(kept)


def _count(
    rows: _Rows, order: np.ndarray, members: Members, segment: str, contract: Contract, counted: Counted
) -> None:
    """Count every feature of sorted rows, all panes in one call."""
    if not len(order):
        return
    bounds = _bounds(rows.panes[order], rows.late[order])
    firsts = order[bounds[:-1]]
    places = [
        counted[late][pane] for pane, late in zip(rows.panes[firsts].tolist(), rows.late[firsts].tolist(), strict=True)
    ]
    for feature in contract.drift.features:
        key = feature.name, segment
        reference = members.get(key)
        if reference is None:
            continue
        codes = rows.column(feature.name, feature.kind).codes(reference, order)
        for own, value in zip(places, packed(codes, bounds, codes_of_reference(reference)), strict=True):
            own[key] = value


def _sorted(*keys: np.ndarray) -> np.ndarray:
    """Stable order by the first key, then the next. Few distinct keys fit 16 bits, which numpy sorts in linear time."""
    whole, size = np.zeros(len(keys[0]), np.int64), 1
    for key in keys:
        distinct, place = np.unique(key, return_inverse=True)
        whole, size = whole * len(distinct) + place, size * max(1, len(distinct))
    return np.argsort(whole.astype(np.uint16) if size <= 2**16 else whole, kind="stable")


def _bounds(panes: np.ndarray, late: np.ndarray) -> np.ndarray:
    """Where runs of equal (pane, late) begin in sorted rows, and where the last one ends."""
    if not len(panes):
        return np.zeros(1, np.int64)
    edges = np.flatnonzero((panes[1:] != panes[:-1]) | (late[1:] != late[:-1])) + 1
    return np.concatenate(([0], edges, [len(panes)]))


def _segment_codes(
    rows: pa.RecordBatch, columns: tuple[str, ...], known: Collection[str]
) -> tuple[np.ndarray, list[str]]:
    """(segment of each row, names by code); the code behind them = a value without one, -1 = a null in one of the columns."""
    codes, values = np.zeros(rows.num_rows, np.int64), [()]
    for column in columns:
        encoded = rows.column(column).dictionary_encode()
        own = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        dictionary = encoded.dictionary.to_pylist()
        joined = np.where((codes < 0) | (own < 0), -1, codes * max(1, len(dictionary)) + own)
        present, codes = np.unique(joined, return_inverse=True)
        values = [
            () if c < 0 else (*values[c // len(dictionary)], dictionary[c % len(dictionary)]) for c in present.tolist()
        ]
        codes = codes - (len(present) > 0 and present[0] < 0)
        values = values[1:] if len(present) and present[0] < 0 else values
    own = [segment_name(columns, v) for v in values]
    names = sorted(name for name in own if name in known)
    place = {name: code for code, name in enumerate(names)}
    of = np.array([*(place.get(name, len(names)) for name in own), -1], np.int64)
    return of[codes], names
