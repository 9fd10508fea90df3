"""PURE. The drift engine behind river's interface: `update(x)`, `drift_detected`.

    detector = DriftlineDetector(reference)      # or none: the first `learn` values are the reference
    for x in values:
        detector.update(x)
        if detector.drift_detected: ...

Every `pane_rows` values the detector steps once, so a drift is detected at the last value of a pane. Unlike river's
detectors it says how often it is wrong: at most one false alarm in `run_length` values is to be expected while they
follow the reference, independently of each other. After a detection it starts anew with the next value, as river's do:
a learned reference is forgotten and learned again, a given one stays, and will be reported again while the drift lasts.
"""

from __future__ import annotations

import numpy as np
from river.base import DriftDetector

from stream_processors.library.options import check_steps, tolerance_of
from stream_processors.library.result import FeatureResult
from stream_processors.monitor import Monitor

LEARN = 10_000  # the smallest reference that may alarm


class DriftlineDetector(DriftDetector):
    """Any change of distribution in a stream of numbers, at a stated false-alarm rate.

    Parameters
    ----------
    reference
        Values to compare with; None learns them from the first `learn` values.
    learn
        Number of values to learn from.
    pane_rows
        Values between two steps: fewer detect large changes sooner, more cost less.
    run_length
        Values between two false alarms, on average at least.
    tolerance
        Kolmogorov-Smirnov distance that is too small to report.

    Examples
    --------
    >>> rng = np.random.default_rng(12)
    >>> detector = DriftlineDetector(rng.normal(0, 1, 20_000))
    >>> values = np.concatenate([rng.normal(0, 1, 5_000), rng.normal(0.5, 1, 5_000)])
    >>> for i, x in enumerate(values):
    ...     detector.update(x)
    ...     if detector.drift_detected:
    ...         break
    >>> 5_000 < i < 5_500
    True
    """

    def __init__(
        self,
        reference: np.ndarray | list[float] | None = None,
        learn: int = LEARN,
        pane_rows: int = 100,
        run_length: float = 1_000_000,
        tolerance: float = 0.0,
    ):
        super().__init__()
        size = learn if reference is None else len(reference)
        if size < LEARN:
            raise ValueError(
                f"reference: expected at least {LEARN:,} values, got {size:,}: with fewer nothing may alarm"
            )
        check_steps(pane_rows, run_length)
        tolerance_of("value", "numeric", tolerance)
        self.reference, self.learn = reference, learn
        self.pane_rows, self.run_length, self.tolerance = pane_rows, run_length, tolerance
        self.last: FeatureResult | None = None  # after the last full pane
        self._reset()

    def _reset(self) -> None:
        super()._reset()
        known = self.reference is not None
        self._monitor = self._watching(np.asarray(self.reference, np.float64)) if known else None
        self._open: list[float] = []

    def _watching(self, values: np.ndarray) -> Monitor:
        return Monitor(values, pane_rows=self.pane_rows, run_length=self.run_length, tolerance=self.tolerance)

    @property
    def change(self) -> str | None:
        """What happened, once something stands out."""
        return self.last.change if self.last else None

    def update(self, x: int | float) -> None:
        """One value more; None and NaN count as missing values, whose share is watched too."""
        if self.drift_detected:
            self._reset()
        self._open.append(float("nan") if x is None else float(x))
        if len(self._open) < (self.learn if self._monitor is None else self.pane_rows):
            return
        values, self._open = np.array(self._open), []
        if self._monitor is None:
            self._monitor = self._watching(values)
            return
        result = self._monitor.update(values)
        self.last = next(iter(result))
        self._drift_detected = bool(result.new)
