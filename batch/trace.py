"""EDGE. `driftline models trace PREDICTION`: from an answer back to the model, the decision, the training data, the offsets.

Follows what each place recorded: prediction log -> row in the lake -> ledger -> table version -> files -> raw offsets and the
dead letters left out. Each place may be away (a stopped stack has no broker): the rest is told, and what is absent is named.
Reads only; where no answer can be read, the champion of that time is taken and said to be inferred.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
from confluent_kafka import KafkaException

from batch import answer_log, ledger, ledger_topic, table
from batch.ledger import Entry, Ledger
from batch.recorded import key_of
from batch.trace_text import text
from pipeline import topics
from pipeline.contract import APPEND_TIME, RAW_OFFSET, RAW_PARTITION, Contract, OutcomeLabel
from pipeline.errors import CheckFailed, Unreachable
from pipeline.kafka import reach, read_all
from pipeline.settings import Settings
from pipeline.times import to_text

REACH_S = 5.0
READ_S = 60.0  # where no time narrows the log: 100,000 answers are read in a second
_COORDINATE = re.compile(r"^(?:(?P<topic>[^\[\]]+)\[(?P<at>\d+)\]|(?P<partition>\d+))@(?P<offset>\d+)$")
Json = dict[str, object]
Place = tuple[int, int]  # raw partition and offset


@dataclass(slots=True)
class Trace:
    """What was found on the way; a part that is None is named in `absent`, with the reason."""

    asked: str
    model: str
    prediction: Json | None = None
    others: list[Json] = field(default_factory=list)  # further answers to the same row
    row: Json | None = None
    outcome: Json | None = None
    version: str | None = None
    inferred: bool = False  # the version is the champion of that time: no answer could be read
    bundle: Json | None = None
    decision: Json | None = None
    ledger: str = ""
    training: Json | None = None
    files: list[Json] | None = None
    absent: dict[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        return {name: getattr(self, name) for name in self.__slots__}

    def text(self) -> str:
        return text(self.json())


def trace(settings: Settings, contract: Contract, model: str, asked: str) -> Trace:
    """CheckFailed if neither the prediction log nor the lake knows what was asked for."""
    found, place = Trace(asked, model), _place(asked, contract)
    live = _reachable(settings, found)
    if live:
        _prediction(settings, contract, found, place, _arrived(settings, contract, place))
    raw = (found.prediction or {}).get("raw")
    if isinstance(raw, Mapping):
        place = (int(raw["partition"]), int(raw["offset"]))
    said = (found.prediction or {}).get(key_of(contract) or "")
    _row(settings, contract, found, place, said or (None if place else asked))
    if found.prediction is None and found.row is None:
        raise CheckFailed(
            f"{asked}: expected the id of a prediction, the key of its row, or partition@offset of {topics.events(contract.id)}; "
            + "; ".join(f"{k}: {v}" for k, v in found.absent.items())
        )
    entries = _entries(settings, found, live)
    when = str((found.prediction or {}).get("at") or (found.row or {}).get("append_time") or "")
    _decision(found, entries, when)
    _training(settings, contract, found, entries)
    return found


def _reachable(settings: Settings, found: Trace) -> bool:
    try:
        reach(settings, deadline_s=REACH_S)
    except (Unreachable, KafkaException) as error:
        found.absent["prediction"] = f"no broker: {error}"
        return False
    return True


def _arrived(settings: Settings, contract: Contract, place: Place | None) -> int | None:
    """Wall time in ms before which nobody can have been asked about the row at that place."""
    if place is None or not table.exists(settings, contract.id):
        return None
    row = _at(table.scan(settings, contract.id), place).select(pl.col(APPEND_TIME).dt.epoch("ms")).collect()
    return int(row.item()) if row.height else None


def _prediction(settings: Settings, contract: Contract, found: Trace, place: Place | None, since: int | None) -> None:
    """The first answer counts, as everywhere; an id names one answer."""
    topic, hits = topics.predictions(contract.id), list[Json]()
    try:
        for hit in _answers(settings, topic, key_of(contract), found.asked, place, since):
            hits.append(hit)
    except (Unreachable, KafkaException, KeyError) as error:
        found.absent["further answers" if hits else "prediction"] = f"{topic}: {error}"
    if hits:
        found.prediction, *found.others = sorted(hits, key=lambda a: str(a.get("at")))
        found.version = str(found.prediction["version"])
    else:
        found.absent.setdefault("prediction", f"{topic} holds no answer about {found.asked}")


def _answers(
    settings: Settings, topic: str, key: str | None, asked: str, place: Place | None, since: int | None
) -> Iterator[Json]:
    """By an id that tells its time a few seconds of the log are read, and only where it is not there what was written since;
    by a place what was written since; else all of it."""
    if answer_log.made_at(asked) is not None:
        one = answer_log.find(settings, topic, asked, deadline_s=READ_S, late=True)
        yield from [one] if one and one.get("version") else []
        return
    needle = (asked if place is None else str(place[1])).encode()
    start = None if since is None else answer_log.offsets_at(settings, topic, since)
    for message in read_all(settings, topic, deadline_s=READ_S, from_offsets=start):
        value = message.value() or b""
        if needle not in value:
            continue
        body = answer_log.json_object(value)
        raw = body.get("raw")
        at = (raw.get("partition"), raw.get("offset")) if isinstance(raw, dict) else None
        if body.get("version") and (at == place if place else asked in (body.get("id"), body.get(key or ""))):
            yield body


def _row(settings: Settings, contract: Contract, found: Trace, place: Place | None, key: object) -> None:
    name = key_of(contract)
    if not table.exists(settings, contract.id):
        found.absent["row"] = f"no lake at {settings.lake}"
        return
    events = table.scan(settings, contract.id)
    if place:
        events = _at(events, place)
    elif name and key is not None:
        events = events.filter(pl.col(name) == str(key)).sort(APPEND_TIME, RAW_PARTITION, RAW_OFFSET)
    else:
        found.absent["row"] = "the answer names neither a raw coordinate nor a key"
        return
    rows = events.head(1).collect()
    if rows.is_empty():
        found.absent["row"] = _not_in_lake(settings, contract, place)
        return
    one = rows.row(0, named=True)
    where = (int(one[RAW_PARTITION]), int(one[RAW_OFFSET]))
    found.row = {
        "topic": topics.events(contract.id),
        "partition": where[0],
        "offset": where[1],
        "key": one.get(name) if name else None,
        "append_time": _time(one[APPEND_TIME]),
        contract.time.field: _time(one[contract.time.field]),
    }
    _outcome(settings, contract, found, one)


def _not_in_lake(settings: Settings, contract: Contract, place: Place | None) -> str:
    if place and table.exists(settings, contract.id, table.DEAD_LETTERS):
        letters = table.scan(settings, contract.id, table.DEAD_LETTERS)
        reasons = table.rows_in(letters, {place[0]: (place[1], place[1] + 1)}).select("reason").collect()
        if reasons.height:
            return f"{place[0]}@{place[1]} is a dead letter: {reasons['reason'][0]}"
    return "the lake has no such row; it has not landed, or was never sent to the stream"


def _outcome(settings: Settings, contract: Contract, found: Trace, row: Mapping[str, object]) -> None:
    label = contract.label
    if not isinstance(label, OutcomeLabel):
        return
    if table.exists(settings, contract.id, table.OUTCOMES):
        heard = table.scan(settings, contract.id, table.OUTCOMES).filter(pl.col(label.key) == row[label.key])
        first = heard.sort(APPEND_TIME, "topic_partition", "topic_offset").head(1).collect()
        if first.height:
            found.outcome = {label.name: first[label.name][0], "append_time": _time(first[APPEND_TIME][0])}
            return
    found.absent["outcome"] = "none has landed"


def _entries(settings: Settings, found: Trace, live: bool) -> list[Entry]:
    """The model's ledger: the file, or its copy in Kafka where this home has none."""
    path = ledger.path_of(settings)
    if path.exists():
        book = Ledger(path)
        try:
            found.ledger = f"{book.verify()} entries, the chain holds"
            return book.entries(found.model)
        except ledger.LedgerBroken as error:
            found.ledger = found.absent["decision"] = str(error)
            return []
    try:
        lines = [ledger.from_json(json.dumps(e)) for e in ledger_topic.read(settings)] if live else []
    except Unreachable as error:
        found.absent["decision"] = str(error)
        lines = []
    found.ledger = f"no file at {path}; {len(lines)} entries read of its copy in {topics.LEDGER}"
    found.absent.update({} if lines else {"decision": found.ledger})
    return [e for e in lines if e.draft.model == found.model]


def _decision(found: Trace, entries: Sequence[Entry], when: str) -> None:
    """The promotion or rollback by which the version served when it answered."""
    if found.version is None:
        champion = ledger.champion_at(entries, when)
        if champion is None:
            found.absent.setdefault("decision", f"the ledger knows no champion at {when}, when the row arrived")
            return
        found.version, found.inferred = champion.draft.version, True
    crowns = [e for e in entries if e.draft.action in ledger.CROWNS and e.draft.version == found.version]
    before = [e for e in crowns if e.draft.at <= when]
    if not crowns:
        found.absent.setdefault("decision", f"the ledger has made no version {found.version} champion")
        return
    entry = before[-1] if before else crowns[0]
    found.decision = {
        **{k: getattr(entry.draft, k) for k in ("at", "action", "version", "former", "actor", "reason", "policy")},
        "seq": entry.seq,
        "hash": entry.hash,
        "later": not before,  # than the answer: by hand, by a wrong clock, or the entry in force then is missing
        "episodes": list(entry.episodes),
    }


def _training(settings: Settings, contract: Contract, found: Trace, entries: Sequence[Entry]) -> None:
    entry = next((e for e in entries if e.draft.action == "train" and e.draft.version == found.version), None)
    if entry is None:
        found.absent["training"] = f"the ledger does not tell how version {found.version} was trained"
        return
    data = dict(entry.draft.data)
    found.training = {
        "seq": entry.seq,
        "at": entry.draft.at,
        "actor": entry.draft.actor,
        "reason": entry.draft.reason,
        "data": data,
    }
    _bundle(settings, found, entry.draft.artifact or {})
    ranges = {int(p): (int(r[0]), int(r[1])) for p, r in dict(data.get("ranges") or {}).items()}  # type: ignore[call-overload]
    try:
        held = table.files_with(settings, contract.id, ranges, int(str(data["table_version"])))
        found.files = [{"path": name, "rows": rows, "there": there} for name, rows, there in held]
    except (CheckFailed, KeyError) as error:
        found.absent["files"] = str(error)


def _bundle(settings: Settings, found: Trace, artifact: Mapping[str, object]) -> None:
    from batch import model as bundles

    try:
        digest = bundles.digest_of(bundles.locate(settings.home, str(artifact["uri"])))
    except (CheckFailed, KeyError) as error:
        found.absent["bundle"] = str(error)
        return
    answered = (found.prediction or {}).get("digest") or artifact["sha256"]
    found.bundle = {
        **artifact,
        "on_disk": digest,
        "intact": digest == artifact["sha256"],
        "answered_by_it": answered == digest,
    }


def _at(events: pl.LazyFrame, place: Place) -> pl.LazyFrame:
    return events.filter(pl.col(RAW_PARTITION) == place[0], pl.col(RAW_OFFSET) == place[1])


def _place(asked: str, contract: Contract) -> Place | None:
    match = _COORDINATE.match(asked)
    if match is None or match["topic"] not in (None, topics.events(contract.id)):
        return None
    return int(match["at"] or match["partition"]), int(match["offset"])


def _time(value: object) -> str:
    return to_text(round(value.timestamp() * 1000)) if hasattr(value, "timestamp") else str(value)
