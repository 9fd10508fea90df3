"""PURE. Attribution drift: what each feature adds to a model's answers, in a window and in the reference, side by side.

In log odds an answer is the base plus what its features add, and the base is the model's own. So the mean answer of a
window differs from the reference's by exactly the sum over the features of how far their mean contributions differ:

    mean log odds, window - reference  =  sum over features of (mean contribution, window - reference)

A feature that moves and that the model hardly asks has a large input distance and a difference near zero; a relation that
turns has an input distance near zero and a difference beside it. Knows no lake, no ledger and no trees.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import expit, ndtri

from batch.card_figures import Interval
from pipeline.times import to_text
from stream_processors.comparing.p_values import ks_p_value, share_p_value

ERROR = 0.05  # that any interval of a report misses, or any input of it is said to have moved that has not
FEWEST = 100  # rows of a window: with fewer a normal interval of a skewed mean says too little, so none is told


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows as the model sees them, and what each feature adds to the log odds of their answers."""

    matrix: np.ndarray
    added: np.ndarray
    base: float

    @property
    def rows(self) -> int:
        return len(self.matrix)

    @property
    def log_odds(self) -> np.ndarray:
        return self.base + self.added.sum(axis=1)

    def only(self, mask: np.ndarray) -> Sample:
        return Sample(self.matrix[mask], self.added[mask], self.base)


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a window beside the reference; contributions in log odds."""

    feature: str
    input: float  # numbers: K-S distance; categories: the largest move of a share; missing is a value of its own
    moved: bool  # whether that is shown to be more than chance
    mean: float  # contribution, in the window
    mean_reference: float
    difference: Interval
    size: float  # mean absolute contribution: how much the model's answers hang on the feature
    size_reference: float
    size_difference: Interval
    score: float  # how much of the window's mean answer is due to `difference`, as a probability

    @property
    def changed(self) -> bool:
        """Whether its contributions are shown to differ, in their mean or in their size."""
        return any(i.low > 0 or i.high < 0 for i in (self.difference, self.size_difference))


@dataclass(frozen=True, slots=True)
class Attributed:
    """A window; `features` by the size of their difference, largest first. Empty with fewer than FEWEST rows."""

    start: int
    end: int
    rows: int
    score: float | None  # mean answer
    log_odds: float | None  # mean
    ndcg: float | None
    features: tuple[Feature, ...]

    def json(self) -> dict[str, object]:
        told = [{**asdict(f), "changed": f.changed} for f in self.features]
        return {
            **_span(self.start, self.end),
            "rows": self.rows,
            "score": self.score,
            "log_odds": self.log_odds,
            "ndcg": self.ndcg,
            "features": told,
        }


@dataclass(frozen=True, slots=True)
class Reference:
    """The rows that a model was measured on, [start, end) in event time, ms; means of its answers to them."""

    start: int
    end: int
    rows: int
    score: float
    log_odds: float


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a model's answers found, window by window."""

    model: str
    version: str
    reference: Reference
    whole: Attributed  # the sampled rows of all windows
    windows: tuple[Attributed, ...]

    def json(self) -> dict[str, object]:
        reference = asdict(self.reference)
        return {
            "model": self.model,
            "version": self.version,
            "reference": {**reference, **_span(self.reference.start, self.reference.end)},
            "whole": self.whole.json(),
            "windows": [w.json() for w in self.windows],
        }


def compared(
    reference: Sample,
    window: Sample,
    names: Sequence[str],
    categories: Collection[str],
    *,
    start: int,
    end: int,
    windows: int = 1,
) -> Attributed:
    """The window beside the reference; bounds hold together over `windows` windows and all features (Bonferroni)."""
    if window.rows < FEWEST:
        return Attributed(start, end, window.rows, None, None, None, ())
    each = ERROR / (windows * len(names))
    found = [_feature(reference, window, i, name, name in categories, each) for i, name in enumerate(names)]
    return Attributed(
        start,
        end,
        window.rows,
        float(expit(window.log_odds).mean()),
        float(window.log_odds.mean()),
        ndcg([f.size_reference for f in found], [f.size for f in found]),
        tuple(sorted(found, key=lambda f: -abs(f.difference.value))),
    )


def lot(partition: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """uint64: a row's lot, by its raw coordinate alone. The rows with the k smallest lots are a sample that no clock, no file
    and no order of reading can change, and the sample of fewer rows is part of it.

    The finalizer of splitmix64: Steele, Lea, Flood, OOPSLA (2014) 453, doi:10.1145/2660193.2660195.

    >>> lot(np.array([0, 0, 3]), np.array([0, 1, 1])).argsort().tolist()
    [1, 2, 0]
    """
    z = (partition.astype(np.uint64) << np.uint64(48)) ^ offset.astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def ndcg(reference: Sequence[float], now: Sequence[float]) -> float:
    """Whether the same features matter most: 1 = the reference's ranking, lower the higher up it is turned.

    sum of a_i / log2(rank + 1) over the reference's sizes a in the order of today's, over the same in their own order.
    Managed services warn below 0.9. Reference: Jarvelin, Kekalainen, ACM TOIS 20 (2002) 422, doi:10.1145/582415.582418.

    >>> ndcg([3.0, 1.0, 0.0], [30.0, 2.0, 1.0]), round(ndcg([3.0, 1.0, 0.0], [0.0, 1.0, 2.0]), 2)
    (1.0, 0.59)
    """
    was, discount = np.array(reference), 1 / np.log2(np.arange(2, len(reference) + 2))
    ideal = float(np.sort(was)[::-1] @ discount)
    return float(was[np.argsort(-np.array(now), kind="stable")] @ discount) / ideal if ideal else 1.0


def welch(now: np.ndarray, was: np.ndarray, error: float) -> Interval:
    """Mean of `now` less mean of `was`, with the interval that misses with probability `error`.

    Normal, with each sample's own variance: m1 - m2 +- z sqrt(s1^2 / n1 + s2^2 / n2). Contributions of trees are bounded
    and samples hold 100 rows or more. Takes rows as independent; those of one customer are not quite.
    Reference: Welch, Biometrika 34 (1947) 28, doi:10.1093/biomet/34.1-2.28.
    """
    value = float(now.mean() - was.mean())
    reach = float(-ndtri(error / 2)) * float(np.sqrt(now.var(ddof=1) / len(now) + was.var(ddof=1) / len(was)))
    return Interval(value, value - reach, value + reach)


def _feature(reference: Sample, window: Sample, at: int, name: str, category: bool, error: float) -> Feature:
    now, was = window.added[:, at], reference.added[:, at]
    distance, p = (shares if category else distances)(window.matrix[:, at], reference.matrix[:, at])
    difference = welch(now, was, error / 2)  # two intervals a feature
    without = expit(window.log_odds - difference.value)
    return Feature(
        name,
        distance,
        p < error,
        float(now.mean()),
        float(was.mean()),
        difference,
        float(np.abs(now).mean()),
        float(np.abs(was).mean()),
        welch(np.abs(now), np.abs(was), error / 2),
        float(np.mean(expit(window.log_odds) - without)),
    )


def distances(now: np.ndarray, was: np.ndarray) -> tuple[float, float]:
    """(K-S distance, p-value), a missing value counted as the lowest. With ties the p-value is an upper bound.

    >>> distances(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    (0.0, 1.0)
    """
    a, b = (np.sort(np.where(np.isnan(v), -np.inf, v)) for v in (now, was))
    places = np.concatenate([a, b])
    gap = np.searchsorted(a, places, "right") / len(a) - np.searchsorted(b, places, "right") / len(b)
    distance = float(np.abs(gap).max())
    return distance, ks_p_value(distance, len(a), len(b))


def shares(now: np.ndarray, was: np.ndarray) -> tuple[float, float]:
    """(largest move of a category's share, p-value: Fisher's for each category, times their number); missing is one of them.

    >>> shares(np.array([0.0, 0.0, 1.0, np.nan]), np.array([0.0, 0.0, 1.0, np.nan]))
    (0.0, 1.0)
    """
    a, b = (np.where(np.isnan(v), -1, v).astype(np.int64) + 1 for v in (now, was))
    size = int(max(a.max(), b.max())) + 1
    n, r = np.bincount(a, minlength=size), np.bincount(b, minlength=size)
    used = np.flatnonzero(n + r)
    p = min(share_p_value(int(n[c]), len(a), int(r[c]), len(b)) for c in used)
    return float(np.abs(n / len(a) - r / len(b)).max()), min(1.0, p * len(used))


def _span(start: int, end: int) -> dict[str, object]:
    return {"start": to_text(start), "end": to_text(end)}
