"""EDGE. Every prediction to `<dataset>.predictions`, without delaying the answer.

`record` only appends what was answered to a bounded list; one thread turns it into messages, at most `SLICE` rows at a
time so that it never holds the interpreter for long, and hands them to the client. What does not fit is dropped and counted:
the answer matters more than its record, and the counter has an alert.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from confluent_kafka import KafkaException

from pipeline import topics
from pipeline.contract import Contract
from pipeline.kafka import producer
from pipeline.meter import Meter
from pipeline.settings import Settings
from serving.predicted import Answered, key_of, messages

DROPPED = "driftline_prediction_log_dropped_total"
MOST_WAITING = 500_000  # rows; five seconds at the rate of the fastest clients
EVERY_S = 0.02
FLUSH_S = 5.0


class PredictionLog:
    def __init__(self, settings: Settings, contract: Contract, model: str, meter: Meter):
        self._producer = producer(
            settings,
            "driftline-predictions",
            **{
                "queue.buffering.max.messages": MOST_WAITING,
                "message.timeout.ms": 0,
                "linger.ms": 20,
                "delivery.report.only.error": True,  # a call a message would cost as much as making it
            },
        )
        self._topic, self._meter = topics.predictions(contract.id), meter
        self._model, self._key, self._time = model, key_of(contract) or "key", contract.time.field
        self._waiting: deque[tuple[int, Answered]] = deque()
        self._rows, self._lock = 0, threading.Lock()  # rows that wait
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="prediction-log", daemon=True)
        self._thread.start()

    def record(self, answered: Answered) -> None:
        with self._lock:
            if fits := self._rows + len(answered.scores) <= MOST_WAITING:
                self._rows += len(answered.scores)
                self._waiting.append((time.time_ns() // 1_000_000, answered))
        if not fits:
            self._meter.inc(DROPPED, float(len(answered.scores)))

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(FLUSH_S)
        self._producer.flush(FLUSH_S)

    def _serve(self) -> None:
        while not self._stopped.wait(EVERY_S):
            self._send()
            self._producer.poll(0)
        self._send()

    def _send(self) -> None:
        while self._waiting:
            with self._lock:
                at, answered = self._waiting.popleft()
                self._rows -= len(answered.scores)
            for part in messages(answered, at, self._model, self._key, self._time):
                try:
                    taken = self._producer.produce_batch(self._topic, part, on_delivery=self._delivered)
                except (BufferError, KafkaException):
                    taken = 0
                if taken < len(part):
                    self._meter.inc(DROPPED, float(len(part) - taken))

    def _delivered(self, error: object, message: object) -> None:
        if error is not None:
            self._meter.inc(DROPPED)
