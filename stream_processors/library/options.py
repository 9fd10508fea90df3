"""PURE. The options of a monitor, checked where they are given: every ValueError names the option, expected and got."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from typing import Literal

import pyarrow as pa

from pipeline.contract import MonitoredFeature, Tolerance
from stream_processors.detectors.engine import LARGEST_SHARE
from stream_processors.library.frames import expect, is_number

RULES = ("bank", "scan", "confseq", "ks_alpha")
UNITS = {"numeric": ("distance", "wasserstein"), "categorical": ("share",)}

Tolerances = float | Tolerance | Mapping[str, float | Tolerance]


def check_steps(pane_rows: int, run_length: float) -> None:
    if isinstance(pane_rows, bool) or not _number(pane_rows) or pane_rows != int(pane_rows) or pane_rows < 1:
        raise ValueError(f"pane_rows: expected a whole number of rows >= 1, got pane_rows {pane_rows!r}")
    if not _number(run_length) or not pane_rows <= run_length <= 1e15:
        raise ValueError(f"run_length: expected a number of rows from pane_rows ({pane_rows:,}) to 1e15, got {run_length!r}")  # fmt: skip


def check_rule(rule: str, alpha: float) -> None:
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    check_alpha(alpha)


def check_scan(pane_rows: int, reference_rows: Sequence[float]) -> None:
    """The scan alone would say nothing, and `ok` to everything, at panes beyond the largest scale that it looks at."""
    least = min(reference_rows, default=inf)
    if pane_rows > LARGEST_SHARE * least:
        raise ValueError(
            f"pane_rows: with rule 'scan' expected at most a tenth of the reference's {least:,.0f} rows, got {pane_rows:,}; "
            "the scan looks at no larger scale: smaller panes, a larger reference, or rule 'bank'"
        )


def check_alpha(alpha: float) -> None:
    if not _number(alpha) or not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a number between 0 and 1, got {alpha!r}")


def tolerance_of(name: str, kind: Literal["numeric", "categorical"], asked: object) -> Tolerance:
    """A bare number is a K-S distance for numbers, a share for categories."""
    where = f"tolerance of {name!r}"
    if not isinstance(asked, Tolerance):
        if not _number(asked):
            raise ValueError(f"{where}: expected a number or a Tolerance, got {asked!r}")
        asked = Tolerance("distance" if kind == "numeric" else "share", float(asked))
    top = None if asked.kind == "wasserstein" else 1.0
    if not _number(asked.value) or asked.value < 0 or (top is not None and asked.value >= top):
        upto = "a finite number >= 0 in the feature's units" if top is None else "from 0 to below 1"
        raise ValueError(f"{where}: expected {upto}, got {asked.value!r}")
    if asked.kind not in UNITS[kind]:
        raise ValueError(f"{where}: expected the kind {' or '.join(UNITS[kind])} of a {kind} column, got {asked.kind!r}")  # fmt: skip
    return asked


def groupings_of(segments: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Each grouping's columns; a set of columns may be named once, or its rows would count twice."""
    if isinstance(segments, str) or not isinstance(segments, Iterable):
        raise ValueError(f"segments: expected a list of columns or of tuples of columns, got {segments!r}")
    made: list[tuple[str, ...]] = []
    for given in segments:
        columns = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else ()
        if not columns or not all(isinstance(c, str) for c in columns):
            raise ValueError(f"segments: expected a column or a tuple of columns, got {given!r}")
        if len(set(columns)) < len(columns):
            raise ValueError(f"segments: expected different columns in a tuple, got {given!r}")
        if set(columns) in map(set, made):
            raise ValueError(f"segments: expected columns that are not grouped by already, got {given!r}")
        made.append(columns)
    return tuple(made)


def monitored(
    table: pa.Table, features: Sequence[str] | None, tolerance: Tolerances, weights: Mapping[str, float]
) -> tuple[MonitoredFeature, ...]:
    """The features asked for, or every column of numbers or texts."""
    if isinstance(features, str):
        raise ValueError(f"features: expected a list of columns, got the text {features!r}")
    kinds = {name: table.column(name).type for name in table.column_names}
    usable = [name for name, kind in kinds.items() if is_number(kind) or pa.types.is_string(kind)]
    expect(table, "reference", features or [])
    refused = [name for name in features or [] if name not in usable]
    if refused:
        raise ValueError(f"features: expected columns of numbers or texts, got {', '.join(f'{n} ({kinds[n]})' for n in refused)}")  # fmt: skip
    chosen = list(features) if features is not None else usable
    if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
        raise ValueError(f"features: expected each column once, got twice {twice}")
    if not chosen:
        raise ValueError("features: expected at least one column of numbers or texts, got none")
    by_name = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(chosen, tolerance)
    for option, given in (("tolerance", by_name), ("weights", weights)):
        if unknown := [name for name in given if name not in chosen]:
            raise ValueError(f"{option}: expected names among the features {chosen}, got {unknown}")
    made = []
    for name in chosen:
        kind: Literal["numeric", "categorical"] = "numeric" if is_number(kinds[name]) else "categorical"
        weight = weights.get(name, 1.0)
        if not _number(weight) or weight <= 0:
            raise ValueError(f"weights: expected a finite number > 0 for {name!r}, got {weight!r}")
        made.append(MonitoredFeature(name, kind, tolerance_of(name, kind, by_name.get(name, 0.0)), float(weight)))
    return tuple(made)


def unwatched(table: pa.Table, features: Sequence[str] | None, taken: set[str]) -> tuple[str, ...]:
    """`t (timestamp[us])` for each column that was left out because of its type; none if the features were asked for."""
    if features is not None:
        return ()
    return tuple(f"{n} ({table.column(n).type})" for n in table.column_names if n not in taken)


def _number(value: object) -> bool:
    try:
        return not isinstance(value, str | bytes) and isfinite(value)
    except (TypeError, OverflowError):
        return False
