"""PURE. Closed windows and the late rows that still revise them.

Each has a record; the counts of the newest are at hand, those of older ones are read again from the partials that the record
names. A window that only late rows fell into gets its record with the first of them. Detectors are not asked again: a
window's findings stay as they were when it closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from stream_processors.judging.closed import Finding, Record, Tally
from stream_processors.judging.panes import Clock, Key
from stream_processors.judging.partial import Partial

CACHED_WINDOWS = 24  # closed windows whose counts are kept at hand; older ones are read again from the partials


class Archive:
    def __init__(self, clock: Clock) -> None:
        self.records: dict[int, Record] = {}
        self.changed: set[int] = set()  # windows whose record is to be written
        self._clock = clock
        self._tallies: dict[int, Tally] = {}  # newest last
        self._wanted: set[int] = set()

    def load(self, records: Iterable[Record]) -> None:
        self.records = {r.window: r for r in records}
        self._wanted = {w for w, r in self.records.items() if r.dirty}

    def wanted(self) -> dict[int, tuple[int, ...]]:
        """Windows to revise whose counts are not at hand: offsets in the partials topic."""
        return {w: self.records[w].offsets for w in sorted(self._wanted) if w in self.records}

    def put(self, record: Record, tally: Tally) -> None:
        self.records[record.window] = record
        self.changed.add(record.window)
        self._remember(record.window, tally)

    def late(self, record: Record, offset: int, partial: Partial) -> None:
        """Late rows of a window that is closed; `record` is its own, or a new one if it had none."""
        window, new = record.window, record.window not in self.records
        if new:
            self._remember(window, Tally(record.version))
        tally = self._tallies.get(window)
        if tally is not None and not self._add(tally, record, offset, partial) and not new:
            return  # nothing that it does not hold
        offsets = tuple(sorted({*record.offsets, offset}))
        self.records[window] = msgspec.structs.replace(record, dirty=True, offsets=offsets)
        self.changed.add(window)
        if tally is None:
            self._wanted.add(window)

    def supply(self, window: int, partials: Iterable[tuple[int, Partial]]) -> None:
        """The partials that `wanted` asked for, read again."""
        record = self.records.get(window)
        if record is None:
            return
        tally = Tally(record.version)
        for offset, partial in partials:
            self._add(tally, record, offset, partial)
        self._remember(window, tally)
        self._wanted.discard(window)

    def dirty(self) -> list[tuple[Record, Tally]]:
        """What can be revised now, in order."""
        found = sorted(w for w, r in self.records.items() if r.dirty and w in self._tallies)
        return [(self.records[w], self._tallies[w]) for w in found]

    def revised(self, record: Record, revision: int, findings: Mapping[Key, Finding]) -> None:
        self.records[record.window] = msgspec.structs.replace(
            record, dirty=False, revision=revision, findings=flat(findings)
        )
        self.changed.add(record.window)

    def reopen(self, pane: int) -> None:
        """Forget the windows that hold a pane or lie behind it."""
        for window in [w for w, r in self.records.items() if r.end > pane]:
            self._forget(window)

    def expire(self, watermark: int | None) -> None:
        for window in [w for w, r in self.records.items() if self.is_expired(r.end, watermark)]:
            self._forget(window)

    def is_expired(self, end: int, watermark: int | None) -> bool:
        """Whether nothing can revise a window any more."""
        keep = self._clock.revise_within
        return keep is not None and watermark is not None and end <= watermark - keep

    def _add(self, tally: Tally, record: Record, offset: int, partial: Partial) -> bool:
        inside = [part for part in partial.panes if record.window <= part.pane < record.end]
        return any([tally.add(offset, partial, part) for part in inside])

    def _remember(self, window: int, tally: Tally) -> None:
        self._tallies.pop(window, None)
        self._tallies[window] = tally
        for old in list(self._tallies)[: max(0, len(self._tallies) - CACHED_WINDOWS)]:
            if not (old in self.records and self.records[old].dirty):
                del self._tallies[old]

    def _forget(self, window: int) -> None:
        self.records.pop(window, None)
        self._tallies.pop(window, None)
        self._wanted.discard(window)
        self.changed.add(window)


def flat(findings: Mapping[Key, Finding]) -> tuple[tuple[str, str, Finding], ...]:
    return tuple((f, s, finding) for (f, s), finding in sorted(findings.items()))
