"""PURE. Figures of a tally, each with a 95 % interval whose method is stated; in numpy alone (scikit-learn costs seconds to import).

| figure | interval |
|---|---|
| accuracy, precision, recall | Wilson 1927, doi:10.1080/01621459.1927.10502953 |
| f1 | f1 = 2 j / (1 + j) grows with j = TP / (TP + FP + FN): Wilson's interval of j, carried over |
| roc_auc | DeLong et al. 1988, doi:10.2307/2531595, on the histogram, and the bracket beside it |
| pr_auc | logit interval, Boyd et al. 2013, doi:10.1007/978-3-642-40994-3_29, and the bracket beside it |
| log_loss, brier, cost | normal, variance of the rows |
| calibration_error | at most sum w |noise| away, by the triangle inequality; mean and spread of that sum as for a calibrated model |

A histogram does not order the rows within a cell: the AUCs are known up to a bracket, whose middle is the figure. Rows are
taken as independent; orders of one customer are not quite. Cost: O(cells).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.contract import EvaluationPlan
from stream_processors.live.tally import (
    BRIER,
    BRIER_SQUARED,
    CELLS,
    FN,
    FP,
    GROUPS,
    LOSS,
    LOSS_SQUARED,
    TN,
    TP,
    UNIT,
    Tally,
)

Z = 1.959964  # two-sided 95 %
FIGURES = (
    "log_loss", "brier", "accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc", "calibration_error", "cost",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    value: float
    low: float
    high: float

    def json(self) -> list[float]:
        return [round(v, 6) for v in (self.value, self.low, self.high)]


def figures(tally: Tally, plan: EvaluationPlan) -> dict[str, Figure]:
    """By name; one that is not defined (no positive label, one row) is absent."""
    tn, fp, fn, tp = (tally.confusion[i] for i in (TN, FP, FN, TP))
    n = tally.rows
    found = {
        "log_loss": mean(tally.realised[LOSS] / UNIT, tally.realised[LOSS_SQUARED] / UNIT, n),
        "brier": mean(tally.realised[BRIER] / UNIT, tally.realised[BRIER_SQUARED] / UNIT, n),
        "accuracy": wilson(tn + tp, n),
        "precision": wilson(tp, tp + fp),
        "recall": wilson(tp, tp + fn),
        "f1": f1(tp, fp + fn),
        "roc_auc": roc_auc(tally),
        "pr_auc": pr_auc(tally),
        "calibration_error": calibration_error(tally),
        "cost": cost(tally, plan),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def wilson(hits: int, n: int) -> Figure | None:
    """A share and its score interval.

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 3)
    (0.0, 0.278)
    """
    if not n:
        return None
    share, z2 = hits / n, Z * Z / n
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n)) / (1 + z2)
    return Figure(share, 0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half)


def f1(hits: int, wrong: int) -> Figure | None:
    """Harmonic mean of precision and recall, from TP and FP + FN."""
    j = wilson(hits, hits + wrong)
    return None if j is None else Figure(*(2 * v / (1 + v) for v in (j.value, j.low, j.high)))


def mean(total: float, squares: float, n: int) -> Figure | None:
    if n < 2:
        return None
    value = total / n
    half = Z * math.sqrt(max(squares / n - value * value, 0.0) / (n - 1))
    return Figure(value, value - half, value + half)


def cost(tally: Tally, plan: EvaluationPlan) -> Figure | None:
    """Of a row, by the contract's matrix."""
    price = (plan.true_negative, plan.false_positive, plan.false_negative, plan.true_positive)
    counts = tally.confusion
    return mean(
        sum(c * k for c, k in zip(price, counts, strict=True)),
        sum(c * c * k for c, k in zip(price, counts, strict=True)),
        tally.rows,
    )


def roc_auc(tally: Tally) -> Figure | None:
    """Share of (positive, negative) pairs in the right order, pairs of one cell half; DeLong's interval and the bracket.

    A perfect order has no variance: there the interval is that of three pairs in as many as the smaller side has rows.
    """
    negative, positive = histogram(tally)
    m, n = int(negative.sum()), int(positive.sum())
    if min(m, n) < 2:
        return None
    below = (np.cumsum(negative) - negative / 2) / m  # of each cell's positives: negatives below them
    above = 1 - (np.cumsum(positive) - positive / 2) / n
    value = float(positive @ below / n)
    of_positives = float(positive @ (below - value) ** 2) / (n - 1) / n
    of_negatives = float(negative @ (above - value) ** 2) / (m - 1) / m
    half = Z * math.sqrt(of_positives + of_negatives) or 3 / min(m, n)
    half += float(negative @ positive) / (2 * m * n)
    return Figure(value, max(0.0, value - half), min(1.0, value + half))


def pr_auc(tally: Tally) -> Figure | None:
    """Average precision: the mean, over positives from the highest score down, of the precision where each stands.

    Within a cell the positives may stand before all negatives or behind them: both ends, and the middle is the figure.
    """
    negative, positive = histogram(tally)
    n = int(positive.sum())
    if n < 2 or not negative.sum():
        return None
    ends = [0.0, 0.0]
    seen = [0, 0]  # negatives, positives above
    for b, a in zip(negative[::-1].tolist(), positive[::-1].tolist(), strict=True):
        if a:
            rank = np.arange(1, a + 1) + seen[1]
            ends[0] += float((rank / (rank + seen[0] + b)).sum())
            ends[1] += float((rank / (rank + seen[0])).sum())
        seen = [seen[0] + b, seen[1] + a]
    low, high = (end / n for end in ends)
    value = (low + high) / 2
    if not 0 < value < 1:
        return Figure(value, max(0.0, value - 3 / n), min(1.0, value + 3 / n))
    centre, width = math.log(value / (1 - value)), Z / math.sqrt(n * value * (1 - value))
    sides = [1 / (1 + math.exp(-(centre + side * width))) for side in (-1, 1)]
    return Figure(value, max(0.0, sides[0] - (high - low) / 2), min(1.0, sides[1] + (high - low) / 2))


def calibration_error(tally: Tally) -> Figure | None:
    """Sum over groups of cells of share x |mean score - share of positives| (expected calibration error).

    Noise alone makes it positive: sum w |e|, e ~ N(0, p (1 - p) / n_g), has mean sum w s sqrt(2 / pi), and the true error is
    at most that sum away.
    """
    if not tally.rows:
        return None
    negative, positive = (h.reshape(GROUPS, -1).sum(axis=1) for h in histogram(tally))
    rows = negative + positive
    at = np.flatnonzero(rows)
    n, score = rows[at], np.array([tally.groups[g] / UNIT for g in at.tolist()]) / rows[at]
    weight = n / tally.rows
    spread = weight * np.sqrt(score * (1 - score) / n)
    value = float(weight @ np.abs(score - positive[at] / n))
    half = float(spread.sum() * math.sqrt(2 / math.pi) + Z * math.sqrt((spread**2).sum() * (1 - 2 / math.pi)))
    return Figure(value, max(0.0, value - half), min(1.0, value + half))


def histogram(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Labelled rows by cell: (negative, positive)."""
    counts = np.zeros((CELLS, 3), dtype=np.int64)
    for cell, own in tally.cells.items():
        counts[cell] = own
    return counts[:, 1], counts[:, 2]
