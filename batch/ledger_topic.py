"""EDGE. The ledger in Kafka: `models.ledger`, which serving follows. The SQLite file leads, the topic repeats it.

Publishing compares with what the topic holds, so a crash between the two is repaired by the next call. A reader takes an
entry by its `seq`: a repeat says nothing new.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from confluent_kafka import KafkaException

from batch.ledger import Entry, Ledger, canonical, check_copy
from pipeline import topics
from pipeline.errors import Unreachable
from pipeline.kafka import producer, read_all
from pipeline.settings import Settings

DEADLINE_S = 30.0


def read(settings: Settings, deadline_s: float = DEADLINE_S) -> list[dict[str, object]]:
    """Every entry of the topic once, by seq; Unreachable if the broker does not answer."""
    found = {}
    try:
        for message in read_all(settings, topics.LEDGER, deadline_s=deadline_s):
            body = json.loads(message.value() or b"{}")
            if "hash" in body:
                found[body["hash"]] = body
    except (KafkaException, KeyError) as error:
        raise Unreachable(f"{topics.LEDGER}: {error}") from error
    return sorted(found.values(), key=lambda body: int(str(body["seq"])))


def publish(settings: Settings, book: Ledger, deadline_s: float = DEADLINE_S) -> list[Entry]:
    """Send the entries that the topic lacks, in order; those sent. What cannot be sent now is sent by the next call.

    LedgerBroken if the topic has a line that the file lacks (`ledger.check_copy`); Unreachable if the broker does not answer.
    """
    copy = read(settings, deadline_s)  # before the file: what others write in between makes that longer, not shorter
    entries = book.entries()
    check_copy(entries, copy)
    there = {line["hash"] for line in copy}
    missing = sorted((e for e in entries if e.hash not in there), key=lambda e: e.seq)
    try:
        if missing:
            _send(settings, missing, deadline_s)
    except KafkaException as error:
        raise Unreachable(f"{topics.LEDGER}: {error}; the ledger file holds the decision") from error
    return missing


def _send(settings: Settings, missing: Sequence[Entry], deadline_s: float) -> None:
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
