"""PURE. Whether a worker takes one more request: it answers a few in time rather than all of them late. The clock is given.

Two bounds. A turn is the work that the event loop does between two looks at its sockets: every request that had arrived is
in it, and each waits for those before it. When a turn has lasted `TURN_S` and answered `FEW`, the rest of it is refused at
once, so that no admitted request waits longer than two turns and what refusing costs (0.3 ms each). Fewer are no overload,
however long they take: a worker's first requests, a machine that is busy with other things. Batches go to a thread instead: `BATCHES` of
them may wait or run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from serving.refusal import Refusal

TURN_S = 0.02
FEW = 8
BATCHES = 8  # a batch of 10,000 rows takes 0.1 s


@dataclass
class Turns:
    """Bounds a turn of the event loop; `soon` calls a function at the start of the next turn."""

    clock: Callable[[], float]
    soon: Callable[[Callable[[], None]], object]
    most_s: float = TURN_S
    few: int = FEW
    _began: float | None = None
    _taken: int = 0

    def take(self) -> None:
        """Refusal 429 once this turn has lasted its time and answered a few."""
        now = self.clock()
        if self._began is None:
            self._began, self._taken = now, 0
            self.soon(self._end)
        elif self._taken >= self.few and now - self._began > self.most_s:
            raise overloaded()
        self._taken += 1

    def _end(self) -> None:
        self._began = None


@dataclass
class Slots(AbstractContextManager[None]):
    """Bounds what goes on at once: `with slots:` or a Refusal 429."""

    most: int = BATCHES
    taken: int = 0

    def __enter__(self) -> None:
        if self.taken >= self.most:
            raise overloaded()
        self.taken += 1

    def __exit__(self, *error: object) -> None:
        self.taken -= 1


def overloaded() -> Refusal:
    return Refusal(429, "this worker has more requests than it can answer in time; try again in a second")
