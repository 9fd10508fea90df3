"""PURE. What a challenger is worth beside the champion, in numbers: paired differences, slices, groups, calibration.

For each event d = loss(challenger) - loss(champion). Pairing removes what both share (how hard the event is), so the
mean of d has a far smaller error than the difference of two means. Bounds are one-sided, 95 %, normal (rows >= 500).

    superior      upper bound of mean d < 0
    material      upper bound of mean d < -1 % of the champion's loss
    non-inferior  upper bound of mean d < +0.5 % of the champion's loss (a slice: 5 % of the champion's loss there)

Slices and groups of >= 500 rows stand alone, smaller ones are pooled; slices carry p-values of Holm's step-down, groups
Bonferroni bounds. What is compared with what, and what follows, is the policy's matter (`batch/policies`), not this module's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from stream_processors.comparing import holm

CONFIDENCE = 0.95
BINS = 10
CLIP = 1e-12
POOLED = "(smaller slices)"
Harm = Literal["none", "unclear", "harmful"]
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Bound:
    """Mean paired difference, its standard error and upper bound; `loss` is the champion's mean on the same rows."""

    rows: int
    mean: float
    error: float
    upper: float
    loss: float


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

    def within(self, share: float) -> bool:
        """Shown to be within `share` of the promised loss, on either side; False for NaN or too few rows."""
        return bool(self.upper < share * self.promised and self.lower > -share * self.promised)

    def harm(self, share: float) -> Harm:
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
    """Of the mean of paired differences; all NaN below two rows."""
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


def compared(
    label: np.ndarray,
    champion: np.ndarray,
    challenger: np.ndarray,
    slices: Mapping[str, np.ndarray],
    limits: Mapping[str, float],
    *,
    after: np.ndarray | None = None,
) -> Json:
    """Evidence over paired scores. `slices`: name of a column -> each event's value; `after`: mask of events after the shift.

    `limits` are the policy's: the margin at which a slice's p-value is taken, and the rows from which one stands alone.
    """
    base = log_loss(label, champion)
    difference = log_loss(label, challenger) - base
    parts = _parts(slices, len(difference), int(limits["rows"]))
    return {
        "overall": asdict(bound(difference, base)),
        "after": None if after is None else asdict(bound(difference[after], base[after])),
        "slices": _slices(difference, base, parts, limits["slice_margin"]),
        "groups": _groups(label, champion, challenger, parts),
        "calibration": {
            "champion": calibration_error(label, champion),
            "challenger": calibration_error(label, challenger),
        },
    }


def first(label: np.ndarray, challenger: np.ndarray, base_rate: float) -> Json:
    """Evidence for a first champion, against always answering the base rate.

    Slices have no veto here: where a slice holds no signal, no model beats its base rate, and nothing serves yet.
    """
    base = log_loss(label, np.full(len(label), base_rate))
    return {
        "overall": asdict(bound(log_loss(label, challenger) - base, base)),
        "calibration": {"champion": None, "challenger": calibration_error(label, challenger)},
    }


def calibration_error(label: np.ndarray, p: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal count; NaN if any score is."""
    if len(p) == 0 or not np.all(np.isfinite(p)):
        return float("nan")
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(i) * abs(np.mean(p[i]) - np.mean(label[i])) for i in parts) / len(p))


def gap(label: np.ndarray, champion: np.ndarray, challenger: np.ndarray, z: float = _Z) -> Json:
    """A group's gap between promise and truth, with its interval, and how much wider the challenger may make it.

    gap = mean(p - y) within the group, for each model. `wider` is an upper bound of |gap(challenger)| - |gap(champion)|:
    the smaller of two valid ones, each at half the level. (1) The difference itself, by the influence of each row (the
    label cancels where both gaps have one sign). (2) |mean(p challenger - p champion)|, which bounds it by the triangle
    inequality and stays small where both gaps are near zero and their signs are chance.
    """
    ours, theirs = challenger - label, champion - label
    new, old = float(np.mean(ours)), float(np.mean(theirs))
    influence = np.sign(new) * ours - np.sign(old) * theirs
    wider = min(
        abs(new) - abs(old) + z * _error(influence), abs(float(np.mean(ours - theirs))) + z * _error(ours - theirs)
    )
    width = z * _error(ours)
    return {"rows": len(ours), "gap": new, "low": new - width, "high": new + width, "champion": old, "wider": wider}


def _groups(
    label: np.ndarray, champion: np.ndarray, challenger: np.ndarray, parts: Mapping[str, np.ndarray]
) -> dict[str, Json]:
    z = float(ndtri(1 - (1 - CONFIDENCE) / (2 * max(len(parts), 1))))
    y = label.astype(np.float64)
    return {name: gap(y[mask], champion[mask], challenger[mask], z) for name, mask in parts.items()}


def _slices(
    difference: np.ndarray, base: np.ndarray, parts: Mapping[str, np.ndarray], margin: float
) -> dict[str, Json]:
    """Each slice's bound, with the p-value of "worse by the margin or more", adjusted by Holm's step-down."""
    bounds = {name: bound(difference[mask], base[mask]) for name, mask in sorted(parts.items())}
    held = holm.adjusted({name: _p_inferior(b, margin) for name, b in bounds.items()})
    return {name: {**asdict(bounds[name]), "p": p} for name, p in held.items()}


def _parts(slices: Mapping[str, np.ndarray], rows: int, fewest: int) -> dict[str, np.ndarray]:
    """Mask of each value of each column with enough rows; the others pooled, if they are enough together."""
    found: dict[str, np.ndarray] = {}
    small = np.zeros(rows, dtype=bool)
    for column, values in slices.items():
        names, codes = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
        for code, value in enumerate(names):
            mask = codes == code
            if mask.sum() >= fewest:
                found[f"{column}={value}"] = mask
            else:
                small |= mask
    return {**found, POOLED: small} if small.sum() >= fewest else found


def _p_inferior(b: Bound, margin: float) -> float:
    """p-value of "this slice is worse by the margin or more"; 1 for anything that is not a number."""
    distance = margin * b.loss - b.mean
    if not np.isfinite(distance) or not np.isfinite(b.error):
        return 1.0
    if b.error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(ndtr(-distance / b.error))


def _error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
