"""PURE. Predictions meet outcomes: late, out of order, repeated, missing; in bounded memory.

The first prediction per raw coordinate (or prediction id) and model version counts, and the first outcome per key. What
waits longer than `age` of event time, or is the oldest beyond `cap` keys, is let go and counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

JoinResult = Literal["joined", "duplicate", "waiting", "expired"]


@dataclass(frozen=True, slots=True)
class Prediction:
    key: str
    version: str
    score: float
    event_ms: int
    identity: str  # raw coordinate, or the prediction's id where it has none


@dataclass(frozen=True, slots=True)
class Labelled:
    prediction: Prediction
    label: bool


@dataclass(slots=True)
class _Waiting:
    newest_ms: int
    label: bool | None = None
    predictions: dict[tuple[str, str], Prediction] = field(default_factory=dict)  # (identity, version) -> first


class Joiner:
    """Feed records in any order; each call returns the pairs it completes. `counts` says what became of outcomes."""

    def __init__(self, age_ms: int, cap: int = 400_000):
        self._age_ms, self._cap = age_ms, cap
        self._by_key: OrderedDict[str, _Waiting] = OrderedDict()
        self._newest_ms: int | None = None
        self.counts: dict[JoinResult, int] = {"joined": 0, "duplicate": 0, "waiting": 0, "expired": 0}

    def __len__(self) -> int:
        return len(self._by_key)

    def predicted(self, prediction: Prediction) -> list[Labelled]:
        entry = self._entry(prediction.key, prediction.event_ms)
        name = (prediction.identity, prediction.version)
        if name in entry.predictions:
            self.counts["duplicate"] += 1
            return []
        entry.predictions[name] = prediction
        if entry.label is None:
            return []
        self.counts["joined"] += 1
        return [Labelled(prediction, entry.label)]

    def happened(self, key: str, label: bool, event_ms: int) -> list[Labelled]:
        entry = self._entry(key, event_ms)
        if entry.label is not None:
            self.counts["duplicate"] += 1
            return []
        entry.label = label
        self.counts["joined" if entry.predictions else "waiting"] += len(entry.predictions) or 1
        return [Labelled(p, label) for p in entry.predictions.values()]

    def _entry(self, key: str, event_ms: int) -> _Waiting:
        self._newest_ms = max(event_ms, self._newest_ms or event_ms)
        entry = self._by_key.get(key)
        if entry is None:
            entry = self._by_key[key] = _Waiting(event_ms)
            self._let_go()
        entry.newest_ms = max(entry.newest_ms, event_ms)
        return entry

    def _let_go(self) -> None:
        """Keys leave in the order in which they came; only what never found its other half counts as expired."""
        while self._by_key:
            key, oldest = next(iter(self._by_key.items()))
            too_old = (self._newest_ms or 0) - oldest.newest_ms > self._age_ms
            if len(self._by_key) <= self._cap and not too_old:
                return
            del self._by_key[key]
            if oldest.label is None or not oldest.predictions:
                self.counts["expired"] += 1
