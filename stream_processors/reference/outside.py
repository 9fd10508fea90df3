"""PURE. Beyond the reference's range: fences on both sides, so that how far a value went is counted too.

Above the largest finite value `high` the fences stand at high + s r^k, s a 64th of the range and r = 2^(1/8); below the smallest
in the same way downwards, and, where the values are all of one sign, towards zero by factors of r, so that a unit a
thousand times smaller is as plain as one a thousand times larger. A row between two fences is known to 4.5 % of its
distance; it has a code of its own after those of the values, so what was counted before there were fences stays as it is.
Every eighth fence, at s, 2s, 4s and so on, parts a coarse cell (`edges`). No fence stands beyond an infinite value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 8  # fences an octave
OCTAVES, COARSE_OCTAVES = 34, 24  # 2^28 ranges far; 2^18
SHRINK_OCTAVES = 27  # towards zero: a factor of 10^8
RANGE_SHARE = 64
NONE = np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """The code of x is `inner + j` above `above[j - 1]`, `inner + len(above) + j` at or below `below[j - 1]`."""

    inner: int  # 2 K: codes up to it are those of the values and of the gaps beside them
    low: float  # the smallest and the largest value
    high: float
    above: np.ndarray  # float64, ascending
    below: np.ndarray  # float64, descending
    coarse_above: np.ndarray  # those of them that part coarse cells
    coarse_below: np.ndarray

    @property
    def codes(self) -> int:
        """How many codes there are, those within the range included."""
        return self.inner + 1 + len(self.above) + len(self.below)

    def code(self, x: np.ndarray) -> np.ndarray:
        """int64 code of each of these numbers, all of them out of the range."""
        up = np.searchsorted(self.above, x, side="left")
        down = len(self.below) - np.searchsorted(self.below[::-1], x, side="left")
        return np.where(x > self.high, self.inner + up, np.where(down > 0, self.inner + len(self.above) + down, 0))

    def inside(self, codes: np.ndarray) -> np.ndarray:
        """The codes as they are without fences: `inner` for all above, 0 for all below."""
        return np.where(codes <= self.inner, codes, np.where(codes <= self.inner + len(self.above), self.inner, 0))

    def places(self, codes: np.ndarray) -> np.ndarray:
        """Where a row with this code, one beyond a fence, stands: between its fences, in the middle, or at 0 if it is between them; at the last one."""
        far = codes.astype(np.int64) - self.inner
        return np.concatenate((NONE, _middles(self.above), _middles(self.below)))[far - 1]

    def cells(self, upward: bool) -> np.ndarray:
        """int64: how many coarse fences lie before each gap of that side, from the nearest one on."""
        fences, coarse = (self.above, self.coarse_above) if upward else (-self.below, -self.coarse_below)
        return np.searchsorted(coarse, fences, side="right")


def outside_of(values: np.ndarray) -> Outside:
    """The fences of these values, distinct and sorted."""
    if not len(values):
        return Outside(0, np.inf, -np.inf, NONE, NONE, NONE, NONE)
    low, high = float(values[0]), float(values[-1])
    above, coarse_above = _ladder(high, low)
    below, coarse_below = _ladder(-low, -high)
    return Outside(2 * len(values), low, high, above, -below, coarse_above, -coarse_below)


def _ladder(end: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """(fences above `end`, the coarse ones among them) for values down to `other`."""
    if not np.isfinite(end):
        return NONE, NONE
    with np.errstate(all="ignore"):
        span = (end - other) / RANGE_SHARE if np.isfinite(end - other) and end > other else abs(end) / RANGE_SHARE
        every = end + (span or 1 / RANGE_SHARE) * 2.0 ** (np.arange(STEPS * OCTAVES + 1) / STEPS)
    zero = end * 2.0 ** (-np.arange(1, STEPS * SHRINK_OCTAVES) / STEPS) if end < 0 else NONE
    return _kept(np.concatenate((every, zero)), end), _kept(every[: STEPS * COARSE_OCTAVES + 1 : STEPS], end)


def _kept(fences: np.ndarray, end: float) -> np.ndarray:
    return np.unique(fences[np.isfinite(fences) & (fences > end)])


def _middles(fences: np.ndarray) -> np.ndarray:
    if not len(fences):
        return NONE
    middles = np.append(fences[:-1] / 2 + fences[1:] / 2, fences[-1])
    low, high = np.minimum(fences[:-1], fences[1:]), np.maximum(fences[:-1], fences[1:])
    middles[:-1][(low < 0) & (high >= 0)] = 0.0
    return middles
