"""Streams for the bench `drift`: ten features of every sort under a Gaussian copula, counted by the real code, and their pages.

A feature is a rising function of its normal score, so that one correlation matrix serves all. Values are drawn row by row
and counted with the reference's own look-up; categories by counting each name once with the real code and taking its cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
from numba import njit
from scipy import special

from pipeline.contract import DriftPlan, MonitoredFeature
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import cells
from stream_processors.reference.cells import WHOLE, FeatureReference
from stream_processors.reference.grid import coarse_codes
from tests.bench._drift_changes import zipf

Key = tuple[str, str]
PANE = timedelta(minutes=1)
PANE_MS = 60_000
NULLS = 0.05


@dataclass(frozen=True, slots=True)
class Feature:
    """A monitored feature and how a normal score becomes its value: a number, or the rank of a category."""

    name: str
    sort: str  # for tables: continuous, tied, categorical
    value: Callable[[np.ndarray], np.ndarray]
    names: tuple[str, ...] = ()
    nulls: float = 0.0

    @property
    def monitored(self) -> MonitoredFeature:
        return MonitoredFeature(self.name, "categorical" if self.names else "numeric")

    def column(self, values: np.ndarray, null: np.ndarray | None) -> pa.Array:
        if not self.names:
            return pa.array(np.where(null, np.nan, values) if null is not None else values, pa.float64())
        return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int16), mask=null), list(self.names))


def _stepped(shares: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    edges = special.ndtri(np.cumsum(shares)[:-1])
    return lambda z: np.searchsorted(edges, z, side="right").astype(np.float64)


def _category(name: str, shares: np.ndarray, nulls: float = 0.0) -> Feature:
    names = tuple(f"v{i:03}" for i in range(len(shares)))
    return Feature(name, "categorical", _stepped(shares), names, nulls)


TEN = (
    Feature("normal", "continuous", lambda z: z.astype(np.float64)),
    Feature("lognormal", "continuous", lambda z: np.exp(z, dtype=np.float64)),
    Feature("heavy", "continuous", lambda z: np.sinh(1.3 * z, dtype=np.float64)),
    Feature("holes", "continuous", lambda z: z.astype(np.float64), nulls=NULLS),
    Feature("cents", "tied", lambda z: np.round(np.exp(1.5 + 0.8 * z, dtype=np.float64), 2)),
    Feature("prices", "tied", lambda z: np.round(np.exp(0.4 * z, dtype=np.float64) * 4) / 4, nulls=NULLS),
    Feature("quantity", "tied", _stepped(special.pdtr(np.arange(15), 3.0) - special.pdtr(np.arange(15) - 1, 3.0))),
    _category("country", zipf(12)),
    _category("channel", np.array([0.5, 0.3, 0.15, 0.05]), NULLS),
    _category("product", zipf(300, 1.1)),
)


@dataclass(frozen=True, slots=True)
class World:
    """Rows of correlated features, and the cells they fall into."""

    features: Sequence[Feature]
    correlation: float

    def rows(self, rng: np.random.Generator, n: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """(values, which are null) by feature."""
        shared = rng.standard_normal(n, np.float32) * np.float32(np.sqrt(self.correlation))
        own = np.float32(np.sqrt(1 - self.correlation))
        return [
            (
                f.value(shared + own * rng.standard_normal(n, np.float32)),
                rng.random(n, np.float32) < f.nulls if f.nulls else None,
            )
            for f in self.features
        ]

    def references(self, rng: np.random.Generator, rows: int) -> dict[Key, FeatureReference]:
        """A sample of the same law."""
        return {
            (f.name, WHOLE): cells.build(f.monitored, WHOLE, f.column(values, null), version=1, effective_from=0)
            for f, (values, null) in zip(self.features, self.rows(rng, rows), strict=True)
        }

    def plan(self, pages: float, panes: int, **more: object) -> DriftPlan:
        """A budget of `pages` in so many one-minute panes."""
        return plan_of([f.monitored for f in self.features], pages, panes, **more)


def plan_of(features: Sequence[MonitoredFeature], pages: float, panes: int, **more: object) -> DriftPlan:
    return DriftPlan(tuple(features), pane=PANE, pages=pages, pages_per=panes * PANE, **more)


class Counter:
    """Panes of a world's rows as packed coarse counts, in the detectors' order."""

    def __init__(self, world: World, references: Mapping[Key, FeatureReference], detectors: Detectors):
        self.world, self.references = world, references
        self.keys, self.offsets = detectors.keys, detectors.offsets
        self.cell_of_category = {
            f.name: _cells_of_names(references[f.name, WHOLE], f) for f in world.features if f.names
        }

    def panes(self, rng: np.random.Generator, number: int, rows: int) -> np.ndarray:
        """int64[number, all cells]: that many panes of `rows` rows each."""
        packed = np.zeros((number, int(self.offsets[-1])), np.int64)
        for f, (values, null) in zip(self.world.features, self.world.rows(rng, number * rows), strict=True):
            key = f.name, WHOLE
            at = int(self.offsets[self.keys.index(key)])
            reference = self.references[key]
            if f.names:
                codes = self.cell_of_category[f.name][values.astype(np.int64)]
                if null is not None:
                    codes[null] = len(reference.cell_rows) - 1
            else:
                codes = cells_of(reference, values, null)
            _add(packed, codes, rows, at)
        return packed


def cells_of(reference: FeatureReference, values: np.ndarray, null: np.ndarray | None = None) -> np.ndarray:
    """int32 coarse cell of each row of numbers."""
    return coarse_codes(reference, values if null is None else np.where(null, np.nan, values))


def _cells_of_names(reference: FeatureReference, feature: Feature) -> np.ndarray:
    found = [cells.coarse(reference, cells.count(reference, pa.array([name]))) for name in feature.names]
    return np.array([int(np.argmax(f)) for f in found], np.int32)


@njit(cache=True)
def _add(packed, codes, rows, at):
    for i in range(codes.size):
        packed[i // rows, at + codes[i]] += 1


def pages(detectors: Detectors, state: object, packed: np.ndarray, first: int = 0) -> list[tuple[int, Key]]:
    """(pane, key) of every page while these panes pass; a key that paged starts anew, so that it may page again."""
    starts = (first + np.arange(len(packed), dtype=np.int64)) * PANE_MS
    found, at = [], 0
    while at < len(packed):
        at += detectors.step_panes(state, packed[at:], starts[at:])
        for i in np.flatnonzero(detectors.fired(state)):
            found.append((first + at - 1, detectors.keys[i]))
            detectors.reset(state, detectors.keys[i])
    return found


def poisson_bound(count: int, streams: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound of the mean count a stream, given the count over all of them."""
    return float(special.gammaincinv(count + 1, confidence)) / streams


def packed_panes(detectors: Detectors, reference: FeatureReference, codes: np.ndarray, rows: int) -> np.ndarray:
    """Panes of one feature alone, from the coarse cell of each row."""
    packed = np.zeros((len(codes) // rows, len(reference.cell_rows)), np.int64)
    _add(packed, codes[: len(packed) * rows], rows, 0)
    return packed
