"""PURE. Rows that were stored, through the code that judges the stream: rows -> blocks -> partials -> verdicts, episodes.

A lake row keeps its raw partition and offset, so each partition is put back in the order of its log. What is late, which
pane is final and which revision is the last follow from that order alone; the verdicts are therefore those of the live
judge, byte for byte, wherever it judged the same rows by the same references under the same contract. Episodes follow
the same rules, but a live page may come earlier, from a provisional close.

Knows no file, no table and no topic. Memory: the rows, and the panes of open windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blocks import VALID, Block, BlockHeader
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT, Contract
from stream_processors.judging import episodes
from stream_processors.judging.alert import Alert
from stream_processors.judging.episodes import Episode
from stream_processors.judging.judge import Closed, Judge
from stream_processors.judging.panes import Clock, clock_of
from stream_processors.judging.partial import Partial
from stream_processors.judging.summarise import summarise
from stream_processors.judging.timeline import Timeline
from stream_processors.judging.verdict import Verdict

# A rebuilt block holds so many rows, of so many windows' time, at most: calls cost more than counting, so few of them, but
# the panes of all its windows stand open at once. The judge speaks window by window, as it does live. Verdicts depend on neither.
BLOCK_ROWS, BLOCK_WINDOWS = 10_000, 32
REREAD_BLOCKS = 16  # whose partials stay at hand for late rows of windows long closed


@dataclass(frozen=True, slots=True)
class Rejudged:
    verdicts: tuple[Verdict, ...]  # the latest of each window, feature and segment, in that order
    alerts: tuple[Alert, ...]
    rows: int  # valid ones
    rejects: int
    late: int = 0  # valid rows that came too late for a detector
    late_beyond: int = 0  # ... and too late to revise a verdict


def needed(contract: Contract) -> list[str]:
    """The columns that judging reads, beside coordinate and reject code."""
    named = [f.name for f in contract.drift.features] + [c for s in contract.drift.segments for c in s]
    return list(dict.fromkeys([contract.time.field, *named]))


def blocks_of(rows: pa.Table, contract: Contract, before: dict[int, int | None] | None = None) -> list[Block]:
    """The partitions' logs as blocks, oldest event time first, each partition in offset order.

    `rows` holds `needed` columns, raw partition and offset, and the reject code (null = valid). `before` is the newest
    event time of each partition ahead of its first row here.
    """
    ordered = rows.sort_by([(RAW_PARTITION, "ascending"), (RAW_OFFSET, "ascending")]).combine_chunks()
    partitions = ordered.column(RAW_PARTITION).to_numpy()
    edges = np.flatnonzero(np.diff(partitions)) + 1
    made: list[Block] = []
    for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(partitions)], strict=True):
        if low < high:
            number = int(partitions[low])
            made += _partition(ordered.slice(low, high - low), number, contract, (before or {}).get(number))
    first = -(2**63)
    return sorted(made, key=lambda b: (first if b.header.watermark is None else b.header.watermark, b.header.partition))


def tail(contract: Contract, partition: int, start: int, maximum: int | None) -> Block:
    """A block without rows that says how far the partition's event time went: what follows was left out."""
    schema = contract.block_schema
    header = BlockHeader("", partition, start, start + 1, {VALID: 0}, None, None, maximum, contract.name)
    return Block(header, pa.RecordBatch.from_pylist([], schema))


def rejudge(
    contract: Contract,
    clock: Clock,
    timeline: Timeline,
    blocks: Sequence[Block],
    on_block: Callable[[int], None] = lambda done: None,
) -> Rejudged:
    """Judge every block; the windows that the last rows leave open are closed provisionally, as an idle stream would."""
    judge = Judge(contract, clock, sorted({b.header.partition for b in blocks}), 0.0)
    judge.know(timeline)
    listener = _Listener(judge, clock)
    starts: list[int] = []  # number of the first partial of each block
    again = lru_cache(REREAD_BLOCKS)(lambda at: list(summarise(blocks[at], at, contract, clock, timeline)))
    number, marked, late, beyond = 0, None, 0, 0
    for at, block in enumerate(blocks):
        starts.append(number)
        for partial in summarise(block, at, contract, clock, timeline):
            judge.feed(number, partial, 0.0)
            late, beyond = late + sum(p.late for p in partial.panes), beyond + partial.late_beyond
            number += 1
        mark = judge.watermark()
        if mark is not None and (marked is None or mark >= marked + clock.pane):
            for end in judge.window_ends(marked, mark):
                listener.turn(0.0, starts, again, end)
            marked = mark
        on_block(at + 1)
    listener.turn(0.0, starts, again)
    while listener.turn(clock.idle / 1000 + 1.0, starts, again):
        pass
    valid = sum(b.header.counts.get(VALID, 0) for b in blocks)
    rejects = sum(sum(b.header.counts.values()) for b in blocks) - valid
    return Rejudged(
        tuple(listener.latest[p] for p in sorted(listener.latest)), tuple(listener.alerts), valid, rejects, late, beyond
    )


def rows_within(blocks: Sequence[Block], contract: Contract, since: int, until: int) -> tuple[int, int]:
    """(valid rows of event times in [since, until), rejected ones between them in their partitions' logs)."""
    rows, ends, rejected = 0, dict[int, tuple[int, int]](), dict[int, list[np.ndarray]]()
    for block in blocks:
        valid = pc.is_null(block.rows.column(REJECT)).to_numpy(zero_copy_only=False)
        times = block.rows.column(contract.time.field).cast(pa.int64()).fill_null(0).to_numpy()
        offsets, at = block.rows.column(RAW_OFFSET).to_numpy(), block.header.partition
        inside = offsets[valid & (times >= since) & (times < until)]
        rejected.setdefault(at, []).append(offsets[~valid])
        if len(inside):
            low, high = ends.get(at, (int(inside[0]), 0))
            rows, ends[at] = rows + len(inside), (min(low, int(inside[0])), max(high, int(inside[-1])))
    between = [((o > ends[p][0]) & (o < ends[p][1])).sum() for p, found in rejected.items() if p in ends for o in found]
    return rows, int(sum(between))


class _Listener:
    """Lets the judge speak, and keeps what it said last of each window, feature and segment."""

    def __init__(self, judge: Judge, clock: Clock):
        self._judge, self._clock, self._episode = judge, clock, Episode()
        self.latest: dict[tuple[str, str, str], Verdict] = {}
        self.alerts: list[Alert] = []

    def turn(
        self, now: float, starts: Sequence[int], again: Callable[[int], list[Partial]], until: int | None = None
    ) -> int:
        for window, offsets in self._judge.wanted().items():
            self._judge.supply(window, list(_partials(offsets, starts, again)))
        closed = self._judge.turn(now, until=until).closed
        for one in closed:
            self._hear(one)
        return len(closed)

    def _hear(self, closed: Closed) -> None:
        self.latest.update({v.place: v for v in closed.verdicts})
        scene = episodes.scene_of(self._judge, closed)
        self._episode, alert = episodes.follow(self._episode, closed, self._clock, scene, closed.end)
        self.alerts += [alert] if alert else []


def _partials(
    offsets: Sequence[int], starts: Sequence[int], again: Callable[[int], list[Partial]]
) -> Iterator[tuple[int, Partial]]:
    """Partials by their number, made again from their block."""
    for offset in offsets:
        at = int(np.searchsorted(starts, offset, side="right")) - 1
        yield offset, again(at)[offset - starts[at]]


def _partition(rows: pa.Table, partition: int, contract: Contract, before: int | None) -> Iterator[Block]:
    """One partition's rows, in offset order, cut into blocks."""
    codes = rows.column(REJECT).combine_chunks()
    valid = pc.is_null(codes).to_numpy(zero_copy_only=False)
    times = rows.column(contract.time.field).cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).fill_null(0).to_numpy()
    reached = np.maximum.accumulate(np.where(valid, times, -(2**63)))
    offsets = rows.column(RAW_OFFSET).to_numpy()
    batch = rows.drop_columns([RAW_PARTITION]).to_batches()[0]
    for low, high in itertools.pairwise(_cuts(reached, clock_of(contract))):
        own = times[low:high][valid[low:high]]
        mark = int(reached[low - 1]) if low and reached[low - 1] > -(2**63) else None
        header = BlockHeader(
            f"{contract.id}.events", partition, int(offsets[low]), int(offsets[high - 1]) + 1, _counts(codes.slice(low, high - low)),
            int(own.min()) if len(own) else None, int(own.max()) if len(own) else None, _larger(before, mark), contract.name,
        )  # fmt: skip
        yield Block(header, batch.slice(low, high - low))


def _cuts(reached: np.ndarray, clock: Clock) -> list[int]:
    """Where blocks begin, and the end."""
    spans = np.flatnonzero(np.diff(reached // (clock.slide * BLOCK_WINDOWS))) + 1
    edges = [0, *spans.tolist(), len(reached)]
    return [*(at for low, high in itertools.pairwise(edges) for at in range(low, high, BLOCK_ROWS)), len(reached)]


def _counts(codes: pa.Array) -> dict[str, int]:
    found = pc.value_counts(codes.fill_null(VALID))
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _larger(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)
