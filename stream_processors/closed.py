"""PURE. A closed window: what must be kept of it so that late rows can still revise its verdicts.

The counts are kept for the newest windows only; older ones are read again from `drift.partials` at the offsets that the
record names. What the detectors said is kept as it was: late rows never change it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from stream_processors.cells import EMPTY, Counts
from stream_processors.panes import Key
from stream_processors.partial import PanePart, Partial
from stream_processors.verdict import State


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """What the detectors said about one feature and segment in a window: the moment of most evidence."""

    version: int
    e_value: float | None
    threshold: float | None
    rule: str
    state: State
    change: str | None
    since: int  # panes before and with this one that the run lasted
    pane: int  # when


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A closed window as it stands in `drift.state`."""

    window: int
    version: int  # of the reference that judges it
    revision: int  # the newest one published; -1 = none yet
    dirty: bool  # late rows came that no published verdict holds
    offsets: tuple[int, ...]  # of every partial that holds a row of it
    findings: tuple[tuple[str, str, Finding], ...]


@dataclass(slots=True)
class Tally:
    """All rows of some panes under one reference version, each block's coordinate added once."""

    version: int
    seen: set[tuple[int, int, int]] = field(default_factory=set)  # (pane, partition, start)
    offsets: set[int] = field(default_factory=set)  # of the partials
    on_time: int = 0
    late: int = 0
    raw: dict[int, tuple[int, int]] = field(default_factory=dict)
    counts: dict[Key, Counts] = field(default_factory=dict)  # on time
    late_counts: dict[Key, Counts] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.on_time + self.late

    def add(self, offset: int, partial: Partial, part: PanePart) -> bool:
        """True if the coordinate was new; a part counted against another version adds nothing."""
        name = (part.pane, *partial.coordinate)
        if part.version != self.version or name in self.seen:
            return False
        self.seen.add(name)
        self.offsets.add(offset)
        self.on_time += part.on_time
        self.late += part.late
        self._cover(partial.partition, part.first, part.last)
        for one in part.counts:
            for into, counts in ((self.counts, one.on_time), (self.late_counts, one.late)):
                if counts:
                    into[one.key] = into.get(one.key, EMPTY) + Counts.from_bytes(counts)
        return True

    def total(self, key: Key) -> Counts:
        return self.counts.get(key, EMPTY) + self.late_counts.get(key, EMPTY)

    def _cover(self, partition: int, first: int, last: int) -> None:
        low, high = self.raw.get(partition, (first, last))
        self.raw[partition] = min(low, first), max(high, last)


def together(tallies: Iterable[Tally], version: int) -> Tally:
    """The panes of a window as one: those that `version` judges."""
    whole = Tally(version)
    for one in tallies:
        if one.version != version:
            continue
        whole.seen |= one.seen
        whole.offsets |= one.offsets
        whole.on_time += one.on_time
        whole.late += one.late
        for partition, (first, last) in one.raw.items():
            whole._cover(partition, first, last)
        for into, own in ((whole.counts, one.counts), (whole.late_counts, one.late_counts)):
            for key, counts in own.items():
                into[key] = into[key] + counts if key in into else counts
    return whole
