"""PURE. What may be committed: blocks in, a plan out; the fence is contiguity.

    #  table:  ...[1000,1400)          committed end of the partition: 1400
    #  blocks:    [1000,1400) repeat   below the end: skipped
    #                        [1400,1650) fits
    #                                     [1700,1900) gap: stop
    #               [1200,1500) overlap: stop
A commit is legal only if every partition's first block starts at the last committed end. That refuses repeats, gaps
and zombies by one test, and needs no election.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blocks import VALID, BlockHeader
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT
from pipeline.errors import CheckFailed


class FenceError(CheckFailed):
    """The log and the table do not fit together. Going on would lose or repeat rows, so nothing is committed."""


class Gap(FenceError):
    """A block starts after the table's end: rows between are missing from the blocks topic."""


class Overlap(FenceError):
    """A block straddles the table's end: it was cut differently from the one committed."""


class TopicRecreated(FenceError):
    """Cluster or topic is not the one whose offsets the table holds."""


class RetentionLoss(FenceError):
    """Records that the table has not seen are gone from the topic."""


class SchemaMismatch(FenceError):
    """The contract's columns are not the table's."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A block that was read and is not yet in the table: its valid rows only."""

    header: BlockHeader
    offset: int  # of the block's message
    rows: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Plan:
    """One commit: what it follows on from, where it moves to."""

    ranges: Mapping[int, tuple[int, int]]  # raw offsets
    expected: Mapping[str, int | None]
    advance: Mapping[str, int]
    counts: Mapping[str, int]  # by outcome
    watermark: int | None  # ms, newest event time of the batch


def fit(pending: Iterable[Pending], ends: Mapping[int, int | None]) -> list[Pending]:
    """The blocks that are not in the table yet, each starting where the one before it ended; Gap or Overlap otherwise.

    An end of None is a partition that the table has never seen: its first block defines where it begins.
    """
    at = dict(ends)
    kept = []
    for block in pending:
        partition, start, end = block.header.partition, block.header.start, block.header.end
        last = at.get(partition)
        where = f"block {block.header.coordinate}, message {block.offset}"
        if last is not None and end <= last:
            continue
        if last is not None and start > last:
            raise Gap(
                f"{where}: expected a block that starts at {last}, the table's end, got {start}; rows between are missing; {_OUT}"
            )
        if last is not None and start < last:
            raise Overlap(f"{where}: [{start},{end}) straddles the table's end {last}; {_OUT}")
        at[partition] = end
        kept.append(block)
    return kept


_OUT = "nothing was committed; run `driftline verify`, then compact into a new lake directory"


def plan(dataset: str, fitting: Sequence[Pending], ends: Mapping[int, int | None]) -> Plan:
    """Positions and counts of a batch of fitting blocks."""
    ranges: dict[int, tuple[int, int]] = {}
    counts: Counter[str] = Counter()
    advance: dict[str, int] = {}
    for block in fitting:
        h = block.header
        ranges[h.partition] = (ranges.get(h.partition, (h.start, 0))[0], h.end)
        counts.update(h.counts)
        advance[f"blocks/{h.partition}"] = block.offset + 1
    for p, (start, end) in ranges.items():
        advance[f"{dataset}/{p}"] = end
        if ends.get(p) is None:
            advance[f"begin/{p}"] = start
    times = [b.header.max_event_time for b in fitting if b.header.max_event_time is not None]
    expected = {f"{dataset}/{p}": ends.get(p) for p in ranges}
    return Plan(ranges, expected, advance, dict(counts), max(times, default=None))


def lake_rows(fitting: Sequence[Pending], schema: pa.Schema, time_field: str, date_column: str) -> pa.Table:
    """The blocks' valid rows as rows of the lake table: one row an offset, in the order read."""
    tables = [_lake_table(b, time_field, date_column) for b in fitting if b.rows.num_rows]
    return pa.concat_tables([t.select(schema.names).cast(schema) for t in tables]) if tables else schema.empty_table()


def _lake_table(block: Pending, time_field: str, date_column: str) -> pa.Table:
    table = pa.Table.from_batches([block.rows])
    partition = pa.array([block.header.partition] * table.num_rows, pa.int32())
    return table.append_column(RAW_PARTITION, partition).append_column(
        date_column, pc.cast(table.column(time_field), pa.date32())
    )


def check_counts(header: BlockHeader, rows: pa.RecordBatch) -> None:
    """A block's rows are those that its header names; FenceError if they are not (a damaged or foreign block)."""
    valid = pc.sum(pc.is_null(rows.column(REJECT))).as_py() or 0
    offsets = rows.column(RAW_OFFSET)
    bounds = pc.min_max(offsets).as_py() if rows.num_rows else {"min": header.start, "max": header.start}
    inside = header.start <= bounds["min"] and (rows.num_rows == 0 or bounds["max"] < header.end)
    if valid != header.counts.get(VALID, 0) or not inside or pc.count_distinct(offsets).as_py() != rows.num_rows:
        raise FenceError(
            f"block {header.coordinate}: header says {header.counts.get(VALID, 0)} valid rows in [{header.start},{header.end}), "
            f"body has {valid} with offsets {bounds['min']}..{bounds['max']}; {_OUT}"
        )


def check_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """The table's columns are those of the contract; SchemaMismatch names the first difference."""
    for name in [*expected.names, *found.names]:
        have, want = (s.field(name).type if name in s.names else "no such column" for s in (found, expected))
        if have != want:
            raise SchemaMismatch(
                f"{where}: column {name}: the contract says {want}, the table has {have}; a changed contract needs a new lake directory"
            )


def check_source(stored: Mapping[str, str], found: Mapping[str, str], where: str) -> None:
    """Cluster and topic ids are those that the table was made from; TopicRecreated otherwise."""
    for name, value in found.items():
        if name in stored and stored[name] != value:
            raise TopicRecreated(
                f"{where}: {name} was {stored[name]} when the table was made and is {value} now: its offsets mean other records; "
                "the table is left as it is; compact into a new lake directory"
            )


def check_retention(
    topic: str, partition: int, position: int | None, low: int, high: int, begin_at_oldest: bool = False
) -> None:
    """The next record that the table needs is still in the topic; RetentionLoss or TopicRecreated otherwise."""
    where = f"{topic}[{partition}]"
    if position is None and low > 0 and not begin_at_oldest:
        raise RetentionLoss(
            f"{where}: a new table would begin at {low}, the records before are gone; `--begin-at-oldest` accepts that"
        )
    if position is not None and position < low:
        raise RetentionLoss(f"{where}: the table needs offset {position}, the oldest one left is {low}; {_OUT}")
    if position is not None and position > high:
        raise TopicRecreated(
            f"{where}: the table stands at offset {position}, the topic ends at {high}: it was truncated or made anew; {_OUT}"
        )


def ranges_text(ranges: Mapping[int, tuple[int, int]]) -> str:
    """`{"0":[0,100]}`, as it stands in commits and verdicts."""
    return json.dumps({str(p): list(r) for p, r in sorted(ranges.items())}, separators=(",", ":"))
