"""Sales records for tests and benchmarks of the validator: the generator's own, with a chosen share of broken ones."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline import contract_file, kafka
from pipeline.settings import Settings
from producers import batches, sales_stream, scenarios
from producers.arrivals import Timeline

Records = list[tuple[bytes, bytes | None]]


def sales(n: int, *, bad: float = 0.01, seed: int = 1, end_ms: int | None = None) -> Records:
    """(key, value) of `n` events whose event times end just before `end_ms` (default: now)."""
    contract = contract_file.load("sales")
    timeline = Timeline.ending_at(end_ms or round(time.time() * 1000), n, 1000.0, 1.0)
    phases = tuple(replace(p, world=replace(p.world, defects=bad)) for p in scenarios.scenario("baseline"))
    source = sales_stream.stream(contract, phases, seed, timeline, labels=False)
    return [
        (_bytes(key), value)
        for batch in batches.first(source, n)
        for key, value in zip(batch.keys, batch.values, strict=True)
    ]


def fill(
    settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes | None]], partitions: int, **more: object
) -> None:
    """Send the records, each to the partition of its key; returns when all are acknowledged."""
    queue = {"queue.buffering.max.messages": 2_000_000, "batch.num.messages": 20_000}
    producer = kafka.producer(settings, "fill", **queue, **more)
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, zlib.crc32(key) % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0, f"{topic}: not everything was acknowledged"


def cycle(records: Sequence[tuple[bytes, bytes | None]], n: int) -> Iterable[tuple[bytes, bytes | None]]:
    """`n` records by going round; enough where nobody asks for unique ids."""
    for i in range(n):
        yield records[i % len(records)]


def _bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
