"""EDGE. What a serving worker knows of each entity's past: a dict that follows `<dataset>.features`, read only.

A value is worked out at the moment of the question from the stored sums, so that it ages as it would have in training. An
unknown entity has the declared defaults. Look-ups take no lock: one thread replaces whole values, others read them.
Measured (2026-11-21, a busy machine): 7 us for one row of two entities, 0.6 us a row in batches of 500; 0.4 KB an entity.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import polars as pl
from confluent_kafka import KafkaException, Message

from pipeline import topics
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.kafka import follow
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.settings import Settings
from stream_processors.live import feature_fold, feature_plan, feature_records, feature_windows
from stream_processors.live.feature_plan import NOTHING
from stream_processors.live.feature_records import AS_OF, PREFIX, AsOf

MEASURE_EVERY_S = 2.0
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_A_KEY = 100  # bytes that a dict entry, its key and the head of its value take


class Coordinates(Protocol):
    """Where on the stream rows were read."""

    partition: int
    offsets: list[int]


class FeatureStore:
    """`ready` once the topic was read to its end, or if the contract declares no history."""

    def __init__(self, settings: Settings, contract: Contract, meter: Meter):
        self.ready = threading.Event()
        self.as_of: AsOf | None = None
        self._history = feature_plan.compiled(contract)
        self._settings, self._contract, self._meter = settings, contract, meter
        self._sums: dict[str, dict[str | None, bytes]] = (
            {e.name: {} for e in self._history.entities} if self._history else {}
        )
        self._held = 0  # bytes of sums
        self._definition = self._history.definition.encode() if self._history else b""
        self._stopped = threading.Event()

    def start(self) -> FeatureStore:
        if self._history is None:
            self.ready.set()
            return self
        self.matrix(pl.DataFrame(schema=self._schema()))  # compiles, which takes a second on a new machine
        for run in (self._follow, self._measure):
            threading.Thread(target=run, name=f"features-{run.__name__}", daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped.set()

    def row(self, record: Mapping[str, object]) -> tuple[list[float], AsOf | None]:
        """History values of one decoded record, in the order of the feature set's `history`, and as of when they are."""
        history, as_of = self._history, self.as_of
        if history is None:
            return [], as_of
        out = np.empty((1, len(history.names)))
        when = record[self._contract.time.field]
        assert isinstance(when, datetime)
        at = np.array([(when - _EPOCH) // _MILLISECOND])
        for entity in history.entities:
            identity = record.get(entity.field)
            sums = self._sums[entity.name].get(None if identity is None else str(identity), NOTHING)
            feature_windows.looked_up(history, entity, [sums], at, out)
        return out[0].tolist(), as_of

    def matrix(self, rows: pl.DataFrame, raw: Coordinates | None = None) -> tuple[np.ndarray, AsOf | None]:
        """float64[rows, history] of a frame with the contract's columns, and as of when it is.

        Rows of the stream (`raw`) that the store has already counted are taken off again: no row is part of its own past.
        """
        history, as_of = self._history, self.as_of
        if history is None:
            return np.empty((rows.height, 0)), as_of
        out = np.empty((rows.height, len(history.names)))
        at = rows[self._contract.time.field].dt.epoch("ms").to_numpy()
        counted = _counted(raw, as_of)
        for entity in history.entities:
            known = self._sums[entity.name]
            stored = [known.get(i, NOTHING) for i in rows[entity.field].cast(pl.String).to_list()]
            if len(counted):
                own = feature_fold.without(rows[counted], entity, history, self._contract)
                for i, sums in zip(counted.tolist(), own, strict=True):
                    stored[i] += sums if stored[i] and _step(stored[i]) <= _step(sums) else NOTHING
            feature_windows.looked_up(history, entity, stored, at, out)
        return out, as_of

    def heard(self, message: Message) -> None:
        key, value = message.key() or b"", message.value()
        if key == AS_OF:
            self._as_of(value or b"")
            return
        kind, _, identity = key.decode("utf-8", "replace").partition(":")
        known = self._sums.get(kind)
        if known is None:
            return
        if value is None or value[:PREFIX] != self._definition:  # forgotten, or another definition's
            self._held -= len(known.pop(identity, NOTHING))
        else:
            sums = value[PREFIX:]
            self._held += len(sums) - len(known.get(identity, NOTHING))
            known[identity] = sums

    def __len__(self) -> int:
        return sum(map(len, self._sums.values()))

    def _schema(self) -> dict[str, pl.DataType]:
        return dict(pl.DataFrame(self._contract.row_schema.empty_table()).schema)

    def _as_of(self, value: bytes) -> None:
        try:
            found = feature_records.as_of_from(value)
        except (ValueError, KeyError, TypeError) as error:
            log("as_of_unreadable", "warning", topic=topics.features(self._contract.id), error=error)
            return
        if found.definition.encode() == self._definition:
            self.as_of = found

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                follow(
                    self._settings,
                    topics.features(self._contract.id),
                    self._stopped,
                    self.heard,
                    caught_up=self.ready.set,
                )
            except (KafkaException, Unreachable) as error:
                log("follow_failed", "warning", topic=topics.features(self._contract.id), error=error)
                self._stopped.wait(1.0)

    def _measure(self) -> None:
        labels = {"process": "serve", "dataset": self._contract.id}
        while not self._stopped.wait(MEASURE_EVERY_S):
            if self.as_of is not None:
                age = max(0.0, time.time() - self.as_of.ms / 1000)
                self._meter.set("driftline_feature_staleness_seconds", age, **labels)
            self._meter.set("driftline_feature_entities", float(len(self)), **labels)
            self._meter.set("driftline_feature_bytes", float(self._held + _A_KEY * len(self)), **labels)


def _step(sums: bytes) -> int:
    """The first step: an event of an older one is forgotten already."""
    return int.from_bytes(sums[:4], "little", signed=True)


def _counted(raw: Coordinates | None, as_of: AsOf | None) -> np.ndarray:
    """Places of the rows that the store has counted."""
    if raw is None or as_of is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.asarray(raw.offsets) < as_of.events.get(str(raw.partition), 0))
