"""PURE. What the checker is given and what it says: one partition's logs as plain records, counts, counter-examples."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")

SHOWN = 100  # coordinates listed in a report; the totals count all
ATTEMPTS = 256  # attempts told apart; nobody replays a record so often

Kind = Literal[
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
    "wrong_revision",
    "wrong_watermark",
]


class Replay(NamedTuple):
    """A raw record says that it is one: of which first offset of its partition, and after how many failures."""

    first: int
    attempt: int


class RawRecord(NamedTuple):  # a tuple, for there are ten million of them
    offset: int
    digest: bytes | None  # of key and value; None = in a batch that nobody can open
    replay: Replay | None = None


class DeadRecord(NamedTuple):
    offset: int  # of the raw record
    digest: bytes | None  # None = it stands for a range
    quarantined: bool = False
    end: int | None = None  # behind the range


@dataclass(frozen=True, slots=True)
class BlockRange:
    """A block: raw offsets [start, end), the valid ones among them, how many of those were late by the block's watermark."""

    start: int
    end: int
    valid: tuple[int, ...]
    late: int = 0
    watermark: int | None = None  # the greatest event time before it, as it says
    newest: int | None = None  # the greatest event time of its valid rows


class Marked(NamedTuple):
    """A replay marker: the letter that was replayed, as which replay; `settled` = its record must be in the raw log."""

    offset: int
    replay: Replay
    settled: bool = True


class Markers:
    """The replay markers of one partition, at 24 bytes each. Add them all, then ask."""

    def __init__(self, found: Iterable[Marked] = ()):
        self._letters, self._replays, self._due = array("q"), array("q"), array("q")
        self._sorted = False
        for marked in found:
            self.add(marked)

    def add(self, marked: Marked) -> None:
        self._letters.append(marked.offset)
        self._replays.append(_number(marked.replay))
        if marked.settled:
            self._due.append(_number(marked.replay))
        self._sorted = False

    def replayed(self, offset: int) -> bool:
        self._sort()
        return _has(self._letters, offset)

    def knows(self, replay: Replay) -> bool:
        self._sort()
        return _has(self._replays, _number(replay))

    def twice(self) -> list[int]:
        """Letters with two markers."""
        self._sort()
        return [a for a, b in pairwise(self._letters) if a == b]

    def without(self, seen: array[int]) -> list[Replay]:
        """Replays that a settled marker tells of and that are not among the seen ones (sorted)."""
        self._sort()
        return [Replay(*divmod(n, ATTEMPTS)) for n in self._due if not _has(seen, n)]

    def _sort(self) -> None:
        if not self._sorted:
            self._letters, self._replays, self._due = (
                array("q", sorted(numbers)) for numbers in (self._letters, self._replays, self._due)
            )
            self._sorted = True


class Replays:
    """The replayed records that were met, at 8 bytes each."""

    def __init__(self) -> None:
        self._seen = array("q")

    def add(self, replay: Replay) -> None:
        self._seen.append(_number(replay))

    def sorted(self) -> array[int]:
        return array("q", sorted(self._seen))

    @staticmethod
    def twice(seen: array[int]) -> list[Replay]:
        return [Replay(*divmod(a, ATTEMPTS)) for a, b in pairwise(seen) if a == b]


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
    markers: Markers = field(default_factory=Markers)


@dataclass(frozen=True, slots=True)
class CounterExample:
    kind: Kind
    coordinate: str
    message: str


COUNTS = (
    "produced", "replayed", "consumed", "valid", "dead", "quarantined", "late", "lake", "lag", "open_dead", "unmarked",
    "missing_total", "duplicated_total",
)  # fmt: skip


@dataclass(slots=True)
class Verdict:
    """Counts of one partition (or, added up, of all) and everything found wrong, in the order in which it was found."""

    produced: int = 0
    replayed: int = 0
    consumed: int = 0
    valid: int = 0
    dead: int = 0
    quarantined: int = 0
    late: int = 0
    lake: int = 0
    lag: int = 0
    open_dead: int = 0  # dead letters without a replay marker
    unmarked: int = 0  # say that they are replays, and no marker does: counted as produced
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
        _keep(self.found, example)
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
        for name in COUNTS:
            setattr(whole, name, getattr(whole, name) + getattr(v, name))
        for name in ("missing", "duplicated", "found"):
            setattr(whole, name, [*getattr(whole, name), *getattr(v, name)][:SHOWN])
    return whole


def _number(replay: Replay) -> int:
    return replay.first * ATTEMPTS + min(replay.attempt, ATTEMPTS - 1)


def _has(numbers: Sequence[int], one: int) -> bool:
    at = bisect_left(numbers, one)
    return at < len(numbers) and numbers[at] == one


def _keep(items: list[T], one: T) -> None:
    if len(items) < SHOWN:
        items.append(one)
