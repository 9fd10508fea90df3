"""PURE. How well a model does before any label came: what its own scores promise, with an interval.

If p is the probability of the label given what the model sees, each row's loss, hit and cost has a known mean and variance,
and those of a window add up. That is confidence-based performance estimation (Bialek, Kuberski, Perrakis and Bifet 2024,
arXiv:2401.08348), in closed form:

    interval = sum of means / n  +-  (z sqrt(sum of variances) / n  +  what scores that are off by CALIBRATION would change)

What calibration leaves open is larger over fewer of its rows: precision speaks of those above the threshold alone, so its
interval has what the rows that calibrated and lie there leave open, taken as the same share of them as of the window.

It holds under any shift of the inputs, and not where the relation to the label changes (concept shift): nothing but labels
can tell that, and then they fall outside. Assumes calibrated scores and rows that are independent given their scores.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.contract import EvaluationPlan
from stream_processors.live.live_metrics import Figure, Z
from stream_processors.live.tally import (
    ABOVE,
    BRIER_VARIANCE,
    CELLS,
    ENTROPY,
    LOGIT,
    LOSS_VARIANCE,
    ROWS,
    SCORE,
    SCORE_ABOVE,
    SPREAD,
    SPREAD_ABOVE,
    UNIT,
    Tally,
    middle,
)

CALIBRATED = 4_000  # rows that calibrate
CALIBRATION = 0.012  # of a probability: what they leave open of a mean over all rows, 1.96 sqrt(0.14 / 4000)
LEAST_LABELLED = 0.9  # of a window's predictions, from which labels can tell whether the estimate held


def estimated(tally: Tally, plan: EvaluationPlan) -> dict[str, Figure]:
    """log_loss, brier, accuracy, precision, cost and roc_auc over all predictions of the tally; {} without any."""
    n = tally.promised[ROWS]
    if not n:
        return {}
    sums = [v / UNIT for v in tally.promised]
    above, p, p_above = tally.promised[ABOVE], sums[SCORE], sums[SCORE_ABOVE]
    below, p_below = n - above, p - p_above
    spread, spread_above = sums[SPREAD], sums[SPREAD_ABOVE]
    cost = (
        p_above * plan.true_positive
        + (above - p_above) * plan.false_positive
        + p_below * plan.false_negative
        + (below - p_below) * plan.true_negative
    )
    steps = (plan.true_positive - plan.false_positive, plan.false_negative - plan.true_negative)
    cost_variance = spread_above * steps[0] ** 2 + (spread - spread_above) * steps[1] ** 2
    found = {
        "log_loss": _figure(sums[ENTROPY], sums[LOSS_VARIANCE], CALIBRATION * sums[LOGIT] / n, n),
        "brier": _figure(spread, sums[BRIER_VARIANCE], CALIBRATION, n),
        "accuracy": _figure(p_above + below - p_below, spread, CALIBRATION, n),
        "cost": _figure(cost, cost_variance, CALIBRATION * max(abs(s) for s in steps), n),
    }
    if above:
        left_open = Z * math.sqrt(spread_above / above / (CALIBRATED * above / n))
        found["precision"] = _figure(p_above, spread_above, left_open, above)
    ranking = _roc_auc(tally)
    return found if ranking is None else {**found, "roc_auc": ranking}


def covers(tally: Tally, plan: EvaluationPlan, realised: Figure | None) -> bool | None:
    """Whether the realised log loss lies within the estimate; None where too few labels came to tell."""
    if realised is None or tally.rows < LEAST_LABELLED * tally.predicted:
        return None
    promised = estimated(tally, plan)["log_loss"]
    return promised.low <= realised.value <= promised.high


def _figure(total: float, variance: float, off: float, n: int) -> Figure:
    """`off`: by how much the mean changes when scores are off by what their calibration leaves open."""
    value, half = total / n, Z * math.sqrt(max(variance, 0.0)) / n + off
    return Figure(value, value - half, value + half)


def _roc_auc(tally: Tally) -> Figure | None:
    """Each row is positive with its score; the interval is Hanley and McNeil's (1982, doi:10.1148/radiology.143.1.7063747)."""
    rows, p = np.zeros(CELLS), np.array([middle(c) for c in range(CELLS)])
    for cell, counts in tally.cells.items():
        rows[cell] = counts[0]
    positive, negative = rows * p, rows * (1 - p)
    m, n = float(negative.sum()), float(positive.sum())
    if min(m, n) < 2:
        return None
    a = float(positive @ (np.cumsum(negative) - negative / 2)) / (m * n)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (m * n)
    half = Z * math.sqrt(max(variance, 0.0)) + CALIBRATION
    return Figure(a, max(0.0, a - half), min(1.0, a + half))
