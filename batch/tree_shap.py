"""PURE. What each feature adds to a margin: exact Shapley values of a plan's trees, compiled.

A leaf is reached when every feature of its path keeps its condition, so a tree is a sum over leaves, and of one leaf the
Shapley value is closed (`Paths.contributions`). Rows that a feature is "not known" of go both ways, by the share of training
rows that did: the path-dependent form, which needs no background rows. Knows no names of features.

Measured for 150 trees of 5 leaves on one thread (2026-11-21): 15 us a row, 0.02 s for the paths; shap's TreeExplainer
gives the same numbers to 1e-14 (a test), and is no dependency of a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from batch.plan import Plan

_Condition = tuple[float, float, bool, float]
_ANY: _Condition = (np.nan, np.inf, True, 1.0)  # NaN: no bound below, which lets minus infinity pass


@dataclass(frozen=True, slots=True)
class Paths:
    """The leaves of every tree, each with one condition a feature: not x <= low, and x <= high; or x is missing."""

    first: np.ndarray  # a leaf's conditions are those from first[leaf] up to first[leaf + 1]
    value: np.ndarray
    feature: np.ndarray
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    share: np.ndarray  # of the training rows that came by, those that kept the feature's conditions
    points: np.ndarray  # of the quadrature on [0, 1], with their weights
    weights: np.ndarray
    expected: float  # the margin where no feature is known
    width: int

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """float64[rows, features]: Shapley values; a row's sum plus `expected` is its margin.

        A leaf of value v, whose d features are kept (o = 1) or not (o = 0) by the row and by a share z of training rows:

            phi_i = v (o_i - z_i) sum over S of |S|! (d - 1 - |S|)! / d!  prod_{j in S} o_j  prod_{j not in S} z_j
                  = v (o_i - z_i) integral from 0 to 1 of prod_{j != i} (o_j t + z_j (1 - t)) dt

        as the weight of S is a Beta integral. The integrand is a polynomial of degree d - 1, so Gauss-Legendre with d / 2
        points (rounded up) is exact; all its terms are positive, so nothing cancels. O(leaves d^2) a row.
        The game: Lundberg et al., From local explanations to global understanding with explainable AI for trees,
        Nature Machine Intelligence 2 (2020), doi:10.1038/s42256-019-0138-9.
        """
        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            raise ValueError(f"expected rows of {self.width} features, got an array of shape {matrix.shape}")
        rows = np.ascontiguousarray(matrix, dtype=np.float64)
        out = np.zeros(rows.shape)
        _shapley(
            rows, self.first, self.value, self.feature, self.low, self.high, self.missing, self.share, self.points,
            self.weights, out,
        )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class Explainer:
    """What each feature adds to the log odds of an answer. The calibrating sigmoid is a line there, so nothing is lost."""

    paths: Paths
    slope: float
    offset: float

    @property
    def base(self) -> float:
        """Log odds where no feature is known."""
        return -(self.slope * self.paths.expected + self.offset)

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """float64[rows, features]; a row's sum plus `base` is the log odds of its score."""
        return -self.slope * self.paths.contributions(matrix)


def explainer_of(plan: Plan) -> Explainer:
    return Explainer(paths_of(plan), plan.slope, plan.offset)


def paths_of(plan: Plan) -> Paths:
    """The plan's leaves with their conditions."""
    leaves = [leaf for root in plan.roots for leaf in _leaves(plan, int(root))]
    conditions = [(f, *c) for _, kept in leaves for f, c in kept.items()]
    feature, low, high, missing, share = zip(*conditions, strict=True) if conditions else ((),) * 5
    sizes = [len(kept) for _, kept in leaves]
    points, weights = np.polynomial.legendre.leggauss(max(1, (max(sizes, default=0) + 1) // 2))
    return Paths(
        first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        value=np.array([v for v, _ in leaves], np.float64),
        feature=np.array(feature, np.int64),
        low=np.array(low, np.float64),
        high=np.array(high, np.float64),
        missing=np.array(missing, bool),
        share=np.array(share, np.float64),
        points=(points + 1) / 2,
        weights=weights / 2,
        expected=plan.baseline + sum(v * float(np.prod([c[3] for c in kept.values()])) for v, kept in leaves),
        width=plan.width,
    )


def warm_up() -> None:
    """Load the compiled code now rather than when the first explanation is waited for."""
    half, flag, place = np.full(1, 0.5), np.zeros(1, bool), np.zeros(1, np.int64)
    paths = Paths(np.array([0, 1]), half, place, half, half, flag, half, half, half, 0.0, 1)
    paths.contributions(np.zeros((1, 1)))


def _leaves(plan: Plan, root: int) -> Iterator[tuple[float, dict[int, _Condition]]]:
    """(value, conditions by feature) of a tree's leaves."""
    waiting: list[tuple[int, dict[int, _Condition]]] = [(root, {})]
    while waiting:
        at, kept = waiting.pop()
        if plan.left[at] == at:
            yield float(plan.value[at]), kept
            continue
        feature, threshold = int(plan.feature[at]), float(plan.threshold[at])
        low, high, missing, share = kept.get(feature, _ANY)
        goes_left = bool(plan.missing_left[at])
        of_left, of_right = (float(plan.cover[child[at]] / plan.cover[at]) for child in (plan.left, plan.right))
        left = (low, min(high, threshold), missing and goes_left, share * of_left)
        right = (float(np.fmax(low, threshold)), high, missing and not goes_left, share * of_right)
        waiting += [(int(plan.right[at]), {**kept, feature: right}), (int(plan.left[at]), {**kept, feature: left})]


@njit(cache=True, nogil=True)
def _shapley(rows, first, value, feature, low, high, missing, share, points, weights, out):  # type: ignore[no-untyped-def]
    kept = np.zeros(len(feature))
    for r in range(rows.shape[0]):
        for c in range(len(feature)):
            x = rows[r, feature[c]]
            keeps = missing[c] if np.isnan(x) else (not x <= low[c]) and x <= high[c]
            kept[c] = 1.0 if keeps else 0.0
        for leaf in range(len(value)):
            for q in range(len(points)):
                t = points[q]
                product = value[leaf] * weights[q]
                for c in range(first[leaf], first[leaf + 1]):
                    product *= kept[c] * t + share[c] * (1.0 - t)
                for c in range(first[leaf], first[leaf + 1]):
                    term = kept[c] * t + share[c] * (1.0 - t)  # above 0: shares are, and points lie within (0, 1)
                    out[r, feature[c]] += (kept[c] - share[c]) * product / term
