"""EDGE. What a running producer says: heart beat, metrics, one progress line, a note when the scenario changes."""

from __future__ import annotations

import sys
import time

from pipeline import topics
from pipeline.lineage_send import Minutes
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.service import Service
from pipeline.times import ms, to_text
from producers.plan import Plan
from producers.send import Sender

ON_A_TERMINAL_S, IN_A_LOG_S, MEASURE_S = 0.2, 5.0, 0.5


class Progress:
    """Called at every look at the clock; says little, and nothing twice."""

    def __init__(self, sender: Sender, plan: Plan, dataset: str, service: Service, meter: Meter, lineage: Minutes):
        self._sender, self._service, self._meter, self._dataset = sender, service, meter, dataset
        self._lineage = lineage
        self._terminal = sys.stderr.isatty()
        self._shown = self._measured = time.monotonic()
        self._events = self._counted = self._labels = 0
        self._changes = [
            (ms(phase.after) + (plan.start_ms or 0), phase.name) for phase in plan.phases[1:] if phase.after is not None
        ]
        self._scenario = plan.phases[0].name if plan.phases else plan.scenario

    def begin(self) -> None:
        self._service.ready()
        self._meter.set("driftline_process_info", 1, process="produce", contract=self._dataset)

    def __call__(self) -> None:
        self._service.beat()
        self._note_scenario()
        now = time.monotonic()
        if now - self._measured >= MEASURE_S:
            self._measure(now)
        if now - self._shown >= (ON_A_TERMINAL_S if self._terminal else IN_A_LOG_S):
            self._show(now)

    def end(self) -> None:
        self._measure(time.monotonic())
        self._lineage.close()
        if self._terminal:
            print(file=sys.stderr)

    def _note_scenario(self) -> None:
        latest = self._sender.totals.last_event_ms
        while self._changes and latest is not None and latest >= self._changes[0][0]:
            at, self._scenario = self._changes.pop(0)
            log("scenario_changed", dataset=self._dataset, scenario=self._scenario, event_time=to_text(at))

    def _measure(self, now: float) -> None:
        done = self._sender.acknowledged
        self._meter.inc("driftline_events_produced_total", max(0, done - self._counted), dataset=self._dataset)
        self._trace(max(0, done - self._counted), self._sender.totals.outcomes - self._labels)
        self._counted, self._measured = max(done, self._counted), now
        if (latest := self._sender.totals.last_event_ms) is not None:
            self._meter.set("driftline_event_time_seconds", latest / 1000, process="produce", dataset=self._dataset)

    def _trace(self, events: int, outcomes: int) -> None:
        for topic, n in ((topics.events(self._dataset), events), (topics.outcomes(self._dataset), outcomes)):
            if n:
                self._lineage.tally.count(topic, n)
        self._labels += outcomes
        self._lineage.turn()

    def _show(self, now: float) -> None:
        totals = self._sender.totals
        rate = (totals.events - self._events) / (now - self._shown)
        self._events, self._shown = totals.events, now
        at = "-" if totals.last_event_ms is None else to_text(totals.last_event_ms)
        fields = {
            "events": f"{totals.events:,}",
            "per_second": f"{rate:,.0f}",
            "event_time": at,
            "scenario": self._scenario,
        }
        fields |= {"outcomes": f"{totals.outcomes:,}", "to_come": f"{len(self._sender.pending):,}"}
        if self._terminal:
            line = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
        else:
            log("producing", dataset=self._dataset, **{name: value.replace(",", "") for name, value in fields.items()})
