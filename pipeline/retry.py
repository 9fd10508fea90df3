"""PURE. Exponential backoff with jitter, and a circuit breaker around remote calls.

Clock, sleep and randomness are arguments. A sleep is `Event.wait`, so that a stopping process does not finish its nap.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.errors import Unreachable

T = TypeVar("T")

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 15.0


def waits(rng: random.Random, first: float = FIRST_WAIT_S, longest: float = LONGEST_WAIT_S) -> Iterator[float]:
    """Full-jitter exponential backoff: the k-th wait is uniform in (0, min(longest, first * 2**k)]."""
    ceiling = first
    while True:
        yield ceiling * (1 - rng.random())
        ceiling = min(longest, ceiling * 2)


class CircuitOpen(Exception):
    """The breaker is open: the call was not made. `retry_in` says in how many seconds one is let through."""

    def __init__(self, name: str, retry_in: float):
        super().__init__(f"{name}: circuit open, next try in {retry_in:.1f} s")
        self.retry_in = retry_in


@dataclass
class CircuitBreaker:
    """Opens after `failures` failures in a row; after `rest` seconds lets one call through, and closes if that succeeds."""

    name: str
    failures: int = 5
    rest: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _run: int = field(default=0, init=False)
    _opened: float | None = field(default=None, init=False)

    @property
    def state(self) -> str:
        if self._opened is None:
            return "closed"
        return "half-open" if self.clock() - self._opened >= self.rest else "open"

    def call(self, action: Callable[[], T]) -> T:
        if self.state == "open":
            raise CircuitOpen(self.name, self.rest - (self.clock() - (self._opened or 0.0)))
        try:
            result = action()
        except Exception:
            self._run += 1
            if self._run >= self.failures:
                self._opened = self.clock()
            raise
        self._run, self._opened = 0, None
        return result


def until_success(
    action: Callable[[], T],
    *,
    what: str,
    errors: tuple[type[BaseException], ...],
    sleep: Callable[[float], object],
    deadline_s: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
    on_failure: Callable[[BaseException, float], None] = lambda error, wait: None,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call `action` until it succeeds; past the deadline, or when stopped, raise Unreachable with the last error."""
    began = clock()
    for wait in waits(rng or random.Random()):
        try:
            return action()
        except errors as error:
            gone = clock() - began
            if stopped() or (deadline_s is not None and gone + wait > deadline_s):
                raise Unreachable(f"{what}: no success within {gone:.1f} s; last error: {error}") from error
            on_failure(error, wait)
            sleep(wait)
    raise AssertionError("waits() is endless")
