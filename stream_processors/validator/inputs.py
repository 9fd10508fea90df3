"""EDGE. What the validator reads: its place in the group, the raw records of a partition, what the client says between them.

Also the words that let a stopped partition go on. Keeps no position: those are `positions`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from pipeline import kafka, topics
from pipeline.errors import Fatal, Unreachable, UsageError
from pipeline.logs import log
from pipeline.retry import until_success
from pipeline.service import Service
from pipeline.settings import Settings
from stream_processors.validator import positions, reject_breaker, validation
from stream_processors.validator.reject_breaker import Recent
from stream_processors.validator.validation import Consumed

SESSION_TIMEOUT_S = 10  # how long a killed member's partitions wait for another member; the broker allows 6 s and more
AHEAD_RECORDS, AHEAD_KB = 160_000, 64 * 1024  # fetched and not taken yet; eight batches
_GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class Place:
    """One running partition: what the next batch of it begins with."""

    __slots__ = ("append_ms", "next", "recent", "seen", "watermark")

    def __init__(self, position: positions.Position):
        self.next, self.watermark = position.next, position.watermark
        self.recent = Recent.empty()
        self.seen = position.next  # how far we know the log, markers at its end included
        self.append_ms: int | None = None  # of the newest record judged


def member(settings: Settings, group: str, name: str, partitions: int) -> Consumer:
    """A static member: the same instance, restarted, gets its partitions back without a rebalance.

    What is fetched ahead is bounded over all partitions together. librdkafka's limits are for one: four of them full of
    100,000 records each made 542 MB of a validator that had 385 otherwise (10 M records behind, on a busy machine).
    """
    return kafka.consumer(
        settings,
        group,
        reset="error",  # positions are ours; an offset that the log does not have is told, never replaced
        **{
            "group.instance.id": name,
            "session.timeout.ms": SESSION_TIMEOUT_S * 1000,
            "enable.partition.eof": True,
            "queued.min.messages": max(1_000, AHEAD_RECORDS // partitions),
            "queued.max.messages.kbytes": max(1_024, AHEAD_KB // partitions),
        },
    )


def consumed(partition: int, start: int, run: Sequence[Message]) -> Consumed:
    """The records of one partition as plain values; `start` is where its last block ended."""
    first, last, n = run[0].offset(), run[-1].offset(), len(run)
    contiguous = last - first + 1 == n
    offsets = np.arange(first, last + 1) if contiguous else np.fromiter((m.offset() for m in run), np.int64, n)
    times = validation.times_of(n, lambda i: run[i].timestamp()[1])
    return Consumed(partition, start, offsets, times, list(map(Message.key, run)), list(map(Message.value, run)))


def end_of_partition(message: Message) -> int | None:
    """The offset behind the partition's last record or marker, if that is what the client tells."""
    error = message.error()
    return message.offset() if error is not None and error.code() == KafkaError._PARTITION_EOF else None


def told(message: Message) -> str:
    """The name of an error that passes; Fatal for one that does not."""
    error = message.error()
    assert error is not None
    where = f"{message.topic()}/{message.partition()}@{message.offset()}"
    if error.code() in _GONE:
        raise Fatal(
            f"{where}: {error.str()}: retention overtook the validator or the topic was made anew. What is missing cannot "
            "be read again, and no record is jumped over: move the position by hand once that is accepted"
        )
    end_if_fenced([message])
    log("consumer_error", "warning", at=where, code=error.name(), message=error.str())
    return error.name()


def end_if_fenced(messages: Sequence[Message]) -> None:
    """Fatal if the client tells that it is out of the group for good; it tells so once, and idles from then on."""
    for message in messages:
        error = message.error()
        if error is not None and (error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)):
            raise Fatal(f"{message.topic()}/{message.partition()}@{message.offset()}: {error.name()}: {error.str()}")


def wait_for_topics(client: Consumer, wanted: Sequence[str], service: Service) -> int:
    """Every topic that a transaction touches, with one partition count, which is returned: p holds the same records in each."""

    def look() -> dict[str, int]:
        service.beat()
        return {t: len(kafka.partitions(client, t, timeout=3)) for t in wanted}

    counts = until_success(
        look,
        what=f"topics {', '.join(wanted)}",
        errors=(KafkaException, Unreachable),
        sleep=service.stopped.wait,
        stopped=service.stopped.is_set,
        on_failure=lambda error, wait: log("topics_not_ready", "warning", error=error, retry_in_s=f"{wait:.1f}"),
    )
    if len(set(counts.values())) > 1:
        raise UsageError(f"expected the same number of partitions everywhere, got {counts}")
    return counts[wanted[0]]


def ends(client: Consumer, topic: str, stopped: threading.Event) -> dict[int, int]:
    """The end of each partition now."""
    bounds = until_success(
        lambda: kafka.bounds(client, topic),
        what=f"end of {topic}",
        errors=(KafkaException, Unreachable),
        sleep=stopped.wait,
        stopped=stopped.is_set,
    )
    return {p: high for p, (_, high) in bounds.items()}


def follow_resumes(settings: Settings, dataset: str, stopped: threading.Event, resumed: set[tuple[int, int]]) -> None:
    """Collect, in a thread of its own, every (partition, offset) that somebody let go on."""

    def handle(message: Message) -> None:
        if (request := reject_breaker.resumed(message.value(), dataset)) is not None:
            resumed.add(request)

    def follow() -> None:
        try:
            kafka.follow(settings, topics.REQUESTS, stopped, handle)
        except (KafkaException, Unreachable) as error:
            if not stopped.is_set():
                log("requests_unread", "error", error=error)

    threading.Thread(target=follow, name="requests", daemon=True).start()
