"""EDGE. Batches that a client cannot open, and how far one reaches.

A batch whose compression is broken, or bomb-like, stalls librdkafka at its first offset for good; after one with a wrong
checksum librdkafka 2.16 goes on at an offset made of garbage (both seen). Neither tells where the batch ends. That is
found by asking the broker, offset by offset in a bisection, which batch it serves: inside the bad one every answer is the
error that names its first offset. No record of it is lost in silence: the caller accounts for the range.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline import kafka
from pipeline.errors import Unreachable
from pipeline.settings import Settings

CODES = {KafkaError._BAD_COMPRESSION: "compression", KafkaError._BAD_MSG: "checksum"}
ANSWER_WITHIN_S = 20.0  # a batch that is served slowly; an absent broker is told apart by the metadata request before


@dataclass(frozen=True, slots=True)
class BadBatch:
    topic: str
    partition: int
    start: int  # raw offsets [start, end) cannot be read
    end: int
    cause: str  # compression, checksum; memory: no process within its limit can open it
    message: str  # the client's own words

    def __len__(self) -> int:
        return self.end - self.start


def told(message: Message) -> int | None:
    """The first offset of a batch that could not be opened, if that is what this message tells."""
    error = message.error()
    return message.offset() if error is not None and error.code() in CODES else None


def extent(
    settings: Settings, topic: str, partition: int, at: int, alive: Callable[[], None] = lambda: None
) -> BadBatch | None:
    """The bad batch that holds offset `at`, cut to what begins there; None if it can be read now: it was transient."""
    client = kafka.consumer(
        settings,
        f"extent-{os.getpid()}-{random.getrandbits(32):x}",
        reset="error",
        # Some twenty questions, most of them answered by an error: the default waits of half a second would be all the time.
        **{
            "enable.partition.eof": True,
            "queued.min.messages": 1,
            "fetch.error.backoff.ms": 1,
            "fetch.wait.max.ms": 20,
        },
    )
    try:
        _, high = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        first = _served(client, topic, partition, at)
        if first is None:
            return None

        def inside(offset: int) -> bool:
            alive()
            found = _served(client, topic, partition, offset)
            return found is not None and found.offset() == first.offset()

        error = first.error()
        assert error is not None
        end = behind(inside, at, high)
        return BadBatch(topic, partition, at, end, CODES[error.code()], f"{error.name()}: {error.str()}")
    except KafkaException as error:
        raise Unreachable(f"{topic}/{partition}@{at}: how far the bad batch reaches was not told: {error}") from error
    finally:
        client.close()


def behind(inside: Callable[[int], bool], at: int, high: int) -> int:
    """The first offset behind `at` that is not inside, in about twice log2 of the distance questions; at most `high`.

    >>> behind(lambda offset: offset < 700, 100, 5000)
    700
    """
    low, step = at, 1  # `low` is inside
    while low + step < high and inside(low + step):
        low, step = low + step, 2 * step
    above = min(high, low + step)
    while above - low > 1:
        middle = (low + above) // 2
        low, above = (middle, above) if inside(middle) else (low, middle)
    return above


def _served(client: Consumer, topic: str, partition: int, offset: int) -> Message | None:
    """The error that names a bad batch, if that is the first thing the broker's answer at this offset comes to."""
    client.assign([TopicPartition(topic, partition, offset)])
    until = time.monotonic() + ANSWER_WITHIN_S
    while time.monotonic() < until:
        for message in client.consume(1, 0.2):
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                return None
            if told(message) is not None:
                return message
            if not error.retriable():
                raise KafkaException(error)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer at {offset} within {ANSWER_WITHIN_S:.0f} s"))
