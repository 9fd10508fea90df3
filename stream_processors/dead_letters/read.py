"""EDGE. Reads what commands about dead letters need: the letters, the replay markers, the audit, single raw records."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pipeline import kafka, topics
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.record import Examine, examiner
from pipeline.settings import Settings
from stream_processors.dead_letters.choice import Choice
from stream_processors.dead_letters.letter import BadDeadLetter, DeadLetter, as_first, digest, from_headers
from stream_processors.dead_letters.replay import Marker, Original, audit_from, marker_from

READ_DEADLINE_S = 600.0  # a month of dead letters
FETCH_S = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter as read, and the marker of its replay if there is one."""

    letter: DeadLetter
    message: Message
    marker: Marker | None


def chosen(settings: Settings, contract: Contract, choice: Choice) -> Iterator[Found]:
    """The letters that a choice is about, in the order of their topic; what is no letter of ours is named on stderr."""
    kafka.reach(settings, deadline_s=10)
    marked = markers(settings, contract.id)
    replays = {(m.replay_of, m.attempt) for m in marked.values()}
    examine = examiner(contract)
    at = [f.name for f in contract.fields].index(contract.time.field)
    for message in kafka.read_all(settings, topics.dead_letters(contract.id), deadline_s=READ_DEADLINE_S):
        try:
            letter = from_headers(kafka.headers_of(message))
        except BadDeadLetter as error:
            print(f"{_place(message)}: no dead letter of ours: {error}", file=sys.stderr)
            continue
        if letter.replay_of is not None and (letter.replay_of, letter.attempt - 1) not in replays:
            letter = as_first(letter)
        marker = marked.get(letter.coordinate)
        event_ms = _event_time(examine, message.value(), at) if choice.needs_event_time else None
        if choice.wants(letter, event_ms, marker is not None):
            yield Found(letter, message, marker)


def markers(settings: Settings, dataset: str) -> dict[str, Marker]:
    """Replay markers of a dataset by the coordinate that was replayed; a topic that could not be read to its end is an error."""
    head = f"{topics.events(dataset)}/".encode()
    found = (
        marker_from(m.key(), m.value()) for m in _whole(settings, topics.REPLAYED) if (m.key() or b"").startswith(head)
    )
    return {m.coordinate: m for m in found if m is not None}


def audits(settings: Settings, dataset: str) -> Iterator[dict[str, object]]:
    """Every transaction of replays of a dataset, oldest first."""
    for message in _whole(settings, topics.REQUESTS):
        if (found := audit_from(message.value(), dataset)) is not None:
            yield found


class Originals:
    """The raw record of a letter: from the letter while that is whole, else by its coordinate."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._client: Consumer | None = None

    def of(self, found: Found) -> Original:
        letter, message = found.letter, found.message
        if letter.truncated is None and not letter.headers_dropped:
            return Original(message.key(), message.value(), message.headers() or [])
        raw = self._fetch(letter)
        if raw is None:
            return Original(None, None, (), f"its letter is cut, and {letter.coordinate} is not there any more")
        if digest(raw.key(), raw.value()) != letter.sha256:
            return Original(None, None, (), f"its letter is cut, and {letter.coordinate} holds other bytes now")
        return Original(raw.key(), raw.value(), raw.headers() or [])

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _fetch(self, letter: DeadLetter) -> Message | None:
        if self._client is None:
            self._client = kafka.consumer(
                self._settings, f"read-letters-{time.time_ns():x}", reset="error", **{"enable.partition.eof": True}
            )
        client, where = self._client, TopicPartition(letter.topic, letter.partition, letter.offset)
        low, high = client.get_watermark_offsets(where, timeout=FETCH_S)
        if not low <= letter.offset < high:
            return None
        client.assign([where])
        until = time.monotonic() + FETCH_S
        while time.monotonic() < until:
            message = client.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF and error.retriable():
                continue
            return message if error is None and message.offset() == letter.offset else None
        raise Unreachable(f"{letter.coordinate}: could not be read within {FETCH_S:.0f} s")


def _whole(settings: Settings, topic: str) -> Iterator[Message]:
    """Everything on a topic; nothing where it was never made."""
    if topic in kafka.reach(settings, deadline_s=10).list_topics(timeout=10).topics:
        yield from kafka.read_all(settings, topic, deadline_s=READ_DEADLINE_S)


def _event_time(examine: Examine, value: bytes | None, at: int) -> int | None:
    cells = examine(value, None).cells
    found = cells[at] if cells is not None else None
    return found if isinstance(found, int) else None


def _place(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"
