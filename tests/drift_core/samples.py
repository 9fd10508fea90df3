"""References and panes for the tests of the drift core."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa

from pipeline.contract import DriftPlan, MonitoredFeature
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference

NUMBER = MonitoredFeature("price", "numeric")
NAME = MonitoredFeature("channel", "categorical")
PLAN = DriftPlan((NUMBER, NAME), pane=timedelta(minutes=5))
CHANNELS = np.array(["web", "app", "store", "partner"])
SHARES = (0.5, 0.3, 0.15, 0.05)


def numeric(values: np.ndarray | list[float | None], segment: str = "*") -> FeatureReference:
    return cells.build(NUMBER, segment, pa.array(values, pa.float64()), version=1, effective_from=0)


def categorical(values: np.ndarray | list[str | None], segment: str = "*") -> FeatureReference:
    return cells.build(NAME, segment, pa.array(values, pa.string()), version=1, effective_from=0)


def channels(rng: np.random.Generator, n: int, shares: tuple[float, ...] = SHARES) -> np.ndarray:
    return CHANNELS[rng.choice(4, n, p=shares)]


def floats(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64())


def detectors_of(*references: FeatureReference, plan: DriftPlan = PLAN) -> Detectors:
    return Detectors({r.key: r for r in references}, plan)
