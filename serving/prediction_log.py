"""EDGE. Every prediction to `<dataset>.predictions`, without delaying the answer.

`record` only appends to the client's queue; one thread serves delivery reports. A full queue drops and counts: the answer
matters more than its record, and the counter has an alert.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from pipeline import topics
from pipeline.contract import Contract
from pipeline.kafka import producer
from pipeline.meter import Meter
from pipeline.settings import Settings
from serving.admission import RawCoordinates

DROPPED = "driftline_prediction_log_dropped_total"


class PredictionLog:
    def __init__(self, settings: Settings, contract: Contract, model: str, meter: Meter):
        self._producer = producer(
            settings, "driftline-predictions", **{"queue.buffering.max.messages": 500_000, "message.timeout.ms": 0}
        )
        self._topic, self._model, self._meter = topics.predictions(contract.id), model, meter
        self._time = contract.time.field
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="prediction-log", daemon=True)
        self._thread.start()

    def record(
        self,
        key_name: str,
        keys: Sequence[str],
        times: Sequence[datetime],
        scores: Sequence[float],
        version: str,
        digest: str,
        raw: RawCoordinates | None,
    ) -> None:
        at = datetime.now(UTC)
        batch = uuid.uuid4().hex
        for i, (key, time, score) in enumerate(zip(keys, times, scores, strict=True)):
            where = {"topic": raw.topic, "partition": raw.partition, "offset": raw.offsets[i]} if raw else None
            value = msgspec.json.encode(
                {
                    "id": f"{batch}-{i}",
                    key_name: key,
                    "score": score,
                    "model": self._model,
                    "version": version,
                    "digest": digest,
                    "at": at,
                    self._time: time,
                    "raw": where,
                }
            )
            try:
                self._producer.produce(self._topic, value, key=key, on_delivery=self._delivered)
            except BufferError:
                self._meter.inc(DROPPED)

    def close(self) -> None:
        self._stopped.set()
        self._producer.flush(5)

    def _delivered(self, error: object, message: object) -> None:
        if error is not None:
            self._meter.inc(DROPPED)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            self._producer.poll(0.2)
