"""EDGE. Partials that never reached the judge, counted again from their blocks and written behind the others.

A judge that went on over such a hole would miss rows for good and close windows without them. Whatever lost them, their
blocks are committed: so the judge's owner counts these again, and a coordinate that turns up twice still counts once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from confluent_kafka import KafkaError, Message

from pipeline import blocks, kafka, topics
from pipeline.blocks import Block
from pipeline.errors import Fatal, Unreachable
from pipeline.settings import Settings
from stream_processors.drift.block_counter import PARTIALS_PRODUCER, read_range
from stream_processors.drift.source import SHARD, Source
from stream_processors.judging.judge import Progress
from stream_processors.judging.panes import Clock
from stream_processors.judging.partial import Partial, to_bytes
from stream_processors.judging.summarise import summarise
from stream_processors.judging.timeline import Timeline


class Refill:
    """All calls come from one thread."""

    def __init__(self, settings: Settings, clock: Clock, stopped: threading.Event, alive: Callable[[], None]):
        self._settings, self._clock, self._stopped, self._alive = settings, clock, stopped, alive

    def between(
        self, source: Source, known: Progress, found: Partial, timeline: Timeline
    ) -> Iterator[tuple[int, Partial]]:
        """(offset in the partials topic, partial) of what lies between `known` and `found` in raw offsets."""
        name = f"{topics.group(source.contract.id, 'drift')}.refill"
        producer = kafka.producer(self._settings, name, **PARTIALS_PRODUCER)
        written: list[tuple[int, Partial]] = []

        def told(error: KafkaError | None, message: Message, partial: Partial) -> None:
            if error is not None:
                raise Fatal(f"writing {topics.PARTIALS}: {error.str()}")
            written.append((int(message.offset() or 0), partial))

        for message in read_range(
            self._settings, source.topic, found.partition, known.block, found.block + 1, self._stopped
        ):
            whole = Block(blocks.from_headers(kafka.headers_of(message)), blocks.decode(message.value()))
            for partial in summarise(whole, message.offset(), source.contract, self._clock, timeline):
                if not known.next <= partial.start < found.start:
                    continue
                producer.produce(
                    topics.PARTIALS,
                    to_bytes(partial),
                    source.key,
                    partition=SHARD,
                    on_delivery=lambda error, m, p=partial: told(error, m, p),
                )
            while producer.flush(0.5):  # it waits for as long as the broker is away
                self._alive()
                if self._stopped.is_set():
                    raise Unreachable(f"stopping while {topics.PARTIALS} takes no more")
        yield from written
