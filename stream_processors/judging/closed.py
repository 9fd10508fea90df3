"""PURE. A closed window: what must be kept of it so that late rows can still revise its verdicts.

The counts are kept for the newest windows only; older ones are read again from `drift.partials` at the offsets that the
record names. What the detectors said is kept as it was: late rows never change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from stream_processors.judging.panes import Key
from stream_processors.judging.partial import PanePart, Partial
from stream_processors.judging.verdict import State
from stream_processors.reference.counts import EMPTY, Counts, sums_of, sums_of_bytes

MOST_WAITING = 64  # parts of a pane that are kept as bytes, until they are added up


class Finding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the detectors said about one feature and segment in a window: the moment of most evidence."""

    version: int
    e_value: float | None
    threshold: float | None
    rule: str
    state: State
    change: str | None
    since: int  # panes before and with this one that the run lasted
    pane: int  # when
    lower_effect: float | None = None  # the effect is at least this, in the tolerance's unit
    tolerance: float = 0.0
    last: State | None = None  # after its last pane: an alarm may have returned by then
    last_excess: float = 0.0  # evidence less its threshold then


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A closed window as it stands in `drift.state`."""

    window: int  # its start
    end: int
    version: int  # of the reference that judges it
    revision: int  # the newest one published; -1 = none yet
    dirty: bool  # late rows came that no published verdict holds
    offsets: tuple[int, ...]  # of every partial that holds a row of it
    panes: tuple[tuple[int, int], ...]  # (start, on-time rows) of those that held a row when it closed
    findings: tuple[tuple[str, str, Finding], ...]


@dataclass(slots=True)
class Sums:
    """Counts by key, added up when somebody asks: one call for all parts of all keys, not one for each."""

    _counts: dict[Key, Counts] = field(default_factory=dict)
    _placed: dict[int, dict[Key, int]] = field(default_factory=dict)
    _waiting: dict[int, dict[Key, bytes]] = field(default_factory=dict)  # by pane, parts one after the other
    _parts: int = 0  # that wait

    @property
    def counts(self) -> dict[Key, Counts]:
        self._add_up()
        return self._counts

    @property
    def placed(self) -> dict[int, dict[Key, int]]:
        """Rows with a value by pane and key."""
        self._add_up()
        return self._placed

    def placed_of(self, key: Key) -> dict[int, int]:
        return {pane: rows[key] for pane, rows in self.placed.items() if key in rows}

    def add(self, pane: int, counts: Sequence[tuple[Key, bytes]]) -> None:
        if not counts:
            return
        held = self._waiting.setdefault(pane, {})
        for key, value in counts:
            held[key] = held.get(key, b"") + value
        self._parts += 1
        if self._parts == MOST_WAITING:
            self._add_up()

    def _add_up(self) -> None:
        if not self._parts:
            return
        waiting, self._waiting, self._parts = self._waiting, {}, 0
        found = iter(sums_of_bytes([value for held in waiting.values() for value in held.values()]))
        for pane, held in waiting.items():
            placed = self._placed.setdefault(pane, {})
            for key, (added, rows) in zip(held, found, strict=False):
                self._counts[key] = self._counts[key] + added if key in self._counts else added
                placed[key] = placed.get(key, 0) + rows


@dataclass(slots=True)
class Tally:
    """All rows of some panes under one reference version, each block's coordinate added once."""

    version: int
    seen: set[tuple[int, int, int]] = field(default_factory=set)  # (pane, partition, start)
    offsets: set[int] = field(default_factory=set)  # of the partials
    on_time: int = 0
    late: int = 0
    raw: dict[int, tuple[int, int]] = field(default_factory=dict)
    by_partition: dict[int, tuple[int, int]] = field(default_factory=dict)  # (on-time, late) rows
    in_time: Sums = field(default_factory=Sums)
    too_late: Sums = field(default_factory=Sums)

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
        self._cover(partial.partition, (part.first, part.last), (part.on_time, part.late))
        self.in_time.add(part.pane, [(one.key, one.on_time) for one in part.counts if one.on_time])
        self.too_late.add(part.pane, [(one.key, one.late) for one in part.counts if one.late])
        return True

    def total(self, key: Key) -> Counts:
        return self.in_time.counts.get(key, EMPTY) + self.too_late.counts.get(key, EMPTY)

    def total_placed(self, key: Key) -> dict[int, int]:
        """Rows with a value by pane, late ones included."""
        found = self.in_time.placed_of(key)
        for pane, rows in self.too_late.placed_of(key).items():
            found[pane] = found.get(pane, 0) + rows
        return found

    def _cover(self, partition: int, raw: tuple[int, int], rows: tuple[int, int]) -> None:
        self.on_time, self.late = self.on_time + rows[0], self.late + rows[1]
        if raw[0] < raw[1]:
            low, high = self.raw.get(partition, raw)
            self.raw[partition] = min(low, raw[0]), max(high, raw[1])
        on_time, late = self.by_partition.get(partition, (0, 0))
        self.by_partition[partition] = on_time + rows[0], late + rows[1]


def together(tallies: Iterable[Tally], version: int) -> Tally:
    """The panes of a window as one: those that `version` judges."""
    whole, own_version = Tally(version), [t for t in tallies if t.version == version]
    for one in own_version:
        whole.seen |= one.seen
        whole.offsets |= one.offsets
        for partition, rows in one.by_partition.items():
            whole._cover(partition, one.raw.get(partition, (0, 0)), rows)
    whole.in_time = _together([t.in_time for t in own_version])
    whole.too_late = _together([t.too_late for t in own_version])
    return whole


def _together(many: Sequence[Sums]) -> Sums:
    placed: dict[int, dict[Key, int]] = {}
    parts: dict[Key, list[Counts]] = {}
    for one in many:
        for key, counts in one.counts.items():
            parts.setdefault(key, []).append(counts)
        for pane, rows in one.placed.items():
            own = placed.setdefault(pane, {})
            own.update({key: own.get(key, 0) + n for key, n in rows.items()})
    return Sums(dict(zip(parts, sums_of(list(parts.values())), strict=True)), placed)
