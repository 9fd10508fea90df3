"""Bugs of the judge, where they live: in the pure core. Two runs of one log, one plain, one with restarts and redeliveries.

Without a bug the latest verdicts have the same bytes. With one they must not: that is the comparison of the kill
harness, and of `tests/drift_stream/test_judge_order.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from stream_processors.judging import closed, summarise
from stream_processors.judging.timeline import Timeline
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import CONTRACT, DAY0, HOUR, MINUTE, blocks_of, draw, reference_set

HOURS, A_HOUR = 6, 60


def run(seed: int) -> list[tuple[str, str]]:
    """(bug, by what it was caught; empty if by nothing)."""
    found = []
    for name, patch in BUGS.items():
        with patch():
            wrong = disturbed(seed)
        found.append((name, f"verdicts: {wrong} of them differ" if wrong else ""))
    return found


def disturbed(seed: int = 1) -> int:
    """How many latest verdicts differ between the plain run and the disturbed one."""
    timeline = Timeline((reference_set(1, DAY0 + HOUR),))
    logs = [blocks_of(p, _rows(seed, p), [20 * i for i in range(1, HOURS * 3)]) for p in range(2)]
    partials = [counted(b, timeline, (), CONTRACT) for b in logs]
    plain, odd = Harness(2, timeline, CONTRACT), Harness(2, timeline, CONTRACT)
    for own in partials:
        for each in own:
            plain.write(*each)
    plain.drain()
    for at in range(max(map(len, partials))):
        for own in partials:
            if at < len(own):
                odd.write(*own[at])
        if at:
            odd.write(*partials[0][at - 1])  # redelivered
        odd.turn()
        if at % 4 == 3:
            odd.restart()
    odd.drain()
    return sum(plain.latest.get(k) != odd.latest.get(k) for k in plain.latest.keys() | odd.latest.keys())


def _rows(seed: int, partition: int) -> list[tuple[int, float, str]]:
    rng = np.random.default_rng([seed, partition])
    times = np.sort(rng.integers(DAY0, DAY0 + HOURS * HOUR, HOURS * A_HOUR))
    times = times - np.where(rng.random(len(times)) < 0.1, rng.integers(30 * MINUTE, 2 * HOUR, len(times)), 0)
    return draw(rng, times.tolist())


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def late_rows_into_detectors() -> Any:
    """Nothing is late: what comes behind the watermark counts as if it had come in time."""
    return _replaced(summarise, "reached_before", lambda times, maximum: np.full(len(times), -(2**62)))


def counts_twice_after_redelivery() -> Any:
    add = closed.Tally.add

    def bad(self: Any, offset: int, partial: Any, part: Any) -> bool:
        self.seen.clear()
        return add(self, offset, partial, part)

    return _replaced(closed.Tally, "add", bad)


def last_wins_on_a_repeated_pane() -> Any:
    add = closed.Tally.add

    def bad(self: Any, offset: int, partial: Any, part: Any) -> bool:
        sums = (self.in_time, self.too_late)
        for held in (*(s.counts for s in sums), *(s.placed for s in sums), self.seen):
            held.clear()
        return add(self, offset, partial, part)

    return _replaced(closed.Tally, "add", bad)


BUGS = {
    "late rows into detectors": late_rows_into_detectors,
    "counts twice after redelivery": counts_twice_after_redelivery,
    "last wins on a repeated pane": last_wins_on_a_repeated_pane,
}
