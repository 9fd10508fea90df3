"""EDGE. The drift process watches itself: after each final window the null stream, tilted runs and canaries go over its panes.

It walks over the rows' panes; the model's scores are judged by the same code and thresholds. Nothing of it enters a verdict, an alert or the saved state. It may use a tenth of the judge's own CPU time, or a hundredth
of one core if that is more; a window for which there is none left is passed over, so its figures are of fewer panes, not
of slower verdicts. A walk takes about 50 ms. A restart begins its counts at zero, with the same draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
        self._version, self._walked, self._spent = 0, 0, 0.0
        self._since: tuple[float, float] | None = None  # CPU and wall time at the first window
        self._canaries = [0, 0]  # caught, sent
        self._show_nothing_yet()

    def heard(self, closed: Closed, found: ReferenceSet | None) -> bool:
        """Walk the panes of a final window that were not walked before; whether it did."""
        if not (self._contract.drift.null_monitor and closed.cause == "final" and closed.verdicts and found):
            return False
        began, now = self._cpu(), self._wall()
        self._since = self._since or (began, now)
        if self._spent > FIRST_S + max(SHARE * (began - self._since[0]), CORE * (now - self._since[1])):
            return False
        if found.version != self._version:
            self._begin(found)
        self._walk(closed)
        self._spent += self._cpu() - began
        return True

    def _begin(self, found: ReferenceSet) -> None:
        self._version, plan = found.version, self._contract.drift.of_rows
        self._stream = NullStream(found.load(), thresholds(plan, found.load()), plan, self._contract.name)
        self._sensitivity, self._rate = Sensitivity(self._stream), Rate(self._stream.allowed)
        self._canaries = [0, 0]
        whole = thresholds(self._contract.drift, found.load())
        self._meter.set("driftline_drift_stated_false_pages_ratio", stated(whole), dataset=self._contract.id)

    def _walk(self, closed: Closed) -> None:
        assert self._stream is not None
        begin = max(closed.window, self._walked)
        end = closed.end
        starts, panes = range(begin, end, self._clock.pane), (end - closed.window) // self._clock.pane
        self._walked = max(self._walked, end)
        rows = {key: n for key, n in _rows_a_pane(closed, panes).items() if key in self._stream.references}
        if not starts or not rows:
            return
        dataset = self._contract.id
        walked = self._stream.walk(starts, rows)
        self._rate.add(walked)
        self._meter.inc("driftline_drift_null_panes_total", walked.panes, dataset=dataset)
        self._meter.inc("driftline_drift_null_alarms_total", walked.alarms, dataset=dataset)
        for bound, value in zip(("low", "estimate", "high"), self._rate.interval or (), strict=False):
            self._meter.set("driftline_drift_false_pages_ratio", value, dataset=dataset, bound=bound)
        self._sense(range(closed.window, end, self._clock.pane), rows)

    def _sense(self, starts: range, rows: dict[Key, int]) -> None:
        dataset = self._contract.id
        for (feature, segment), n in rows.items():
            size = self._sensitivity.smallest((feature, segment), n, starts)
            if size is not None:
                self._meter.set(
                    "driftline_drift_smallest_shift", size, dataset=dataset, feature=feature, segment=segment
                )
        for caught in self._sensitivity.canaries(starts, rows).values():
            self._canaries[0] += caught
            self._canaries[1] += 1
            self._meter.inc("driftline_drift_canaries_total", dataset=dataset, result="caught" if caught else "missed")
        if self._canaries[1]:
            self._meter.set(
                "driftline_drift_canary_caught_ratio", self._canaries[0] / self._canaries[1], dataset=dataset
            )

    def _show_nothing_yet(self) -> None:
        dataset = self._contract.id
        for name in ("driftline_drift_null_panes_total", "driftline_drift_null_alarms_total"):
            self._meter.inc(name, 0.0, dataset=dataset)
        for bound in ("low", "estimate", "high"):
            self._meter.set("driftline_drift_false_pages_ratio", 0.0, dataset=dataset, bound=bound)
        for result in ("caught", "missed"):
            self._meter.inc("driftline_drift_canaries_total", 0.0, dataset=dataset, result=result)
        for name in ("driftline_drift_stated_false_pages_ratio", "driftline_drift_canary_caught_ratio"):
            self._meter.set(name, 0.0, dataset=dataset)


def _rows_a_pane(closed: Closed, panes: int) -> dict[Key, int]:
    """Rows, nulls among them, of each key in a pane of the window, on average."""
    made = {}
    for v in closed.verdicts:
        with_nulls = v.n / (1 - v.null_ratio) if v.null_ratio is not None and v.null_ratio < 1 else v.n
        made[v.feature, v.segment] = round(with_nulls / max(1, panes))
    return made
