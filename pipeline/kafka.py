"""EDGE. The one place that builds Kafka clients (Faust's and BentoML's own excepted).

Owns: the security profile, the client settings that were measured, topic creation, the error classes.
Offsets are the caller's: every consumer here has auto-commit off.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from pipeline.errors import Fatal, Unreachable, UsageError
from pipeline.logs import log
from pipeline.retry import until_success
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTER_LIMIT, Topic

PRODUCER_MAX_BYTES = DEAD_LETTER_LIMIT
CLUSTERS_DEFAULT = -1  # copies of a partition
Headers = list[tuple[str, bytes]]


def security(settings: Settings) -> dict[str, object]:
    """librdkafka's settings for the profile: nothing for `plain`, SCRAM-SHA-512 over TLS for `scram`."""
    profile = settings.security
    if profile.profile == "plain":
        return {}
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": profile.username,
        "sasl.password": password(settings),
        "ssl.ca.location": profile.ca_file,
    }


def password(settings: Settings) -> str:
    try:
        return Path(settings.security.password_file).read_text().strip()
    except OSError as error:
        raise UsageError(f"DRIFTLINE_PASSWORD_FILE: expected a readable file, got {error}") from error


def common(settings: Settings, name: str) -> dict[str, object]:
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": name,
        "error_cb": _quiet_errors(name),
        "logger": _NoLog(),
        "reconnect.backoff.max.ms": 2000,
        **security(settings),
    }


def consumer(
    settings: Settings,
    group: str,
    *,
    reset: Literal["earliest", "latest", "error"] = "earliest",
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
    **more: object,
) -> Consumer:
    """A consumer that commits nothing by itself.

    fetch.queue.backoff.ms=5: with librdkafka's 1000 a partition whose local queue filled is not fetched for up to
    a second (measured: 262 k -> 1.34 M records/s).
    """
    return Consumer(
        {
            **common(settings, group),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": reset,
            "isolation.level": isolation,
            "fetch.queue.backoff.ms": 5,
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "check.crcs": True,
            **more,
        }
    )


def producer(settings: Settings, name: str, *, transactional_id: str | None = None, **more: object) -> Producer:
    """An idempotent producer (acks=all). With a transactional id, the caller calls `init_transactions`.

    One request at a time: a broker takes any first sequence from a producer that it does not know yet. Of two requests on
    their way to one that is just back, the first may meet `not leader` and the second be taken: then the first is refused
    for ever as out of order and may be told as written (KAFKA-15591; the likely cause of a hole seen once in 1,000 kills).
    """
    return Producer(
        {
            **common(settings, name),
            "enable.idempotence": True,
            "max.in.flight.requests.per.connection": 1,
            "acks": "all",
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "message.max.bytes": PRODUCER_MAX_BYTES,
            **({"transactional.id": transactional_id, **_recovery(settings)} if transactional_id else {}),
            **more,
        }
    )


def wait_until_readable(settings: Settings, transactional_id: str, *, deadline_s: float = 30) -> None:
    """Return once the id's last transaction can be read everywhere: a commit answers before its markers reach the topics.

    For what ends and leaves its output to the next command. It opens a producer of the id, whose `init_transactions` waits
    for those markers; nobody else may use the id any more. Past the deadline it says so and returns: nothing is lost.
    """
    client = producer(settings, transactional_id, transactional_id=transactional_id)
    try:
        client.init_transactions(deadline_s)
    except KafkaException as error:
        log("not_yet_readable", "warning", transactional_id=transactional_id, error=error)


def _recovery(settings: Settings) -> dict[str, object]:
    """How a transaction outlives the death of its group's coordinator, else librdkafka 2.16 waits for it for ever, timeout or not.

    One broker: it must not be forgotten when it is away, for its coordinator comes back as the same one. Several: the
    coordinator is another one then, and only a client that starts over finds it (both seen at a broker's kill -9).
    """
    return {"metadata.recovery.strategy": "rebootstrap" if "," in settings.bootstrap else "none"}


def admin(settings: Settings) -> AdminClient:
    return AdminClient(common(settings, "admin"))


def reach(settings: Settings, *, deadline_s: float | None, stopped: threading.Event | None = None) -> AdminClient:
    """An admin client of a broker that answers; waits with backoff, past the deadline raises Unreachable."""
    stop = stopped or threading.Event()
    client = admin(settings)
    until_success(
        lambda: client.list_topics(timeout=3),
        what=f"Kafka at {settings.bootstrap}",
        errors=(KafkaException,),
        sleep=stop.wait,
        deadline_s=deadline_s,
        stopped=stop.is_set,
        on_failure=lambda error, wait: log(
            "kafka_unreachable", "warning", bootstrap=settings.bootstrap, error=error, retry_in_s=f"{wait:.1f}"
        ),
        rng=random.Random(),
    )
    return client


def create_topics(settings: Settings, wanted: Iterable[Topic], *, deadline_s: float = 30) -> list[str]:
    """Create what is missing, with explicit settings; returns the names created, once their partitions have a leader.

    How many copies a partition has is the cluster's to say (`default.replication.factor`): three where it has three brokers.

    An existing topic is left as it is. A client that may not create topics creates none and says so: on a secured
    broker the operator does it, and a topic it may not use looks to it like a missing one.
    """
    client = reach(settings, deadline_s=deadline_s)
    there = client.list_topics(timeout=10).topics
    missing = {t.name: t for t in wanted if t.name not in there}
    new = [NewTopic(t.name, t.partitions, CLUSTERS_DEFAULT, config=dict(t.settings)) for t in missing.values()]
    futures = client.create_topics(new, operation_timeout=deadline_s) if new else {}
    for name, future in futures.items():
        try:
            future.result(deadline_s)
        except KafkaException as error:
            code = error.args[0].code()
            if code in _MAY_NOT_CREATE:
                log("topic_not_created", "warning", topic=name, error=error.args[0].str())
                del missing[name]
            elif code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UsageError(f"topic {name} could not be created: {error.args[0].str()}") from error
    if missing:
        _await_leaders(client, missing.values(), deadline_s)
    return list(missing)


_MAY_NOT_CREATE = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)


def _await_leaders(client: AdminClient, created: Iterable[Topic], deadline_s: float) -> None:
    """The broker answers `created` before it leads the partitions; a first read then fails with `not leader`."""
    wanted = {TopicPartition(t.name, p): OffsetSpec.latest() for t in created for p in range(t.partitions)}

    def answered() -> None:
        client.list_topics(timeout=3)  # asks anew: the client keeps the first answer, `no leader`, for ever
        for future in client.list_offsets(wanted, request_timeout=3).values():
            future.result(30)  # the request's own time-out, an error of Kafka, comes first

    until_success(
        answered, what="leaders of new topics", errors=(KafkaException,), sleep=time.sleep, deadline_s=deadline_s
    )


def partitions(client: Consumer | AdminClient | Producer, topic: str, *, timeout: float = 10) -> list[int]:
    """Partition numbers of a topic; Unreachable if the broker does not know it."""
    metadata = client.list_topics(topic, timeout=timeout).topics[topic]
    if metadata.error is not None or not metadata.partitions:
        raise Unreachable(f"topic {topic} is not there: {metadata.error}; create it with `driftline topics create`")
    return sorted(metadata.partitions)


def bounds(client: Consumer, topic: str, *, timeout: float = 10) -> dict[int, tuple[int, int]]:
    """First and next offset of each partition (next = the last stable offset for a read_committed consumer).

    A partition may be between two leaders, and a busy broker may be taken for a dead one for a moment: asked again.
    Unreachable where that takes longer than the time-out (seconds).
    """
    numbers = partitions(client, topic)
    return until_success(
        lambda: {p: client.get_watermark_offsets(TopicPartition(topic, p), timeout=timeout) for p in numbers},
        what=f"offsets of {topic}",
        errors=(KafkaException,),
        sleep=time.sleep,
        deadline_s=timeout,
    )


def committed(
    client: Consumer, topic: str, numbers: Iterable[int], *, deadline_s: float = 45
) -> dict[int, TopicPartition]:
    """The group's committed position of each partition (offset below 0 = none).

    Waits while the coordinator moves, and for a killed owner's open transaction, which the broker ends after 20 s.
    """
    wanted = [TopicPartition(topic, p) for p in numbers]
    answers = until_success(
        lambda: client.committed(wanted, timeout=10),
        what=f"committed offsets of {topic}",
        errors=(KafkaException,),
        sleep=time.sleep,
        deadline_s=deadline_s,
    )
    return {tp.partition: tp for tp in answers}


def read_all(
    settings: Settings,
    topic: str,
    *,
    deadline_s: float = 60,
    from_offsets: dict[int, int] | None = None,
    to_offsets: dict[int, int] | None = None,
) -> Iterator[Message]:
    """Every committed message from the beginning (or given offsets) up to the end at the time of the call (or given ones), then stop.

    The order is kept within a partition only. For ledgers, verdicts, references: topics that one process can read whole.
    """
    client = consumer(
        settings,
        f"read-{os.getpid()}-{random.getrandbits(32):x}",
        **{"enable.partition.eof": True, "fetch.wait.max.ms": 20},  # it reads to the end: nothing to wait for there
    )
    try:
        starts, stops = from_offsets or {}, to_offsets or {}
        there = {p: (lo, min(hi, stops.get(p, hi))) for p, (lo, hi) in bounds(client, topic).items()}
        ends = {p: hi for p, (lo, hi) in there.items() if hi > max(lo, starts.get(p, lo))}
        client.assign([TopicPartition(topic, p, starts.get(p, OFFSET_BEGINNING)) for p in ends])
        open_, until = set(ends), time.monotonic() + deadline_s
        while open_:
            if time.monotonic() > until:
                raise Unreachable(
                    f"reading {topic}: partitions {sorted(open_)} not at their end after {deadline_s:.0f} s"
                )
            for message in client.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    offset, end = int(message.offset() or 0), ends[int(message.partition() or 0)]
                    if (
                        offset >= end - 1
                    ):  # a topic that grows as fast as it is read never says that its end was reached
                        open_.discard(message.partition())
                    if offset < end:
                        yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_.discard(message.partition())  # with a stable end this comes once all committed data was read
                elif not error.retriable():
                    raise Fatal(f"reading {topic}: {error.str()}")
    finally:
        client.close()


def follow(
    settings: Settings,
    topic: str,
    stopped: threading.Event,
    handle: Callable[[Message], None],
    *,
    caught_up: Callable[[], None] = lambda: None,
) -> None:
    """Read a topic from its beginning for as long as the process lives; `caught_up` is called each time its end is reached."""
    client = consumer(settings, f"follow-{os.getpid()}-{random.getrandbits(32):x}", **{"enable.partition.eof": True})
    try:
        numbers = until_success(
            lambda: partitions(client, topic),
            what=f"topic {topic}",
            errors=(KafkaException, Unreachable, KeyError),
            sleep=stopped.wait,
            stopped=stopped.is_set,
        )
        client.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in numbers])
        waiting = set(numbers)
        while not stopped.is_set():
            for message in client.consume(500, 0.2):
                if message.error() is None:
                    handle(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                    if not waiting:
                        caught_up()
    finally:
        client.close()


def json_of(message: Message) -> dict[str, object]:
    """The record's JSON object; empty where it is none."""
    try:
        body = json.loads(message.value() or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def headers_of(message: Message) -> Headers:
    return [(k, v if v is not None else b"") for k, v in (message.headers() or [])]


Decision = Literal["retry", "abort", "fatal"]


def decide(error: KafkaException) -> Decision:
    """What a transactional caller does next: the same call again, abort and re-read, or end the process."""
    kafka_error: KafkaError = error.args[0]
    if kafka_error.fatal():
        return "fatal"
    if kafka_error.txn_requires_abort():
        return "abort"
    return "retry" if kafka_error.retriable() else "fatal"


class _NoLog:
    """librdkafka logs a line a second for every broker that is away; `error_cb` says it once instead."""

    def log(self, *args: object, **kwargs: object) -> None: ...

    debug = info = warning = error = critical = log


def _quiet_errors(name: str) -> Callable[[KafkaError], None]:
    said: dict[int, float] = {}

    def on_error(error: KafkaError) -> None:
        now = time.monotonic()
        if now - said.get(error.code(), -60.0) >= 30:
            said[error.code()] = now
            log("kafka_error", "warning", client=name, code=error.name(), message=error.str())

    return on_error
