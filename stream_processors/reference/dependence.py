"""PURE. Whether neighbouring rows depend on each other, and what that takes from the evidence.

Every threshold rests on rows that are independent given their law. Where they are not, sums of a pane scatter more than
those of independent rows would. Knows the reference's rows in the order of their event times, nothing of the stream.

Test. The rhythm's scores (mean 0, variance 1 under the law of the pane's slot) are summed over blocks of 1, 4 and 16 panes;
of independent rows the sums of squares, each divided by the rows of its block, follow chi-square with one degree of freedom
a block (less the slots' means). Bonferroni over scores, blocks, features and segments: SIZE in all. An inflation below
SMALLEST is left alone: independent data pays nothing.

Fit. The first half of the rows (by time) makes a reference, the second half is replayed against it, pane by pane.
- eta_j = min(1, min over L of min(2 m_j, w_j) / v_j(L), the root of mean exp(eta S_j) = 1): m_j is what alternative j loses
  a pane, v_j(L) the variance of its sums a pane over blocks of L panes (for L > 1 less two standard errors), w_j what the
  variance would be of independent rows. Then exp(eta_j S) has expectation 1 if sums are normal, and as far as the replay
  shows it also if they are not. m_j <= 0 gives 0: the alternative is off. Variances are about the mean of as many rows, for
  the number of rows is no evidence. Where fewer than LEAST_ROWS replayed rows speak for an alternative (nulls, values
  never seen) there is nothing to fit: such rows count as dependent as the others are, eta <= 1 / inflation.
- tail: above its 90 % quantile q, n D^2 over blocks of L panes is exponential with mean excess mu. Of independent rows
  q = 1.5 and mu = 1/2 (Massart); the divisor c puts the fitted tail under that bound where the scan's threshold lies
  (x = REACH): exp(-(c x - q) / mu) / 10 <= 2 exp(-2 x), that is c = (q + mu (2 x - log 20)) / x, the largest over L.
- inflation: the reference is a sample of dependent rows itself, and as uncertain as R / inflation independent ones would be:
  so many count in the bank's slack, in what it tells apart and in the scan (without it, six pages where one was allowed).
Matching the median, or an effective sample size, was measured to fail (a rate 17 times too high at phi = .8).

The run length is then measured, not guaranteed. A pane should be ten times as long as rows remember.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from stream_processors.detectors import bank
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.rhythm import HOUR, scores
from stream_processors.reference.slots import Temper

SIZE = 0.01  # chance of a dependence found anywhere, where there is none
SMALLEST = 1.1  # inflation of the variance
BLOCKS = (1, 4, 16)  # panes, of the test
LEAST_BLOCKS = 20
REACH = 9.0  # half of a usual threshold of the scan, 18
TAIL_SHARE, TAIL_BLOCKS = 0.1, 200
LEAST_ROWS = 20  # that must speak for an alternative, to see in them how rows cluster
SILENT = 1e-9  # variance, relative to the squared mean, that is rounding


@dataclass(frozen=True, slots=True)
class Panes:
    """The reference's rows as the stream cuts them."""

    counts: np.ndarray  # int64[T, cells + 2], in order of time; only panes with rows
    slots: np.ndarray  # int64[T]
    groups: np.ndarray  # int64[T]: whose means are taken off in the test: the slot, or the hour of day


def panes_of(
    codes: np.ndarray, times: np.ndarray, pane: int, reference: FeatureReference, hours: bool = False
) -> Panes:
    """`codes` are coarse cells of rows in any order, `times` their event times (ms). Panes of no judged slot are left out.

    `hours`: under one law, each hour of day is compared with itself, for a rhythm that was found too small to matter.
    """
    slots = reference.slots
    if slots and slots.some_apart:
        judged = ~slots.apart(times // pane * pane)
        codes, times = codes[judged], times[judged]
    starts, of = np.unique(times // pane, return_inverse=True)
    width = reference.cells + 2
    counts = np.bincount(of * width + codes, minlength=len(starts) * width).reshape(len(starts), width)
    at = slots.at_each(starts * pane) if slots else np.zeros(len(starts), np.int64)
    one = slots is None or slots.judged == 1
    return Panes(counts, at, starts * pane // HOUR % 24 if hours and one else at)


def detect(panes: Panes, shares: np.ndarray, ordered: bool, tests: int = 1) -> tuple[bool, dict[str, float]]:
    """(whether rows depend, evidence: p-value, inflation of the variance, lag-1 correlation of panes)."""
    phi = scores(shares, ordered)
    if not phi.shape[1]:  # a constant
        return False, {"panes": float(len(panes.counts)), "dependence_p_value": 1.0, "inflation": 1.0, "lag1": 0.0}
    counts, n = panes.counts, panes.counts.sum(1).astype(np.float64)
    total, squares = counts @ phi, counts @ np.square(phi)
    groups = int(panes.groups.max(initial=0)) + 1
    held = np.bincount(panes.groups, weights=n, minlength=groups)
    by = [np.stack([np.bincount(panes.groups, weights=c, minlength=groups) for c in x.T], 1) for x in (total, squares)]
    mean, square = (x / np.maximum(1, held)[:, None] for x in by)
    spread = np.sqrt(np.maximum(square - np.square(mean), 1e-12))
    left = (total - n[:, None] * mean[panes.groups]) / spread[panes.groups]
    p, inflation = 1.0, 1.0
    for size in BLOCKS:
        blocks = len(n) // size
        if blocks < LEAST_BLOCKS + groups or not phi.shape[1]:
            continue
        rows = n[: blocks * size].reshape(blocks, size).sum(1)
        sums = left[: blocks * size].reshape(blocks, size, -1).sum(1)
        freedom = blocks - (groups if size == 1 else groups / size)
        found = (np.square(sums) / rows[:, None]).sum(0)
        p = min(p, float(special.chdtrc(freedom, found).min()))
        inflation = max(inflation, float((found / freedom).max()))
    p = min(1.0, p * len(BLOCKS) * max(1, phi.shape[1]) * tests)
    evidence = {"panes": float(len(n)), "dependence_p_value": p, "inflation": inflation, "lag1": _lag1(left, n)}
    return p < SIZE and inflation >= SMALLEST, evidence


def fit(known: FeatureReference, half: FeatureReference, replayed: Panes, inflation: float, lag1: float) -> Temper:
    """The temper of `known`, from panes that `half`, a reference made from its earlier rows, is replayed on."""
    # half as many rows, taken as twice as certain: the same alternatives and slack as `known` has
    half = replace(half, temper=Temper({}, 1.0, lag1, 0, inflation / 2))
    gains = bank.block_scores(half, list(replayed.counts), replayed.slots.tolist() if half.slots else None)
    etas = _etas(gains, replayed.counts.sum(1), *_scatter(half, replayed), 1 / inflation)
    found = dict(zip(bank.bank_of(half).names, etas.tolist(), strict=True))
    names = bank.bank_of(replace(known, temper=Temper({}, 1.0, lag1, 0, inflation))).names
    eta = {name: found.get(name, 1 / inflation) for name in names}
    return Temper({n: e for n, e in eta.items() if e < 1}, _tail(half, replayed), lag1, len(gains), inflation)


def _scatter(half: FeatureReference, replayed: Panes) -> tuple[np.ndarray, np.ndarray]:
    """By alternative: variance of its sum over a pane if rows were independent; how many rows that variance rests on."""
    own = bank.bank_of(half)
    total, fourth = np.zeros(len(own.names)), np.zeros(len(own.names))
    for slot, gain in enumerate(own.scores.astype(np.float64)):
        counts = bank.in_groups(own, replayed.counts[replayed.slots == slot].sum(0))
        apart = np.square(gain - counts @ gain / max(1.0, counts.sum()))
        total, fourth = total + counts @ apart, fourth + counts @ np.square(apart)
    return total / max(1, len(replayed.counts)), np.square(total) / np.maximum(fourth, 1e-300)


def _etas(gains: np.ndarray, rows: np.ndarray, scatter: np.ndarray, speak: np.ndarray, otherwise: float) -> np.ndarray:
    eta = np.ones(gains.shape[1])
    if len(gains) < LEAST_BLOCKS:
        return eta
    loss = -gains.mean(0)
    left = gains - rows[:, None] * (gains.sum(0) / max(1, rows.sum()))  # how many rows a pane has is no evidence
    for size in _sizes(len(gains), LEAST_BLOCKS):
        blocks = len(gains) // size
        sums = gains[: blocks * size].reshape(blocks, size, -1).sum(1)
        doubt = 1 + 2 * np.sqrt(2 / blocks) if size > 1 else 1.0
        around = left[: blocks * size].reshape(blocks, size, -1).sum(1)
        variance = np.maximum(np.square(around).sum(0) / (blocks - 1) / size / doubt, 1e-300)
        eta = np.minimum(eta, np.minimum(2 * loss, scatter) / variance)
        eta = np.minimum(eta, _root(sums))
    eta = np.where(speak < LEAST_ROWS, np.minimum(eta, otherwise), eta)
    silent = (scatter < SILENT * np.square(loss)) & (loss > 0)  # every row said the same
    return np.floor(np.maximum(np.where(silent, otherwise, eta), 0.0) * 1_000) / 1_000


def _root(sums: np.ndarray) -> np.ndarray:
    """The largest eta in [0, 1] with mean exp(eta S) <= 1, by alternative."""
    low, high = np.zeros(sums.shape[1]), np.ones(sums.shape[1])
    with np.errstate(over="ignore"):
        whole = np.exp(sums).mean(0) <= 1
        for _ in range(12):
            middle = (low + high) / 2
            below = np.exp(sums * middle).mean(0) <= 1
            low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(whole, 1.0, low)


def _tail(half: FeatureReference, replayed: Panes) -> float:
    found = 1.0
    slots = half.slots.judged if half.slots else 1
    laws = np.stack([half.slot_cell_rows(s) if half.slots else half.cell_rows for s in range(slots)]).astype(np.float64)
    laws = np.cumsum(laws[:, :-1] / np.maximum(1, laws[:, :-1].sum(1, keepdims=True)), 1)
    rows = float(half.rows) if half.slots is None else float(half.slots.judged_rows.mean())
    for size in _sizes(len(replayed.counts), TAIL_BLOCKS):
        blocks = len(replayed.counts) // size
        counts = replayed.counts[: blocks * size, :-1]
        own = counts.sum(1)
        excess = counts.cumsum(1) - own[:, None] * laws[replayed.slots[: blocks * size]]
        n = own.reshape(blocks, size).sum(1)
        used = n > 0
        far = np.abs(excess.reshape(blocks, size, -1).sum(1)).max(1)[used] / n[used]
        effective = n[used] * rows / (n[used] + rows)
        value = np.sort(effective * np.square(far))
        q = value[int((1 - TAIL_SHARE) * len(value))]
        mean_excess = float(np.mean(value[value > q] - q)) if (value > q).any() else 0.0
        found = max(found, float((q + mean_excess * (2 * REACH - np.log(2 / TAIL_SHARE))) / REACH))
    return found


def _sizes(panes: int, least: int) -> Sequence[int]:
    """1, 2, 4 ... panes, as long as there are `least` blocks."""
    return [1 << k for k in range(10) if panes >> k >= least]


def _lag1(left: np.ndarray, n: np.ndarray) -> float:
    """Correlation of neighbouring panes' sums, of the score for which it is largest."""
    if len(n) < 3 or not left.shape[1]:
        return 0.0
    unit = left / np.sqrt(np.maximum(1, n))[:, None]
    unit = unit - unit.mean(0)
    both = (unit[1:] * unit[:-1]).sum(0) / np.maximum(np.square(unit).sum(0), 1e-300)
    return float(both[np.argmax(np.abs(both))])
