"""PURE. From where a log must be read again so that what was in memory is there again: a position with the clock that it had.

    trail = Trail(start, clock)
    trail.passed(offset, clock)      # before each record: the place's clock (its greatest event time so far)
    trail.back_to(horizon)           # the newest mark before which no record is as young as `horizon`

Event times are not in order, so the offset of the first young record is not known; but a mark whose clock is below the
horizon has only older records before it. The clock goes with the position, for lateness is judged by it.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Self

EVERY = 500  # records between two marks


@dataclass(frozen=True, slots=True)
class Mark:
    offset: int
    clock_ms: int


@dataclass(frozen=True, slots=True)
class Resume:
    """What stands beside a committed offset: where to begin again, and up to where windows are closed and published."""

    mark: Mark
    closed_ms: int

    def text(self) -> str:
        return json.dumps({"resume": self.mark.offset, "clock": self.mark.clock_ms, "closed": self.closed_ms})

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        try:
            body = json.loads(text or "")
            return cls(Mark(int(body["resume"]), int(body["clock"])), int(body["closed"]))
        except (ValueError, KeyError, TypeError):
            return None


class Trail:
    """Marks of one place, the first one where reading began."""

    def __init__(self, start: int, clock_ms: int):
        self._marks = deque([Mark(start, clock_ms)])

    def passed(self, offset: int, clock_ms: int) -> None:
        if offset - self._marks[-1].offset >= EVERY:
            self._marks.append(Mark(offset, clock_ms))

    def back_to(self, horizon_ms: int) -> Mark:
        """Marks before the one that is given back are forgotten: the horizon only rises."""
        while len(self._marks) > 1 and self._marks[1].clock_ms < horizon_ms:
            self._marks.popleft()
        return self._marks[0]
