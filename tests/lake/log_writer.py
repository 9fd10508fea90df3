"""Writes what the validator writes, so that the lake's tests depend on the formats and not on the process."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Producer, TopicPartition

from pipeline import decode, kafka, topics
from pipeline.blocks import VALID, BlockHeader, encode, to_headers
from pipeline.contract import Contract
from pipeline.settings import Settings
from pipeline.times import to_text
from stream_processors.dead_letters.letter import describe
from stream_processors.dead_letters.letter import to_headers as letter_headers

START = 1_790_000_000_000  # ms, a day in September 2026


def order(number: int, **changes: object) -> bytes:
    """A valid sales event, one a second of event time."""
    at = START + number * 1000
    good = {
        "order_id": f"o{number}",
        "customer_id": f"c{number % 50}",
        "product_id": f"p{number % 20}",
        "category": "books",
        "region": "north",
        "channel": "web",
        "quantity": 1 + number % 5,
        "price": 20.0 + number % 100,
        "discount": 0.1,
        "order_date": to_text(at)[:10],
        "event_time": to_text(at),
    }
    return json.dumps({**good, **changes}).encode()


class LogWriter:
    """Raw records, then blocks, valid records, dead letters and offsets in one transaction a block."""

    def __init__(self, settings: Settings, contract: Contract):
        self.settings, self.contract = settings, contract
        self.decoder = decode.compile(contract)
        self.raw = kafka.producer(settings, "log-writer-raw")
        self.ends: dict[int, int] = {}
        self.newest: dict[int, int | None] = {}
        self._reached: dict[int, int | None] = {}  # once the transaction is committed
        self._out = self._new()

    def _new(self) -> Producer:
        out = kafka.producer(self.settings, "log-writer", transactional_id=f"log-writer-{self.contract.id}")
        out.init_transactions(30)
        return out

    def write(self, partition: int, values: Sequence[bytes], *, abort: bool = False) -> None:
        """One block of these records. With `abort` the records are raw and the block's transaction is aborted, then written again."""
        start = self.ends.get(partition, 0)
        for value in values:
            self.raw.produce(topics.events(self.contract.id), value, b"k", partition)
        assert self.raw.flush(30) == 0
        if abort:
            self._transaction(partition, start, values)
            self._out.abort_transaction(30)
            self._out = self._new()
        self._transaction(partition, start, values)
        self._out.commit_transaction(30)
        self.ends[partition], self.newest[partition] = start + len(values), self._reached[partition]

    def _transaction(self, partition: int, start: int, values: Sequence[bytes]) -> None:
        c, now = self.contract, int(time.time() * 1000)
        offsets = np.arange(start, start + len(values))
        decoded = self.decoder.decode_batch(list(values), offsets, np.full(len(values), now))
        times = decoded.event_times
        low, high = (int(times.min()), int(times.max())) if len(times) else (None, None)
        header = BlockHeader(
            topics.events(c.id),
            partition,
            start,
            start + len(values),
            decoded.counts,
            low,
            high,
            self.newest.get(partition),
            c.name,
        )
        self._out.begin_transaction()
        self._out.produce(topics.blocks(c.id), encode(decoded.batch), None, partition, headers=to_headers(header))
        for i, value in enumerate(values):
            if i in decoded.rejects:
                letter = describe(
                    coordinate=(topics.events(c.id), partition, start + i),
                    reject=decoded.rejects[i],
                    key=b"k",
                    value=value,
                    headers=(),
                    timestamp=now,
                    contract=c.name,
                    now=now,
                )
                self._out.produce(topics.dead_letters(c.id), value, b"k", partition, headers=letter_headers(letter))
            else:
                self._out.produce(topics.valid(c.id), value, b"k", partition)
        group = kafka.consumer(self.settings, topics.group(c.id, "validate"))
        self._out.send_offsets_to_transaction(
            [TopicPartition(topics.events(c.id), partition, start + len(values))], group.consumer_group_metadata(), 30
        )
        group.close()
        assert VALID in decoded.counts
        self._reached[partition] = max((t for t in (self.newest.get(partition), high) if t is not None), default=None)
