"""EDGE. Blocks of one stream -> partials: counts every block once, in order, and says where it stands by what it has written.

Positions are not committed anywhere: the newest partial of each partition names the block it came from. When a newer
reference becomes known, the blocks from the first affected one on are read again and counted again before the next one.
Where a stream may hold a block twice (scoring is at-least-once), the first one of a coordinate counts and no later one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pipeline import blocks, kafka, topics
from pipeline.blocks import BadBlock, Block, BlockHeader
from pipeline.errors import Fatal, Unreachable
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.settings import Settings
from stream_processors.drift.source import Source
from stream_processors.judging.panes import Clock
from stream_processors.judging.partial import Partial, from_bytes, to_bytes
from stream_processors.judging.saved import SavedProgress
from stream_processors.judging.summarise import summarise
from stream_processors.reference.store import ReferenceStore

REMEMBERED_BLOCKS = (
    20_000  # (offset, maximum event time) a partition; a reference older than that starts at the beginning
)

PARTIALS_PRODUCER = {
    "message.timeout.ms": 0,  # a partial that was given up would be a hole that later ones jump over
    "compression.type": "gzip",  # aiokafka reads it as it is
    # Before compression: rows that each have a pane or segment of their own take 45 bytes a value, not 6 (measured: 4 MB
    # of 20,000 rows, 0.5 MB as sent; the topic's limit is of what is sent).
    "message.max.bytes": 8 * 1024 * 1024,
}


@dataclass(slots=True)
class Position:
    """How far one blocks partition is counted."""

    generation: int = 0
    block: int = 0  # offset of the next block
    raw: int | None = None  # raw offset that it starts at
    maximum: int | None = None  # event time
    marks: deque[tuple[int, int | None]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_BLOCKS))

    def passed(self, partial: Partial) -> None:
        self.generation, self.block = partial.generation, partial.next_block
        self.raw, self.maximum = partial.end, partial.maximum
        if not self.marks or self.marks[-1][0] < partial.block:
            self.marks.append((partial.block, partial.maximum))


class BlockCounter:
    def __init__(
        self,
        settings: Settings,
        source: Source,
        clock: Clock,
        store: ReferenceStore,
        meter: Meter,
        stopped: threading.Event,
    ):
        self._settings, self._contract, self._clock, self._store = settings, source.contract, clock, store
        self._meter, self._stopped = meter, stopped
        self._topic, self._key, self._repeats = source.topic, source.key, source.repeats
        self.positions: dict[int, Position] = {}
        self._failure: str | None = None
        name = f"{topics.group(source.contract.id, 'drift')}.partials"
        self._producer = kafka.producer(settings, name, **PARTIALS_PRODUCER)

    def load(self, base: Iterable[SavedProgress], applied: int, partitions: Iterable[int]) -> None:
        """Positions of newly owned partitions: those of the judge's state, brought forward by the partials after it."""
        fresh = {p: Position() for p in partitions}
        for known in base:
            if known.partition in fresh:
                raw = known.next if known.block else None
                fresh[known.partition] = Position(known.generation, known.block, raw, known.maximum)
        for message in kafka.read_all(self._settings, topics.PARTIALS, from_offsets={0: applied}, deadline_s=600):
            if message.key() == self._key:
                partial = from_bytes(message.value())
                if partial.partition in fresh:
                    fresh[partial.partition].passed(partial)
        self.positions.update(fresh)

    def release(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self.positions.pop(partition, None)

    def count(self, partition: int, offset: int, headers: Sequence[tuple[str, bytes]], value: bytes) -> None:
        """Count one block; blocks that were skipped on the way here are read and counted first."""
        position = self.positions.get(partition)
        if position is None or offset < position.block:
            return
        self.recount(partition)
        header = self._header(partition, offset, headers)
        if position.raw is not None and header.start > position.raw:
            for missed in self._read(partition, position.block, offset):
                at = missed.offset()
                self._next(position, at, self._header(partition, at, kafka.headers_of(missed)), missed.value())
            if position.raw != header.start:
                log(
                    "blocks_gap",
                    "error",
                    topic=self._topic,
                    partition=partition,
                    expected=position.raw,
                    got=header.start,
                )
        self._next(position, offset, header, value)

    def _next(self, position: Position, offset: int, header: BlockHeader, value: bytes | None) -> None:
        if self._repeats and position.raw is not None and header.start < position.raw:
            position.block = offset + 1
            self._meter.inc("driftline_score_blocks_repeated_total", dataset=self._contract.id)
        else:
            self._one(position, offset, header, value)

    def recount(self, partition: int) -> None:
        """Count again what a newly known reference judges, if it reaches back into blocks that were counted."""
        position, timeline = self.positions[partition], self._store.timeline
        if timeline.generation <= position.generation:
            return
        since = timeline.changed_from(position.generation)
        if since is not None and position.maximum is not None and position.maximum >= since:
            start, until = self._first_affected(position, since), position.block
            log(
                "blocks_counted_again",
                topic=self._topic,
                partition=partition,
                start=start,
                until=until,
                generation=timeline.generation,
            )
            counted = 0  # up to this raw offset
            for message in self._read(partition, start, until):
                header = self._header(partition, message.offset(), kafka.headers_of(message))
                if self._repeats and header.start < counted:
                    continue
                counted = header.end
                reached = max((m for m in (header.watermark, header.max_event_time) if m is not None), default=None)
                if reached is not None and reached >= since:
                    self._one(position, message.offset(), header, message.value())
        position.generation = timeline.generation

    def flush(self) -> None:
        self._producer.flush(5)

    def _first_affected(self, position: Position, since: int) -> int:
        marks = list(position.marks)
        at = next((i for i, (_, maximum) in enumerate(marks) if maximum is not None and maximum >= since), len(marks))
        return marks[at][0] if 0 < at < len(marks) else 0

    def _one(self, position: Position, offset: int, header: BlockHeader, value: bytes | None) -> None:
        try:
            block = Block(header, blocks.decode(value))
        except BadBlock as error:
            raise Fatal(f"{self._topic}[{header.partition}]@{offset}: {error}") from error
        for partial in summarise(block, offset, self._contract, self._clock, self._store.timeline):
            self._produce(to_bytes(partial))
            position.passed(partial)
        self._meter.inc("driftline_blocks_summarised_total", dataset=self._contract.id)

    def _produce(self, value: bytes) -> None:
        while True:
            if self._failure:
                raise Fatal(f"writing {topics.PARTIALS}: {self._failure}")
            try:
                self._producer.produce(topics.PARTIALS, value, self._key, partition=0, on_delivery=self._delivered)
                self._producer.poll(0)
                return
            except BufferError:  # the broker is away or slow: wait here, the stream waits behind us
                if self._stopped.is_set():
                    raise Unreachable(f"stopping while {topics.PARTIALS} takes no more") from None
                self._producer.poll(0.5)
            except KafkaException as error:
                raise Fatal(f"writing {topics.PARTIALS}: {error.args[0].str()}") from error

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = error.str()

    def _header(self, partition: int, offset: int, headers: Sequence[tuple[str, bytes]]) -> BlockHeader:
        try:
            return blocks.from_headers(headers)
        except BadBlock as error:
            raise Fatal(f"{self._topic}[{partition}]@{offset}: {error}") from error

    def _read(self, partition: int, start: int, until: int) -> Iterator[Message]:
        """The committed blocks of offsets [start, until), by a consumer of our own."""
        yield from read_range(self._settings, self._topic, partition, start, until, self._stopped)


def read_range(
    settings: Settings, topic: str, partition: int, start: int, until: int, stopped: threading.Event
) -> Iterator[Message]:
    """Committed messages of offsets [start, until); it waits for as long as the broker is away."""
    client = kafka.consumer(settings, f"read-{topic}-range", **{"enable.partition.eof": True})
    try:
        client.assign([TopicPartition(topic, partition, start)])
        while not stopped.is_set():
            for message in client.consume(200, 0.2):
                error = message.error()
                if error is None and message.offset() < until:
                    yield message
                if error is None and message.offset() >= until - 1:
                    return
                if error is not None and error.code() == KafkaError._PARTITION_EOF and message.offset() >= until:
                    return  # nothing but transaction markers before `until`
                if error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                    raise Fatal(f"reading {topic}[{partition}] from {start}: {error.str()}")
        raise Unreachable(f"stopping while reading {topic}[{partition}]")
    finally:
        client.close()
