"""EDGE. Records into Kafka: room in the queue, paced by the wall clock, counted by what the broker acknowledged.

Knows neither sales nor files: a source gives batches, this sends them when they are due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline import kafka
from pipeline.logs import log
from pipeline.settings import Settings
from producers.arrivals import Timeline
from producers.batches import Batch, Key, Pending, Source

Turn = Callable[[], None]  # called at every look at the clock: progress, heart beat

SLICE = 4_096  # records between two looks at the clock when flat out
TICK_S = 0.05  # longest nap while nothing is due: progress and stopping stay prompt
ROOM_S = 0.005  # between two tries when the queue is full; no report wakes us, since only failures are reported
FLUSH_S = 15.0  # a stopping process has 20 s
GIVE_UP_S = 300.0  # a record that the broker has not taken for so long has failed


def client(
    settings: Settings, name: str, give_up_s: float, on_failure: Callable[[KafkaError, Message], None]
) -> Producer:
    """A producer that picks the partition by murmur2 of the key, as the Java clients do, and calls back for failures only.

    A callback a record would cost a third of the time; what was sent, is not queued and has not failed was acknowledged.
    """
    return kafka.producer(
        settings,
        name,
        **{
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
            "message.timeout.ms": int(give_up_s * 1000),
            "delivery.report.only.error": True,
            "on_delivery": on_failure,
        },
    )


@dataclass(slots=True)
class Totals:
    """What was handed to the client; `failed_*` = those that it gave up on."""

    events: int = 0
    outcomes: int = 0
    failed_events: int = 0
    failed_outcomes: int = 0
    first_event_ms: int | None = None
    last_event_ms: int | None = None

    @property
    def failed(self) -> int:
        return self.failed_events + self.failed_outcomes

    def saw(self, event_ms: np.ndarray) -> None:
        known = event_ms[event_ms > np.iinfo(np.int64).min]
        if len(known):
            self.first_event_ms = int(known[0]) if self.first_event_ms is None else self.first_event_ms
            self.last_event_ms = int(known[-1])


class Sender:
    """Sends a source's batches and, when event time has passed them, their labels."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        events: str,
        outcomes: str,
        stopped: threading.Event,
        give_up_s: float = GIVE_UP_S,
    ):
        self.totals, self.pending = Totals(), Pending()
        self._events, self._outcomes, self._stopped = events, outcomes, stopped
        self._error = ""
        self._client = client(settings, name, give_up_s, self._failed)

    @property
    def acknowledged(self) -> int:
        """Events that the broker has taken, at least: what is queued counts as events, outcomes or not."""
        return max(0, self.totals.events - self.totals.failed_events - len(self._client))

    @property
    def error(self) -> str:
        """The last reason why a record failed."""
        return self._error

    def run(self, source: Source, timeline: Timeline | None, turn: Turn, until: float = float("inf")) -> None:
        """Send everything; with a timeline each record when it is due, otherwise flat out. `until`: monotonic clock, then stop."""
        for batch in source:
            due = None if timeline is None else timeline.wall_ms(batch.event_ms)
            at = 0
            while at < len(batch):
                if self._stopped.is_set() or time.monotonic() >= until:
                    return
                now_ms = time.time() * 1000
                upto = self._due(batch, due, at, now_ms)
                at += self._send_events(batch, at, upto, turn)
                self._send_labels(timeline.now_ms(now_ms) if timeline else self.totals.last_event_ms, turn)
                self._client.poll(0)
                turn()

    def drain_outcomes(self, turn: Turn) -> None:
        """The labels that are not due yet."""
        self._send_labels(float("inf"), turn)

    def flush(self, turn: Turn) -> int:
        """Wait until everything is acknowledged or has failed; returns what is left when a stop cuts it short."""
        until = float("inf")
        while left := self._client.flush(0.2):
            turn()
            if self._stopped.is_set() and until == float("inf"):
                until = time.monotonic() + FLUSH_S
            if time.monotonic() > until:
                return left
        return 0

    def _due(self, batch: Batch, due: np.ndarray | None, at: int, now_ms: float) -> int:
        """Up to which row it is time; naps for a moment if for none."""
        if due is None:
            return min(at + SLICE, len(batch))
        upto = min(at + SLICE, int(np.searchsorted(due, now_ms, side="right")))
        if upto <= at:
            self._stopped.wait(min(TICK_S, max(0.001, (due[at] - now_ms) / 1000)))
        return max(at, upto)

    def _send_events(self, batch: Batch, at: int, upto: int, turn: Turn) -> int:
        sent = self._put(self._events, batch.keys[at:upto], batch.values[at:upto], turn)
        self.pending.add(batch.labels_of(at, at + sent))
        self.totals.events += sent
        self.totals.saw(batch.event_ms[at : at + sent])
        return sent

    def _send_labels(self, event_ms: float | None, turn: Turn) -> None:
        for labels in self.pending.due(float("-inf") if event_ms is None else event_ms):
            self.totals.outcomes += self._put(self._outcomes, labels.key.tolist(), labels.value.tolist(), turn)

    def _put(self, topic: str, keys: list[Key], values: list[bytes | None], turn: Turn) -> int:
        """How many were queued: all of them, unless the process is told to stop while the queue is full."""
        produce = self._client.produce
        for count, (key, value) in enumerate(zip(keys, values, strict=True)):
            try:
                produce(topic, value, key)
            except BufferError:
                if not self._wait_for_room(topic, key, value, turn):
                    return count
            except KafkaException as error:
                self._refused(topic, error)
        return len(keys)

    def _wait_for_room(self, topic: str, key: Key, value: bytes | None, turn: Turn) -> bool:
        """The queue is full: the broker is slower than we are, or away. Wait until the record fits."""
        while not self._stopped.is_set():
            self._client.poll(ROOM_S)
            turn()
            try:
                self._client.produce(topic, value, key)
                return True
            except BufferError:
                continue
            except KafkaException as error:
                self._refused(topic, error)
                return True
        return False

    def _refused(self, topic: str, error: KafkaException) -> None:
        """A record that our own client does not take, because of its size: it has failed, the next one need not."""
        if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
            raise error
        self._count_failed(topic, error.args[0])

    def _failed(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._count_failed(message.topic(), error)

    def _count_failed(self, topic: str | None, error: KafkaError) -> None:
        if not self._error:
            log("delivery_failed", "error", topic=topic, code=error.name(), message=error.str())
        self._error = error.str()
        if topic == self._events:
            self.totals.failed_events += 1
        else:
            self.totals.failed_outcomes += 1
