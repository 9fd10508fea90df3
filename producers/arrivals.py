"""PURE. When orders arrive: a Poisson process with a daily and a weekly cycle, and how its event time runs against the wall clock.

Operational time counts expected events, event time is milliseconds since the epoch. A unit-rate Poisson process in
operational time, pushed through the inverse of the cumulative intensity, has exactly that intensity in event time.
Knows nothing of what is sold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
_MONDAY_MS = 4 * DAY_MS  # 1970-01-05, the first Monday of Unix time

# Relative demand by hour of the day (UTC) and by weekday (Monday first). Nights stay above a quarter of the mean, so
# that an hour at night still holds enough rows for a verdict.
_BY_HOUR = np.array(
    [45, 36, 32, 30, 32, 40, 58, 80, 102, 120, 130, 136, 140, 136, 130, 126, 128, 136, 148, 156, 150, 126, 96, 66],
    dtype=np.float64,
)
_BY_DAY = np.array([96, 95, 97, 100, 110, 112, 90], dtype=np.float64)
_BY_WEEK_HOUR = (_BY_DAY[:, None] * _BY_HOUR).ravel() / np.mean(_BY_DAY[:, None] * _BY_HOUR)
_KNOTS_MS = np.arange(7 * 24 + 1, dtype=np.float64) * HOUR_MS
_CUMULATIVE_MS = np.concatenate([[0.0], np.cumsum(_BY_WEEK_HOUR)]) * HOUR_MS  # ends at WEEK_MS: the mean is one


def intensity(event_ms: np.ndarray) -> np.ndarray:
    """Demand relative to its mean over a week, constant within an hour.

    >>> week = np.arange(7 * 24) * HOUR_MS
    >>> round(float(intensity(week).mean()), 12)
    1.0
    """
    return _BY_WEEK_HOUR[((event_ms - _MONDAY_MS) % WEEK_MS) // HOUR_MS]


def _to_flat(event_ms: np.ndarray | float) -> np.ndarray:
    """Event time -> milliseconds of mean demand since the first Monday."""
    weeks, rest = np.divmod(np.asarray(event_ms, dtype=np.float64) - _MONDAY_MS, WEEK_MS)
    return weeks * WEEK_MS + np.interp(rest, _KNOTS_MS, _CUMULATIVE_MS)


def _from_flat(flat: np.ndarray | float) -> np.ndarray:
    weeks, rest = np.divmod(np.asarray(flat, dtype=np.float64), WEEK_MS)
    return weeks * WEEK_MS + np.interp(rest, _CUMULATIVE_MS, _KNOTS_MS) + _MONDAY_MS


@dataclass(frozen=True, slots=True)
class Timeline:
    """How event time runs: `speed` event seconds a wall second from `start_ms`, and 1 from the moment it reaches now.

    `rate` is events a wall second, on average over a week. `launch_ms` is the wall time of the first event.
    With `catches_up=False` (flat out, or a file) event time keeps its density for ever.
    """

    start_ms: int
    launch_ms: int
    rate: float
    speed: float = 1.0
    catches_up: bool = True

    @property
    def present_ms(self) -> float:
        """The event time at which event time reaches the wall clock; infinite if it never does."""
        behind = self.launch_ms - self.start_ms
        if not self.catches_up or self.speed <= 1 or behind <= 0:
            return float("inf")
        return self.launch_ms + behind / (self.speed - 1)

    @classmethod
    def ending_at(cls, end_ms: int, events: int, rate: float, speed: float) -> Timeline:
        """A timeline flat out whose first `events` events end just before `end_ms`, but for one time in a million."""
        margin = 5 * events**0.5 + 10  # standard deviations of a Poisson count
        flat = float(_to_flat(end_ms)) - (events + margin) * 1000 * speed / rate
        return cls(int(_from_flat(flat)), end_ms, rate, speed, catches_up=False)

    def event_ms(self, operational: np.ndarray | float) -> np.ndarray:
        """Event time of the point with that many expected events before it."""
        flat_before = np.asarray(operational, dtype=np.float64) * 1000 * self.speed / self.rate + _to_flat(
            self.start_ms
        )
        if self.present_ms == float("inf"):
            return _from_flat(flat_before)
        flat_present = float(_to_flat(self.present_ms))
        beyond = (flat_before - flat_present) / self.speed
        return _from_flat(np.where(flat_before <= flat_present, flat_before, flat_present + beyond))

    def wall_ms(self, event_ms: np.ndarray | float) -> np.ndarray:
        """Wall time at which an event of that event time is due."""
        event = np.asarray(event_ms, dtype=np.float64)
        due = self.launch_ms + (event - self.start_ms) / self.speed
        return np.where(event <= self.present_ms, due, event) if self.present_ms != float("inf") else due

    def now_ms(self, wall_ms: float) -> float:
        """Event time that the wall clock has reached: the inverse of `wall_ms`."""
        event = self.start_ms + (wall_ms - self.launch_ms) * self.speed
        return event if event <= self.present_ms else wall_ms
