"""PURE. What a model sees of a row: one definition for training rows, for a batch of rows, and for a single request.

A row's own columns first, then the history of its entities (`feature_plan`), which comes as columns of a training frame
or as values from the serving worker's store. The only place beside the generator that knows sales columns.
A definition that changes gets a new version: a stored model names the version that it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import cast

import numpy as np
import polars as pl

from pipeline.contract import Contract
from pipeline.errors import UsageError
from stream_processors.live import feature_plan

MOST_CATEGORIES = 64  # learned where a contract lists none; the rest is "unknown", as a new value is


@dataclass(frozen=True, slots=True)
class Derived:
    """A number made from a row's columns, twice: for frames and for one record. A test compares the two."""

    columns: tuple[str, ...]
    frame: pl.Expr
    record: Callable[..., float]  # called with the columns' values, none of them null


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Numbers, then categories as codes, then history; null, NaN and unknown categories are NaN, which the trees route."""

    name: str
    version: str
    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]  # by categorical feature; a value's code is its place
    clock: str  # the event-time column
    history: tuple[str, ...] = ()
    definition: str = ""  # of the history, "" without one
    _derived: Mapping[str, Derived] = field(default_factory=dict, repr=False)
    _codes: Mapping[str, Mapping[object, float]] = field(default_factory=dict, repr=False)

    @property
    def categorical(self) -> tuple[str, ...]:
        return tuple(self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categories, *self.history)

    @property
    def columns(self) -> tuple[str, ...]:
        """What `matrix` reads of a frame: columns of the contract, then the history."""
        own = [c for n in self.numeric for c in (self._derived[n].columns if n in self._derived else (n,))]
        return (*dict.fromkeys([*own, *self.categories, self.clock]), *self.history)

    def matrix(self, rows: pl.DataFrame, history: np.ndarray | None = None) -> np.ndarray:
        """float64[rows, features]; the history is taken from the frame unless it is given."""
        known = rows.select(self._expressions(history is None)).to_numpy()
        whole = known if history is None or not self.history else np.hstack([known, history])
        return np.ascontiguousarray(whole, dtype=np.float64)

    def row(self, record: Mapping[str, object], history: Sequence[float] = ()) -> list[float]:
        """The same of one decoded record, without a frame: 3 us."""
        found = [self._number(n, record) for n in self.numeric]
        found += [self._codes[c].get(record.get(c), math.nan) for c in self.categories]
        return [*found, *history]

    def spec(self) -> dict[str, object]:
        """What `from_spec` needs to make the same set again."""
        return {
            "name": self.name,
            "version": self.version,
            "numeric": list(self.numeric),
            "categories": [[k, list(v)] for k, v in self.categories.items()],  # pairs: the order is the matrix's
            "clock": self.clock,
            "history": list(self.history),
            "definition": self.definition,
        }

    def _number(self, name: str, record: Mapping[str, object]) -> float:
        derived = self._derived.get(name)
        if derived is None:
            value = record.get(name)
            return math.nan if value is None else float(cast(float, value))
        values = [record.get(c) for c in derived.columns]
        return math.nan if None in values else derived.record(*values)

    def _expressions(self, with_history: bool) -> list[pl.Expr]:
        numbers = [self._derived[n].frame if n in self._derived else pl.col(n) for n in self.numeric]
        made = [e.cast(pl.Float64).alias(n) for n, e in zip(self.numeric, numbers, strict=True)]
        made += [_code(c, values) for c, values in self.categories.items()]
        return [*made, *(pl.col(h).cast(pl.Float64) for h in self.history if with_history)]


def features_for(contract: Contract) -> FeatureSet:
    """The contract's feature set: its own definition where there is one, its monitored features otherwise; its history."""
    plan = contract.drift.features
    name = contract.id if contract.id in _DEFINED else "monitored"
    numbers = tuple(f.name for f in plan if f.kind == "numeric")
    values = {f.name: contract.field(f.name).allowed or () for f in plan if f.kind == "categorical"}
    if contract.id in _DEFINED:
        numbers, categories = _DEFINED[contract.id]
        values = {c: contract.field(c).allowed or () for c in categories}
    history = feature_plan.compiled(contract)
    made = _build(name, numbers, values, contract.time.field)
    return made if history is None else _with(made, history.names, history.definition)


def with_categories(features: FeatureSet, rows: pl.DataFrame) -> FeatureSet:
    """Categories that the contract does not list, taken from training rows: the most frequent, in a fixed order."""
    learned = {k: v or _frequent(rows[k]) for k, v in features.categories.items()}
    own = tuple(n for n in features.numeric if n not in features._derived)
    return _with(_build(features.name, own, learned, features.clock), features.history, features.definition)


def from_spec(spec: Mapping[str, object]) -> FeatureSet:
    """The feature set that a stored model was trained with; UsageError if this code defines another version of it."""
    name, version = str(spec["name"]), str(spec["version"])
    if _VERSIONS.get(name) != version:
        raise UsageError(
            f"feature set {name}: the model was trained with version {version}, this code defines {_VERSIONS.get(name)}"
        )
    numeric, categories, history = spec["numeric"], spec["categories"], spec["history"]
    assert isinstance(numeric, list) and isinstance(categories, list) and isinstance(history, list)
    own = tuple(n for n in numeric if n not in _derived(name, ""))
    made = _build(name, own, {str(k): tuple(v) for k, v in categories}, str(spec["clock"]))
    return _with(made, tuple(history), str(spec["definition"]))


def check_history(features: FeatureSet, contract: Contract) -> None:
    """UsageError if the contract's history has another meaning than the one that the model was trained with."""
    found = feature_plan.compiled(contract)
    if features.history and (found is None or found.definition != features.definition):
        raise UsageError(
            f"history of {contract.name}: the model was trained with definition {features.definition}, "
            f"the contract declares {found.definition if found else 'none'}; train a model on it first"
        )


_VERSIONS = {"sales": "2", "monitored": "2"}
_DEFINED = {"sales": (("price", "quantity", "discount"), ("category", "region", "channel"))}


def _derived(name: str, clock: str) -> dict[str, Derived]:
    value = Derived(
        ("price", "quantity", "discount"),
        pl.col("price") * pl.col("quantity") * (1 - pl.col("discount")),
        lambda price, quantity, discount: price * quantity * (1 - discount),
    )
    own = {"value": value} if name == "sales" else {}
    hour: Callable[[datetime], float] = lambda t: float(t.hour)  # noqa: E731
    weekday: Callable[[datetime], float] = lambda t: float(t.isoweekday())  # noqa: E731
    return {
        **own,
        "hour": Derived((clock,), pl.col(clock).dt.hour(), hour),
        "weekday": Derived((clock,), pl.col(clock).dt.weekday(), weekday),
    }


def _build(name: str, numbers: tuple[str, ...], values: Mapping[str, tuple[str, ...]], clock: str) -> FeatureSet:
    derived = _derived(name, clock)
    return FeatureSet(
        name=name,
        version=_VERSIONS[name],
        numeric=(*numbers, *derived),
        categories=MappingProxyType(dict(values)),
        clock=clock,
        _derived=derived,
        _codes={c: {v: float(i) for i, v in enumerate(known)} for c, known in values.items()},
    )


def _with(features: FeatureSet, history: tuple[str, ...], definition: str) -> FeatureSet:
    f = features
    return FeatureSet(f.name, f.version, f.numeric, f.categories, f.clock, history, definition, f._derived, f._codes)


def _code(column: str, values: tuple[str, ...]) -> pl.Expr:
    if not values:
        return pl.lit(None, pl.Float64).alias(column)
    codes = np.arange(len(values), dtype=float)
    return pl.col(column).replace_strict(list(values), codes, default=None, return_dtype=pl.Float64).alias(column)


def _frequent(column: pl.Series) -> tuple[str, ...]:
    counts = column.drop_nulls().value_counts().sort(["count", column.name], descending=[True, False])
    return tuple(sorted(counts[column.name].head(MOST_CATEGORIES).to_list()))
