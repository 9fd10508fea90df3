"""PURE. The law that a window's numbers are compared with: the reference's, one slot's, or a mixture of slots.

With a rhythm a window of the night is compared with nights: the slots' laws weigh as the window's rows do. One slot is
exact in integers; a mixture is a weighted mean of distribution functions, and counts as 1 / sum(w_s^2 / R_s) rows, the
sample size at which a mean of independent samples with these weights has its variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.counts import Counts

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TENTHS = np.arange(1, 10) / 10
WHOLE_WEEK: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """A distribution on reference values, of a sample of `rows`."""

    values: np.ndarray  # float64[K], those that it gives mass to
    codes: np.ndarray | None  # int64[K], their codes in the reference; None = all of them, in order
    upto_each: np.ndarray  # int64 or float64[K + 1], rows <= the k-th value; 0 first, `rows` last
    rows: int
    nulls: int
    source_rows: int  # with a value, before thinning
    area: np.ndarray = field(init=False, repr=False)  # float64[K], integral of F up to each value
    mean: float = field(init=False)
    spread: float = field(init=False)
    quantiles: np.ndarray = field(init=False, repr=False)  # float64, at QUANTILES; none without values
    tenths: np.ndarray = field(
        init=False, repr=False
    )  # index of the value that ends each tenth but the last; fewer under ties

    def __post_init__(self) -> None:
        put = object.__setattr__
        with np.errstate(all="ignore"):
            below = self.upto_each[1:] / self.rows if self.rows else self.upto_each[1:]
            steps = np.diff(self.values) * below[:-1] if len(self.values) else np.empty(0)
            put(self, "area", np.concatenate((np.zeros(min(1, len(self.values))), np.cumsum(steps))))
            mass = np.diff(self.upto_each) / max(1, self.rows)
            mean = float(np.sum(self.values * mass))
            put(self, "mean", mean)
            put(self, "spread", float(np.sqrt(np.sum(np.square(self.values - mean) * mass))))
        last = max(0, len(self.values) - 2)
        put(
            self,
            "quantiles",
            self.values[self.quantile_index(np.array(QUANTILES))] if len(self.values) else self.values,
        )
        put(self, "tenths", np.unique(np.minimum(self.quantile_index(TENTHS), last)))

    def before(self, codes: np.ndarray) -> np.ndarray:
        """Rows with a smaller code."""
        return self.upto_each[self.index_before(codes)]

    def upto(self, codes: np.ndarray) -> np.ndarray:
        """Rows with this or a smaller code."""
        return self.upto_each[self.index_upto(codes)]

    def index_before(self, codes: np.ndarray) -> np.ndarray:
        """How many of the law's values have a smaller code."""
        return codes >> 1 if self.codes is None else np.searchsorted(self.codes, codes, "left")

    def index_upto(self, codes: np.ndarray) -> np.ndarray:
        """How many of the law's values have this or a smaller code."""
        return (codes + 1) >> 1 if self.codes is None else np.searchsorted(self.codes, codes, "right")

    def quantile_index(self, shares: np.ndarray) -> np.ndarray:
        """Index of the smallest value with at least this share of the rows up to it."""
        return np.minimum(np.searchsorted(self.upto_each[1:], shares * self.rows), len(self.values) - 1)

    @property
    def null_ratio(self) -> float:
        return self.nulls / max(1, self.source_rows + self.nulls)


def weights_of(slot_rows: Mapping[int, int] | None) -> tuple[tuple[int, float], ...]:
    """(slot, share of the window's rows), in order of slots."""
    held = sorted((s, n) for s, n in (slot_rows or {}).items() if n > 0)
    total = sum(n for _, n in held)
    return tuple((s, n / total) for s, n in held)


def law_of(reference: FeatureReference, slot_rows: Mapping[int, int] | None) -> Law:
    """The law for a window with so many rows in each slot of the reference."""
    weights = weights_of(slot_rows) if reference.slots else WHOLE_WEEK
    if len(weights) > 1:
        return _mixture(reference, weights)
    return _slot_law(reference, weights[0][0]) if weights else _whole(reference)


def category_law(
    reference: FeatureReference, slot_rows: Mapping[int, int] | None
) -> tuple[np.ndarray, float, float, float]:
    """(rows of each category and of those without a name; rows, nulls, null ratio) for categories, in the same way."""
    weights = weights_of(slot_rows) if reference.slots else WHOLE_WEEK
    if not weights:
        dense = np.append(reference.counts, reference.other)
        ratio = reference.null_ratio
        return dense, reference.rows, ratio * reference.rows / max(1e-12, 1 - ratio), ratio
    assert reference.slots is not None
    rows = effective_rows(weights, reference.slots.rows)
    dense = np.zeros(len(reference.counts) + 1)
    for slot, weight in weights:
        held = reference.slots.counts[slot]
        dense[held.codes] += held.n * (weight * rows / max(1, held.rows))
    ratio = _null_ratio(reference, weights)
    return dense, rows, ratio * rows / max(1e-12, 1 - ratio), ratio


def effective_rows(weights: tuple[tuple[int, float], ...], rows: np.ndarray) -> float:
    return 1 / sum(w * w / max(1, rows[s]) for s, w in weights)


def _held(reference: FeatureReference, weights: tuple[tuple[int, float], ...]) -> list[tuple[float, Counts]]:
    assert reference.slots is not None
    return [(w, reference.slots.counts[s]) for s, w in weights]


def _null_ratio(reference: FeatureReference, weights: tuple[tuple[int, float], ...]) -> float:
    """Of rows that fall into the slots by these weights."""
    held = _held(reference, weights)
    return sum(w * (c.nulls / max(1, c.nulls + _before_thinning(reference, c))) for w, c in held)


@lru_cache(maxsize=256)
def _whole(reference: FeatureReference) -> Law:
    cumulative = np.concatenate((np.zeros(1, np.int64), reference.cumulative))
    return Law(reference.values, None, cumulative, reference.rows, reference.nulls, reference.source_rows)


@lru_cache(maxsize=4096)
def _slot_law(reference: FeatureReference, slot: int) -> Law:
    assert reference.slots is not None
    held = reference.slots.counts[slot]
    codes, cumulative = held.codes.astype(np.int64), np.concatenate(([0], np.cumsum(held.n)))
    return Law(
        reference.values[codes >> 1], codes, cumulative, held.rows, held.nulls, _before_thinning(reference, held)
    )


def _mixture(reference: FeatureReference, weights: tuple[tuple[int, float], ...]) -> Law:
    assert reference.slots is not None
    rows = effective_rows(weights, reference.slots.rows)
    mass = np.zeros(len(reference.values))
    for weight, held in _held(reference, weights):
        mass[held.codes >> 1] += held.n * (weight / max(1, held.rows))
    used = np.flatnonzero(mass)
    cumulative = np.concatenate(([0.0], np.cumsum(mass[used])))
    cumulative *= rows / cumulative[-1]
    ratio = _null_ratio(reference, weights)
    source = rows * reference.source_rows / reference.rows
    nulls = ratio * source / max(1e-12, 1 - ratio)
    return Law(reference.values[used], 2 * used + 1, cumulative, rows, round(nulls), round(source))


def _before_thinning(reference: FeatureReference, held: Counts) -> int:
    return round(held.rows * (reference.source_rows / max(1, reference.rows)))
