"""EDGE. Where the validator goes on with a partition, and with which watermark: read from what it committed.

Two witnesses, written in one transaction: the group's committed offset, and the partition's last block, whose `end` is
the same offset and which carries the watermark on. They must agree; where they do not, somebody reset one of them, and
going on would lose or repeat records, so the process stops with both named. An offset is never reset by itself.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline import blocks, kafka, topics
from pipeline.blocks import BlockHeader
from pipeline.errors import Fatal
from pipeline.logs import log
from pipeline.settings import Settings
from stream_processors.validator import reject_breaker
from stream_processors.validator.reject_breaker import Stop

TAIL = 8  # offsets read back from a partition's end: a transaction's last blocks and its marker
VISIBLE_WITHIN_S = 20.0  # a commit's marker reaches the offsets topic and the blocks topic apart
CALL_S = 10.0


@dataclass(frozen=True, slots=True)
class Position:
    next: int  # raw offset to read next
    watermark: int | None  # maximum event time over the partition's valid rows before `next`
    stop: Stop | None  # the reject breaker's, if the partition stands still here


def find(
    consumer: Consumer, settings: Settings, dataset: str, numbers: Iterable[int], stopped: threading.Event
) -> dict[int, Position]:
    """The position of each partition; Fatal if the witnesses contradict each other or the records are gone.

    `committed` waits for the open transactions of a former owner, so no batch of theirs can still appear afterwards.
    """
    topic = topics.events(dataset)
    committed = kafka.committed(consumer, topic, numbers)
    bounds = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=CALL_S) for p in committed}
    last = _last_blocks_behind(settings, dataset, {p: tp.offset for p, tp in committed.items()}, stopped)
    return {p: _agreed(topic, p, tp, last.get(p), bounds[p]) for p, tp in committed.items()}


def _agreed(
    topic: str, partition: int, committed: TopicPartition, block: BlockHeader | None, bounds: tuple[int, int]
) -> Position:
    where = f"{topic}/{partition}"
    low, high = bounds
    offset = committed.offset if committed.offset >= 0 else None
    if block is not None and offset is not None and block.end != offset:
        raise Fatal(
            f"{where}: the group's committed offset is {offset}, the last block ends at {block.end}; "
            f"expected both alike. Somebody reset one of them: set the group's offset to {block.end} while the validator is down"
        )
    if block is None and offset is None:
        return Position(low, None, None)
    start = block.end if block is not None else offset
    assert start is not None
    if not low <= start <= high:
        raise Fatal(
            f"{where}: position {start} is not within the log's {low}..{high}: retention overtook the validator or the topic "
            "was made anew. What is missing cannot be read again; move the position by hand once that is accepted"
        )
    if offset is None:
        log("position_from_block", "warning", partition=where, offset=start, reason="the group's offset has expired")
    if block is None:
        log("watermark_unknown", "warning", partition=where, offset=start, reason="no block is left by retention")
    return Position(start, watermark_after(block), reject_breaker.from_metadata(committed.metadata))


def watermark_after(block: BlockHeader | None) -> int | None:
    """What the next block's `watermark` header is: the maximum so far, this block's valid rows included."""
    return (
        None
        if block is None
        else max((t for t in (block.watermark, block.max_event_time) if t is not None), default=None)
    )


def _last_blocks_behind(
    settings: Settings, dataset: str, committed: dict[int, int], stopped: threading.Event
) -> dict[int, BlockHeader]:
    """The last block of each partition, once it is not behind the committed offset any more; past a deadline as it is.

    A partition without any is waited for while its log goes on behind what is stable: its first block is on the way.
    """
    topic, until = topics.blocks(dataset), time.monotonic() + VISIBLE_WITHIN_S
    while True:
        open_ = _with_open_transactions(settings, topic, [p for p, offset in committed.items() if offset >= 0])
        last = last_blocks(settings, topic, committed)  # after that look: what was through by then is read here
        behind = [p for p, offset in committed.items() if (last[p].end < offset if p in last else p in open_)]
        if not behind or time.monotonic() > until or stopped.wait(0.1):
            return last


def _with_open_transactions(settings: Settings, topic: str, numbers: list[int]) -> list[int]:
    """Which of the partitions have records that are not committed yet."""

    def ends(isolation: Literal["read_committed", "read_uncommitted"]) -> list[int]:
        client = kafka.consumer(settings, f"read-end-{os.getpid()}-{random.getrandbits(32):x}", isolation=isolation)
        try:
            return [client.get_watermark_offsets(TopicPartition(topic, p), timeout=CALL_S)[1] for p in numbers]
        finally:
            client.close()

    if not numbers:
        return []
    stable, written = ends("read_committed"), ends("read_uncommitted")  # in this order: a marker adds to both
    return [p for p, low, high in zip(numbers, stable, written, strict=True) if low < high]


def last_blocks(settings: Settings, topic: str, numbers: Iterable[int]) -> dict[int, BlockHeader]:
    """The header of the last committed block of each partition that has one."""
    client = kafka.consumer(
        settings, f"read-tail-{os.getpid()}-{random.getrandbits(32):x}", **{"enable.partition.eof": True}
    )
    try:
        wanted = {p: client.get_watermark_offsets(TopicPartition(topic, p), timeout=CALL_S) for p in numbers}
        found: dict[int, BlockHeader] = {}
        tail = TAIL
        while wanted := {p: (low, high) for p, (low, high) in wanted.items() if p not in found and high > low}:
            found |= _read_to_end(
                client, {TopicPartition(topic, p, max(low, high - tail)) for p, (low, high) in wanted.items()}
            )
            wanted = {p: (low, high) for p, (low, high) in wanted.items() if high - tail > low}
            tail *= 8  # nothing but markers and aborted blocks there: look further back
        return found
    finally:
        client.close()


def _read_to_end(client: Consumer, starts: set[TopicPartition]) -> dict[int, BlockHeader]:
    client.assign(list(starts))
    open_, last = {tp.partition for tp in starts}, {}
    until = time.monotonic() + VISIBLE_WITHIN_S
    while open_:
        if time.monotonic() > until:
            raise KafkaException(
                KafkaError(KafkaError._TIMED_OUT, f"blocks of partitions {sorted(open_)} were not read to their end")
            )
        for message in client.consume(500, 0.2):
            error = message.error()
            if error is None:
                last[message.partition()] = message
            elif error.code() == KafkaError._PARTITION_EOF:
                open_.discard(message.partition())
    return {p: blocks.from_headers(kafka.headers_of(message)) for p, message in last.items()}
