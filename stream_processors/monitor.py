"""PURE. Drift without a stream: `Monitor(reference)`, `monitor.update(window)`, in a notebook or a service. No Kafka, no files.

    monitor = Monitor(reference)          # polars frame, Arrow table, dict of arrays, one array
    result = monitor.update(window)       # rows as they come, any number at a time
    result.alarm, result["price"].statistic, result.plot()

The same cells, detectors and statistics as in the stream. Rows carry no event time here, so a pane is a number of rows:
every `pane_rows` rows the detectors step once, however the rows were divided among calls, and evidence is the same for
any division. The page budget is a run length: at most one false alarm in `run_length` rows is to be expected, over all
features and segments together (`budget`). Rows are taken as independent of each other; a rhythm needs event times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import DriftPlan, Tolerance
from stream_processors.comparing import statistics
from stream_processors.detectors.detector import Detectors, Evidence
from stream_processors.detectors.reach import smallest_effect
from stream_processors.judging.panes import SEGMENT_ROWS, SEGMENTS_A_GROUPING, WHOLE, Key, segment_name
from stream_processors.library.frames import Data, alike, expect, table_of
from stream_processors.library.options import (
    check_alpha,
    check_rule,
    check_scan,
    check_steps,
    groupings_of,
    monitored,
    unwatched,
)
from stream_processors.library.result import FeatureResult, Result, State, loudest, title
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.counts import EMPTY, Counts
from stream_processors.reference.grid import coarse_counts

PANE_ROWS = 1_000
RUN_LENGTH = 10_000_000  # rows between false alarms
WARNING_DISTANCE = 2.0  # natural log, as in the stream
REMEMBERED_PANES = 2_000  # of the evidence that `plot` shows
_PANE = timedelta(seconds=1)  # a pane has no duration here; the budget only counts panes


class Monitor:
    """Watches rows against a reference, with a stated number of rows between false alarms.

    >>> rng = np.random.default_rng(7)
    >>> monitor = Monitor({"price": rng.normal(50, 10, 20_000)}, run_length=1_000_000)
    >>> monitor.update({"price": rng.normal(50, 10, 5_000)}).alarm
    False
    >>> monitor.update({"price": rng.normal(55, 10, 5_000)})["price"].state
    'alarm'
    """

    def __init__(
        self,
        reference: Data,
        *,
        features: Sequence[str] | None = None,
        segments: Sequence[str | Sequence[str]] = (),
        pane_rows: int = PANE_ROWS,
        run_length: float = RUN_LENGTH,
        tolerance: float | Tolerance | Mapping[str, float | Tolerance] = 0.0,
        weights: Mapping[str, float] | None = None,
        rule: Literal["bank", "scan", "confseq"] = "bank",
        alpha: float = 0.05,
    ):
        check_steps(pane_rows, run_length)
        check_rule(rule, alpha)
        pane_rows = int(pane_rows)
        table = table_of(reference, "reference")
        groupings = groupings_of(segments)
        named = monitored(table, features, tolerance, weights or {})
        expect(table, "reference", [*(f.name for f in named), *(c for g in groupings for c in g)])
        self.pane_rows, self.run_length = pane_rows, run_length
        self.plan = DriftPlan(
            named, groupings, pane=_PANE, window=_PANE, pages_per=_PANE * (run_length / pane_rows), rule=rule, alpha=alpha, rejects=False
        )  # fmt: skip
        self.unwatched = unwatched(table, features, {*(f.name for f in named), *(c for g in groupings for c in g)})
        self._types = table.schema
        self.references = _references(self.plan, table)
        if rule == "scan":
            check_scan(pane_rows, [self.references[f.name, WHOLE].rows for f in named if not f.tolerance.value])
        self._detectors = Detectors(self.references, self.plan)
        self._state = self._detectors.start()
        self.rows = self.panes = 0  # seen, stepped
        self._open: dict[Key, np.ndarray] = {}
        self._alarmed: dict[Key, int] = {}  # rows seen when the alarm began
        self._new: dict[Key, None] = {}  # alarms that began in this window, in their order
        self._over: list[str] = []  # those of them that ended in it
        self._history: list[tuple[int, dict[Key, tuple[float, float]]]] = []

    def update(self, window: Data) -> Result:
        """Take the rows in; what they say beside the reference, and what the detectors say after them."""
        table = self._checked(window)
        whole: dict[Key, Counts] = {}
        for key, column in self._columns(table):
            whole[key] = cells.count(self.references[key], column)
        self._new, self._over, at = {}, [], 0
        while at < table.num_rows:
            take = min(table.num_rows - at, self.pane_rows - self.rows % self.pane_rows)
            for key, column in self._columns(table.slice(at, take)):
                found = coarse_counts(self.references[key], column)
                self._open[key] = self._open[key] + found if key in self._open else found
            at, self.rows = at + take, self.rows + take
            if self.rows % self.pane_rows == 0:
                self._step()
        return self._result(table.num_rows, whole)

    @property
    def reach(self) -> dict[Key, float]:
        """By feature and segment with a tolerance: the smallest effect that can alarm at this reference's size, about."""
        made = {}
        for key, limits in self._detectors.budget.by_key.items():
            if (asked := self._detectors.tolerance(key)).value > 0:
                made[key] = smallest_effect(self.references[key], asked.kind, asked.value, limits, self.pane_rows)
        return made

    def _step(self) -> None:
        self._detectors.step_coarse(self._state, self._open, self.panes * 1000)
        self.panes, self._open = self.panes + 1, {}
        said = self._detectors.evidence(self._state)
        self._history.append((self.rows, {k: told for k, e in said.items() if (told := loudest(e))[0] is not None}))
        del self._history[:-REMEMBERED_PANES]
        for key, evidence in said.items():
            if key in self._alarmed:
                if evidence.returned:
                    began = self._alarmed.pop(key)
                    if key in self._new:
                        self._over.append(f"over again: {title(*key)} was in alarm from row {began:,} to {self.rows:,}")
                    self._detectors.reset(self._state, key)
            elif evidence.fires:
                self._alarmed[key] = self.rows
                self._new[key] = None

    def _result(self, rows: int, counted: Mapping[Key, Counts]) -> Result:
        said = self._detectors.evidence(self._state)
        found = {}
        for key, reference in self.references.items():
            told = statistics.compare(reference, counted.get(key, EMPTY), self.plan.alpha)
            evidence = said.get(key)
            history = tuple((at, *values[key]) for at, values in self._history if key in values)
            since = None if evidence is None else evidence.since * self.pane_rows
            found[key] = FeatureResult(
                *key, self._state_of(key, evidence), told, evidence, since, reference, counted.get(key, EMPTY), history
            )
        return Result(rows, self.rows, self.run_length, MappingProxyType(found), tuple(self._new), self._notes())

    def _notes(self) -> tuple[str, ...]:
        """What a reader of the result must know beside it."""
        waiting = self.rows % self.pane_rows
        return (
            *self._over,
            *((f"waiting: {waiting:,} of {self.pane_rows:,} rows of the pane, not yet judged",) if waiting else ()),
            *((f"not watched: {', '.join(self.unwatched)}",) if self.unwatched else ()),
        )

    def _state_of(self, key: Key, evidence: Evidence | None) -> State:
        if key in self._detectors.budget.refused or evidence is None:
            return "reference_too_small"
        if key in self._alarmed:
            return "alarm"
        pairs = ((evidence.e_value, evidence.threshold), (evidence.scan_value, evidence.scan_threshold))
        near = any(v is not None and t is not None and v >= t - WARNING_DISTANCE for v, t in pairs)
        return "warning" if near and evidence.material else "ok"

    def _checked(self, window: Data) -> pa.Table:
        table = table_of(window, "window")
        needed = [*(f.name for f in self.plan.features), *(c for s in self.plan.segments for c in s)]
        expect(table, "window", needed)
        return alike(table, self._types, needed)

    def _columns(self, table: pa.Table) -> Iterable[tuple[Key, pa.Array]]:
        return _columns(self.plan, table, {segment for _, segment in self.references})

    def __repr__(self) -> str:
        refused = len(self._detectors.budget.refused)
        small = f", {refused} with a reference too small to alarm" if refused else ""
        count = len(self.plan.features)
        whole = {f: v for (f, segment), v in self.reach.items() if segment == WHOLE}
        reach = (
            f", smallest effect that can alarm: {', '.join(f'{f} {v:.3g}' for f, v in whole.items())}" if whole else ""
        )
        left = f", not watched: {', '.join(self.unwatched)}" if self.unwatched else ""
        return (
            f"Monitor({count} feature{'s' * (count != 1)}, {len(self.references)} detector{'s' * (len(self.references) != 1)}{small}{reach}{left}, pane_rows={self.pane_rows:,}, "
            f"run_length={self.run_length:,.0f}, rows={self.rows:,}, in alarm: {len(self._alarmed)})"
        )


def budget(text: str, rows_a_day: float) -> float:
    """The run length in rows of a page budget, at a rate.

    >>> budget("1 per 30 d", rows_a_day=100_000)
    3000000.0
    """
    if not rows_a_day > 0:
        raise ValueError(f"rows_a_day: expected a number > 0, got {rows_a_day!r}")
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) per ([0-9]+(?:\.[0-9]+)?) ?(h|d)", text)
    if not match or not float(match[1]) or not float(match[2]):
        raise ValueError(f"expected a budget like `1 per 30 d`, got {text!r}")
    return rows_a_day * float(match[2]) * (1 / 24 if match[3] == "h" else 1.0) / float(match[1])


def compare(
    reference: Data,
    window: Data,
    *,
    features: Sequence[str] | None = None,
    segments: Sequence[str | Sequence[str]] = (),
    alpha: float = 0.05,
) -> Result:
    """Two samples once: every statistic of a window, `different` where the p-value stands up to Holm's correction.

    For looking, not for watching: asked again and again of the same stream it finds something sooner or later. Holm 1979:
    the smallest of K p-values is held to alpha / K, the next to alpha / (K - 1), until one does not pass. A feature's is the
    smaller one of its values and of its nulls, doubled (Bonferroni); that of the values where neither sample has nulls.

    >>> rng = np.random.default_rng(7)
    >>> compare(rng.normal(0, 1, 5_000), rng.normal(0.2, 1, 5_000))["value"].state
    'different'
    """
    check_alpha(alpha)
    table, other = table_of(reference, "reference"), table_of(window, "window")
    groupings = groupings_of(segments)
    plan = DriftPlan(monitored(table, features, 0.0, {}), groupings, alpha=alpha, rejects=False)
    needed = [*(f.name for f in plan.features), *(c for g in groupings for c in g)]
    expect(table, "reference", needed)
    expect(other, "window", needed)
    other = alike(other, table.schema, needed)
    references = _references(plan, table)
    counted = {k: cells.count(references[k], c) for k, c in _columns(plan, other, {s for _, s in references})}
    told = {k: statistics.compare(r, counted.get(k, EMPTY), alpha) for k, r in references.items()}
    p_values = {k: _either(t) for k, t in told.items()}
    different = _holm({k: p for k, p in p_values.items() if p is not None}, alpha)
    found = {}
    for k, t in told.items():
        state: State = "different" if k in different else "undefined" if t.p_value is None else "ok"
        found[k] = FeatureResult(*k, state, t, None, None, references[k], counted.get(k, EMPTY), ())
    left = unwatched(table, features, set(needed))
    notes = (f"not watched: {', '.join(left)}",) if left else ()
    return Result(other.num_rows, other.num_rows, None, MappingProxyType(found), (), notes)


def _references(plan: DriftPlan, table: pa.Table) -> dict[Key, FeatureReference]:
    if not table.num_rows:
        raise ValueError("reference: expected rows, got none")
    segments = {WHOLE}
    for columns in plan.segments:
        sizes = table.select(list(columns)).drop_null().group_by(list(columns)).aggregate([([], "count_all")])
        large = sizes.filter(pc.greater_equal(sizes.column("count_all"), SEGMENT_ROWS))
        order = [("count_all", "descending"), *((c, "ascending") for c in columns)]
        values = large.sort_by(order).slice(0, SEGMENTS_A_GROUPING).select(list(columns)).to_pylist()
        segments |= {segment_name(columns, tuple(v.values())) for v in values}
    features = {f.name: f for f in plan.features}
    return {
        (name, segment): cells.build(features[name], segment, column, version=1, effective_from=0)
        for (name, segment), column in _columns(plan, table, segments)
    }


def _columns(plan: DriftPlan, table: pa.Table, segments: set[str]) -> Iterable[tuple[Key, pa.Array]]:
    """Each feature's values in the whole, then in each of the segments; no feature within a segment of its own."""
    for feature in plan.features:
        yield (feature.name, WHOLE), table.column(feature.name)
    for columns in plan.segments:
        features = [f for f in plan.features if f.name not in columns]
        for name, rows in _split(table, columns):
            if name in segments:
                for feature in features:
                    yield (feature.name, name), table.column(feature.name).take(rows)


def _split(table: pa.Table, columns: Sequence[str]) -> Iterable[tuple[str, pa.Array]]:
    """(segment, its rows in their order) of each value of a grouping; rows with a null in it belong to none."""
    encoded = [table.column(c).combine_chunks().dictionary_encode() for c in columns]
    codes, sizes = [e.indices.fill_null(-1).to_numpy() for e in encoded], [max(1, len(e.dictionary)) for e in encoded]
    whole = np.flatnonzero(np.logical_and.reduce([c >= 0 for c in codes]))
    distinct, of = np.unique(np.ravel_multi_index([c[whole] for c in codes], sizes), return_inverse=True)
    order, ends = whole[np.argsort(of, kind="stable")], np.cumsum(np.bincount(of, minlength=len(distinct)))
    for at, place in enumerate(zip(*np.unravel_index(distinct, sizes), strict=True)):
        values = tuple(e.dictionary[int(i)].as_py() for e, i in zip(encoded, place, strict=True))
        yield segment_name(tuple(columns), values), pa.array(order[ends[at - 1] if at else 0 : ends[at]])


def _either(told: statistics.WindowStatistics) -> float | None:
    """The p-value of values and nulls together; given that nobody has nulls, that of the values is enough."""
    if told.p_value is None:
        return told.null_p_value
    if told.null_p_value is None or not (told.nulls or told.null_ratio_reference):
        return told.p_value
    return min(1.0, 2 * min(told.p_value, told.null_p_value))


def _holm(p_values: Mapping[Key, float], alpha: float) -> set[Key]:
    passed: set[Key] = set()
    for rank, key in enumerate(sorted(p_values, key=lambda k: p_values[k])):
        if p_values[key] > alpha / (len(p_values) - rank):
            break
        passed.add(key)
    return passed
