"""EDGE. The ledger in Kafka: `models.ledger`, which serving follows. The SQLite file leads, the topic repeats it.

Publishing compares with what the topic holds, so a crash between the two is repaired by the next call. A reader takes an
entry by its `seq`: a repeat says nothing new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from confluent_kafka import KafkaException

from batch.ledger import Entry, canonical
from pipeline import topics
from pipeline.errors import Unreachable
from pipeline.kafka import producer, read_all
from pipeline.settings import Settings

DEADLINE_S = 30.0


def published(settings: Settings, deadline_s: float = DEADLINE_S) -> dict[str, str]:
    """Hash -> model of every entry in the topic."""
    return {str(body["hash"]): str(body["model"]) for body in read(settings, deadline_s)}


def read(settings: Settings, deadline_s: float = DEADLINE_S) -> list[dict[str, object]]:
    """Every entry of the topic once, by seq; another home's entries (same seq, other hash) stay as they are."""
    found = {}
    for message in read_all(settings, topics.LEDGER, deadline_s=deadline_s):
        body = json.loads(message.value() or b"{}")
        if "hash" in body:
            found[body["hash"]] = body
    return sorted(found.values(), key=lambda body: int(str(body["seq"])))


def publish(settings: Settings, entries: Iterable[Entry], deadline_s: float = DEADLINE_S) -> list[Entry]:
    """Send the entries that the topic lacks, in order; those sent. Unreachable if the broker did not take them."""
    try:
        there = published(settings, deadline_s)
        missing = sorted((e for e in entries if e.hash not in there), key=lambda e: e.seq)
        if missing:
            _send(settings, missing, deadline_s)
    except (KafkaException, KeyError) as error:
        raise Unreachable(
            f"{topics.LEDGER}: {error}; the ledger file holds the decision, it is published at the next start"
        ) from error
    return missing


def _send(settings: Settings, missing: list[Entry], deadline_s: float) -> None:
    failed: list[str] = []
    client = producer(settings, "ledger")
    for entry in missing:
        client.produce(
            topics.LEDGER,
            key=entry.draft.model.encode(),
            value=canonical(entry.json()).encode(),
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
    left = client.flush(deadline_s)
    if left or failed:
        raise Unreachable(
            f"{topics.LEDGER}: {left or len(failed)} of {len(missing)} entries not taken: {failed[:1] or 'time-out'}"
        )
