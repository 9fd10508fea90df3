"""EDGE. Scenarios that begin when somebody says so: SIGUSR1 brings the next one forward to the next block of orders."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType

from pipeline.logs import log
from pipeline.times import to_text
from producers.sales import World
from producers.scenarios import Phase, Schedule


class Cues:
    """Called with the first event time of each block; gives the world that begins there, once a signal."""

    def __init__(self, marker: Path | None):
        self._marker, self._asked = marker, 0
        self._waiting: list[Phase] = []

    def wait_for(self, phases: Schedule) -> None:
        self._waiting = [phase for phase in phases if phase.after is None]
        signal.signal(signal.SIGUSR1, self._ask)

    def __call__(self, first_ms: int) -> World | None:
        if not self._asked or not self._waiting:
            return None
        phase, self._asked = self._waiting.pop(0), self._asked - 1
        log("scenario_changed", scenario=phase.name, event_time=to_text(first_ms))
        if self._marker:
            part = self._marker.with_suffix(".part")  # whoever waits for the file reads all of it or the former one
            part.write_text(json.dumps({"scenario": phase.name, "began": to_text(first_ms)}))
            part.replace(self._marker)
        return phase.world

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._asked += 1
        else:
            log("no_more_scenarios", "warning")
