"""PURE. The topics: their names, and the settings each one is created with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KIB, MIB = 1024, 1024 * 1024
MESSAGE_LIMIT = 1 * MIB
DEAD_LETTER_LIMIT = 2 * MIB
BLOCK_LIMIT = 512 * KIB  # compressed; half the topic limit leaves room for headers and growth
RECORD_LIMIT = 64 * KIB  # a raw record over this is dead-lettered `size`
DEAD_LETTER_KEEP = 1 * MIB  # key and value kept whole up to this, together
DAY_MS = 24 * 3600 * 1000

PARTIALS = "drift.partials"
STATE = "drift.state"
REFERENCES = "drift.references"
VERDICTS = "drift.verdicts"
ALERTS = "drift.alerts"
LEDGER = "models.ledger"
REQUESTS = "control.requests"
LINEAGE = "lineage.events"
REPLAYED = "dead-letters.replayed"


def events(dataset: str) -> str:
    return f"{dataset}.events"


def valid(dataset: str) -> str:
    return f"{dataset}.valid"


def blocks(dataset: str) -> str:
    return f"{dataset}.blocks"


def dead_letters(dataset: str) -> str:
    return f"{dataset}.dead-letters"


def quality(dataset: str) -> str:
    return f"{dataset}.quality"


def predictions(dataset: str) -> str:
    return f"{dataset}.predictions"


def scores(dataset: str) -> str:
    return f"{dataset}.scores"


def outcomes(dataset: str) -> str:
    return f"{dataset}.outcomes"


def evaluations(dataset: str) -> str:
    return f"{dataset}.evaluations"


def features(dataset: str) -> str:
    return f"{dataset}.features"


def group(dataset: str, verb: str) -> str:
    """Consumer group and transactional-id prefix: `driftline.<dataset>.<verb>`."""
    return f"driftline.{dataset}.{verb}"


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)


def _kept(days: float, **more: str) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(int(days * DAY_MS)),
        "max.message.bytes": str(MESSAGE_LIMIT),
        **more,
    }


_COMPACTED = {"cleanup.policy": "compact", "max.message.bytes": str(MESSAGE_LIMIT), "min.cleanable.dirty.ratio": "0.1"}
_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}


def of_dataset(dataset: str, partitions: int) -> tuple[Topic, ...]:
    """Raw, valid, blocks and dead letters share one partition count: partition p of each holds the same records."""
    return (
        Topic(events(dataset), partitions, {**_kept(7), **_APPEND_TIME}),
        Topic(valid(dataset), partitions, _kept(7)),
        # Blocks are zstd inside; aiokafka, which reads them for the drift process, has no lz4 of its own.
        Topic(blocks(dataset), partitions, _kept(30, **{"compression.type": "uncompressed"})),
        Topic(dead_letters(dataset), partitions, {**_kept(30), "max.message.bytes": str(DEAD_LETTER_LIMIT)}),
        Topic(quality(dataset), 1, _kept(90)),
        Topic(predictions(dataset), partitions, _kept(30)),
        Topic(scores(dataset), partitions, _kept(30, **{"compression.type": "uncompressed"})),  # as the blocks
        Topic(
            evaluations(dataset),
            1,
            {**_COMPACTED, "cleanup.policy": "compact,delete", "retention.ms": str(90 * DAY_MS)},
        ),
        Topic(outcomes(dataset), partitions, {**_kept(90), **_APPEND_TIME}),
        # One partition: an as-of record speaks for all before it. Small segments, for a worker reads the topic at its start.
        Topic(features(dataset), 1, {**_COMPACTED, "segment.bytes": str(64 * MIB)}),
    )


def shared(shards: int = 1) -> tuple[Topic, ...]:
    """Topics that all datasets share; keys begin with the contract's name."""
    return (
        Topic(PARTIALS, shards, _kept(30)),  # retention >= revise_within: closed windows are re-read from here
        Topic(STATE, shards, _COMPACTED),
        Topic(REFERENCES, 1, _COMPACTED),
        Topic(VERDICTS, 1, _kept(90)),
        Topic(ALERTS, 1, _kept(365)),
        Topic(REPLAYED, 1, _COMPACTED),
        Topic(LEDGER, 1, {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(MESSAGE_LIMIT)}),
        Topic(REQUESTS, 1, _kept(365)),
        Topic(LINEAGE, 1, _kept(90)),
    )


def all_topics(dataset: str, partitions: int) -> tuple[Topic, ...]:
    return of_dataset(dataset, partitions) + shared()
