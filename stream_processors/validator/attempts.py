"""EDGE. The mark that the validator leaves before it decodes, so that its successor knows what it died of.

A record that kills the process (a crash in native code, memory, a hang that the watchdog ends) would kill every successor
at the same place. The mark, a small file rewritten in place, says which offsets are being decoded; a process that finds
them still there when it starts counts one death more. From `SUSPICIOUS` deaths on the records are tried in a child
process first (`trial`); where no single record is to blame the batches get smaller, down to one record, which is then
taken for the culprit. A mark is written before and after each batch: 20 us, no fsync, since it is a process that dies here.

A batch can end the process before a record of it is there to be decoded. So the mark also says where each partition was
begun at: as many processes that died with it unmoved, and the next one reads on in a child (`read_trial`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pipeline.logs import log

SUSPICIOUS = 3  # deaths in a row at the same records; a killed process proves nothing
MARK_BYTES = 4096  # room for the ranges of a hundred partitions; a longer mark is cut to its first ones
Range = tuple[int, int]  # raw offsets [start, end)


class Mark(msgspec.Struct, frozen=True):
    deaths: int = 0
    decoding: dict[str, Range] = {}  # by partition; empty between batches
    suspects: dict[str, Range] = {}  # what was being decoded at the last death
    placed: dict[str, tuple[int, int]] = {}  # where each partition was begun at, and how many died without moving it


class Attempts:
    """What is suspected, and how large a batch may be. A file that cannot be written is said once; nothing is suspected then."""

    def __init__(self, path: Path):
        self._file = _open(path)
        left = _read(self._file)
        mark = after_start(left)
        self._placed = {int(p): at for p, at in left.placed.items()}
        self._died_reading = not left.decoding
        self.deaths = mark.deaths
        self._suspects = {int(p): r for p, r in mark.suspects.items()}
        if self.deaths:
            log("died_decoding", "warning", deaths=self.deaths, ranges=json.dumps(mark.suspects))
        self._write({})

    def limit(self, records: int) -> int:
        """How many records a batch may have: half as many at each death that the trial did not explain."""
        return max(1, records >> max(0, self.deaths - SUSPICIOUS))

    def suspected(self, partition: int, run: Range) -> bool:
        return self.deaths >= SUSPICIOUS and _overlap(self._suspects.get(partition), run)

    def only(self, partition: int, run: Range) -> bool:
        """A range that was alone when the process died again, after the trial had found nothing in it."""
        return self.deaths > SUSPICIOUS and self._suspects == {partition: run}

    def begin(self, ranges: Mapping[int, Range]) -> None:
        self._write(ranges)

    def done(self, ranges: Mapping[int, Range]) -> None:
        """These were decoded; once all that was suspected is, nothing is."""
        kept = {p: s for p, s in self._suspects.items() if p not in ranges or ranges[p][1] < s[1]}
        if kept != self._suspects:
            self._suspects, self.deaths = kept, self.deaths if kept else 0
        self._write({})

    def placed(self, positions: Mapping[int, int]) -> set[int]:
        """Note where partitions are begun; those that so many processes died at, while they did not decode, unmoved."""
        died, self._died_reading = int(self._died_reading), False
        before = self._placed
        self._placed = {
            p: (at, before[p][1] + died if p in before and before[p][0] == at else 0) for p, at in positions.items()
        }
        self._write({})
        return {p for p, (_, deaths) in self._placed.items() if deaths >= SUSPICIOUS}

    def ended(self) -> None:
        """The process ends in order: where it was says nothing against a partition."""
        self._placed = {}
        self._write({})

    def forget(self, partitions: set[int]) -> None:
        """Other partitions than these are somebody else's now."""
        self._suspects = {p: s for p, s in self._suspects.items() if p in partitions}
        if not self._suspects:
            self.deaths = 0

    def _write(self, decoding: Mapping[int, Range]) -> None:
        if self._file is None:
            return
        mark = Mark(
            self.deaths,
            {str(p): r for p, r in decoding.items()},
            {str(p): r for p, r in self._suspects.items()},
            {str(p): at for p, at in self._placed.items()},
        )
        text = msgspec.json.encode(mark)
        if len(text) > MARK_BYTES:
            text = msgspec.json.encode(Mark(self.deaths, dict(list(mark.decoding.items())[:50])))
        os.pwrite(self._file, text.ljust(MARK_BYTES), 0)


def after_start(mark: Mark) -> Mark:
    """What a process makes of its forerunner's mark.

    >>> after_start(Mark(1, {"0": (5, 9)}, {"0": (5, 7)}))  # died there again
    Mark(deaths=2, decoding={}, suspects={'0': (5, 9)}, placed={})
    >>> after_start(Mark(2, {"0": (50, 60)}, {"0": (5, 7)}))  # elsewhere
    Mark(deaths=1, decoding={}, suspects={'0': (50, 60)}, placed={})
    >>> after_start(Mark(2, {}, {"0": (5, 7)}))  # not while decoding: neither cleared nor confirmed
    Mark(deaths=2, decoding={}, suspects={'0': (5, 7)}, placed={})
    """
    if not mark.decoding:
        return Mark(mark.deaths, {}, mark.suspects)
    again = any(_overlap(mark.suspects.get(p), run) for p, run in mark.decoding.items())
    return Mark(mark.deaths + 1 if again else 1, {}, mark.decoding)


def _overlap(a: Range | None, b: Range) -> bool:
    return a is not None and a[0] < b[1] and b[0] < a[1]


def _open(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        log("attempts_unmarked", "warning", path=path, error=error)
        return None


def _read(file: int | None) -> Mark:
    try:
        return Mark() if file is None else msgspec.json.decode(os.pread(file, MARK_BYTES, 0).strip(b" \0"), type=Mark)
    except msgspec.DecodeError:  # a new file, or not ours
        return Mark()
