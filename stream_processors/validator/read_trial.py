"""EDGE. Batches that may end the process that reads them, read in a child; `python -m stream_processors.validator.read_trial TOPIC PARTITION OFFSET`.

A gzip batch of 1 MiB can unpack to a gigabyte, and librdkafka unpacks it whole (2.16; only zstd has a limit): within a
memory limit that is the end of the process, before a record of it was seen. The child has a limit of its own, takes one
batch at a time, and hands on each record as soon as it has it. What it handed on is read; the batch behind is the one
that it died of.
"""

from __future__ import annotations

import os
import random
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pipeline import bad_batches, kafka
from pipeline.errors import Unreachable
from pipeline.settings import Settings, from_environment
from stream_processors.validator.trial import ended_by

BATCH_MB = 256  # writable memory of the child, which starts with 60: room for 64 MiB of records, twice
BATCH_WITHIN_S = 20.0  # a batch that takes longer to open is taken for one that cannot be
UNANSWERED = 75  # the child's exit code when it was the broker that failed
_MEMORY = 86  # its exit code when Python was refused memory


class Frame(msgspec.Struct, array_like=True):
    offset: int
    timestamp: tuple[int, int]
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Read:
    messages: list[Message]
    ended: str | None  # how the child ended at the batch behind them; None if it came through


def read(topic: str, partition: int, at: int, most: int, most_bytes: int, alive: Callable[[], None]) -> Read:
    """The records from offset `at` on, up to so many or to what is the end now, as far as a child can read them."""
    command = [sys.executable, "-m", "stream_processors.validator.read_trial", topic, str(partition), str(at)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    messages: list[Message] = []
    pending, size = bytearray(), 0
    assert child.stdout is not None
    try:
        while len(messages) < most and size < most_bytes:
            alive()
            if not select.select([child.stdout], [], [], BATCH_WITHIN_S)[0]:
                return Read(messages, f"it was not opened within {BATCH_WITHIN_S:.0f} s")
            got = child.stdout.read(1 << 20)
            if not got:
                return Read(messages, _ended(child.wait(), topic, partition))
            pending += got
            size += len(got)
            messages += _frames(pending, topic, partition)
        return Read(messages[:most], None)
    finally:
        child.kill()
        child.wait()


def _ended(code: int, topic: str, partition: int) -> str | None:
    if code == UNANSWERED:
        raise Unreachable(f"{topic}/{partition}: the broker did not answer the trial of batches")
    if code == 0:
        return None
    return f"the reader ended at it: {'no memory' if code == _MEMORY else ended_by(code)}, with {BATCH_MB} MB"


def _frames(pending: bytearray, topic: str, partition: int) -> list[Message]:
    """Take the whole frames off the front."""
    found, at = [], 0
    while len(pending) - at >= 4:
        end = at + 4 + int.from_bytes(pending[at : at + 4], "big")
        if len(pending) < end:
            break
        f = msgspec.msgpack.decode(pending[at + 4 : end], type=Frame)
        found.append(
            Message(
                topic=topic,
                partition=partition,
                offset=f.offset,
                timestamp=f.timestamp,
                key=f.key,
                value=f.value,
                headers=f.headers,
            )
        )
        at = end
    del pending[:at]
    return found


def main(settings: Settings, topic: str, partition: int, at: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (BATCH_MB << 20, BATCH_MB << 20))
    client = kafka.consumer(
        settings,
        f"read-trial-{os.getpid()}-{random.getrandbits(32):x}",
        reset="error",
        # The broker answers a fetch of one byte with one batch; the next is fetched when this one was taken.
        **{"enable.partition.eof": True, "fetch.message.max.bytes": 1, "queued.min.messages": 1},
    )
    # To what is the end now: behind it the partition may grow as fast as it is read here, and nobody would get on.
    _, end = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=BATCH_WITHIN_S)
    client.assign([TopicPartition(topic, partition, at)])
    heard, out = time.monotonic(), sys.stdout.buffer
    while time.monotonic() - heard < BATCH_WITHIN_S:
        for message in client.consume(500, 0.2):
            error, heard = message.error(), time.monotonic()
            if error is None:
                _hand_on(message, out)
                if message.offset() >= end - 1:
                    out.flush()
                    return 0
            elif error.code() == KafkaError._PARTITION_EOF or bad_batches.told(message) is not None:
                return 0  # a batch that says itself that it cannot be opened is no danger
            elif not error.retriable():
                return UNANSWERED
        out.flush()
    return UNANSWERED


def _hand_on(message: Message, out) -> None:
    try:
        headers = message.headers() or []
    except UnicodeDecodeError:  # a header's name is not UTF-8; the raw record still has it
        headers = []
    frame = msgspec.msgpack.encode(
        Frame(message.offset(), message.timestamp(), message.key(), message.value(), headers)
    )
    out.write(len(frame).to_bytes(4, "big") + frame)


if __name__ == "__main__":
    try:
        os._exit(main(from_environment(os.environ), sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    except (MemoryError, SystemError):  # confluent-kafka wraps the one in the other
        os._exit(_MEMORY)
    except KafkaException:
        os._exit(UNANSWERED)
