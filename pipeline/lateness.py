"""PURE. Which rows are late: a function of the log alone.

A row is late iff its event time is below its own partition's watermark at its own offset: the maximum event time over
the partition's earlier valid rows, minus the contract's lateness.

    #  0....|....10...|....20    event times in offset order: 12, 3, 14, 8; lateness 5
    #     3   8     12 14        before 3 the maximum is 12: 3 < 7, late; before 8 it is 14: 8 < 9, late
"""

from __future__ import annotations

import numpy as np

NEVER = -(2**62)  # ms


def reached_before(event_times: np.ndarray, maximum_before: int | None) -> np.ndarray:
    """The partition's maximum event time before each row; far below any time where there is none."""
    first = NEVER if maximum_before is None else maximum_before
    return np.maximum.accumulate(np.concatenate([[first], event_times]))[:-1]


def late_mask(event_times: np.ndarray, maximum_before: int | None, lateness_ms: int) -> np.ndarray:
    """True where a valid row is late. `event_times`: int64 ms of valid rows in offset order; `maximum_before`: as in the block header.

    >>> late_mask(np.array([12, 3, 14, 8]), None, 5)
    array([False,  True, False,  True])
    """
    return event_times < reached_before(event_times, maximum_before) - lateness_ms
