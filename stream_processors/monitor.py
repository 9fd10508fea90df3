"""PURE. Drift without a stream: `Monitor(reference)`, `monitor.update(window)`, in a notebook or a service. No Kafka, no files.

    monitor = Monitor(reference)          # polars frame, Arrow table, dict of arrays, one array
    result = monitor.update(window)       # rows as they come, any number at a time
    result.alarm, result["price"].statistic, result.plot()

The same cells, detectors and statistics as in the stream. Rows carry no event time here, so a pane is a number of rows:
every `pane_rows` rows the detectors step once, however the rows were divided among calls, and evidence is the same for
any division. The page budget is a run length: at most one false alarm in `run_length` rows is to be expected, over all
features and segments together (`budget`). Rows are taken as independent of each other; a rhythm needs event times.
Rule `ks_alpha` promises nothing of the kind: it holds the K-S distance of each window, that is of each call's rows,
against its critical value at `alpha`, as the stream does under this rule; the detectors run beside it for comparison.
It looks at values only: a note names the features whose share of nulls has moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.contract import DriftPlan, Tolerance
from stream_processors.comparing import holm, statistics
from stream_processors.comparing.change import named
from stream_processors.detectors.budget import segments_of
from stream_processors.detectors.detector import Detectors, Evidence
from stream_processors.detectors.reach import smallest_effect
from stream_processors.judging.panes import WHOLE, Key
from stream_processors.judging.pronounce import ks_state
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
from stream_processors.library.p_values import beside_values, decided_by_nulls, either, nulls_moved
from stream_processors.library.parts import columns_of, references_of
from stream_processors.library.result import FeatureResult, Result, State, loudest, title
from stream_processors.reference import cells
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
        rule: Literal["bank", "scan", "confseq", "ks_alpha"] = "bank",
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
        self.references = references_of(self.plan, table)
        if rule == "scan":
            check_scan(pane_rows, [self.references[f.name, WHOLE].rows for f in named if not f.tolerance.value])
        self._by_window = rule == "ks_alpha"
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
        told = {
            key: statistics.compare(r, whole.get(key, EMPTY), self.plan.alpha) for key, r in self.references.items()
        }
        if self._by_window:
            self._hold(told)
        return self._result(table.num_rows, whole, told)

    @property
    def reach(self) -> dict[Key, float]:
        """By feature and segment with a tolerance: the smallest effect that can alarm at this reference's size, about."""
        made = {}
        for key, limits in self._detectors.budget.by_key.items():
            if (asked := self._detectors.tolerance(key)).value > 0 and not self._by_window:
                made[key] = smallest_effect(self.references[key], asked.kind, asked.value, limits, self.pane_rows)
        return made

    def _step(self) -> None:
        self._detectors.step_coarse(self._state, self._open, self.panes * 1000)
        self.panes, self._open = self.panes + 1, {}
        said = self._detectors.evidence(self._state)
        self._history.append((self.rows, {k: told for k, e in said.items() if (told := loudest(e))[0] is not None}))
        del self._history[:-REMEMBERED_PANES]
        for key, evidence in said.items() if not self._by_window else ():
            if key in self._alarmed:
                if evidence.returned:
                    began = self._alarmed.pop(key)
                    if key in self._new:
                        self._over.append(f"over again: {title(*key)} was in alarm from row {began:,} to {self.rows:,}")
                    self._detectors.reset(self._state, key)
            elif evidence.fires:
                self._alarmed[key] = self.rows
                self._new[key] = None

    def _hold(self, told: Mapping[Key, statistics.WindowStatistics]) -> None:
        """Rule `ks_alpha`: in alarm is what is above its critical value in this window, whatever came before."""
        refused, before = self._detectors.budget.refused, self._alarmed
        self._alarmed = {
            k: before.get(k, self.rows)
            for k, t in told.items()
            if k not in refused and ks_state(self.references[k], t) == "alarm"
        }
        self._new = {k: None for k in self._alarmed if k not in before}

    def _result(
        self, rows: int, counted: Mapping[Key, Counts], told: Mapping[Key, statistics.WindowStatistics]
    ) -> Result:
        said = self._detectors.evidence(self._state)
        found = {}
        for key, reference in self.references.items():
            evidence = said.get(key)
            history = tuple((at, *values[key]) for at, values in self._history if key in values)
            since = None if evidence is None else evidence.since * self.pane_rows
            state, why = self._state_of(key, evidence, told[key])
            # the detectors remember what the windows before held, and `ks_alpha` judges each window by itself
            shown = evidence is not None and (state == "alarm" or not self._by_window)
            change = named(told[key], evidence.change) if evidence is not None and shown else None
            found[key] = FeatureResult(
                *key, state, told[key], evidence, since, reference, counted.get(key, EMPTY), history, why, change
            )
        promised = None if self._by_window else self.run_length
        return Result(
            rows, self.rows, promised, MappingProxyType(found), tuple(self._new), self._notes(told), self.plan.rule
        )

    def _notes(self, told: Mapping[Key, statistics.WindowStatistics]) -> tuple[str, ...]:
        """What a reader of the result must know beside it."""
        waiting = 0 if self._by_window else self.rows % self.pane_rows
        nulls = beside_values(self.plan.rule, told, self.plan.alpha) if self._by_window else None
        return (
            *self._over,
            *((f"waiting: {waiting:,} of {self.pane_rows:,} rows of the pane, not yet judged",) if waiting else ()),
            *((nulls,) if nulls else ()),
            *((f"not watched: {', '.join(self.unwatched)}",) if self.unwatched else ()),
        )

    def _state_of(
        self, key: Key, evidence: Evidence | None, told: statistics.WindowStatistics
    ) -> tuple[State, str | None]:
        """(state, why it is no verdict): an alarm lasts through a window that says nothing, `ok` needs one that does."""
        if evidence is None:
            return "reference_too_small", self._detectors.budget.refused[key]
        if key in self._alarmed:
            return "alarm", told.undefined
        if told.undefined is not None:
            return "undefined", told.undefined
        reference = self.references[key]
        if self._by_window:
            return ks_state(reference, told), told.reasons.get("critical_value") or reference.rounded
        if not self.panes:
            return "undefined", f"{self.rows:,} of the {self.pane_rows:,} rows of the first pane"
        pairs = ((evidence.e_value, evidence.threshold), (evidence.scan_value, evidence.scan_threshold))
        near = any(v is not None and t is not None and v >= t - WARNING_DISTANCE for v, t in pairs)
        if near and evidence.material:
            return "warning", None
        return ("undefined", reference.rounded) if reference.rounded else ("ok", None)

    def _checked(self, window: Data) -> pa.Table:
        table = table_of(window, "window")
        needed = [*(f.name for f in self.plan.features), *(c for s in self.plan.segments for c in s)]
        expect(table, "window", needed)
        return alike(table, self._types, needed, self.plan.segments)

    def _columns(self, table: pa.Table) -> Iterable[tuple[Key, pa.Array]]:
        return columns_of(self.plan, table, segments_of(self.references))

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

    For looking, not for watching: asked again and again of the same stream it finds something sooner or later. A feature's
    p-value is the smaller one of its values and of its nulls, doubled (Bonferroni); that of the values where neither sample
    has nulls. `change` says so where it is that of the nulls.

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
    other = alike(other, table.schema, needed, groupings)
    references = references_of(plan, table)
    counted = {k: cells.count(references[k], c) for k, c in columns_of(plan, other, segments_of(references))}
    told = {k: statistics.compare(r, counted.get(k, EMPTY), alpha) for k, r in references.items()}
    p_values = {k: either(t) for k, t in told.items()}
    held = holm.adjusted({k: p for k, p in p_values.items() if p is not None})
    different = {k for k, p in held.items() if p <= alpha}
    found = {}
    for k, t in told.items():
        why = t.undefined or t.reasons.get("p_value") or references[k].rounded
        state: State = "different" if k in different else "undefined" if why else "ok"
        change = nulls_moved(t) if k in different and decided_by_nulls(t) else None
        found[k] = FeatureResult(*k, state, t, None, None, references[k], counted.get(k, EMPTY), (), why, change)
    left = unwatched(table, features, set(needed))
    notes = (f"not watched: {', '.join(left)}",) if left else ()
    return Result(other.num_rows, other.num_rows, None, MappingProxyType(found), (), notes)
