"""EDGE. What one judged run sends: its valid records, its blocks, its dead letters, each to the partition it came from.

Runs inside an open transaction and knows nothing of it; decides nothing.
"""

from __future__ import annotations

from dataclasses import replace

from confluent_kafka import Message, Producer

from pipeline import blocks, topics
from pipeline.bad_batches import BadBatch
from pipeline.contract import Contract, Reject
from stream_processors.dead_letters import letter as dead_letters
from stream_processors.dead_letters.letter import RawHeaders
from stream_processors.validator import validation
from stream_processors.validator.validation import Judged, Piece


class Outputs:
    def __init__(self, contract: Contract):
        self._contract = contract
        self._raw = topics.events(contract.id)
        self._valid = topics.valid(contract.id) if contract.valid_topic else None
        self._blocks, self._dead = topics.blocks(contract.id), topics.dead_letters(contract.id)

    @property
    def topics(self) -> list[str]:
        return [self._blocks, self._dead, *([self._valid] if self._valid else [])]

    def produce(self, producer: Producer, judged: Judged, pieces: list[Piece], run: list[Message], now: int) -> None:
        consumed, produce = judged.consumed, producer.produce
        partition = consumed.partition
        if self._valid is not None:
            # One call a record is the largest cost of all: no headers, no callback (a failed delivery fails the commit).
            topic = self._valid
            values, keys = (
                validation.without(consumed.values, judged.rejects),
                validation.without(consumed.keys, judged.rejects),
            )
            for value, key in zip(values, keys, strict=True):
                produce(topic, value, key, partition)
        for piece in pieces:
            produce(self._blocks, piece.body, None, partition, headers=blocks.to_headers(piece.header))
        for i, reject in judged.rejects.items():
            self._produce_dead(producer, judged, i, reject, _headers(run[i]), now)

    def produce_unread(self, producer: Producer, bad: BadBatch, piece: Piece, now: int) -> None:
        """One dead letter for the whole range, without key and value: there is nothing that could be read."""
        message = f"{len(bad)} offsets from {bad.start} to {bad.end - 1}: {bad.message}"
        letter = dead_letters.describe(
            coordinate=(bad.topic, bad.partition, bad.start),
            reject=Reject(validation.UNREAD, "", message),
            key=None,
            value=None,
            headers=[],
            timestamp=now,
            contract=self._contract.name,
            now=now,
        )
        headers = dead_letters.to_headers(replace(letter, batch_end=bad.end))
        producer.produce(self._dead, None, None, bad.partition, timestamp=now, headers=headers)
        producer.produce(self._blocks, piece.body, None, bad.partition, headers=blocks.to_headers(piece.header))

    def _produce_dead(
        self, producer: Producer, judged: Judged, i: int, reject: Reject, headers: RawHeaders, now: int
    ) -> None:
        run = judged.consumed
        letter = dead_letters.describe(
            coordinate=(self._raw, run.partition, int(run.offsets[i])),
            reject=reject,
            key=run.keys[i],
            value=run.values[i],
            headers=headers,
            timestamp=int(run.append_ms[i]),
            contract=self._contract.name,
            now=now,
        )
        key, value = dead_letters.kept(run.keys[i], run.values[i])
        producer.produce(
            self._dead, value, key, run.partition, timestamp=now, headers=dead_letters.to_headers(letter, headers)
        )


def _headers(message: Message) -> RawHeaders:
    try:
        return message.headers() or []
    except UnicodeDecodeError:  # a header's name is not UTF-8; the raw record still has it
        return []
