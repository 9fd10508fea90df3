"""EDGE. The fold's memory: one SQLite file with every entity's sums, events that wait for their outcome, and positions.

Sums and positions change in one transaction, so whatever kills the process, the file says what the log up to its positions
means. A crash of the machine may take the last transactions back (they are not synced one by one): those blocks are read
again. What was not published yet is known by its `turn`. Without the file everything is folded again from the log.

Bounded: beyond `Bounds` the entities that were heard of least recently, and the oldest waiting keys, are forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.contract import Contract, OutcomeLabel
from stream_processors.live import feature_fold
from stream_processors.live.feature_fold import ID
from stream_processors.live.feature_plan import NOTHING, Entity, History

_TABLES = """
CREATE TABLE IF NOT EXISTS entities (key TEXT PRIMARY KEY, sums BLOB, turn INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_turn ON entities (turn);
CREATE TABLE IF NOT EXISTS events (key, at INTEGER NOT NULL, {ids});
CREATE INDEX IF NOT EXISTS by_key ON events (key);
CREATE TABLE IF NOT EXISTS outcomes (key PRIMARY KEY, positive INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS positions (topic TEXT, partition INTEGER, next INTEGER, raw INTEGER, arrived INTEGER,
                                      PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS said (turn INTEGER NOT NULL);
"""
_A_QUERY = 5_000  # keys a query: below SQLite's bound on variables


@dataclass(frozen=True, slots=True)
class Bounds:
    entities: int = 500_000  # about 0.3 KB each, here and in each serving worker
    waiting: int = 2_000_000  # events without outcome, and outcomes remembered; about 0.1 KB each, here only


@dataclass(frozen=True, slots=True)
class Position:
    """How far a partition was folded: the next offset of the topic that is read, the next raw offset, the last arrival (ms)."""

    next: int
    raw: int
    arrived: int


Where = tuple[str, int]  # topic, partition


class State:
    """Open one a file; SQLite's lock keeps a second process out."""

    def __init__(self, path: Path, history: History, contract: Contract, bounds: Bounds = Bounds()):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.forgotten = path, {"entity": 0, "event": 0, "outcome": 0}
        self._history, self._contract, self._bounds = history, contract, bounds
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-65536")  # KiB
        self._ids = [f"id{n}" for n, _ in enumerate(dict.fromkeys(history.fields))]
        self._db.executescript(_TABLES.format(ids=", ".join(self._ids)))
        self.turn = max(self._one(q) or 0 for q in ("SELECT max(turn) FROM entities", "SELECT max(turn) FROM said"))
        self.held = {
            "entity": self._one("SELECT count(*) FROM entities WHERE sums IS NOT NULL") or 0,
            "event": self._one("SELECT count(*) FROM events") or 0,
            "outcome": self._one("SELECT count(*) FROM outcomes") or 0,
        }

    def close(self) -> None:
        self._db.close()

    def positions(self) -> dict[Where, Position]:
        rows = self._db.execute("SELECT topic, partition, next, raw, arrived FROM positions")
        return {(t, p): Position(next, raw, arrived) for t, p, next, raw, arrived in rows}

    def fold(self, events: pl.DataFrame, outcomes: pl.DataFrame, positions: dict[Where, Position]) -> None:
        """Add events and outcomes, each in the order of its partition, and move on; all of it or nothing."""
        with self._transaction():
            self.turn += 1
            pairs = self._pair(events, outcomes)
            for entity in self._history.entities:
                parts = [feature_fold.event_part(events, entity, self._history, self._contract)]
                if pairs is not None and isinstance(self._contract.label, OutcomeLabel):
                    parts.append(feature_fold.outcome_part(pairs, entity, self._history, self._contract.label))
                self._add(entity, pl.concat(parts))
            self._forget()
            self._db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)",
                [(t, p, at.next, at.raw, at.arrived) for (t, p), at in positions.items()],
            )

    def sums(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Stored sums of those keys that are known; None = forgotten, and not yet told so."""
        found: dict[str, bytes | None] = {}
        for some in _slices(keys):
            marks = ",".join("?" * len(some))
            found.update(self._db.execute(f"SELECT key, sums FROM entities WHERE key IN ({marks})", some))
        return found

    def changed(self) -> list[tuple[str, bytes | None]]:
        """Keys whose sums were not published since they changed; None = the entity was forgotten."""
        said = self._one("SELECT turn FROM said") or 0
        return self._db.execute("SELECT key, sums FROM entities WHERE turn > ? ORDER BY turn, key", (said,)).fetchall()

    def pending(self) -> bool:
        """Whether sums changed since the last publication."""
        return self.turn > (self._one("SELECT turn FROM said") or 0)

    def published(self) -> None:
        """What `changed` told is in the topic now."""
        with self._transaction():
            said = self._one("SELECT turn FROM said") or 0
            self._db.execute("DELETE FROM entities WHERE turn > ? AND sums IS NULL", (said,))
            self._db.execute("DELETE FROM said")
            self._db.execute("INSERT INTO said VALUES (?)", (self.turn,))

    def take_forgotten(self) -> dict[str, int]:
        """How many were forgotten since the last call."""
        found, self.forgotten = self.forgotten, dict.fromkeys(self.forgotten, 0)
        return found

    def size(self) -> int:
        """Bytes of the file and its log."""
        return sum(p.stat().st_size for p in self.path.parent.glob(self.path.name + "*"))

    # -- outcomes find their events

    def _pair(self, events: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame | None:
        """Events and outcomes that have both arrived now; both kinds of waiting rows are kept for what comes later."""
        label = self._contract.label
        if not isinstance(label, OutcomeLabel):
            return None
        clock = self._contract.time.field
        fields = list(dict.fromkeys(self._history.fields))
        rows = (events[label.key], events[clock].dt.epoch("ms"), *(events[f] for f in fields))
        first = self._one("SELECT max(rowid) FROM events") or 0
        marks = ",".join("?" * len(rows))
        self._put("event", f"INSERT INTO events VALUES ({marks})", zip(*(r.to_list() for r in rows), strict=True))
        said = (outcomes[label.key].to_list(), outcomes[label.name].to_list(), outcomes[clock].dt.epoch("ms").to_list())
        self._put("outcome", "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?)", zip(*said, strict=True))
        self._db.execute("CREATE TEMP TABLE met AS SELECT rowid AS place FROM events LIMIT 0")
        self._db.execute(
            "INSERT INTO met SELECT e.rowid FROM events e JOIN outcomes o ON o.key = e.key WHERE e.rowid > ?", (first,)
        )
        for some in _slices(list(dict.fromkeys(said[0]))):
            marks = ",".join("?" * len(some))
            self._db.execute(
                f"INSERT INTO met SELECT rowid FROM events WHERE rowid <= {first} AND key IN ({marks})", some
            )
        found = self._db.execute(
            f"SELECT {', '.join('e.' + i for i in self._ids)}, o.positive, o.at, o.at - e.at "
            "FROM met JOIN events e ON e.rowid = met.place JOIN outcomes o ON o.key = e.key"
        ).fetchall()
        self.held["event"] -= self._db.execute("DELETE FROM events WHERE rowid IN (SELECT place FROM met)").rowcount
        self._db.execute("DROP TABLE met")
        schema = {**{f: events.schema[f] for f in fields}, label.name: pl.Int64, "happened": pl.Int64, "took": pl.Int64}
        pairs = pl.DataFrame(found, schema=schema, orient="row")
        # What is folded has arrived; when does not matter here.
        return pairs.filter(pl.col("took") <= feature_fold.latest_outcome(label)).with_columns(
            pl.lit(0, pl.Int64).alias(feature_fold.ARRIVED)
        )

    # -- sums

    def _add(self, entity: Entity, added: pl.DataFrame) -> None:
        if added.is_empty():
            return
        ids = added[ID].unique(maintain_order=True)
        keys = [f"{entity.name}:{i}" for i in ids.to_list()]
        there = self.sums(keys)
        places = pl.DataFrame({ID: ids, "at": range(len(ids))}, schema_overrides={"at": pl.Int64})
        sums = feature_fold.merged(entity, [there.get(k) or NOTHING for k in keys], added.join(places, on=ID))
        self._db.executemany(
            "INSERT OR REPLACE INTO entities VALUES (?, ?, ?)",
            ((k, s, self.turn) for k, s in zip(keys, sums, strict=True)),
        )
        self.held["entity"] += sum(there.get(k) is None for k in keys)

    def _forget(self) -> None:
        surplus = self.held["entity"] - self._bounds.entities
        if surplus > 0:
            self._db.execute(
                "UPDATE entities SET sums = NULL, turn = ? WHERE key IN "
                "(SELECT key FROM entities WHERE sums IS NOT NULL ORDER BY turn, key LIMIT ?)",
                (self.turn, surplus),
            )
            self._count("entity", surplus)
        for what in ("event", "outcome"):
            surplus = self.held[what] - self._bounds.waiting
            if surplus > 0:
                self._db.execute(
                    f"DELETE FROM {what}s WHERE rowid IN (SELECT rowid FROM {what}s ORDER BY rowid LIMIT ?)", (surplus,)
                )
                self._count(what, surplus)

    def _count(self, what: str, forgotten: int) -> None:
        self.held[what] -= forgotten
        self.forgotten[what] += forgotten

    def _put(self, what: str, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self.held[what] += max(0, self._db.executemany(statement, rows).rowcount)

    def _one(self, query: str) -> int | None:
        row = self._db.execute(query).fetchone()
        return None if row is None else row[0]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection):
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _slices(keys: Sequence[object]) -> Iterator[Sequence[object]]:
    return (keys[i : i + _A_QUERY] for i in range(0, len(keys), _A_QUERY))
