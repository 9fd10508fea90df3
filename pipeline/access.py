"""PURE. Who may do what in Kafka: one principal a process, and nothing that is not listed here.

`operator` (a person at the command line: topics, verify, replay, models) and `broker` are super users and stand outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline import topics

SUPER_USERS = ("operator", "broker")
# Groups of consumers that read a whole topic by assignment and commit nothing; librdkafka still asks for their coordinator.
READER_GROUPS = ("read-", "follow-")

Operation = Literal["read", "write", "describe"]
Kind = Literal["topic", "group", "transactional-id"]


@dataclass(frozen=True, slots=True)
class Grant:
    principal: str
    operation: Operation
    kind: Kind
    name: str
    prefixed: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """A process's topics by what it does with them; `verb` gives its consumer group and transactional ids."""

    principal: str
    verb: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()  # topics whose ends it may ask for, not their records
    transactional: tuple[str, ...] = ()  # verbs whose transactional ids it uses
    follows: tuple[str, ...] = ()  # verbs whose committed offsets it asks for


def roles(dataset: str) -> tuple[Role, ...]:
    events, valid, blocks = topics.events(dataset), topics.valid(dataset), topics.blocks(dataset)
    dead, quality = topics.dead_letters(dataset), topics.quality(dataset)
    predictions, outcomes, scores = topics.predictions(dataset), topics.outcomes(dataset), topics.scores(dataset)
    return (
        Role("producer", "produce", writes=(events, outcomes, topics.LINEAGE)),
        Role(
            "validator",
            "validate",
            reads=(events, blocks, topics.REQUESTS),  # its own last blocks tell it the watermark
            writes=(valid, blocks, dead, topics.LINEAGE),
            transactional=("validate",),
        ),
        Role(
            "drift",
            "drift",
            reads=(
                blocks,
                scores,
                quality,
                topics.PARTIALS,
                topics.STATE,
                topics.REFERENCES,
                topics.VERDICTS,
                topics.ALERTS,
            ),
            writes=(topics.PARTIALS, topics.STATE, topics.VERDICTS, topics.ALERTS),
            asks=(events,),  # has a partition ever held a record
            transactional=("drift",),
            follows=("score",),  # can a score still come
        ),
        Role("compactor", "compact", reads=(blocks, events, dead, outcomes), writes=(quality, topics.LINEAGE)),
        Role(
            "features",
            "features",
            reads=(blocks, outcomes),
            writes=(topics.features(dataset),),
            transactional=("features",),
        ),
        Role("score", "score", reads=(blocks, topics.LEDGER), writes=(scores,)),
        Role(
            "evaluate",
            "evaluate",
            reads=(predictions, outcomes, blocks, topics.LEDGER, topics.ALERTS),  # blocks: labels that are matches
            writes=(topics.ALERTS, topics.evaluations(dataset)),
            transactional=("evaluate",),
        ),
        Role(
            "control",
            "control",
            reads=(blocks, outcomes, predictions, topics.ALERTS, topics.REQUESTS, topics.LEDGER, topics.REFERENCES),
            writes=(topics.LEDGER, topics.REFERENCES, topics.REQUESTS, topics.LINEAGE),
            transactional=("control", "reference"),
        ),
        Role(
            "serve",
            "serve",
            reads=(topics.LEDGER, topics.features(dataset), predictions),  # one answer, to explain it
            writes=(predictions,),
        ),
        Role("page", "page", reads=(topics.VERDICTS, topics.ALERTS, topics.LEDGER)),
        Role("watch", "watch"),
    )


def principals(dataset: str) -> tuple[str, ...]:
    return (*SUPER_USERS, *(role.principal for role in roles(dataset)))


def grants(dataset: str) -> Iterator[Grant]:
    """Every grant of a dataset. Reading or writing implies describing; all else is denied."""
    for role in roles(dataset):
        who = role.principal
        yield from (Grant(who, "read", "topic", name) for name in role.reads)
        yield from (Grant(who, "write", "topic", name) for name in role.writes)
        yield from (Grant(who, "describe", "topic", name) for name in role.asks)
        if role.reads:
            yield Grant(who, "read", "group", topics.group(dataset, role.verb), prefixed=True)
            yield from (Grant(who, "read", "group", prefix, prefixed=True) for prefix in READER_GROUPS)
        for verb in role.follows:
            yield Grant(who, "describe", "group", topics.group(dataset, verb), prefixed=True)
        for verb in role.transactional:
            yield Grant(who, "write", "transactional-id", topics.group(dataset, verb), prefixed=True)
