"""EDGE. Carrying a decision out: ledger first, then the topic, then the reference, then the MLflow alias.

# 1. ledger (the decision stands)  2. models.ledger  3. references  4. alias
# A crash after 1 loses nothing: `settle` compares each later place with the ledger and does what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from confluent_kafka import KafkaException, Message

from batch import dataset, ledger, ledger_topic, lineage_runs, policy, registry, table
from batch.ledger import ChampionMoved, Draft, Entry, Ledger
from pipeline import times, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.kafka import bounds, consumer, read_all
from pipeline.lineage import whole
from pipeline.lineage_send import Lineage
from pipeline.logs import log
from pipeline.settings import Settings


class Refused(CheckFailed):
    """The gate said no, and the ledger has it."""


def crown(settings: Settings, draft: Draft, expected: str | None) -> Entry:
    """Ledger, topic: serving follows from here. ChampionMoved if somebody else was faster."""
    book = Ledger(ledger.path_of(settings))
    book.verify()
    entry = book.crown(draft, expected)
    log("champion", model=draft.model, version=draft.version, former=expected, action=draft.action, reason=draft.reason)
    lineage = Lineage(settings)
    at = times.to_ms(draft.at)
    lineage.send(*whole(lineage_runs.crowning(settings.bootstrap, settings.mlflow, entry), at, at))
    try:
        publish(settings)
    finally:
        lineage.close()
    return entry


def draft_of(
    settings: Settings, contract: Contract, model: str, action: ledger.Action, reason: str, actor: str
) -> Draft:
    """An entry for which no model was judged: its data is the lake as it stands."""
    lake = table.newest(settings, contract.id)
    data = {"table_version": lake.version} if lake else {}
    return Draft(at=now(), model=model, action=action, actor=actor, reason=reason, policy=policy.version(), data=data)


def note(settings: Settings, draft: Draft) -> None:
    """An entry that moves no champion, to ledger and topic."""
    book = Ledger(ledger.path_of(settings))
    book.verify()
    book.append(draft)
    publish(settings)


def rollback(
    settings: Settings,
    contract: Contract,
    model: str,
    version: str | None,
    *,
    actor: str,
    reason: str,
    at: str,
    metrics: Mapping[str, object] | None = None,
    of: str | None = None,
) -> Entry:
    """Back to a version that has been champion, with its reference; by default the newest that service was not taken from.

    A former champion was let in once, so no gate now. `of`: the champion that is to go, if the caller means a certain one;
    ChampionMoved if another serves by now.
    """
    entries = Ledger(ledger.path_of(settings)).entries(model)
    now = ledger.champion(entries)
    if now is None:
        raise CheckFailed(f"{model}: no champion, so there is nothing to roll back")
    if of is not None and now.draft.version != of:
        raise ChampionMoved(f"{model}: expected champion {of} to roll back from, it is {now.draft.version}")
    target = version or ledger.fallback(entries)
    was = [e for e in entries if e.draft.action in ledger.CROWNS and e.draft.version == target]
    if target is None or not was or target == now.draft.version:
        crowned = sorted({str(e.draft.version) for e in entries if e.draft.action in ledger.CROWNS})
        raise CheckFailed(
            f"{model}: expected a former champion to roll back to, got {target}; there were {', '.join(crowned)}; "
            "one that was rolled back from must be named"
        )
    draft = Draft(
        at=at,
        model=model,
        action="rollback",
        version=target,
        actor=actor,
        reason=reason,
        policy=policy.version(),
        artifact=was[-1].draft.artifact,
        data=was[-1].draft.data,
        metrics=metrics or {},
    )
    return crown(settings, _with_former_reference(settings, contract, draft, entries), now.draft.version)


def _with_former_reference(settings: Settings, contract: Contract, draft: Draft, entries: Sequence[Entry]) -> Draft:
    """The rows that the version was last judged by, in force again from the next window."""
    reign, spec = None, None
    for e in entries:
        reign = e.draft.version if e.draft.action in ledger.CROWNS else reign
        spec = e.draft.reference if e.draft.reference and reign == draft.version else spec
    if spec is None or contract.drift.reference.kind != "training":
        return draft
    try:
        return with_reference(settings, contract, draft, times.to_ms(str(spec["from"])), times.to_ms(str(spec["to"])))
    except Unreachable as error:  # getting rid of a bad model does not wait for a reference
        log("reference_left", "warning", version=draft.version, error=error)
        return draft


def publish(settings: Settings) -> None:
    """Send to the topic what it lacks; Unreachable leaves it to the next call."""
    ledger_topic.publish(settings, Ledger(ledger.path_of(settings)))


def settle(settings: Settings, contract: Contract, model: str) -> list[str]:
    """Bring topic, references and alias to where the ledger is; what was done.

    Unreachable for what is away; CheckFailed if the file is not what the topic says it was: then nothing is brought anywhere.
    """
    done = []
    book = Ledger(ledger.path_of(settings))
    book.verify()
    sent = ledger_topic.publish(settings, book)
    done += [f"entry {e.seq} published" for e in sent]
    entries = book.entries(model)
    last = max((e for e in entries if e.draft.reference), key=lambda e: e.draft.reference_version or 0, default=None)
    if last and reference_version(settings, contract) < (last.draft.reference_version or 0):
        publish_reference(settings, contract, last)
        done.append(f"reference {last.draft.reference_version} published")
    now = ledger.champion(entries)
    if now and now.draft.version and registry.pointed(settings, model) != now.draft.version:
        registry.point(settings, model, now.draft.version)
        done.append(f"alias {now.draft.version}")
    return done


def reference_version(settings: Settings, contract: Contract) -> int:
    """The highest version in `drift.references` of this contract; 0 if there is none."""
    versions = [0]
    for message in read_all(settings, topics.REFERENCES, deadline_s=30):
        body = json.loads(message.value() or b"{}")
        if body.get("contract") in (contract.id, contract.name):
            versions.append(int(body["version"]))
    return max(versions)


def with_reference(settings: Settings, contract: Contract, draft: Draft, start: int, end: int) -> Draft:
    """The draft with the reference that its decision brings: the lake's rows of [start, end), in force from the next window.

    Fixed before the decision is written, so that a crash after it cannot change what is published.
    """
    window = times.ms(contract.drift.window)
    known = [e.draft.reference_version or 0 for e in Ledger(ledger.path_of(settings)).entries(draft.model)]
    effective = -(-(newest_event_time(settings, contract) or end) // window) * window
    spec = {"from": times.to_text(start), "to": times.to_text(end), "effective_from": times.to_text(effective)}
    return replace(draft, reference_version=max([reference_version(settings, contract), *known]) + 1, reference=spec)


def publish_reference(settings: Settings, contract: Contract, entry: Entry) -> None:
    from batch import reference

    spec, version = entry.draft.reference, entry.draft.reference_version
    if not isinstance(spec, Mapping) or version is None:
        raise UsageError(f"ledger entry {entry.seq} carries no reference")
    start, end, effective = (times.to_ms(str(spec[k])) for k in ("from", "to", "effective_from"))
    rows = dataset.events_between(settings, contract, start, end)
    reference.publish(settings, contract, rows, version=version, effective_from=effective, decision=entry)


def newest_event_time(settings: Settings, contract: Contract) -> int | None:
    """Newest event time in the stream, from the headers of the newest blocks; the lake's where no block can be read."""
    from pipeline import blocks

    newest = dataset.newest_event_time(settings, contract)
    try:
        for message in _tail(settings, topics.blocks(contract.id)):
            header = blocks.from_headers([(k, v or b"") for k, v in message.headers() or []])
            newest = max(newest or 0, header.max_event_time or 0)
    except (Unreachable, KafkaException, KeyError) as error:
        log("blocks_unread", "warning", error=error)
    return newest


TAIL = 20  # messages: the markers of transactions take offsets too


def _tail(settings: Settings, topic: str) -> list[Message]:
    client = consumer(settings, "read-tail")
    try:
        starts = {p: max(lo, hi - TAIL) for p, (lo, hi) in bounds(client, topic).items()}
    finally:
        client.close()
    return list(read_all(settings, topic, deadline_s=15, from_offsets=starts))


def now() -> str:
    """Wall time as it stands in the ledger."""
    return times.to_text(int(datetime.now(UTC).timestamp() * 1000))
