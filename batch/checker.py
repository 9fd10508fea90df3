"""PURE. The history checker: what the topics and the lake hold, in; a verdict with the first counter-example, out.

Claims, per partition, over the raw records below the committed offset:
1. each is valid or dead, exactly once: in one block as a valid row or not, with a dead letter iff it is not valid;
2. the valid topic holds the valid records' bytes, in their order, and nothing else;
3. a dead letter is of the record that its coordinate names (SHA-256 of key and value), in raw order;
4. blocks follow each other without gap or overlap, and never run ahead of the raw log;
5. the lake holds the coordinates of the valid rows below its own position, each once: a prefix.
It streams: memory is one block's offsets, whatever the length of the log. Knows no Kafka and no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

SHOWN = 100  # coordinates listed in a report; the totals count all


@dataclass(frozen=True, slots=True)
class RawRecord:
    offset: int
    digest: bytes  # of key and value
    replay: bool = False


@dataclass(frozen=True, slots=True)
class BlockRange:
    """A block: raw offsets [start, end), the valid ones among them, how many of those were late."""

    start: int
    end: int
    valid: tuple[int, ...]
    late: int = 0


@dataclass(frozen=True, slots=True)
class DeadRecord:
    offset: int  # of the raw record
    digest: bytes
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """One partition's records, each stream in its own log's order."""

    name: str  # raw topic/partition
    raw: Iterable[RawRecord]
    blocks: Iterable[BlockRange]
    dead: Iterable[DeadRecord]
    valid: Iterable[bytes] | None  # digests in the valid topic; None = not written, blocks stand in
    lake: Iterable[int]  # raw offsets in ascending order
    committed: int | None  # the validator's committed offset
    lake_end: int | None  # the table's position
    start: int = 0  # oldest raw offset there is


@dataclass(frozen=True, slots=True)
class CounterExample:
    kind: Literal[
        "lost",
        "duplicated",
        "reordered",
        "gap",
        "overlap",
        "ahead",
        "phantom",
        "altered",
        "lake_lost",
        "lake_duplicated",
        "lake_phantom",
    ]
    coordinate: str
    message: str


@dataclass(slots=True)
class Verdict:
    """Counts of one partition (or, added up, of all) and everything found wrong, the first in log order first."""

    produced: int = 0
    replayed: int = 0
    consumed: int = 0
    valid: int = 0
    dead: int = 0
    quarantined: int = 0
    late: int = 0
    lake: int = 0
    lag: int = 0
    missing: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    missing_total: int = 0
    duplicated_total: int = 0
    found: list[CounterExample] = field(default_factory=list)
    start: int = 0
    end: int = 0

    @property
    def ok(self) -> bool:
        return not self.found

    def report(self, example: CounterExample) -> None:
        if len(self.found) < SHOWN:
            self.found.append(example)
        if example.kind in ("lost", "lake_lost"):
            self.missing_total += 1
            _keep(self.missing, example.coordinate)
        elif example.kind in ("duplicated", "lake_duplicated"):
            self.duplicated_total += 1
            _keep(self.duplicated, example.coordinate)


def total(verdicts: Iterable[Verdict]) -> Verdict:
    """All partitions as one."""
    whole = Verdict()
    for v in verdicts:
        for name in (
            "produced",
            "replayed",
            "consumed",
            "valid",
            "dead",
            "quarantined",
            "late",
            "lake",
            "lag",
            "missing_total",
            "duplicated_total",
        ):
            setattr(whole, name, getattr(whole, name) + getattr(v, name))
        for name in ("missing", "duplicated", "found"):
            setattr(whole, name, [*getattr(whole, name), *getattr(v, name)][:SHOWN])
    return whole


def check(history: History) -> Verdict:
    """Walk a partition's logs side by side, by raw offset."""
    return _Walk(history).run()


def check_commits(raw: str, commits: Iterable[Mapping[str, Sequence[int]]]) -> list[CounterExample]:
    """The table's commits, oldest first, each a map of partition to [start, end): they follow each other per partition."""
    at: dict[str, int] = {}
    found = []
    for ranges in commits:
        for partition, (start, end) in ranges.items():
            last = at.get(partition, start)
            if start != last:
                where = f"{raw}/{partition}/{min(start, last)}"
                found.append(
                    CounterExample(
                        "gap" if start > last else "overlap",
                        where,
                        f"{where}: a table commit begins at {start}, the one before ended at {last}",
                    )
                )
            at[partition] = end
    return found


class _Walk:
    def __init__(self, history: History):
        self.h = history
        self.verdict = Verdict(start=history.start, end=history.committed or history.start)
        self.committed = history.committed or history.start
        self.dead = _Dead(self, history.dead)
        self.lake = _Lake(self, history.lake, history.lake_end)
        self.copies = None if history.valid is None else iter(history.valid)

    def run(self) -> Verdict:
        raw = iter(self.h.raw)
        held: RawRecord | None = None
        for block in self._in_order(self.h.blocks):
            valid = frozenset(block.valid)
            held, records = _until(raw, held, block.end)
            seen = 0
            for record in records:
                if record.offset >= block.start:
                    seen += record.offset in valid
                    self._judge(record, record.offset in valid, record.offset < self.committed)
                else:
                    self._unblocked(record)
            if seen < len(valid):
                self.say(
                    "phantom",
                    block.start,
                    f"block [{block.start},{block.end}) has {len(valid) - seen} valid rows whose raw record does not exist",
                )
            self.verdict.late += block.late if block.end <= self.committed else 0
        for record in chain([held] if held else [], raw):
            self._unblocked(record)
        self._surplus()
        self.dead.finish()
        self.lake.finish()
        return self.verdict

    def say(self, kind: str, offset: int, message: str) -> None:
        coordinate = f"{self.h.name}/{offset}"
        self.verdict.report(CounterExample(kind, coordinate, f"{coordinate}: {message}"))  # type: ignore[arg-type]

    def _in_order(self, blocks: Iterable[BlockRange]) -> Iterator[BlockRange]:
        """Blocks that tile the log; a repeated one is reported and not walked twice. Blocks below `start` have lost their raw records."""
        at: int | None = None
        for block in blocks:
            if block.end <= self.h.start and block.end > block.start:
                at = block.end
                continue
            if at is not None and block.start > at:
                self.say("gap", at, f"no block covers [{at},{block.start})")
            if at is not None and block.start < at:
                for offset in block.valid:
                    if offset < at:
                        self.say("duplicated", offset, f"in a second block, [{block.start},{block.end})")
                self.say(
                    "overlap",
                    block.start,
                    f"block [{block.start},{block.end}) begins before the one before it ended, {at}",
                )
                if block.end <= at:
                    continue
                block = BlockRange(at, block.end, tuple(o for o in block.valid if o >= at), block.late)
            at = max(block.end, at or 0)
            yield block
        if at is not None and at < self.committed:
            self.say("ahead", at, f"the committed offset is {self.committed}, blocks end at {at}")

    def _judge(self, record: RawRecord, valid: bool, counted: bool) -> None:
        if counted:
            self._count(record)
            self.verdict.valid += valid
        else:
            self._uncounted(record)
        letter = self.dead.at(record.offset)
        if letter is not None and counted:
            self.verdict.dead += 1
            self.verdict.quarantined += letter.quarantined
        if valid and letter is not None:
            self.say("duplicated", record.offset, "is a valid row and a dead letter")
        if not valid and letter is None and counted:
            self.say("lost", record.offset, "is neither a valid row of its block nor a dead letter")
        if letter is not None and letter.digest != record.digest:
            self.say("altered", record.offset, "its dead letter's SHA-256 is not that of the raw record")
        self.lake.at(record.offset, valid)
        if valid and self.copies is not None:
            self._copy(record, counted)

    def _copy(self, record: RawRecord, counted: bool) -> None:
        copy = next(self.copies, None) if self.copies is not None else None
        if copy is None:
            if counted:
                self.say("lost", record.offset, "is a valid row of its block, and the valid topic ends before it")
        elif copy != record.digest:
            self.say(
                "reordered", record.offset, "the valid topic has other bytes at its place; what follows is not compared"
            )
            self.copies = None

    def _unblocked(self, record: RawRecord) -> None:
        """A raw record that no block covers."""
        if record.offset < self.committed:
            self._count(record)
            self.verdict.dead += self.dead.at(record.offset) is not None
            self.say("lost", record.offset, "is below the committed offset, and no block covers it")
        else:
            self._uncounted(record)

    def _count(self, record: RawRecord) -> None:
        self.verdict.consumed += 1
        self.verdict.replayed += record.replay
        self.verdict.produced += not record.replay

    def _uncounted(self, record: RawRecord) -> None:
        self.verdict.lag += 1
        self.verdict.replayed += record.replay
        self.verdict.produced += not record.replay

    def _surplus(self) -> None:
        if self.copies is not None:
            surplus = sum(1 for _ in self.copies)
            if surplus:
                self.say(
                    "phantom",
                    self.committed,
                    f"the valid topic has {surplus} records more than the blocks have valid rows",
                )


class _Dead:
    """Dead letters by raw offset, in order, each once."""

    def __init__(self, walk: _Walk, letters: Iterable[DeadRecord]):
        self._walk, self._letters = walk, iter(letters)
        self._next = next(self._letters, None)
        self._last = -1

    def at(self, offset: int) -> DeadRecord | None:
        """The letter of this record; letters before it belong to no record."""
        found = None
        while self._next is not None and self._next.offset <= offset:
            letter = self._next
            if letter.offset == self._last:
                self._walk.say("duplicated", letter.offset, "has two dead letters")
            elif letter.offset < self._last:
                self._walk.say("reordered", letter.offset, f"its dead letter comes after that of offset {self._last}")
            elif letter.offset == offset:
                found = letter
            elif letter.offset >= self._walk.h.start:
                self._walk.say("phantom", letter.offset, "has a dead letter, and no such raw record exists")
            self._last = max(self._last, letter.offset)
            self._next = next(self._letters, None)
        return found

    def finish(self) -> None:
        while self._next is not None:
            self._walk.say("phantom", self._next.offset, "has a dead letter, and no such raw record exists")
            self._next = next(self._letters, None)


class _Lake:
    """The lake's coordinates against the valid rows below the lake's own position."""

    def __init__(self, walk: _Walk, offsets: Iterable[int], end: int | None):
        self._walk, self._offsets, self._end = walk, iter(offsets), end or 0
        self._next = next(self._offsets, None)
        self._last = -1

    def at(self, offset: int, valid: bool) -> None:
        present = False
        while self._next is not None and self._next <= offset:
            present = self._take(offset, present, valid)
        if valid and not present and offset < self._end:
            self._walk.say(
                "lake_lost",
                offset,
                f"is valid and below the lake's position {self._end}, and the lake does not have it",
            )

    def _take(self, offset: int, present: bool, valid: bool) -> bool:
        row = self._next if self._next is not None else -1
        if row == self._last:
            self._walk.say("lake_duplicated", row, "is in the lake more than once")
        elif row == offset and valid:
            self._walk.verdict.lake += 1
            present = True
            if row >= self._end:
                self._walk.say("ahead", row, f"is in the lake, whose position is {self._end}")
        elif row >= self._walk.h.start:
            self._walk.say("lake_phantom", row, "is in the lake, and is no valid row of the log")
        self._last = row
        self._next = next(self._offsets, None)
        return present

    def finish(self) -> None:
        while self._next is not None:
            self._take(-1, False, False)


def _until(raw: Iterator[RawRecord], held: RawRecord | None, end: int) -> tuple[RawRecord | None, list[RawRecord]]:
    """(first record at or after `end`, the records before it)"""
    records = []
    for record in chain([held] if held else [], raw):
        if record.offset >= end:
            return record, records
        records.append(record)
    return None, records


def _keep(coordinates: list[str], one: str) -> None:
    if len(coordinates) < SHOWN:
        coordinates.append(one)
