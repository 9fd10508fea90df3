"""PURE. A model version's figures over its newest labelled predictions, in numpy alone (scikit-learn costs 3 s to import)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

WINDOW = 5_000  # labelled predictions
CLIP = 1e-12


class Window:
    """The newest scores and labels of one version."""

    def __init__(self, size: int = WINDOW):
        self._pairs: deque[tuple[float, bool]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, score: float, label: bool) -> None:
        self._pairs.append((score, label))

    def figures(self) -> dict[str, float]:
        """log_loss, brier, accuracy, and auc where both labels occur; {} while empty."""
        return figures([p for p, _ in self._pairs], [y for _, y in self._pairs])


def figures(scores: Sequence[float], labels: Sequence[bool]) -> dict[str, float]:
    if not scores:
        return {}
    p, y = np.array(scores), np.array(labels, dtype=bool)
    q = np.clip(p, CLIP, 1 - CLIP)
    found = {
        "log_loss": float(-np.where(y, np.log(q), np.log1p(-q)).mean()),
        "brier": float(((p - y) ** 2).mean()),
        "accuracy": float(((p >= 0.5) == y).mean()),
    }
    return found | ({"auc": auc(p, y)} if 0 < y.sum() < len(y) else {})


def auc(p: np.ndarray, y: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties half.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(y.sum())
    return float((ranks[y].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives)))
