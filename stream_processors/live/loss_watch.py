"""PURE. Is the champion's loss still what its own probabilities promise? river's ADWIN and Page-Hinkley, made calm.

Watched is not the loss but its excess over the promised loss (the entropy of the scores), in batches of 250 labelled
rows, divided by the standard error that the scores imply: about N(0, 1) while the model is right, whatever the mix of
easy and hard orders. So a harmless shift of the inputs moves nothing, and the same thresholds serve every model.

A detector's signal is `pending`; it `fires` when the excess over the last 5,000 rows is also material: shown to be
beyond 10 % of the promised loss. Both detectors see many batches, and some day one of them signals by chance; the
material bound is what a model's own small calibration error does not reach.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from river.drift import ADWIN, PageHinkley

BATCH = 250  # labelled rows: an excess of 10 % of the loss is about 1.1 standard errors of a batch
RECENT = 20  # batches: 5,000 rows
KEPT = 400  # batches in which an onset is looked for
MATERIAL = 0.10  # of the promised loss; the same bound as the gate's
Z = 1.6449  # one-sided 95 %
ADWIN_DELTA = 1e-5
PH_DELTA, PH_THRESHOLD = 0.5, 25.0  # in standard errors of a batch: run length exp(2 * 0.5 * 25) batches if N(0, 1)
CLIP = 1e-12
State = Literal["quiet", "pending", "firing"]


@dataclass(frozen=True, slots=True)
class Batch:
    first_ms: int
    last_ms: int
    excess: float  # sums over the batch
    promised: float
    variance: float
    rows: int

    @property
    def z(self) -> float:
        return self.excess / math.sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Recent:
    """The excess loss of the last batches, per row."""

    rows: int
    excess: float
    promised: float
    error: float

    @property
    def material(self) -> bool:
        return abs(self.excess) - Z * self.error > MATERIAL * self.promised

    @property
    def within(self) -> bool:
        return self.rows > 0 and abs(self.excess) + Z * self.error < MATERIAL * self.promised


@dataclass(slots=True)
class LossWatch:
    """One model version's labelled rows, in the order in which their labels came."""

    batches: deque[Batch] = field(default_factory=lambda: deque(maxlen=KEPT))
    seen: int = 0  # batches
    signalled: dict[str, int] = field(default_factory=dict)  # detector -> batch number of its last signal
    _rows: list[tuple[float, bool, int]] = field(default_factory=list)
    _adwin: ADWIN = field(default_factory=lambda: ADWIN(delta=ADWIN_DELTA, clock=1, min_window_length=5))
    _hinkley: PageHinkley = field(
        default_factory=lambda: PageHinkley(min_instances=RECENT, delta=PH_DELTA, threshold=PH_THRESHOLD, mode="both")
    )

    def add(self, score: float, label: bool, event_ms: int) -> bool:
        """True when this row completed a batch."""
        self._rows.append((score, label, event_ms))
        if len(self._rows) < BATCH:
            return False
        self._step(_batch(self._rows))
        self._rows = []
        return True

    @property
    def recent(self) -> Recent:
        last = list(self.batches)[-RECENT:]
        rows = sum(b.rows for b in last)
        if not rows:
            return Recent(0, 0.0, 0.0, 0.0)
        sums = [sum(getattr(b, name) for b in last) for name in ("excess", "promised", "variance")]
        return Recent(rows, sums[0] / rows, sums[1] / rows, math.sqrt(sums[2]) / rows)

    @property
    def state(self) -> State:
        if self.seen < RECENT or not self.signals:
            return "quiet"
        return "firing" if self.recent.material else "pending"

    @property
    def signals(self) -> list[str]:
        """Detectors whose signal is young enough to speak about the recent rows, or whose change still stands."""
        return sorted(name for name, at in self.signalled.items() if self.seen - at < RECENT or self.recent.material)

    def onset(self) -> tuple[int, int, int]:
        """(estimate, low, high) of the change in event time, ms: the split of the batches that two means explain best.

        Low and high are the outermost splits whose log likelihood is within 3 of the best.
        """
        z = np.array([b.z for b in self.batches])
        begins = [b.first_ms for b in self.batches]
        n = len(z)
        if n < 2:
            return (begins[0], begins[0], begins[0]) if begins else (0, 0, 0)
        left = np.arange(1, n)
        sums = np.cumsum(z)[:-1]
        gain = 0.5 * (sums / left - (z.sum() - sums) / (n - left)) ** 2 * left * (n - left) / n
        best, likely = int(np.argmax(gain)), np.flatnonzero(gain > gain.max() - 3)
        return begins[best + 1], begins[int(likely[0])], begins[int(likely[-1]) + 1]

    def _step(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.seen += 1
        for name, detector in (("adwin", self._adwin), ("page_hinkley", self._hinkley)):
            detector.update(batch.z)
            if detector.drift_detected:
                self.signalled[name] = self.seen


def _batch(rows: list[tuple[float, bool, int]]) -> Batch:
    p = np.clip(np.array([r[0] for r in rows]), CLIP, 1 - CLIP)
    y = np.array([r[1] for r in rows], dtype=bool)
    logit = np.log(p) - np.log1p(-p)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    loss = -np.where(y, np.log(p), np.log1p(-p))
    times = [r[2] for r in rows]
    return Batch(
        first_ms=min(times),
        last_ms=max(times),
        excess=float((loss - entropy).sum()),
        promised=float(entropy.sum()),
        variance=float((p * (1 - p) * logit**2).sum()),
        rows=len(rows),
    )
