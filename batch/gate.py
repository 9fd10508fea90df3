"""PURE. The gate: may this challenger replace that champion? Paired log-loss differences on the same labelled events.

For each event d = loss(challenger) - loss(champion). Pairing removes what both share (how hard the event is), so the
mean of d has a far smaller error than the difference of two means. Bounds are one-sided, 95 %, normal (rows >= 500).

    superior      upper bound of mean d < 0
    material      upper bound of mean d < -1 % of the champion's loss
    non-inferior  upper bound of mean d < +0.5 % of the champion's loss (a slice: 5 % of the champion's loss there)

Promote if superior overall, or, under a confirmed harmful episode, non-inferior overall and superior after the shift;
and every slice of >= 500 rows is non-inferior, tested with Holm's step-down over the slices (smaller ones are pooled).
Outside of harm within an episode, superior means material: see docs/decisions/0010. NaN fails everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

POLICY = "gate-1"  # stands in every ledger entry; changes with any number below
CONFIDENCE = 0.95
MARGIN = 0.005  # of the champion's loss
SLICE_MARGIN = 0.05
MATERIAL = 0.01  # three times the training rows alone are worth 0.7 % (measured 2026-11-21)
SLICE_ROWS = 500
FEWEST_ROWS = 500
CALIBRATION_BOUND = 0.05  # of the first champion: weighted mean gap between promised and observed share
BINS = 10
LIVE_BOUND = 0.10  # of the promised loss: a champion's own calibration error moves the excess by up to 5 %, a harmful shift by 40 %
CLIP = 1e-12
POOLED = "(smaller slices)"
Harm = Literal["none", "unclear", "harmful"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Mean paired difference, its standard error and upper bound, beside the champion's mean loss on the same rows."""

    rows: int
    mean: float
    error: float
    upper: float
    champion_loss: float

    def below(self, share: float) -> bool:
        """The upper bound is under `share` of the champion's loss; False for NaN."""
        return bool(self.upper < share * self.champion_loss)


@dataclass(frozen=True, slots=True)
class Decision:
    promote: bool
    reasons: tuple[str, ...]
    overall: Bound
    after: Bound | None
    worst_slice: str | None
    policy: str = POLICY
    slices: Mapping[str, Bound] = field(default_factory=dict)

    @property
    def superior(self) -> bool:
        return self.overall.below(0.0)

    @property
    def material(self) -> bool:
        return self.overall.below(-MATERIAL)


@dataclass(frozen=True, slots=True)
class LiveLoss:
    """A champion's loss beside the loss that its own probabilities promise: what is left is miscalibration.

    If p is the truth, the loss of an event has mean H(p) (its entropy) and variance p (1 - p) logit(p)^2, whatever the
    mix of easy and hard events. A shift that only changes the mix leaves the excess at zero; a broken relation does not.
    """

    rows: int
    loss: float
    promised: float  # mean entropy of p
    excess: float
    error: float

    @property
    def upper(self) -> float:
        return self.excess + _Z * self.error

    @property
    def lower(self) -> float:
        return self.excess - _Z * self.error

    def within(self, share: float = LIVE_BOUND) -> bool:
        """Shown to be within `share` of the promised loss, on either side; False for NaN or too few rows."""
        return bool(self.upper < share * self.promised and self.lower > -share * self.promised)

    def harm(self, share: float = LIVE_BOUND) -> Harm:
        """`harmful`: shown to lose more than promised, by more than `share`; `none`: shown to be within; else `unclear`."""
        if self.within(share):
            return "none"
        return "harmful" if self.lower > share * self.promised else "unclear"


_Z = float(ndtri(CONFIDENCE))


def log_loss(label: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Per event, in nats; a NaN stays NaN, 0 and 1 are clipped to 1e-12.

    >>> log_loss(np.array([1, 0]), np.array([0.5, 0.5])).round(4).tolist()
    [0.6931, 0.6931]
    """
    q = np.clip(p, CLIP, 1 - CLIP)
    return -np.where(label.astype(bool), np.log(q), np.log1p(-q))


def bound(difference: np.ndarray, champion_loss: np.ndarray) -> Bound:
    rows = len(difference)
    if rows < 2:
        return Bound(rows, float("nan"), float("nan"), float("nan"), float("nan"))
    mean, error = float(np.mean(difference)), float(np.std(difference, ddof=1) / np.sqrt(rows))
    return Bound(rows, mean, error, mean + _Z * error, float(np.mean(champion_loss)))


def live_loss(label: np.ndarray, p: np.ndarray) -> LiveLoss:
    q = np.clip(p, CLIP, 1 - CLIP)
    logit = np.log(q) - np.log1p(-q)
    entropy = -(q * np.log(q) + (1 - q) * np.log1p(-q))
    loss = log_loss(label, p)
    rows = max(len(loss), 1)
    error = float(np.sqrt(np.sum(q * (1 - q) * logit**2)) / rows) if len(loss) else float("nan")
    mean_loss, promised = (float(np.mean(v)) if len(v) else float("nan") for v in (loss, entropy))
    return LiveLoss(len(loss), mean_loss, promised, mean_loss - promised, error)


def decide(
    label: np.ndarray,
    champion: np.ndarray,
    challenger: np.ndarray,
    slices: Mapping[str, np.ndarray],
    *,
    after: np.ndarray | None = None,
    harm: Harm = "none",
    in_episode: bool = False,
    material: bool | None = None,
    against: str = "the champion's loss",
) -> Decision:
    """The decision over paired scores. `slices`: name of a column -> each event's value; `after`: mask of events after the shift.

    `material` says whether superior must be material; by default inside an episode that is not shown to be harmful.
    """
    base = log_loss(label, champion)
    difference = log_loss(label, challenger) - base
    overall = bound(difference, base)
    late = None if after is None else bound(difference[after], base[after])
    by_slice = _by_slice(difference, base, slices)
    worst = _inferior_slice(by_slice)
    need = (in_episode and harm != "harmful") if material is None else material
    wins, reason = _wins(overall, late, harm, need, against)
    reasons = [reason]
    if overall.rows < FEWEST_ROWS:
        wins, reasons = False, [f"{overall.rows} labelled events; expected at least {FEWEST_ROWS}"]
    if not np.isfinite(overall.upper):
        wins, reasons = False, [*reasons, "a loss is not a finite number"]
    if worst is not None:
        share = by_slice[worst].upper / by_slice[worst].champion_loss
        reasons.append(f"slice {worst}: not shown to be within {SLICE_MARGIN:.0%} (upper bound {share:+.1%})")
    return Decision(wins and worst is None, tuple(reasons), overall, late, worst, slices=by_slice)


def decide_first(label: np.ndarray, challenger: np.ndarray, base_rate: float) -> Decision:
    """The first champion: superior to always answering the base rate, and calibrated.

    Slices have no veto here: where a slice holds no signal, no model beats its base rate, and nothing serves yet.
    """
    found = decide(label, np.full(len(label), base_rate), challenger, {}, against="the loss of the base rate")
    gap = calibration_error(label, challenger)
    calibrated = bool(gap <= CALIBRATION_BOUND)
    said = f"calibration error {gap:.3f} {'within' if calibrated else 'above'} {CALIBRATION_BOUND}"
    return replace(found, promote=found.promote and calibrated, reasons=(*found.reasons, said))


def calibration_error(label: np.ndarray, p: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal count; NaN if any score is."""
    if len(p) == 0 or not np.all(np.isfinite(p)):
        return float("nan")
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(i) * abs(np.mean(p[i]) - np.mean(label[i])) for i in parts) / len(p))


def _wins(overall: Bound, late: Bound | None, harm: Harm, material: bool, against: str) -> tuple[bool, str]:
    share = f"{overall.mean / overall.champion_loss:+.2%} (upper bound {overall.upper / overall.champion_loss:+.2%}) of {against}"
    if material:
        wins = overall.below(-MATERIAL)
        return wins, f"{'materially better' if wins else 'not materially better'}: {share}"
    if overall.below(0.0):
        return True, f"better: {share}"
    if harm == "harmful" and late is not None and overall.below(MARGIN) and late.below(0.0):
        return True, f"not worse overall and better after the shift: {share}"
    return False, f"not better: {share}"


def _by_slice(difference: np.ndarray, base: np.ndarray, slices: Mapping[str, np.ndarray]) -> dict[str, Bound]:
    found: dict[str, Bound] = {}
    small = np.zeros(len(difference), dtype=bool)
    for column, values in slices.items():
        texts = np.asarray(values, dtype=object).astype(str)
        for value in np.unique(texts):
            mask = texts == value
            if mask.sum() >= SLICE_ROWS:
                found[f"{column}={value}"] = bound(difference[mask], base[mask])
            else:
                small |= mask
    if small.any() and small.sum() >= SLICE_ROWS:
        found[POOLED] = bound(difference[small], base[small])
    return found


def _inferior_slice(slices: Mapping[str, Bound]) -> str | None:
    """The first slice that Holm's step-down does not show to be non-inferior; None if all are."""
    p_values = {name: _p_inferior(b) for name, b in slices.items()}
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if not p <= (1 - CONFIDENCE) / (len(p_values) - rank):
            return name
    return None


def _p_inferior(b: Bound) -> float:
    """p-value of "this slice is worse by the margin or more"; 1 for anything that is not a number."""
    distance = SLICE_MARGIN * b.champion_loss - b.mean
    if not np.isfinite(distance) or not np.isfinite(b.error):
        return 1.0
    if b.error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(ndtr(-distance / b.error))
