"""PURE. What a model sees of a row: one polars definition for the training frame and for a serving request.

Stateless: a row's features depend on that row alone. The only place beside the generator that knows sales columns.
A definition that changes gets a new version: a stored model names the version that it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import polars as pl

from pipeline.contract import Contract
from pipeline.errors import UsageError

MOST_CATEGORIES = 64  # learned where a contract lists none; the rest is "unknown", as a new value is


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Numbers first, then categories as codes; null, NaN and unknown categories are NaN, which the trees route."""

    name: str
    version: str
    columns: tuple[str, ...]  # contract columns that it reads
    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]  # by categorical feature; a value's code is its place
    expressions: tuple[pl.Expr, ...]  # one a feature, in the order of `names`, each Float64

    @property
    def categorical(self) -> tuple[str, ...]:
        return tuple(self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        return self.numeric + self.categorical

    def matrix(self, rows: pl.DataFrame) -> np.ndarray:
        """float64[rows, features]; the frame needs `columns` and may hold more."""
        return np.ascontiguousarray(rows.select(self.expressions).to_numpy(), dtype=np.float64)

    def spec(self) -> dict[str, object]:
        """What `from_spec` needs to make the same set again."""
        return {
            "name": self.name,
            "version": self.version,
            "columns": list(self.columns),
            "numeric": list(self.numeric),
            "categories": [[k, list(v)] for k, v in self.categories.items()],  # pairs: the order is the matrix's
        }


def features_for(contract: Contract) -> FeatureSet:
    """The contract's feature set: its own definition where there is one, its monitored features otherwise."""
    if contract.id in _DEFINED:
        return _build(contract.id, *_DEFINED[contract.id](contract), contract.time.field)
    plan = contract.drift.features
    numbers = tuple(f.name for f in plan if f.kind == "numeric")
    values = {f.name: contract.field(f.name).allowed or () for f in plan if f.kind == "categorical"}
    return _build("monitored", numbers, values, contract.time.field)


def with_categories(features: FeatureSet, rows: pl.DataFrame) -> FeatureSet:
    """Categories that the contract does not list, taken from training rows: the most frequent, in a fixed order."""
    learned = {k: v or _frequent(rows[k]) for k, v in features.categories.items()}
    own = tuple(n for n in features.numeric if n not in _DERIVED)
    return _build(features.name, own, learned, _time_of(features))


def from_spec(spec: Mapping[str, object]) -> FeatureSet:
    """The feature set that a stored model was trained with; UsageError if this code defines another version of it."""
    name, version = str(spec["name"]), str(spec["version"])
    if _VERSIONS.get(name) != version:
        raise UsageError(
            f"feature set {name}: the model was trained with version {version}, this code defines {_VERSIONS.get(name)}"
        )
    columns, numeric, categories = spec["columns"], spec["numeric"], spec["categories"]
    assert isinstance(columns, list) and isinstance(numeric, list) and isinstance(categories, list)
    own = tuple(n for n in numeric if n not in _DERIVED)
    made = _build(name, own, {str(k): tuple(v) for k, v in categories}, str(columns[-1]))
    return replace(made, columns=tuple(columns))


_VERSIONS = {"sales": "1", "monitored": "1"}
_DERIVED = ("value", "hour", "weekday")


def _sales(contract: Contract) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    return ("price", "quantity", "discount"), {
        c: contract.field(c).allowed or () for c in ("category", "region", "channel")
    }


_DEFINED: dict[str, Callable[[Contract], tuple[tuple[str, ...], dict[str, tuple[str, ...]]]]] = {"sales": _sales}


def _build(name: str, numbers: tuple[str, ...], values: Mapping[str, tuple[str, ...]], clock: str) -> FeatureSet:
    made = {n: pl.col(n).cast(pl.Float64) for n in numbers}
    if name == "sales":
        made["value"] = pl.col("price") * pl.col("quantity") * (1 - pl.col("discount"))
    made["hour"] = pl.col(clock).dt.hour().cast(pl.Float64)
    made["weekday"] = pl.col(clock).dt.weekday().cast(pl.Float64)
    codes = [
        pl.col(c)
        .replace_strict(list(v), np.arange(len(v), dtype=float), default=None, return_dtype=pl.Float64)
        .alias(c)
        if v
        else pl.lit(None, pl.Float64).alias(c)
        for c, v in values.items()
    ]
    return FeatureSet(
        name=name,
        version=_VERSIONS[name],
        columns=(*numbers, *values, clock),
        numeric=tuple(made),
        categories=MappingProxyType(dict(values)),
        expressions=(*(e.alias(n) for n, e in made.items()), *codes),
    )


def _time_of(features: FeatureSet) -> str:
    return features.columns[-1]


def _frequent(column: pl.Series) -> tuple[str, ...]:
    counts = column.drop_nulls().value_counts().sort(["count", column.name], descending=[True, False])
    return tuple(sorted(counts[column.name].head(MOST_CATEGORIES).to_list()))
