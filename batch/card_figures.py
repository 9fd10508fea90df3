"""PURE. What a model card says of a model: its figures whole, by slice and by group, each with the interval that it deserves.

A slice is a value of a monitored category. Slices below `fewest` rows are not told: their intervals say nothing, and a few
people could be known by them. Intervals are two-sided at 95 %, normal, and for group gaps Bonferroni over what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtri

from batch.fitting import figures
from batch.gate import log_loss

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Slice:
    column: str
    value: str
    rows: int
    positive: float  # observed share
    loss: Interval
    base_loss: float  # of always answering the base rate
    auc: float | None  # None: one class only
    gap: Interval  # promised minus observed share


@dataclass(frozen=True, slots=True)
class Widest:
    """The pair of groups of a column whose gaps lie furthest apart."""

    column: str
    high: str
    low: str
    difference: Interval


@dataclass(frozen=True, slots=True)
class Figures:
    rows: int
    loss: Interval
    gap: Interval
    slices: tuple[Slice, ...]
    widest: tuple[Widest, ...]
    untold: int  # rows in slices that are too small


def measure(
    label: np.ndarray, p: np.ndarray, groups: Mapping[str, np.ndarray], base_rate: float, fewest: int = 500
) -> Figures:
    """Figures over test rows; `groups`: name of a column -> each row's value.

    >>> y = np.tile([0, 1], 1000); f = measure(y, np.full(2000, 0.5), {"side": np.repeat(["a", "b"], 1000)}, 0.5)
    >>> [s.value for s in f.slices], round(f.slices[0].loss.value, 4), f.widest[0].difference.value
    (['a', 'b'], 0.6931, 0.0)
    """
    y = label.astype(np.float64)
    masks = {(c, str(v)): values == v for c, values in groups.items() for v in np.unique(values)}
    told = {name: mask for name, mask in masks.items() if mask.sum() >= fewest}
    z, base = _z(max(len(told), 1)), log_loss(label, np.full(len(label), base_rate))
    slices = tuple(_slice(name, y[m], p[m], float(np.mean(base[m])), z) for name, m in told.items())
    return Figures(
        rows=len(y),
        loss=_mean(log_loss(label, p), _z(1)),
        gap=_mean(p - y, _z(1)),
        slices=slices,
        widest=tuple(w for c in groups if (w := _widest(c, y, p, told)) is not None),
        untold=sum(int(m.sum()) for name, m in masks.items() if name not in told),
    )


def _slice(name: tuple[str, str], y: np.ndarray, p: np.ndarray, base: float, z: float) -> Slice:
    return Slice(
        *name,
        rows=len(y),
        positive=float(np.mean(y)),
        loss=_mean(log_loss(y, p), _z(1)),
        base_loss=base,
        auc=figures(y.astype(np.int8), p).get("auc"),
        gap=_mean(p - y, z),
    )


def _widest(column: str, y: np.ndarray, p: np.ndarray, told: Mapping[tuple[str, str], np.ndarray]) -> Widest | None:
    """Difference of two independent means of (p - y); Bonferroni over all pairs of the column, for the widest is chosen.

    With m pairs at level 1 - 0.05 / m each, all intervals hold together with probability >= 95 %, the chosen one included.
    """
    means = {v: _mean(p[m] - y[m], 1.0) for (c, v), m in told.items() if c == column}
    if len(means) < 2:
        return None
    z = _z(len(list(combinations(means, 2))))
    high, low = max(means, key=lambda v: means[v].value), min(means, key=lambda v: means[v].value)
    if high == low:  # all gaps are equal
        high, low = sorted(means)[:2]
    difference = means[high].value - means[low].value
    width = z * float(np.hypot(means[high].high - means[high].value, means[low].high - means[low].value))
    return Widest(column, high, low, Interval(difference, difference - width, difference + width))


def _mean(values: np.ndarray, z: float) -> Interval:
    mean = float(np.mean(values))
    width = z * float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return Interval(mean, mean - width, mean + width)


def _z(comparisons: int) -> float:
    """Two-sided: each at (1 - LEVEL) / comparisons."""
    return float(ndtri(1 - (1 - LEVEL) / (2 * comparisons)))
