"""PURE. The sequential detectors walk over final panes, in pane order, and say what they found in each. Knows no windows.

    #  pane      |....|....|....|....|....|      watermark at the arrow: panes before it are final, so they are stepped
    #                                   ^

A run is cheap to copy (detector states are values), so that a provisional close walks on a copy which can be dropped.
A pane without on-time rows is walked over and not stepped. A new reference version starts every detector at zero.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from pipeline.contract import DriftPlan
from stream_processors.detectors.budget import Budget
from stream_processors.detectors.detector import Detectors, Evidence, State
from stream_processors.detectors.onset import EMPTY, History
from stream_processors.judging.closed import Finding, Tally
from stream_processors.judging.panes import Clock, Key
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.judging.verdict import State as Verdicts

WARNING_DISTANCE = 2.0  # natural log: a warning is evidence within a factor of 7.4 of the threshold
KEPT_DETECTORS = 3  # reference versions
REMEMBERED_PANES = 1024  # starts of stepped panes, to turn "since k panes" into a time
_ORDER: dict[Verdicts, int] = {"ok": 0, "warning": 1, "alarm": 2}


@dataclass(slots=True)
class Watched:
    """The detectors of one reference version, and which of them are in alarm until the evidence that the data returned."""

    version: int = 0
    state: State | None = None
    alarmed: frozenset[Key] = frozenset()

    def copy(self) -> Watched:
        return replace(self, state=None if self.state is None else self.state.copy())


@dataclass(slots=True)
class Run:
    """How far the detectors have walked."""

    at: int | None = None  # panes that start before are walked
    watched: Watched = field(default_factory=Watched)
    stepped: tuple[int, ...] = ()
    history: History = EMPTY

    def copy(self) -> Run:
        return replace(self, watched=self.watched.copy())

    def rewind(self, pane: int) -> None:
        """Forget everything from a pane on: another reference judges it now."""
        if self.at is not None and self.at > pane:
            self.at, self.watched = pane, Watched()
        self.stepped = tuple(s for s in self.stepped if s < pane)
        self.history = self.history.before(pane)


@dataclass(frozen=True, slots=True)
class Stepped:
    """One pane that the detectors walked over."""

    pane: int
    on_time: int  # rows
    findings: Mapping[Key, Finding]


class Stepper:
    """Walks runs; keeps the detectors of the reference versions in use."""

    def __init__(self, plan: DriftPlan, clock: Clock):
        self._plan, self._clock = plan, clock
        self._detectors: OrderedDict[int, Detectors] = OrderedDict()

    def detectors_of(self, found: ReferenceSet) -> Detectors:
        if found.version not in self._detectors:
            self._detectors[found.version] = Detectors(found.load(), self._plan)
            while len(self._detectors) > KEPT_DETECTORS:
                self._detectors.popitem(last=False)
        self._detectors.move_to_end(found.version)
        return self._detectors[found.version]

    def budget_of(self, found: ReferenceSet) -> Budget:
        return self.detectors_of(found).budget

    def to_bytes(self, watched: Watched, timeline: Timeline) -> bytes:
        """Equal detectors give equal bytes; empty if they have seen nothing."""
        found = timeline.of(watched.version)
        if watched.state is None or found is None:
            return b""
        state = watched.state.to_bytes()
        return msgspec.msgpack.encode((watched.version, state, sorted(watched.alarmed)))

    def watched_of(self, value: bytes, timeline: Timeline) -> Watched:
        """The detectors again; new ones if they were those of another plan, for then their thresholds were others too."""
        if not value:
            return Watched()
        version, state, alarmed = msgspec.msgpack.decode(value, type=tuple[int, bytes, list[tuple[str, str]]])
        found = timeline.of(version)
        if found is None:
            return Watched()
        try:
            return Watched(version, self.detectors_of(found).state_of(state), frozenset(alarmed))
        except ValueError:
            return Watched()

    def advance(self, run: Run, timeline: Timeline, panes: Mapping[int, Tally], watermark: int) -> list[Stepped]:
        """Step every pane that ends by the watermark, in order."""
        made: list[Stepped] = []
        for start in sorted(p for p in panes if run.at is None or p >= run.at):
            if start + self._clock.pane > watermark:
                break
            findings = self._step(run, timeline.at(start), panes[start], start) if panes[start].on_time else {}
            made.append(Stepped(start, panes[start].on_time, findings))
            run.at = start + self._clock.pane
        return made

    def _step(self, run: Run, found: ReferenceSet | None, pane: Tally, start: int) -> dict[Key, Finding]:
        run.stepped = (*run.stepped, start)[-REMEMBERED_PANES:]
        if found is None:
            return {}
        detectors, watched = self.detectors_of(found), run.watched
        if watched.version != found.version or watched.state is None:
            watched = run.watched = Watched(found.version, detectors.start())
        assert watched.state is not None
        cells = detectors.coarse(pane.in_time.counts)
        detectors.step_coarse(watched.state, cells, start)
        told = detectors.evidence(watched.state)
        gone = frozenset(key for key in watched.alarmed if told[key].returned)
        alarmed = watched.alarmed | {key for key, said in told.items() if said.fires and self._plan.rule != "ks_alpha"}
        for key in gone:
            detectors.reset(watched.state, key)
        watched.alarmed = alarmed - gone
        run.history = run.history.push(found.version, start, detectors.references, cells)
        return {
            key: self._finding(found.version, said, key in alarmed, key in gone, start) for key, said in told.items()
        }

    def _finding(self, version: int, said: Evidence, alarmed: bool, gone: bool, start: int) -> Finding:
        rule, value, threshold, excess = "bank", said.e_value, said.threshold, _excess(said.e_value, said.threshold)
        backstop = _excess(said.scan_value, said.scan_threshold)
        if threshold is None or (backstop >= 0 and backstop > excess):
            rule = "confseq" if self._plan.rule == "confseq" else "scan"
            value, threshold, excess = said.scan_value, said.scan_threshold, backstop
        near = said.material and excess >= -WARNING_DISTANCE and self._plan.rule != "ks_alpha"
        state: Verdicts = "alarm" if alarmed else "warning" if near else "ok"
        return Finding(
            version, value, threshold, rule, state, said.change, said.since, start, said.lower_effect, said.tolerance,
            "ok" if gone else state, excess,
        )  # fmt: skip


def worst(peaks: Mapping[Key, Finding], now: Mapping[Key, Finding]) -> dict[Key, Finding]:
    """Of each key the worst state, within it the most evidence, the first of equals; a newer reference always."""
    return {**peaks, **{key: _worse(peaks.get(key), finding) for key, finding in now.items()}}


def worst_of(many: Iterable[Mapping[Key, Finding]]) -> dict[Key, Finding]:
    found: dict[Key, Finding] = {}
    for one in many:
        found = worst(found, one)
    return found


def _excess(value: float | None, threshold: float | None) -> float:
    return float("-inf") if value is None or threshold is None else value - threshold


def _worse(before: Finding | None, now: Finding) -> Finding:
    if before is None or before.version != now.version:
        return now
    if _strength(now) > _strength(before):
        return now
    return msgspec.structs.replace(before, last=now.last, last_excess=now.last_excess)


def _strength(f: Finding) -> tuple[int, float]:
    return _ORDER.get(f.state, -1), _excess(f.e_value, f.threshold)
