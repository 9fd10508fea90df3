"""PURE. Is the new champion worse than the one before it? A test by betting, valid however often one looks.

Of each labelled answer d = loss(champion) - (1 + margin) loss(former champion), on the same row. Under "not worse than
by the margin" the mean of d is <= 0, whatever came before, so that

    M_n = prod (1 + lambda_i d_i),   lambda_i chosen from the rows before i, 0 <= lambda_i <= 1 / (2 low),  d >= -low

is a non-negative supermartingale that starts at 1: P(M ever reaches 1/alpha) <= alpha (Ville 1939). It needs no normality
and no plan of looks. lambda = sum d / (sum d^2 + c) is close to the fastest growth (Kelly); see Waudby-Smith and Ramdas
2024, doi:10.1093/jrsssb/qkad009. Scores are kept `clip` from 0 and 1, which bounds d. Cost: one pass, O(n).

Without a former champion to ask, d = loss - (1 + live) entropy(p): mean <= 0 while its own scores are right.
Assumes that a row's chance of being among the labelled ones does not depend on which model answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

CAUTION = 0.5  # of the squared range, added to the sum of squares: keeps the first bets small

Against = Literal["former", "promise"]


@dataclass(frozen=True, slots=True)
class Watched:
    """`log_e` is the largest log M so far; `excess` the mean loss above that which it is measured by, as a share of it."""

    against: Against
    rows: int
    log_e: float
    threshold: float
    loss: float
    other_loss: float  # the former champion's, or the promised one
    crossed_at: int | None  # rows at which the threshold was reached

    @property
    def excess(self) -> float:
        return self.loss / self.other_loss - 1 if self.rows and self.other_loss else math.nan


def against_former(label: np.ndarray, champion: np.ndarray, former: np.ndarray, limits: Mapping[str, float]) -> Watched:
    """`champion`: what it answered, `former`: what the former champion says to the same rows; in order of arrival."""
    ours, theirs = (_loss(label, p, limits["clip"]) for p in (champion, former))
    low = -(1 + limits["margin"]) * math.log(limits["clip"])
    return _watched("former", ours, theirs, ours - (1 + limits["margin"]) * theirs, low, limits)


def against_promise(label: np.ndarray, champion: np.ndarray, limits: Mapping[str, float]) -> Watched:
    """Where no former champion can be asked: the loss beside what the scores themselves promise."""
    p = np.clip(champion, limits["clip"], 1 - limits["clip"])
    promised = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    ours = _loss(label, champion, limits["clip"])
    low = (1 + limits["live"]) * math.log(2)
    return _watched("promise", ours, promised, ours - (1 + limits["live"]) * promised, low, limits)


def told(found: Mapping[str, object]) -> str:
    """A look in one sentence, for the ledger and for people."""
    excess, rows = found.get("excess"), found["rows"]
    other = f"version {found['former']}" if found["against"] == "former" else "its own promise"
    told = f"{float(str(excess)):+.1%}" if excess is not None else "unknown"
    said = f"loss {told} against {other} over {rows} labelled answers (evidence {float(str(found['log_e'] or 0)):.1f} of {float(str(found['threshold'])):.1f})"
    words = {"rollback": "worse", "alert": "worse, and no former champion that loads", "keep": "not shown to be worse"}
    return f"{words.get(str(found['verdict']), 'not decided')}: {said}"


def log_martingale(d: np.ndarray, low: float) -> np.ndarray:
    """log M after each row, for d >= -low.

    >>> log_martingale(np.full(500, -0.1), 1.0)[-1]  # never a bet on what is not worse
    0.0
    >>> bool(log_martingale(np.full(500, 0.1), 1.0)[-1] > 5)
    True
    """
    before, squares = np.cumsum(d) - d, np.cumsum(d * d) - d * d
    bets = np.clip(before / (squares + CAUTION * low * low), 0.0, 0.5 / low)
    return np.cumsum(np.log1p(bets * d))


def _watched(
    against: Against, ours: np.ndarray, theirs: np.ndarray, d: np.ndarray, low: float, limits: Mapping[str, float]
) -> Watched:
    threshold = -math.log(limits["alpha"])
    if not len(d):
        return Watched(against, 0, 0.0, threshold, 0.0, 0.0, None)
    path = log_martingale(d, low)
    crossed = np.flatnonzero(path >= threshold)
    return Watched(
        against,
        len(d),
        float(np.max(path)),  # NaN if any score is: then nothing is decided
        threshold,
        float(np.mean(ours)),
        float(np.mean(theirs)),
        int(crossed[0]) + 1 if len(crossed) else None,
    )


def _loss(label: np.ndarray, p: np.ndarray, clip: float) -> np.ndarray:
    q = np.clip(p, clip, 1 - clip)
    return -np.where(label.astype(bool), np.log(q), np.log1p(-q))
