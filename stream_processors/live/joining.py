"""PURE. Predictions meet outcomes: late, out of order, repeated, missing; in bounded memory, whatever the interleaving.

A place is a partition of a log, and its clock the greatest event time read from it. A record is too late iff its event time
is more than `age` behind its own place's clock, at its own offset. A prediction joins the first outcome of its key within
`age` of its event time; the first prediction per raw coordinate (or prediction id) and model version counts. So which pairs
come out is a function of the logs, not of the order in which they are read side by side, as long as all records of a key's
predictions lie in one place, and those of its outcomes in one. A key is let go when no place can bring anything for it any
more: the slowest clock is two ages past it. `cap` keys is the end of memory: beyond it the oldest are let go early, and
counted as `overflow`; that count must be 0 where exactness matters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

JoinResult = Literal["joined", "duplicate", "waiting", "expired", "late", "overflow"]
NEVER = -(2**62)  # the clock of a place of which nothing was read yet
A_KEY = 64  # one order asked about again and again must not become a scan of all that was asked before
LOOK_EVERY = 256  # new keys between two looks at who may go


@dataclass(frozen=True, slots=True)
class Prediction:
    key: str
    version: str
    score: float
    event_ms: int
    identity: str  # raw coordinate, or the prediction's id where it has none
    slices: tuple[str, ...] = ()  # region=north, ...


@dataclass(frozen=True, slots=True)
class Labelled:
    prediction: Prediction
    label: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """What a prediction came to: whether it is the first of its kind, and the pair it completes."""

    first: bool
    pairs: tuple[Labelled, ...] = ()


@dataclass(slots=True)
class _Waiting:
    """A key's records. Tuples, not lists: most hold one thing, and there are hundreds of thousands (0.6 kB a key)."""

    newest_ms: int
    outcomes: tuple[tuple[int, bool], ...] = ()  # (event time, label) in order of arrival
    open: tuple[Prediction, ...] = ()
    joined: tuple[tuple[str, str], ...] = ()  # (identity, version)


class Joiner:
    """Feed records of each place in its order; each call returns the pairs it completes. `counts`: what became of records."""

    def __init__(self, age_ms: int, cap: int = 400_000, places: Iterable[Hashable] = ()):
        self.clocks: dict[Hashable, int] = dict.fromkeys(places, NEVER)
        self.counts: dict[JoinResult, int] = dict.fromkeys(
            ("joined", "duplicate", "waiting", "expired", "late", "overflow"), 0
        )
        self._age_ms, self._cap = age_ms, cap
        self._by_key: OrderedDict[str, _Waiting] = OrderedDict()
        self._new = 0

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def clock(self) -> int:
        """The slowest place's."""
        return min(self.clocks.values(), default=NEVER)

    def predicted(self, prediction: Prediction, place: Hashable = "predictions") -> Taken:
        if self._too_late(prediction.event_ms, place):
            return Taken(False)
        entry, name = self._entry(prediction.key, prediction.event_ms), _name(prediction)
        if name in entry.joined or any(_name(p) == name for p in entry.open):
            self.counts["duplicate"] += 1
            return Taken(False)
        if len(entry.open) + len(entry.joined) >= A_KEY:
            self.counts["overflow"] += 1
            return Taken(False)
        label = next((y for at, y in entry.outcomes if self._near(at, prediction)), None)
        if label is None:
            entry.open += (prediction,)
            return Taken(True)
        return Taken(True, (self._join(entry, prediction, label),))

    def happened(self, key: str, label: bool, event_ms: int, place: Hashable = "outcomes") -> list[Labelled]:
        if self._too_late(event_ms, place):
            return []
        entry = self._entry(key, event_ms)
        if any(at == event_ms for at, _ in entry.outcomes):
            self.counts["duplicate"] += 1
            return []
        if len(entry.outcomes) >= A_KEY:
            self.counts["overflow"] += 1
            return []
        entry.outcomes += ((event_ms, label),)
        found = [p for p in entry.open if self._near(event_ms, p)]
        if not found:
            self.counts["duplicate" if entry.joined else "waiting"] += 1
            return []
        entry.open = tuple(p for p in entry.open if p not in found)
        return [self._join(entry, prediction, label) for prediction in found]

    def _join(self, entry: _Waiting, prediction: Prediction, label: bool) -> Labelled:
        entry.joined += (_name(prediction),)
        self.counts["joined"] += 1
        return Labelled(prediction, label)

    def _near(self, outcome_ms: int, prediction: Prediction) -> bool:
        return abs(outcome_ms - prediction.event_ms) <= self._age_ms

    def _too_late(self, event_ms: int, place: Hashable) -> bool:
        clock = self.clocks.get(place, NEVER)
        self.clocks[place] = max(clock, event_ms)
        late = event_ms < clock - self._age_ms
        self.counts["late"] += late
        return late

    def _entry(self, key: str, event_ms: int) -> _Waiting:
        entry = self._by_key.get(key)
        if entry is None:
            self._new += 1
            if self._new >= LOOK_EVERY or len(self._by_key) >= self._cap:
                self._let_go()
            entry = self._by_key[key] = _Waiting(event_ms)
        entry.newest_ms = max(entry.newest_ms, event_ms)
        return entry

    def _let_go(self) -> None:
        """In the order in which keys came; a young key before an old one keeps that one a little longer, which does no harm."""
        self._new, clock = 0, self.clock
        while self._by_key:
            key, oldest = next(iter(self._by_key.items()))
            done = clock > oldest.newest_ms + 2 * self._age_ms
            if not done and len(self._by_key) < self._cap:
                return
            del self._by_key[key]
            if not done:
                self.counts["overflow"] += 1
            elif not oldest.joined:
                self.counts["expired"] += 1


def _name(prediction: Prediction) -> tuple[str, str]:
    return prediction.identity, prediction.version
