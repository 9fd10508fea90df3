"""PURE. The sequential detectors walk over final panes, in pane order, and say what they found when a window ends.

    #  pane      |....|....|....|....|....|      watermark at the arrow: panes before it are final, so they are stepped;
    #  window    [         w1        ][   w2     w1 has ended and is closed, w2 is half walked
    #                                   ^

A run is cheap to copy (detector states are values), so that a provisional close walks on a copy which can be dropped.
A pane without on-time rows is not stepped. A new reference version starts every detector at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.contract import DriftPlan
from stream_processors import budget, detector
from stream_processors.budget import Budget
from stream_processors.cells import EMPTY
from stream_processors.closed import Finding, Tally
from stream_processors.panes import Clock, Key
from stream_processors.timeline import ReferenceSet, Timeline
from stream_processors.verdict import State

WARNING_DISTANCE = 2.0  # natural log: a warning is evidence within a factor of 7.4 of the threshold
REMEMBERED_PANES = 1024  # starts of stepped panes, to turn "since k panes" into a time
_ORDER: dict[State, int] = {"ok": 0, "warning": 1, "alarm": 2}


@dataclass(frozen=True, slots=True)
class Watch:
    """One detector; `alarmed` from its alarm until the evidence that the data returned."""

    version: int
    state: detector.DetectorState
    alarmed: bool = False


@dataclass(slots=True)
class Run:
    """How far the detectors have walked."""

    at: int | None = None  # panes that start before are stepped
    closed: int | None = None  # windows that start before are closed
    window: int | None = None  # the window that is half walked
    watches: dict[Key, Watch] = field(default_factory=dict)
    peaks: dict[Key, Finding] = field(default_factory=dict)  # of `window`
    stepped: tuple[int, ...] = ()

    def copy(self) -> Run:
        return replace(self, watches=dict(self.watches), peaks=dict(self.peaks))

    def is_closed(self, window: int) -> bool:
        return self.closed is not None and window < self.closed

    def rewind(self, pane: int, window: int) -> None:
        """Forget everything from a pane on: another reference judges it now."""
        if self.at is not None and self.at > pane:
            self.at, self.watches = pane, {}
        if self.closed is not None and self.closed > window:
            self.closed = window
        if self.window is not None and self.window >= window:
            self.window, self.peaks = None, {}
        self.stepped = tuple(s for s in self.stepped if s < pane)


@dataclass(frozen=True, slots=True)
class Closing:
    window: int
    findings: Mapping[Key, Finding]


class Stepper:
    """Walks runs; keeps the budget of each reference version."""

    def __init__(self, plan: DriftPlan, clock: Clock):
        self._plan, self._clock = plan, clock
        self._budgets: dict[int, Budget] = {}

    def budget_of(self, found: ReferenceSet) -> Budget:
        if found.version not in self._budgets:
            self._budgets[found.version] = budget.thresholds(self._plan, found.load())
        return self._budgets[found.version]

    def advance(self, run: Run, timeline: Timeline, panes: Mapping[int, Tally], watermark: int) -> list[Closing]:
        """Step every pane that ends by the watermark; the windows that ended, in order."""
        closings: list[Closing] = []
        for start in sorted(panes):
            if run.at is not None and start < run.at:
                continue
            if start + self._clock.pane > watermark:
                break
            window = self._clock.window_of(start)
            if run.window is not None and window > run.window:
                closings.append(self._close(run))
            run.window, run.closed = window, window
            if panes[start].on_time:
                self._step(run, timeline.at(start), panes[start], start)
            run.at = start + self._clock.pane
        if run.window is not None and run.window + self._clock.window <= watermark:
            closings.append(self._close(run))
        return closings

    def _close(self, run: Run) -> Closing:
        assert run.window is not None
        closing = Closing(run.window, run.peaks)
        run.closed, run.window, run.peaks = run.window + self._clock.window, None, {}
        return closing

    def _step(self, run: Run, found: ReferenceSet | None, pane: Tally, start: int) -> None:
        run.stepped = (*run.stepped, start)[-REMEMBERED_PANES:]
        if found is None:
            return
        thresholds = self.budget_of(found)
        for key, reference in found.load().items():
            if thresholds.too_small(key):
                continue
            watch = run.watches.get(key)
            if watch is None or watch.version != found.version:
                watch = Watch(found.version, detector.start(reference, thresholds))
            state = detector.step(watch.state, reference, pane.counts.get(key, EMPTY))
            finding, alarmed = self._judge(found.version, state, watch.alarmed, start)
            if alarmed and watch.alarmed and detector.returned(state):
                state, alarmed = detector.start(reference, thresholds), False
            run.watches[key] = Watch(found.version, state, alarmed)
            run.peaks[key] = _worse(run.peaks.get(key), finding)

    def _judge(self, version: int, state: detector.DetectorState, alarmed: bool, start: int) -> tuple[Finding, bool]:
        """(what the detector says at this pane, whether it is in alarm)."""
        said = detector.evidence(state)
        bank = ("bank", said.e_value, said.threshold)
        scan = ("scan", said.scan_value, said.scan_threshold)
        told = [scan] if self._plan.rule == "scan" else [bank, scan]
        fired = [t for t in told if _excess(t[1], t[2]) >= 0]
        rule, value, threshold = max(fired or told[:1], key=lambda t: _excess(t[1], t[2]))
        alarmed = alarmed or bool(fired and self._plan.rule != "ks_alpha")
        near = _excess(value, threshold) >= -WARNING_DISTANCE
        named: State = "alarm" if alarmed else "warning" if near and self._plan.rule != "ks_alpha" else "ok"
        return Finding(version, value, threshold, rule, named, said.change, said.since, start), alarmed


def _excess(value: float | None, threshold: float | None) -> float:
    return float("-inf") if value is None or threshold is None else value - threshold


def _worse(before: Finding | None, now: Finding) -> Finding:
    """The finding that the window keeps: the worst state, within it the most evidence; a newer reference always."""
    if before is None or before.version != now.version:
        return now
    strength = lambda f: (_ORDER.get(f.state, -1), _excess(f.e_value, f.threshold))  # noqa: E731
    return now if strength(now) > strength(before) else before
