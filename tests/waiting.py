"""Wait for a condition with a deadline; nothing in the tests sleeps for an event."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], deadline_s: float, what: str, every_s: float = 0.05) -> T:
    """The condition's first truthy value; AssertionError naming `what` past the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        asked = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        assert now < until, f"waited {deadline_s} s for {what}; last value: {value!r}"
        time.sleep(max(every_s, now - asked))  # who waits takes half of a core at most from whom it waits for
