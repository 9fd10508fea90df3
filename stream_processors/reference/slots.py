"""PURE. What a reference may say beside one law: a rhythm's slots of the week, and how much neighbouring rows depend.

Facts only: `rhythm` finds the slots, `dependence` fits the temper, the detectors and the statistics use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stream_processors.reference.counts import Counts

UNMATCHED = "rhythm_unmatched"  # evidence of a rhythm that was found, or that the whole has, and that the rows are too few to follow
WEEK = 7 * 86_400_000  # ms
MONDAY = 4 * 86_400_000  # the first Monday after the epoch
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """A rhythm: the week cut into stretches, each with a law of its own over the cells of the whole.

    The counts of the slots add up to those of the reference, code by code.
    """

    of: tuple[int, ...]  # slot of each stretch of the week, which they cut evenly (168: hours), from Monday 00:00 UTC
    names: tuple[str, ...]  # e.g. "Mon-Fri 02-05"
    counts: tuple[Counts, ...] = ()  # reference rows of each slot; empty in a plan that is not yet counted
    judged: int = -1  # the first so many slots are; the others have too few rows: charted, and no detector sees them

    def __post_init__(self) -> None:
        if self.judged < 0:
            object.__setattr__(self, "judged", len(self.names))

    @property
    def rows(self) -> np.ndarray:
        """int64 rows with a value by slot."""
        return np.array([c.rows for c in self.counts], np.int64)

    @property
    def nulls(self) -> np.ndarray:
        return np.array([c.nulls for c in self.counts], np.int64)

    def at(self, time: int) -> int:
        """The slot of an event time (ms); a pane lies in the slot of its start.

        >>> Slots(of=(0,) * 24 + (1,) * 144, names=("Mon", "Tue-Sun")).at(4 * 86_400_000)
        0
        """
        return self.of[(time - MONDAY) % WEEK * len(self.of) // WEEK]

    @property
    def by_weekday(self) -> bool:
        """Whether any two days of the week differ where they are judged."""
        days = np.array(self.of).reshape(7, -1)
        judged = np.ma.array(days, mask=days >= self.judged)
        return bool((judged.max(0) != judged.min(0)).any())

    @property
    def some_apart(self) -> bool:
        return self.judged < len(self.names)

    @property
    def judged_rows(self) -> np.ndarray:
        """int64[judged]"""
        return self.rows[: self.judged]

    def apart(self, times: np.ndarray) -> np.ndarray:
        """bool of int64 event times: whether no detector sees them."""
        return self.at_each(times) >= self.judged

    def at_each(self, times: np.ndarray) -> np.ndarray:
        """int64 slots of int64 event times."""
        return np.array(self.of, np.int64)[(times - MONDAY) % WEEK * len(self.of) // WEEK]


def name_of(days: str, start: int, end: int, stretches: int) -> str:
    """
    >>> name_of("Mon", 9, 11, 24), name_of("", 9, 10, 96), name_of("Sat", 0, 24, 24), name_of("", 0, 1, 1)
    ('Mon 09-11', '02:15-02:30', 'Sat', 'always')
    """
    minutes = ":{:02}" if stretches > 24 else ""
    when = [f"{i * 24 // stretches:02}" + minutes.format(i * 1440 // stretches % 60) for i in (start, end)]
    text = "" if (start, end) == (0, stretches) else "-".join(when)
    return f"{days} {text}".strip() or "always"


@dataclass(frozen=True, slots=True)
class Temper:
    """What the dependence of neighbouring rows takes from the evidence; fitted on replayed panes of the reference."""

    eta: Mapping[str, float]  # by alternative: its scores count this much, 0 to 1; what is not named counts whole
    tail: float  # >= 1; n D^2 is divided by it in the scan
    lag1: float  # autocorrelation of neighbouring panes, as found
    panes: int  # replayed
    inflation: float = (
        1.0  # of the variance of sums of rows, >= 1: a reference of R rows is as uncertain as one of R / inflation
    )
