"""EDGE. The ledger: who made which model champion, when, why, on what data. SQLite, append-only, hash-chained.

The chain covers every entry of every model: an entry's hash is SHA-256 over its canonical JSON, which holds the hash
before it, so that an edited, removed or reordered line breaks it. The champion is a fold over the entries, never a
column: the version of the last `promote` or `rollback`. Promotion is a compare-and-swap in one BEGIN IMMEDIATE.
A chain cannot show that its newest lines were cut off, or that all of it was written anew: its copy in Kafka can
(`check_copy`). It knows no Kafka (`ledger_topic` publishes) and no MLflow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from pipeline.errors import CheckFailed, DriftlineError
from pipeline.settings import Settings

Action = Literal["train", "promote", "accept", "hold", "expire", "fixed_upstream", "rollback", "keep", "refuse"]
FINAL: tuple[Action, ...] = ("promote", "accept", "fixed_upstream")  # one of these closes an episode's question
CROWNS: tuple[Action, ...] = ("promote", "rollback")
GENESIS = "0" * 64
BUSY_S = 10.0  # another process holds the write lock for milliseconds
Json = Mapping[str, object]

_TABLE = "create table if not exists entries (seq integer primary key, model text not null, body text not null)"
_INDEX = "create index if not exists entries_model on entries (model, seq)"


class LedgerBroken(CheckFailed):
    """The chain does not hold, or is not what its copy in Kafka says it was: nothing may be decided by it."""


class ChampionMoved(DriftlineError):
    """The champion is not the one that this decision was made against: another promoter was faster."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """What a decision says; the ledger adds its place in the chain."""

    at: str  # RFC 3339, wall time
    model: str
    action: Action
    version: str | None = None
    former: str | None = None  # champion when it was written; the ledger fills it in
    actor: str = ""
    reason: str = ""
    policy: str = ""
    metrics: Json = field(default_factory=dict)
    data: Json = field(default_factory=dict)
    artifact: Json | None = None  # {"uri": path below DRIFTLINE_HOME, "sha256"}
    reference_version: int | None = None
    reference: Json | None = (
        None  # {"from","to","effective_from","table_version"}: enough to publish it again after a crash
    )
    episode: str | None = None
    also: tuple[str, ...] = ()  # further episodes that the same decision answers


@dataclass(frozen=True, slots=True)
class Entry:
    seq: int
    draft: Draft
    prev: str
    hash: str

    @property
    def episodes(self) -> tuple[str, ...]:
        own = (self.draft.episode,) if self.draft.episode else ()
        return own + self.draft.also

    def json(self) -> dict[str, object]:
        """The entry as it stands in the topic and in `models history --json`."""
        return {
            "seq": self.seq,
            **asdict(self.draft),
            "also": list(self.draft.also),
            "prev": self.prev,
            "hash": self.hash,
        }


def path_of(settings: Settings) -> Path:
    return settings.home / "ledger.db"


def episodes_of(entry: Mapping[str, object]) -> tuple[str, ...]:
    """The episodes that an entry (as JSON) answers.

    >>> episodes_of({"episode": "a", "also": ["b"]}), episodes_of({"episode": None})
    (('a', 'b'), ())
    """
    also = entry.get("also")
    return tuple(str(e) for e in (entry.get("episode"), *(also if isinstance(also, list) else ())) if e)


def champion_of(entries: Iterable[Mapping[str, object]], model: str | None = None) -> Mapping[str, object] | None:
    """The entry (as JSON) whose version is champion: the last promote or rollback by `seq`; repeats do no harm.

    >>> champion_of([{"seq": 2, "action": "promote", "version": "7"}, {"seq": 1, "action": "promote", "version": "6"}])["version"]
    '7'
    """
    crowns = [e for e in entries if e["action"] in CROWNS and (model is None or e["model"] == model)]
    return max(crowns, key=lambda e: int(str(e["seq"])), default=None)


def champion(entries: Iterable[Entry]) -> Entry | None:
    """As `champion_of`, over entries of one model."""
    return max((e for e in entries if e.draft.action in CROWNS), key=lambda e: e.seq, default=None)


def champion_at(entries: Iterable[Entry], at: str) -> Entry | None:
    """Who was champion at a time (RFC 3339, UTC, milliseconds: texts in that form sort as times do)."""
    return champion(e for e in entries if e.draft.at <= at)


def rolled_back(entries: Iterable[Entry]) -> set[str]:
    """Versions that service was taken from because they did worse."""
    return {e.draft.former for e in entries if e.draft.action == "rollback" and e.draft.former}


def fallback(entries: Sequence[Entry]) -> str | None:
    """The newest former champion that service was not taken from because it did worse; None if there is none."""
    now, worse = champion(entries), rolled_back(entries)
    crowns = sorted((e for e in entries if e.draft.action in CROWNS), key=lambda e: e.seq, reverse=True)
    others = (e.draft.version for e in crowns if now and e.draft.version != now.draft.version)
    return next((v for v in others if v not in worse), None)


def decided(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Each episode's final decision."""
    return {episode: e for e in entries if e.draft.action in FINAL for episode in e.episodes}


def artifact_of(entries: Iterable[Entry], version: str) -> Json | None:
    """Where a version's bundle lies and its digest, from the entry that trained it."""
    return next((e.draft.artifact for e in entries if e.draft.version == version and e.draft.artifact), None)


def entry_hash(seq: int, draft: Draft, prev: str) -> str:
    body = {"seq": seq, **asdict(draft), "also": list(draft.also), "prev": prev}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def canonical(body: Mapping[str, object]) -> str:
    """One text for one content; NaN is refused, no reader of JSON agrees on it."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Entry:
    body = json.loads(text)
    seq, prev, digest = body.pop("seq"), body.pop("prev"), body.pop("hash")
    return Entry(seq, Draft(**{**body, "also": tuple(body.get("also", ()))}), prev, digest)


def verify(rows: Iterable[tuple[int, str]]) -> int:
    """Walk the chain from its start; the number of entries, or LedgerBroken naming the first that does not follow."""
    prev, at = GENESIS, 0
    for at, (seq, text) in enumerate(rows, 1):
        entry = _parsed(seq, text)
        if (seq, entry.seq) != (at, at):
            raise LedgerBroken(f"ledger entry {seq}: expected seq {at}; an entry was removed or inserted")
        if entry.prev != prev:
            raise LedgerBroken(
                f"ledger entry {seq}: expected prev {prev[:12]}, got {entry.prev[:12]}; the entry before it was replaced"
            )
        if entry_hash(seq, entry.draft, prev) != entry.hash or text != canonical(entry.json()):
            raise LedgerBroken(
                f"ledger entry {seq}: its content does not give its hash {entry.hash[:12]}; the entry was edited"
            )
        prev = entry.hash
    return at


def check_copy(entries: Sequence[Entry], copy: Iterable[Mapping[str, object]]) -> None:
    """LedgerBroken if the copy in Kafka holds a line that the file does not: the file was cut, replaced, or is another home's.

    The file is written first, so that it may be ahead of its copy and never behind.
    """
    known = {e.seq: e.hash for e in entries}
    head = max(known, default=0)
    for line in copy:
        seq, digest = int(str(line["seq"])), str(line["hash"])
        if known.get(seq) == digest:
            continue
        said = f"the file ends at entry {head}" if seq > head else f"the file has {known[seq][:12]} there"
        raise LedgerBroken(
            f"ledger entry {seq} ({digest[:12]}) stands in models.ledger, and {said}: the file was cut or replaced, or "
            "belongs to another home; restore ledger.db from a backup before anything is decided"
        )


def _parsed(seq: int, text: str) -> Entry:
    try:
        return from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerBroken(
            f"ledger entry {seq}: expected an entry as JSON, got {error}; the entry was edited"
        ) from error


class Ledger:
    """One connection a call: promoters may be threads, processes, or a person at the command line."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("pragma journal_mode = wal")
            db.execute(_TABLE)
            db.execute(_INDEX)

    def entries(self, model: str | None = None) -> list[Entry]:
        with self._open() as db:
            where = ("", ()) if model is None else ("where model = ?", (model,))
            rows = db.execute(f"select seq, body from entries {where[0]} order by seq", where[1])
            return [_parsed(seq, body) for seq, body in rows]

    def append(self, draft: Draft) -> Entry:
        """Write an entry that moves no champion."""
        if draft.action in CROWNS:
            raise ValueError(f"{draft.action} moves the champion: use `crown`, which compares before it swaps")
        with self._write() as db:
            return _insert(db, draft)

    def append_once(self, draft: Draft) -> Entry | None:
        """As `append`, unless the model's newest entry about this episode already says the same; of no episode, with the same metrics."""
        with self._write() as db:
            rows = db.execute("select body from entries where model = ? order by seq desc", (draft.model,))
            entries = (from_json(body).draft for (body,) in rows)
            newest = next((d for d in entries if draft.episode in (d.episode, *d.also)), None)
            same = newest and (newest.action, newest.reason) == (draft.action, draft.reason)
            if newest and same and (draft.episode or newest.metrics == draft.metrics):
                return None
            return _insert(db, draft)

    def decide(self, draft: Draft) -> Entry:
        """Write an episode's final decision that moves no champion; if it has one already, that one is returned."""
        with self._write() as db:
            known = decided(_of_model(db, draft.model)).get(str(draft.episode))
            return known or _insert(db, draft)

    def crown(self, draft: Draft, expected: str | None) -> Entry:
        """Make `draft.version` champion iff the champion is still `expected`; else ChampionMoved, and nothing is written."""
        if draft.action not in CROWNS or not draft.version:
            raise ValueError(f"expected promote or rollback with a version, got {draft.action} {draft.version}")
        with self._write() as db:
            now = champion(_of_model(db, draft.model))
            serving = now.draft.version if now else None
            if serving != expected:
                raise ChampionMoved(
                    f"{draft.model}: expected champion {expected}, it is {serving}; decide again against that one"
                )
            return _insert(db, draft)

    def verify(self) -> int:
        """The number of entries; CheckFailed names the first that was edited, removed or inserted."""
        with self._open() as db:
            return verify(db.execute("select seq, body from entries order by seq"))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            db.execute("pragma synchronous = full")
            yield db
        finally:
            db.close()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("begin immediate")
            try:
                yield db
            except BaseException:
                db.execute("rollback")
                raise
            db.execute("commit")


def _of_model(db: sqlite3.Connection, model: str) -> list[Entry]:
    return [
        from_json(body) for (body,) in db.execute("select body from entries where model = ? order by seq", (model,))
    ]


def _insert(db: sqlite3.Connection, draft: Draft) -> Entry:
    if draft.action not in get_args(Action):
        raise ValueError(f"expected an action of {get_args(Action)}, got {draft.action!r}")
    now = champion(_of_model(db, draft.model))
    draft = replace(draft, former=now.draft.version if now else None)
    last = db.execute("select body from entries order by seq desc limit 1").fetchone()
    prev, seq = (from_json(last[0]).hash, from_json(last[0]).seq + 1) if last else (GENESIS, 1)
    draft = from_json(canonical({**Entry(seq, draft, prev, "").json()})).draft  # as it will be read: lists, not tuples
    entry = Entry(seq, draft, prev, entry_hash(seq, draft, prev))
    db.execute("insert into entries (seq, model, body) values (?, ?, ?)", (seq, draft.model, canonical(entry.json())))
    return entry
