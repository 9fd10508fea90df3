"""EDGE. OpenLineage events on their way out: to `lineage.events`, to a file, to both, or nowhere.

`DRIFTLINE_LINEAGE` says where. A process never waits for this and never ends by it: events go through a bounded queue to
a thread; what a transport does not take in `GIVE_UP_S` is dropped, counted and logged once a minute. Off = no thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline import kafka, topics
from pipeline.errors import DriftlineError
from pipeline.lineage import Dataset, Json, Tally, whole
from pipeline.logs import log
from pipeline.meter import Meter, Silent
from pipeline.settings import Settings

GIVE_UP_S = 20.0  # for one event; a broker that restarts is back within 10 s
WAITING = 256  # events
CLOSE_S = 2.0  # a stopping process has 20 s for everything
EVERY_S = 60.0  # a run of a process that never ends
SAY_EVERY_S = 60.0
FAILURES = (KafkaException, BufferError, OSError, DriftlineError)
Write = Callable[[bytes, bytes], None]  # key, event; raises what it cannot do


class Lineage:
    """Sends events in the background; `close` waits a little for the last of them."""

    def __init__(self, settings: Settings, meter: Meter | None = None):
        self._settings, self._meter = settings, meter or Silent()
        places = [place for place in settings.lineage.split(",") if place != "off"]
        self._places = sorted(places, key="kafka".__eq__)  # a file does not wait for a broker that is away
        self._queue: queue.Queue[Json | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._said = -SAY_EVERY_S

    @property
    def on(self) -> bool:
        return bool(self._places)

    def send(self, *events: Json) -> None:
        """At once; a full queue drops the event."""
        if not self.on or not self._started():
            return
        for event in events:
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                self._count("dropped", "the queue is full")

    def close(self, wait_s: float = CLOSE_S) -> None:
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
            self._thread.join(wait_s)

    def _started(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="lineage", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system refuses one more: a process at its memory cap
                self._count("dropped", str(error))
                return False
            self._thread = thread
        return True

    def _work(self) -> None:
        writers: dict[str, Write] = {}
        while (event := self._queue.get()) is not None:
            key, body = str(event["job"]["name"]).encode(), json.dumps(event, separators=(",", ":")).encode()  # type: ignore[index]
            for place in self._places:
                try:
                    if place not in writers:
                        writers[place] = _writer(self._settings, place)
                    writers[place](key, body)
                    self._count("sent")
                except FAILURES as error:
                    self._count("dropped", f"{place}: {error}")

    def _count(self, result: str, reason: str = "") -> None:
        self._meter.inc("driftline_lineage_events_total", result=result)
        if reason and time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            log("lineage_dropped", "warning", reason=reason)


class Minutes:
    """One short run a minute of a process that never ends. Call `turn` as often as you like."""

    def __init__(
        self,
        lineage: Lineage,
        job: str,
        inputs: Sequence[Dataset],
        outputs: Sequence[Dataset],
        rules: Sequence[str] = (),
        every_s: float = EVERY_S,
    ):
        self.tally = Tally()
        self._lineage, self._job, self._inputs, self._outputs, self._rules = lineage, job, inputs, outputs, rules
        self._id, self._number = uuid.uuid4().hex, 0
        self._every_s, self._began, self._due = every_s, time.time_ns() // 1_000_000, time.monotonic() + every_s

    @property
    def on(self) -> bool:
        return self._lineage.on

    def turn(self) -> None:
        if time.monotonic() >= self._due:
            self.end()

    def close(self) -> None:
        """The last run, and wait a little for it to be sent."""
        self.end()
        self._lineage.close()

    def end(self) -> None:
        now, tally = time.time_ns() // 1_000_000, self.tally
        if tally.rows and self.on:
            run = tally.run(self._job, f"{self._id}/{self._number}", self._inputs, self._outputs, self._rules)
            self._lineage.send(*whole(run, self._began, now))
            self._number += 1
        self.tally, self._began, self._due = Tally(), now, time.monotonic() + self._every_s


def _writer(settings: Settings, place: str) -> Write:
    return _to_topic(settings) if place == "kafka" else _to_file(file_of(settings, place))


def file_of(settings: Settings, place: str) -> Path:
    """`file` lies in the home; `file:PATH` names another, relative to the home."""
    return settings.home / (place.partition(":")[2] or "lineage.jsonl")


def _to_topic(settings: Settings) -> Write:
    client: Producer = kafka.producer(settings, "lineage", **{"message.timeout.ms": int(GIVE_UP_S * 1000)})
    kafka.partitions(client, topics.LINEAGE)  # a topic that is not there is said at once; the next event asks again

    def write(key: bytes, event: bytes) -> None:
        answers: list[KafkaError | None] = []
        client.produce(topics.LINEAGE, event, key, on_delivery=lambda error, _: answers.append(error))
        client.flush(GIVE_UP_S + 1)
        if not answers or answers[0] is not None:
            raise OSError(answers[0].str() if answers and answers[0] else "no answer from Kafka")

    return write


def _to_file(path: Path) -> Write:
    def write(key: bytes, event: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, event + b"\n")  # one call: lines of several processes do not mix
        finally:
            os.close(file)

    return write
