"""EDGE. The drift process watches itself: the null stream, tilted runs and canaries go over the panes of final windows.

Every feature and segment that may page is walked, of the rows and of the model's scores, the least walked first: the rate
that is published is over those that have enough runs, and beside it stands the share of the page budget that they hold.
Nothing of it enters a verdict, an alert or the saved state. It may use a tenth of the judge's own CPU time, or a hundredth
of one core if that is more, a quarter of a second at a time: what there is no time for waits for the next turn, or is passed
over where a newer window closes before, so its figures are of fewer panes, not of slower verdicts. A key takes some 50 ms a
walk. A restart begins its counts at zero, with the same draws.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from pipeline.contract import Contract
from pipeline.meter import Meter
from stream_processors.detectors.budget import thresholds
from stream_processors.detectors.null_stream import NullStream, Rate, stated
from stream_processors.detectors.sensitivity import Sensitivity
from stream_processors.judging.judge import Closed
from stream_processors.judging.panes import Clock, Key
from stream_processors.judging.timeline import ReferenceSet

SHARE = 0.1  # of the CPU time of the thread that judges
CORE = 0.01  # of one core, at any rate
SLICE_S = 0.25  # CPU seconds at a time; one key more may begin within it
FIRST_S = 2.0  # CPU seconds ahead of it: compiling and the first shifts cost more than they ever will again


class SelfWatch:
    """Called by the judge's own thread, which is the one whose CPU time is shared."""

    def __init__(
        self,
        contract: Contract,
        clock: Clock,
        meter: Meter,
        cpu: Callable[[], float] = time.thread_time,
        wall: Callable[[], float] = time.monotonic,
    ):
        self._contract, self._clock, self._meter, self._cpu, self._wall = contract, clock, meter, cpu, wall
        self._stream: NullStream | None = None
        self._version, self._spent = 0, 0.0
        self._since: tuple[float, float] | None = None  # CPU and wall time at the first window
        self._newest: dict[bool, Closed] = {}  # final window of the rows, and of the scores
        self._walked: dict[Key, tuple[int, int]] = defaultdict(lambda: (0, 0))  # how often, up to which event time
        self._waiting: deque[tuple[Key, Closed, int]] = deque()
        self._canaries = [0, 0]  # caught, sent
        self._show_nothing_yet()

    def heard(self, closed: Closed, found: ReferenceSet | None) -> None:
        """A window closed: if for good, its panes are the next to be walked."""
        final = closed.cause == "final" and closed.verdicts
        if not (self._contract.drift.null_monitor and final and found and found.version >= self._version):
            return
        self._since = self._since or (self._cpu(), self._wall())
        if found.version > self._version:
            self._begin(found)
        self._newest[closed.of_scores] = closed
        self._waiting = deque(self._in_turn())

    def turn(self) -> int:
        """Walk the keys that wait, the least walked first, for as long as there is time; how many were."""
        if not self._waiting:
            return 0
        began, done = self._cpu(), 0
        while self._waiting:
            now = self._cpu()
            if now - began > SLICE_S or self._spent + now - began > self._allowance(now):
                break
            self._walk(*self._waiting.popleft())
            done += 1
        self._spent += self._cpu() - began
        return done

    def _allowance(self, now: float) -> float:
        assert self._since is not None
        return FIRST_S + max(SHARE * (now - self._since[0]), CORE * (self._wall() - self._since[1]))

    def _begin(self, found: ReferenceSet) -> None:
        self._version, plan = found.version, self._contract.drift
        budget = thresholds(plan, found.load())
        self._stream = NullStream(found.load(), budget, plan, self._contract.name)
        self._sensitivity, self._rate = Sensitivity(self._stream), Rate(self._stream.allowed)
        self._newest, self._canaries = {}, [0, 0]
        for key, (_, end) in self._walked.items():
            self._walked[key] = 0, end
        self._meter.set("driftline_drift_stated_false_pages_ratio", stated(budget), dataset=self._contract.id)
        self._meter.set("driftline_drift_false_pages_covered_ratio", 0.0, dataset=self._contract.id)

    def _in_turn(self) -> list[tuple[Key, Closed, int]]:
        """(key, window, rows a pane) of what is not walked up to the newest windows' ends, the least walked first."""
        assert self._stream is not None
        rows = {key: (closed, n) for closed in self._newest.values() for key, n in _rows_a_pane(closed, self._clock)}
        found = [(key, *rows[key]) for key in self._stream.references if key in rows]
        found = [(key, closed, n) for key, closed, n in found if n and self._walked[key][1] < closed.end]
        return sorted(found, key=lambda one: self._walked[one[0]][0])

    def _walk(self, key: Key, closed: Closed, n: int) -> None:
        assert self._stream is not None
        times, until = self._walked[key]
        starts = range(max(closed.window, until), closed.end, self._clock.pane)
        self._walked[key] = times + 1, closed.end
        dataset, walked = self._contract.id, self._stream.walk(starts, {key: n})
        self._rate.add(walked)
        self._meter.inc("driftline_drift_null_panes_total", walked.panes, dataset=dataset)
        self._meter.inc("driftline_drift_null_alarms_total", walked.alarms, dataset=dataset)
        self._meter.set("driftline_drift_false_pages_covered_ratio", self._rate.covered, dataset=dataset)
        for bound, value in zip(("low", "estimate", "high"), self._rate.interval or (), strict=False):
            self._meter.set("driftline_drift_false_pages_ratio", value, dataset=dataset, bound=bound)
        self._sense(range(closed.window, closed.end, self._clock.pane), key, n)

    def _sense(self, starts: range, key: Key, n: int) -> None:
        dataset, (feature, segment) = self._contract.id, key
        size = self._sensitivity.smallest(key, n, starts)
        if size is not None:
            self._meter.set("driftline_drift_smallest_shift", size, dataset=dataset, feature=feature, segment=segment)
        for caught in self._sensitivity.canaries(starts, {key: n}).values():
            self._canaries[0] += caught
            self._canaries[1] += 1
            self._meter.inc("driftline_drift_canaries_total", dataset=dataset, result="caught" if caught else "missed")
        if self._canaries[1]:
            ratio = self._canaries[0] / self._canaries[1]
            self._meter.set("driftline_drift_canary_caught_ratio", ratio, dataset=dataset)

    def _show_nothing_yet(self) -> None:
        dataset = self._contract.id
        for name in ("driftline_drift_null_panes_total", "driftline_drift_null_alarms_total"):
            self._meter.inc(name, 0.0, dataset=dataset)
        for bound in ("low", "estimate", "high"):
            self._meter.set("driftline_drift_false_pages_ratio", 0.0, dataset=dataset, bound=bound)
        for result in ("caught", "missed"):
            self._meter.inc("driftline_drift_canaries_total", 0.0, dataset=dataset, result=result)
        for name in ("stated_false_pages_ratio", "false_pages_covered_ratio", "canary_caught_ratio"):
            self._meter.set(f"driftline_drift_{name}", 0.0, dataset=dataset)


def _rows_a_pane(closed: Closed, clock: Clock) -> Iterator[tuple[Key, int]]:
    """Rows, nulls among them, of each key in a pane of the window, on average."""
    panes = max(1, (closed.end - closed.window) // clock.pane)
    for v in closed.verdicts:
        with_nulls = v.n / (1 - v.null_ratio) if v.null_ratio is not None and v.null_ratio < 1 else v.n
        yield (v.feature, v.segment), round(with_nulls / panes)
