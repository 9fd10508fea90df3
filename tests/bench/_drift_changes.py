"""What the delay question plants: one number or one of twelve categories, changed in ways that differ in size and shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # rng, events, events since the change


def zipf(size: int, power: float = 1.0) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1) ** power
    return weights / weights.sum()


CATEGORIES = zipf(12)
EDGES = np.cumsum(CATEGORIES)[:-1]


@dataclass(frozen=True, slots=True)
class Change:
    name: str
    draw: Draw
    categorical: bool = False


def quiet(rng: np.random.Generator, n: int, since: int = 0) -> np.ndarray:
    return rng.standard_normal(n)


def quiet_categories(rng: np.random.Generator, n: int, since: int = 0) -> np.ndarray:
    return ranks(rng, n, CATEGORIES)


def ranks(rng: np.random.Generator, n: int, shares: np.ndarray) -> np.ndarray:
    """The rank of each row's category, most frequent first."""
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(n), side="right").astype(np.float64)


def standardised(draw: Draw) -> Draw:
    """Ranks with mean 0 and variance 1 while nothing changes: what detectors of numbers are fed."""
    at = np.arange(len(CATEGORIES))
    mean = float(at @ CATEGORIES)
    spread = float(np.sqrt(np.square(at - mean) @ CATEGORIES))
    return lambda rng, n, since: (draw(rng, n, since) - mean) / spread


def shifted(size: float) -> Draw:
    return lambda rng, n, since: rng.standard_normal(n) + size


def _ramp(rng: np.random.Generator, n: int, since: int) -> np.ndarray:
    return rng.standard_normal(n) + 0.5 * np.minimum(1.0, (since + np.arange(n)) / 50_000)


def _tail(rng: np.random.Generator, n: int, since: int) -> np.ndarray:
    return rng.standard_normal(n) + np.where(rng.random(n) < 0.05, 3 + rng.standard_normal(n), 0.0)


def _frozen(rng: np.random.Generator, n: int, since: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.02, 0.3, rng.standard_normal(n))


def _bimodal(rng: np.random.Generator, n: int, since: int) -> np.ndarray:
    """Mean 0 and variance 1 still: half at +0.7, half at -0.7, each with variance 0.51; D from N(0, 1) is 0.011."""
    return np.where(rng.random(n) < 0.5, 0.7, -0.7) + np.sqrt(1 - 0.7**2) * rng.standard_normal(n)


def _shares(changed: np.ndarray) -> Draw:
    return lambda rng, n, since: ranks(rng, n, changed / changed.sum())


def _factor(rank: int, factor: float) -> Draw:
    p = CATEGORIES.copy()
    rest = 1 - factor * p[rank]
    p *= rest / (1 - CATEGORIES[rank])
    p[rank] = factor * CATEGORIES[rank]
    return _shares(p)


def _swapped(a: int, b: int) -> Draw:
    p = CATEGORIES.copy()
    p[[a, b]] = p[[b, a]]
    return _shares(p)


CHANGES = (
    Change("mean +0.1 sd", shifted(0.1)),
    Change("mean +0.25 sd", shifted(0.25)),
    Change("mean +0.5 sd", shifted(0.5)),
    Change("mean +1 sd", shifted(1.0)),
    Change("sd x1.25", lambda rng, n, since: 1.25 * rng.standard_normal(n)),
    Change("5 % tail", _tail),
    Change("2 % frozen at one value", _frozen),
    Change("bimodal, mean and variance kept", _bimodal),
    Change("ramp to +0.5 sd in 50,000", _ramp),
    Change("top category x0.8", _factor(0, 0.8), True),
    Change("second category x1.1", _factor(1, 1.1), True),
    Change("rarest category x2", _factor(11, 2.0), True),
    Change("10 % spread evenly", _shares(0.9 * CATEGORIES + 0.1 / 12), True),
    Change("1st and 4th swapped", _swapped(0, 3), True),
)
