"""PURE. An explanation as it is sent: what the model answers without knowing anything, and what each feature adds to it.

In log odds the parts add up to the answer exactly. Probabilities do not add up, so a part's `probability` is stated by
itself: how much lower the answer would be if this part alone were left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from stream_processors.live.model_features import FeatureSet


class Base(msgspec.Struct):
    log_odds: float
    score: float


class Contribution(msgspec.Struct):
    feature: str
    value: str | float | None  # as the record has it, or the history knows it; None: missing
    log_odds: float
    probability: float


class Explanation(msgspec.Struct):
    """What /explain says; `serving.service` documents these fields."""

    key: str | None
    score: float
    model: str
    version: str
    digest: str
    features_as_of: str | None
    base: Base
    log_odds: float
    contributions: list[Contribution]


def base_of(log_odds: float) -> Base:
    return Base(log_odds=log_odds, score=_sigmoid(log_odds))


def values_of(features: FeatureSet, row: Sequence[float]) -> dict[str, object]:
    """The categories of a model's row by their own values; one that the model never saw is missing."""
    codes = dict(zip(features.names, row, strict=True))
    return {c: known[int(codes[c])] for c, known in features.categories.items() if 0 <= codes[c] < len(known)}


def contributions(
    features: FeatureSet, record: Mapping[str, object], row: Sequence[float], base: float, added: np.ndarray
) -> list[Contribution]:
    """Largest first; equal ones in the order of the model's features."""
    whole = base + float(added.sum())
    score = _sigmoid(whole)
    order = np.argsort(-np.abs(added), kind="stable")
    return [
        Contribution(
            feature=(name := features.names[i]),
            value=_value(name, features, record, row[i]),
            log_odds=float(added[i]),
            probability=score - _sigmoid(whole - float(added[i])),
        )
        for i in order
    ]


def _value(name: str, features: FeatureSet, record: Mapping[str, object], number: float) -> str | float | None:
    if name in features.categories:
        return None if record.get(name) is None else str(record[name])
    return number if math.isfinite(number) else None


def _sigmoid(log_odds: float) -> float:
    """
    >>> _sigmoid(0.0), _sigmoid(-800.0)
    (0.5, 0.0)
    """
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
