"""PURE. Labels that are made from the events themselves, as they are known on the stream: rows in, outcomes out.

A match marks the latest earlier row with equal `on` values within the horizon (`pipeline.contract.MatchLabel`). A row's label
is told when its horizon is over, marked or not: the ones told early would all be positive, which is no fair sample. Over means
that every partition's watermark is past it, so no match in time can still come. A row behind its own partition's watermark is
late and neither labelled nor a match. So the labels are a function of the logs, in the order of event time, and those of the
lake (`batch.labels.by_match`) wherever nothing was late.

Remembers the rows of one horizon: 0.6 kB each, 6 us of a core (2026-11-21). Beyond `cap` the oldest go without a label and are counted as `overflow`.
Knows no Kafka and no prediction.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.blocks import Block
from pipeline.contract import RAW_OFFSET, MatchLabel
from stream_processors.live.joining import NEVER

CAP = 400_000
Place = tuple[int, int]  # partition, offset of the raw record
_NEVER_AGAIN = 2**62


@dataclass(frozen=True, slots=True)
class Row:
    on: tuple[object, ...]
    event_ms: int
    place: Place
    is_match: bool


@dataclass(frozen=True, slots=True)
class Told:
    """The label of the row at `place`."""

    place: Place
    event_ms: int
    label: bool


@dataclass(slots=True)
class _Past:
    """What is remembered of equal `on` values, each in the order of event time."""

    rows: list[tuple[int, Place]] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)


class Matcher:
    """Feed each partition's valid rows in their order; `matured` gives the labels that are known by then."""

    def __init__(self, horizon_ms: int, lateness_ms: int, cap: int = CAP):
        self.clocks: dict[int, int] = {}  # by partition, the greatest event time read; all partitions from the start
        self.late = self.overflow = 0
        self._horizon_ms, self._lateness_ms, self._cap = horizon_ms, lateness_ms, cap
        self._waiting: list[tuple[int, bool, Place, tuple[object, ...]]] = []  # by event time, rows before matches
        self._past: dict[tuple[object, ...], _Past] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            clock = self.clocks.get(row.place[0], NEVER)
            self.clocks[row.place[0]] = max(clock, row.event_ms)
            if row.event_ms < clock - self._lateness_ms:
                self.late += 1
                continue
            past = self._past.setdefault(row.on, _Past())
            if row.is_match:
                insort(past.matches, row.event_ms)
            else:
                insort(past.rows, (row.event_ms, row.place))
            heapq.heappush(self._waiting, (row.event_ms, row.is_match, row.place, row.on))

    def matured(self) -> Iterator[Told]:
        """In the order of event time; each row once."""
        due = min(self.clocks.values(), default=NEVER) - self._lateness_ms - self._horizon_ms
        while self._waiting and (self._waiting[0][0] < due or len(self._waiting) > self._cap):
            event_ms, is_match, place, on = heapq.heappop(self._waiting)
            past = self._past[on]
            if is_match:
                past.matches.pop(0)
            elif event_ms < due:
                yield Told(place, event_ms, self._marked(past))
            else:
                past.rows.pop(0)
                self.overflow += 1
            if not past.rows and not past.matches:
                del self._past[on]

    def _marked(self, past: _Past) -> bool:
        """Whether a match lies within the horizon of the oldest row, and before the next row, which it would mark instead."""
        event_ms, _ = past.rows.pop(0)
        following = past.rows[0][0] if past.rows else _NEVER_AGAIN
        first = bisect_left(past.matches, event_ms)
        return first < len(past.matches) and past.matches[first] < min(following, event_ms + self._horizon_ms + 1)


def rows_of(block: Block, label: MatchLabel, clock: str) -> list[Row]:
    """A block's valid rows that can carry a label or be a match: those without a null in `on`."""
    import polars as pl  # the same expressions as the lake's; a second that labels of the other kind need not wait

    frame = pl.DataFrame(pl.from_arrow(block.valid)).drop_nulls(label.on)
    is_match = pl.col(label.field).str.contains(label.pattern).fill_null(False)
    found = frame.select(
        pl.col(clock).dt.epoch("ms"), RAW_OFFSET, is_match.alias("match"), pl.struct(label.on).alias("on")
    )
    return [
        Row(tuple(on.values()), event_ms, (block.header.partition, offset), match)
        for event_ms, offset, match, on in found.iter_rows()
    ]
