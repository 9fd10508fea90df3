"""EDGE. One answer of the prediction log, found by its id without reading the log: the id carries when it was given.

`<request>-<row>`, where the request is a UUID of version 7 (RFC 9562, 5.7): 48 bits of wall time in ms, the rest random.
The broker knows each partition's offset at a time, so a look reads what was written around then, however long the log is.
Ids of version 4, as older answers have them, tell no time.
"""

from __future__ import annotations

import json
import re
import time

from confluent_kafka import TopicPartition

from pipeline.kafka import bounds, consumer, read_all
from pipeline.settings import Settings

EARLY_MS = 5_000  # by which the clock of the worker that answered may run ahead of its message's
LATE_MS = 120_000  # ... and by which a message may follow its answer, but for a worker that had no broker
TIMED_ID = re.compile(r"^([0-9a-f]{12})7[0-9a-f]{3}[89ab][0-9a-f]{15}-\d+$")
Json = dict[str, object]


def request_id(at_ms: int, random: bytes) -> str:
    """Of a time and ten random bytes.

    >>> request_id(1_795_000_000_000, bytes(10)), made_at(request_id(1_795_000_000_000, bytes(10)) + "-3")
    ('01a1ee565e0070008000000000000000', 1795000000000)
    """
    low = int.from_bytes(random) & ((1 << 74) - 1)
    return f"{at_ms << 80 | 0x7 << 76 | (low >> 62) << 64 | 0b10 << 62 | low & ((1 << 62) - 1):032x}"


def made_at(id: str) -> int | None:
    """Wall time in ms at which the answer was given; None for an id that does not tell.

    >>> made_at("3fc5bf06aea34bad89e2f59290ce6707-0")
    """
    match = TIMED_ID.match(id)
    return int(match[1], 16) if match else None


def find(settings: Settings, topic: str, id: str, *, deadline_s: float, late: bool = False) -> Json | None:
    """The log's entry of that id; None if it is not there, or tells no time. `late`: then in all that was written since, too.

    Cost: the messages of two minutes at most, and seldom more than those of the first seconds; `late` up to the whole rest.
    Unreachable where they are not read in time, KafkaException where the broker is away.
    """
    at = made_at(id)
    if at is None:
        return None
    start, end = (offsets_at(settings, topic, ms) for ms in (at - EARLY_MS, at + LATE_MS))
    needle, until = id.encode(), time.monotonic() + deadline_s
    for first, last in [(start, end), (end, None)] if late else [(start, end)]:
        left = until - time.monotonic()
        for message in read_all(settings, topic, deadline_s=left, from_offsets=first, to_offsets=last):
            value = message.value() or b""
            if needle in value and (body := json_object(value)).get("id") == id:
                return body
    return None


def offsets_at(settings: Settings, topic: str, ms: int) -> dict[int, int]:
    """By partition the first offset written at that wall time or later; its end where there is none."""
    client = consumer(settings, "read-answers")
    try:
        ends = bounds(client, topic)
        found = client.offsets_for_times([TopicPartition(topic, p, ms) for p in ends], timeout=15)
        return {t.partition: t.offset if t.offset >= 0 else ends[t.partition][1] for t in found}
    finally:
        client.close()


def json_object(value: bytes) -> Json:
    """Empty where it is none."""
    try:
        body = json.loads(value)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
