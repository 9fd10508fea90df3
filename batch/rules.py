"""PURE. Dataset rules over every decoded row, rejected ones included, by event-time window or over the whole run.

Rows go in, a window's verdicts come out when the watermark has passed its end. Semantics:
- row_count: decoded rows of the window; a window between two others that has none counts 0.
- mean: over the rows where the column is not null; NaN-free by the decoder; no row: 0 rows, no violation, value null.
- unique: flagged rows = all rows whose key occurs more than once; a key with a null in it is not compared. Keys are
  compared by 64-bit hashes, eight bytes a row: repeats are always found, and among n different keys one pair is taken
  for equal with a chance of n^2 / 2^65 (10 million: 3 in a million).
- freshness: seconds from the newest event time to the newest append time of the window's rows.
A row without an event time, or a rejected one whose time is not to be believed, belongs to no window, only to the whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import polars as pl

from pipeline.contract import APPEND_TIME, REJECT, Contract, DatasetRule, Severity, Status
from pipeline.times import ms, to_text

RUN = "run"  # the window of a rule without one
UNPLACED = ("time_future", "time_range")  # rejects whose event time is not to be believed
AHEAD = timedelta(
    hours=1
)  # a rejected row further ahead of its append time has no window, whatever else is wrong with it
EMPTY_WINDOWS = 1_000  # at most so many empty windows in a row are judged: one wild clock must not make millions
KEYS_HELD = 12_000_000  # of all rules and open windows of one length, 96 MB; beyond it a window's uniqueness is what it was by then: broken, or `unknown` (`driftline quality` still tells)
_WINDOW, _TIME = "__window", "__time"
_ORDER: dict[Status, int] = {"ok": 0, "unknown": 1, "degraded": 2, "critical": 3}


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """One dataset rule over one window."""

    contract: str
    window_start: str  # RFC 3339, or "run"
    window_end: str
    rule: str
    kind: str
    value: float | None
    expected: str
    rows: int
    violations: int  # flagged rows of `unique`, else 1 where the rule is broken
    severity: Severity
    passed: bool
    status: Status

    @property
    def key(self) -> str:
        return f"{self.contract}/{self.window_start}/{self.rule}"


def status_of(verdicts: Iterable[QualityVerdict]) -> Status:
    """The worst of them; `unknown` where there is none.

    >>> status_of([])
    'unknown'
    """
    return worst(v.status for v in verdicts)


def worst(statuses: Iterable[Status]) -> Status:
    known = [s for s in statuses if s != "unknown"]
    return max(known, key=_ORDER.__getitem__, default="unknown")


@dataclass(slots=True)
class _Tally:
    """What is kept of one window's rows for the rules of one window length."""

    rows: int = 0
    newest_event: int | None = None
    newest_append: int | None = None
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)  # rule -> (sum, count)
    keys: dict[str, list[np.ndarray]] = field(default_factory=dict)  # rule -> hashes, uint64
    held: int = 0  # keys
    overflow: bool = False
    flagged: dict[str, int] = field(default_factory=dict)  # rule -> rows flagged before the overflow, at least so many

    def add(self, rows: pl.DataFrame, rules: Sequence[DatasetRule], room: int | None) -> None:
        self.rows += rows.height
        self.newest_event = _newest(self.newest_event, rows[_TIME].max())
        self.newest_append = _newest(self.newest_append, rows[APPEND_TIME].max())
        for rule in rules:
            if rule.kind == "mean":
                total, count = self.sums.get(rule.name, (0.0, 0))
                column = rows[rule.columns[0]].drop_nulls().cast(pl.Float64)
                self.sums[rule.name] = (total + float(column.sum()), count + column.len())
            elif rule.kind == "unique" and not self.overflow:
                part = hashes(rows.select(rule.columns))
                self.keys.setdefault(rule.name, []).append(part)
                self.held += len(part)
        if room is not None and self.held > room and not self.overflow:
            self.flagged = {name: flagged(parts) for name, parts in self.keys.items()}
            self.overflow, self.held = True, 0
            self.keys.clear()


class Windows:
    """Feeds rows to the rules of one window length (None = the whole run) and closes windows in order."""

    def __init__(
        self,
        contract: Contract,
        length: timedelta | None,
        rules: Sequence[DatasetRule],
        closed: int | None = None,
        keys_held: int | None = KEYS_HELD,
    ):
        self.contract, self.rules = contract, tuple(rules)
        self.length = None if length is None else ms(length)
        self.closed = closed  # ms: windows that start before this are judged and gone
        self.late = 0
        self._keys_held = keys_held
        self._open: dict[int, _Tally] = {}

    def add(self, rows: pl.DataFrame) -> None:
        """Rows with `__time` (ms or null) and the rules' columns."""
        if self.length is None:
            if rows.height:
                self._add(0, rows)
            return
        placed = rows.filter(pl.col(_TIME).is_not_null()).with_columns(
            (pl.col(_TIME) // self.length * self.length).alias(_WINDOW)
        )
        if self.closed is not None:
            on_time = placed.filter(pl.col(_WINDOW) >= self.closed)
            self.late, placed = self.late + placed.height - on_time.height, on_time
        for (start,), part in placed.partition_by(_WINDOW, as_dict=True).items():
            self._add(int(start), part)

    def close(self, watermark: int | None) -> list[QualityVerdict]:
        """Verdicts of every window that ends at or before the watermark, empty ones between included; they are forgotten."""
        if self.length is None or watermark is None:
            return []
        until = watermark // self.length * self.length
        done = sorted(start for start in self._open if start < until)
        first = self.closed if self.closed is not None else (done[0] if done else until)
        verdicts = [
            v
            for start in _steps(first, until, self.length, done)
            for v in self._judge(start, self._open.pop(start, _Tally()))
        ]
        self.closed = max(until, self.closed or until) if done or self.closed is not None else None
        return verdicts

    def peek(self, final: bool) -> list[QualityVerdict]:
        """Verdicts of what is open now, which stays open. Without `final` only the whole run's, and of it nothing that more rows could mend."""
        if self.length is None:
            verdicts = self._judge(0, self._open.get(0, _Tally()))
            return (
                verdicts
                if final
                else [v for v in verdicts if v.kind != "row_count" or (v.value or 0) > (self._maximum(v.rule))]
            )
        return [v for start in sorted(self._open) for v in self._judge(start, self._open[start])] if final else []

    def oldest(self) -> int | None:
        """Start of the oldest window that still needs its rows; None for "nothing", the run needs all of them."""
        return min(self._open, default=None)

    def _maximum(self, name: str) -> float:
        bound = next(r for r in self.rules if r.name == name).maximum
        return float("inf") if bound is None else bound

    def _add(self, start: int, rows: pl.DataFrame) -> None:
        tally = self._open.setdefault(start, _Tally())
        others = sum(t.held for t in self._open.values() if t is not tally)
        tally.add(rows, self.rules, None if self._keys_held is None else self._keys_held - others)

    def _judge(self, start: int, tally: _Tally) -> list[QualityVerdict]:
        bounds = (RUN, RUN) if self.length is None else (to_text(start), to_text(start + self.length))
        return [
            judge(self.contract.name, rule, bounds, *_measure(rule, tally), rows=tally.rows, unknown=tally.overflow)
            for rule in self.rules
        ]


def judge(
    contract: str,
    rule: DatasetRule,
    bounds: tuple[str, str],
    value: float | None,
    violations: int,
    *,
    rows: int,
    unknown: bool = False,
) -> QualityVerdict:
    """A measured value against its rule; a rule with nothing to measure passes. `unknown`: not every key was kept."""
    if rule.kind == "unique":
        passed = violations == 0
    else:
        passed = value is None or _within(value, rule)
        violations = 0 if passed else 1
    undecided = unknown and rule.kind == "unique" and passed  # a repeat that was seen stays one, whatever comes
    severity_status: Status = "ok" if rule.severity == "info" else rule.severity
    status: Status = "unknown" if undecided else "ok" if passed else severity_status
    return QualityVerdict(
        contract,
        *bounds,
        rule.name,
        rule.kind,
        None if undecided else value,
        expected(rule),
        rows,
        violations,
        rule.severity,
        passed and not undecided,
        status,
    )


def expected(rule: DatasetRule) -> str:
    """The rule in words: `mean of price in [10, 1000]`."""
    columns = ", ".join(rule.columns)
    if rule.kind == "unique":
        return f"each ({columns}) at most once"
    what = {"row_count": "rows", "mean": f"mean of {columns}", "freshness": "seconds behind append time"}[rule.kind]
    if rule.minimum is not None and rule.minimum == rule.maximum:
        return f"{what} = {rule.minimum:g}"
    low, high = (
        ("-inf" if rule.minimum is None else f"{rule.minimum:g}"),
        ("inf" if rule.maximum is None else f"{rule.maximum:g}"),
    )
    return f"{what} in [{low}, {high}]"


def hashes(keys: pl.DataFrame) -> np.ndarray:
    """One uint64 a row without nulls; equal rows of equal column types have equal ones."""
    return keys.drop_nulls().hash_rows(seed=0).to_numpy()


def flagged(hashed: Sequence[np.ndarray]) -> int:
    """Rows whose key occurs more than once.

    >>> flagged([np.array([1, 1, 2], np.uint64), np.array([1], np.uint64)])
    3
    """
    in_order = np.concatenate(hashed) if hashed else np.empty(0, np.uint64)
    in_order.sort()
    as_next = in_order[1:] == in_order[:-1]
    runs = np.count_nonzero(as_next[:1]) + np.count_nonzero(as_next[1:] > as_next[:-1])
    return int(np.count_nonzero(as_next) + runs)


KEPT_VIOLATIONS = 200  # carried from commit to commit, worst first


def carry(before: Iterable[Mapping[str, str]], verdicts: Iterable[QualityVerdict]) -> list[dict[str, str]]:
    """The failed rules of all data so far, after these verdicts: a newer verdict on the same window replaces the older one, `unknown` none."""
    found = {(v["rule"], v["window_start"]): dict(v) for v in before}
    for v in verdicts:
        if v.status == "unknown":
            continue
        found.pop((v.rule, v.window_start), None)
        if v.status in ("degraded", "critical"):
            found[v.rule, v.window_start] = {
                "rule": v.rule,
                "severity": v.status,
                "window_start": v.window_start,
                "window_end": v.window_end,
            }
    newest_first = sorted(found.values(), key=lambda v: v["window_start"], reverse=True)
    return sorted(newest_first, key=lambda v: v["severity"] != "critical")[:KEPT_VIOLATIONS]


def groups(contract: Contract) -> dict[timedelta | None, list[DatasetRule]]:
    """The contract's dataset rules by window length."""
    found: dict[timedelta | None, list[DatasetRule]] = {}
    for rule in contract.dataset_rules:
        found.setdefault(rule.window, []).append(rule)
    return found


def prepare(rows: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """Decoded rows (block columns) -> the columns that rules need, with `__time` in ms, null where it is not to be believed."""
    needed = {c for rule in contract.dataset_rules for c in rule.columns}
    time = pl.col(contract.time.field).cast(pl.Datetime("ms", "UTC")).to_physical()
    append = pl.col(APPEND_TIME).cast(pl.Datetime("ms", "UTC")).to_physical()
    believable = pl.col(REJECT).is_null() | (
        ~pl.col(REJECT).is_in(UNPLACED) & (time >= 0) & (time <= append + ms(contract.time.future or AHEAD))
    )
    trusted = pl.when(believable).then(time).otherwise(None)
    return rows.select(
        *sorted(needed),
        trusted.alias(_TIME),
        append.alias(APPEND_TIME),
    )


def evaluate(rows: pl.DataFrame, contract: Contract) -> list[QualityVerdict]:
    """All verdicts over a finished set of decoded rows."""
    ready = prepare(rows, contract)
    verdicts = []
    for length, rules in groups(contract).items():
        windows = Windows(contract, length, rules, keys_held=None)
        windows.add(ready)
        newest = ready[_TIME].max()
        verdicts += windows.close(int(newest) if newest is not None else None) + windows.peek(final=True)
    return verdicts


def _measure(rule: DatasetRule, tally: _Tally) -> tuple[float | None, int]:
    """(value, flagged rows)"""
    if rule.kind == "row_count":
        return float(tally.rows), 0
    if rule.kind == "mean":
        total, count = tally.sums.get(rule.name, (0.0, 0))
        return (total / count if count else None), 0
    if rule.kind == "freshness":
        known = tally.newest_event is not None and tally.newest_append is not None
        return ((tally.newest_append - tally.newest_event) / 1000 if known else None), 0  # type: ignore[operator]
    count = tally.flagged.get(rule.name, 0) if tally.overflow else flagged(tally.keys.get(rule.name, []))
    return float(count), count


def _within(value: float, rule: DatasetRule) -> bool:
    return (rule.minimum is None or value >= rule.minimum) and (rule.maximum is None or value <= rule.maximum)


def _newest(old: int | None, new: object) -> int | None:
    if not isinstance(new, int):
        return old
    return new if old is None else max(old, new)


def _steps(first: int, until: int, length: int, done: Sequence[int]) -> list[int]:
    """Window starts in [first, until): all of them, or only those with rows where the emptiness is too long to tell."""
    known: Mapping[int, None] = dict.fromkeys(done)
    every = range(first, until, length)
    return list(every) if len(every) - len(known) <= EMPTY_WINDOWS else list(done)
