"""PURE. Block x references -> partials: integer counts per event-time pane, feature and segment.

Rows that broke the contract are ignored; rows without a reference are only counted. Segments are those that the
reference set holds (`*` and the values it was built with); a row with another value counts in `*` only.
Cost: each feature is sorted into panes once for `*` and once for each segment grouping, then counted slice by slice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blocks import Block
from pipeline.contract import RAW_OFFSET, Contract
from pipeline.lateness import late_mask
from stream_processors import cells
from stream_processors.panes import WHOLE, Clock, segment_name
from stream_processors.partial import PaneCounts, PanePart, Partial
from stream_processors.timeline import ReferenceSet, Timeline

# A partial must fit its topic (1 MiB): at most ~6 bytes a row, feature and segment grouping before compression. The cut
# depends on the block alone, so that a block counted again under another reference has the same coordinates.
COUNTED_VALUES = 120_000


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows [low, high) of the sorted batch: one pane, on time or late."""

    pane: int
    late: bool
    low: int
    high: int


def summarise(
    block: Block, message_offset: int, contract: Contract, clock: Clock, timeline: Timeline
) -> Iterator[Partial]:
    """The block's partials, gap-free over its [start, end): one, or several if it has many rows."""
    rows = block.valid
    times, placed = _event_times(rows, contract.time.field)
    rows = rows if placed.all() else rows.filter(pa.array(placed))
    limit = max(1, COUNTED_VALUES // (len(contract.drift.features) * (1 + len(contract.drift.segments)) or 1))
    header, start, maximum = block.header, block.header.start, block.header.watermark
    for low in range(0, max(1, rows.num_rows), limit):
        piece = rows.slice(low, limit)
        more = low + limit < rows.num_rows
        end = rows.column(RAW_OFFSET)[low + limit].as_py() if more else header.end
        own = times[low : low + limit]
        after = max([m for m in (maximum, int(own.max()) if len(own) else None) if m is not None], default=None)
        late = late_mask(own, maximum, clock.lateness)
        beyond = (
            np.zeros(len(own), bool)
            if clock.revise_within is None
            else late_mask(own, maximum, clock.lateness + clock.revise_within)
        )
        panes = _panes(piece, own, late, beyond, contract, clock, timeline)
        yield Partial(
            header.contract, header.partition, start, end, message_offset, not more, timeline.generation, maximum, after, int(beyond.sum()), panes
        )  # fmt: skip
        start, maximum = end, after


def _event_times(rows: pa.RecordBatch, field: str) -> tuple[np.ndarray, np.ndarray]:
    """(int64 ms of the rows that have an event time, which rows these are)."""
    column = rows.column(field)
    placed = np.asarray(pc.is_valid(column))
    return column.drop_null().cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy(), placed


def _panes(
    rows: pa.RecordBatch,
    times: np.ndarray,
    late: np.ndarray,
    beyond: np.ndarray,
    contract: Contract,
    clock: Clock,
    timeline: Timeline,
) -> tuple[PanePart, ...]:
    panes = times // clock.pane * clock.pane
    kept = np.flatnonzero(~beyond)
    order = kept[np.lexsort((late[kept], panes[kept]))]
    groups = _groups(panes[order], late[order])
    offsets = rows.column(RAW_OFFSET).to_numpy()[order]
    sets = {pane: timeline.at(pane) for pane in {g.pane for g in groups}}
    counted: dict[int, dict[tuple[str, str], list[bytes]]] = {pane: {} for pane in sets}
    if any(sets.values()):
        _count(rows, order, [(g, sets[g.pane]) for g in groups], WHOLE, contract, counted)
        for columns in contract.drift.segments:
            _count_segments(rows, panes, late, kept, columns, sets, contract, counted)
    parts = []
    for pane in sorted(sets):
        own = [g for g in groups if g.pane == pane]
        where = np.concatenate([offsets[g.low : g.high] for g in own])
        parts.append(
            PanePart(
                pane,
                sets[pane].version if sets[pane] else 0,
                sum(g.high - g.low for g in own if not g.late),
                sum(g.high - g.low for g in own if g.late),
                int(where.min()),
                int(where.max()) + 1,
                tuple(PaneCounts(f, s, *pair) for (f, s), pair in sorted(counted[pane].items())),
            )
        )
    return tuple(parts)


def _groups(panes: np.ndarray, late: np.ndarray) -> list[_Group]:
    """Runs of equal (pane, late) in sorted rows."""
    if not len(panes):
        return []
    edges = np.flatnonzero((np.diff(panes) != 0) | (np.diff(late.astype(np.int8)) != 0)) + 1
    bounds = [0, *edges.tolist(), len(panes)]
    return [_Group(int(panes[lo]), bool(late[lo]), lo, hi) for lo, hi in itertools.pairwise(bounds)]


def _count(
    rows: pa.RecordBatch,
    order: np.ndarray,
    groups: list[tuple[_Group, ReferenceSet | None]],
    segment: str,
    contract: Contract,
    counted: dict[int, dict[tuple[str, str], list[bytes]]],
) -> None:
    """Count every feature of the sorted rows, one slice a group."""
    for feature in contract.drift.features:
        column: pa.Array | None = None
        for group, found in groups:
            reference = found.load().get((feature.name, segment)) if found else None
            if reference is None:
                continue
            if column is None:
                column = rows.column(feature.name).take(pa.array(order))
            counts = cells.count(reference, column.slice(group.low, group.high - group.low))
            pair = counted[group.pane].setdefault((feature.name, segment), [b"", b""])
            pair[group.late] = counts.to_bytes()


def _count_segments(
    rows: pa.RecordBatch,
    panes: np.ndarray,
    late: np.ndarray,
    kept: np.ndarray,
    columns: tuple[str, ...],
    sets: dict[int, ReferenceSet | None],
    contract: Contract,
    counted: dict[int, dict[tuple[str, str], list[bytes]]],
) -> None:
    """The same, for each value of one segment grouping."""
    codes, names = _segment_codes(rows, columns)
    known = {segment for found in sets.values() if found for _, segment in found.load()}
    order = kept[np.lexsort((late[kept], panes[kept], codes[kept]))]
    edges = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code, name in enumerate(names):
        low, high = int(edges[code]), int(edges[code + 1])
        if name in known and low < high:
            own = order[low:high]
            _count(rows, own, [(g, sets[g.pane]) for g in _groups(panes[own], late[own])], name, contract, counted)


def _segment_codes(rows: pa.RecordBatch, columns: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """(code of each row, names by code); a row with a null in one of the columns has the code -1."""
    codes, values = np.zeros(rows.num_rows, np.int64), [()]
    for column in columns:
        encoded = rows.column(column).dictionary_encode()
        own = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        dictionary = encoded.dictionary.to_pylist()
        codes = np.where((codes < 0) | (own < 0), -1, codes * len(dictionary) + own)
        values = [(*left, right) for left in values for right in dictionary]
    return codes, [segment_name(columns, v) for v in values]
