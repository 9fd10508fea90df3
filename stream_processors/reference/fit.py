"""PURE. From the rows of one feature to its reference: counted, its rhythm found, its dependence fitted.

The order matters: a rhythm that is not matched looks like dependence, so slots come first and dependence is what they leave.
A segment takes the rhythm of its whole without a test of its own, which its few rows might not pass; its slots are merged
until each holds enough of them. Where a rhythm cannot be followed, of a segment or of the whole, the law would mix the hours
and page every day: it is marked, and `budget` lets it page never (measured without that: four false pages in 20 days).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.contract import DriftPlan, MonitoredFeature
from pipeline.times import ms
from stream_processors.reference import cells, dependence, rhythm
from stream_processors.reference.cells import KEPT_ROWS, MOST_ROWS, FeatureReference
from stream_processors.reference.grid import coarse_codes
from stream_processors.reference.slots import Slots

RHYTHM_ROWS = 5  # times as many rows are kept of a feature with a rhythm: each slot judges by its own share of them
_FEWEST = 2 * dependence.LEAST_BLOCKS  # panes, to fit a dependence on half of them


@dataclass(frozen=True, slots=True)
class Wish:
    """What the contract says of one feature, and how many features and segments are tested beside it."""

    pane: int  # ms
    kept: int = KEPT_ROWS
    rhythm: str = "auto"
    dependence: str = "auto"
    tests: int = 1
    named: tuple[str, ...] = ()  # categories that have a name even if no row holds them


def wish_of(plan: DriftPlan, feature: MonitoredFeature, tests: int, whole: Slots | None = None) -> Wish:
    """`whole` are the slots of the whole if this is one of its segments."""
    asked = feature.rhythm or plan.rhythm
    if whole is not None and whole.judged > 1:
        asked = "week" if whole.by_weekday else "hour"
    return Wish(ms(plan.pane), plan.reference.rows, asked, plan.dependence, tests)


def fit(
    feature: MonitoredFeature,
    segment: str,
    column: pa.Array | pa.ChunkedArray,
    times: np.ndarray | None,
    wish: Wish,
    *,
    version: int,
    effective_from: int,
) -> FeatureReference:
    """The reference of one feature and segment. `times` are the rows' event times (int64 ms, any order); None or the
    contract's word `none` leaves rhythm and dependence out."""

    def built(part: pa.Array | pa.ChunkedArray, when: np.ndarray | None, plan: Slots | None) -> FeatureReference:
        kept = wish.kept if plan is None else min(MOST_ROWS, RHYTHM_ROWS * wish.kept)
        return cells.build(
            feature, segment, part, version=version, effective_from=effective_from, kept=kept, plan=plan, times=when,
            named=wish.named,
        )  # fmt: skip

    known = built(column, times, None)
    if times is None or not known.rows or (wish.rhythm == "none" and wish.dependence == "none"):
        return known
    ordered = feature.kind == "numeric"
    codes = cell_codes(known, column)
    found = rhythm.find(
        codes, _shares(known), ordered, times, pane=wish.pane, asked=wish.rhythm, tests=wish.tests
    )  # fmt: skip
    evidence: Mapping[str, float] = found.evidence
    if found.plan is not None:
        known = built(column, times, found.plan)
        codes = cell_codes(known, column)
    if wish.dependence == "none":
        return replace(known, evidence=evidence)
    panes = dependence.panes_of(codes, times, wish.pane, known, hours=wish.rhythm == "auto")
    depends, more = dependence.detect(panes, _shares(known), ordered, wish.tests)
    evidence = {**evidence, **more}
    if not depends or len(panes.counts) < _FEWEST:
        return replace(known, evidence=evidence)
    middle = np.partition(times // wish.pane, len(times) // 2)[len(times) // 2]
    early = times // wish.pane < middle
    half = built(column.filter(pa.array(early)), times[early], found.plan)
    late = column.filter(pa.array(~early))
    replayed = dependence.panes_of(cell_codes(half, late), times[~early], wish.pane, half)
    return replace(
        known, evidence=evidence, temper=dependence.fit(known, half, replayed, more["inflation"], more["lag1"])
    )


def cell_codes(reference: FeatureReference, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64 coarse cell of each row, `unseen` and `null` among them."""
    if reference.kind == "numeric":
        return coarse_codes(reference, cells.floats(column)).astype(np.int64)
    index = cells.category_indices(reference, column)
    return np.where(index < 0, reference.cells + 1, reference.cell_of[index]).astype(np.int64)


def _shares(reference: FeatureReference) -> np.ndarray:
    return reference.cell_rows / max(1, int(reference.cell_rows.sum()))
