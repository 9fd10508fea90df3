"""EDGE. From messages that were read to commits of a table: one `Landing` a topic.

Positions live in the table alone. What was read and is already there is dropped; what does not follow on stops the process.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import polars as pl
import pyarrow as pa
from confluent_kafka import Message
from deltalake.exceptions import DeltaError

from batch.compaction import Pending, Plan, check_counts, check_schema, check_source, fit, lake_rows, plan, ranges_text
from batch.landed_rows import Landed, Row
from batch.rules import QualityVerdict, Windows, carry, groups, prepare, status_of, worst
from batch.table import EVENT_DATE, Conflict, LakeMissing, Table, violations
from pipeline.blocks import Block, decode, from_headers
from pipeline.contract import Contract, Status
from pipeline.kafka import headers_of
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.times import ms, to_text

STATUSES: tuple[Status, ...] = ("ok", "degraded", "critical", "unknown")
CHECKPOINT_EVERY = 50  # commits; opening reads at most so many log entries


class Landing(Protocol):
    """A topic on its way into a table."""

    topic: str
    table: Table
    held: int  # rows read and not committed

    def position(self, partition: int) -> int | None:
        """Offset to read from; None = this table has seen nothing of the partition."""
        ...

    def add(self, message: Message) -> None: ...

    def caught_up(self, partition: int) -> None:
        """The end of the partition was reached."""

    def flush(self, final: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit brought: rows, and the offsets [first, last + 1) that they came from, by partition."""

    topic: str
    path: Path
    version: int
    rows: int
    ranges: Mapping[int, tuple[int, int]]


class EventsLanding:
    """Blocks into `events`, with the dataset rules over all their rows."""

    def __init__(
        self,
        table: Table,
        contract: Contract,
        topic: str,
        partitions: Sequence[int],
        meter: Meter,
        publish: Callable[[list[QualityVerdict]], None],
        clock: Callable[[], float] = time.monotonic,
        landed: Callable[[Commit], None] = lambda commit: None,
    ):
        self.table, self.topic, self.held = table, topic, 0
        self._contract, self._meter, self._publish, self._landed = contract, meter, publish, landed
        self._pending: list[Pending] = []
        self._rules = Quality(contract, partitions, table.position, clock)
        self._unjudged = False  # blocks were read since the open windows were last judged
        self._verdicts: list[QualityVerdict] = []  # of closed windows, in no commit yet

    def position(self, partition: int) -> int | None:
        """Where open windows begin: blocks before the table's end feed the rules only."""
        opened = self.table.position(f"open/{partition}")
        return self.table.position(f"blocks/{partition}") if opened is None else opened

    def add(self, message: Message) -> None:
        header = from_headers(headers_of(message))
        block = Block(header, decode(message.value()))
        check_counts(header, block.rows)
        self._rules.add(block, int(message.offset() or 0))
        end = self._end(header.partition)
        if end is None or header.end > end:
            rows = block.valid
            self._pending.append(Pending(header, int(message.offset() or 0), rows))
            self.held += rows.num_rows
            self._unjudged = True

    def caught_up(self, partition: int) -> None:
        self._rules.caught_up(partition)

    def flush(self, final: bool = False) -> None:
        # 1. verdicts of closed windows to their topic  2. the commit, with their status. A crash between the two
        # publishes them again, equal, under the same key; so does an error, after which the caller flushes again.
        self._verdicts += self._rules.close(final and self._unjudged)
        self._unjudged = self._unjudged and not final
        if self._verdicts:
            self._publish(self._verdicts)
        while self._pending or self._verdicts:
            began = time.monotonic()
            ends = {b.header.partition: self._end(b.header.partition) for b in self._pending}
            self._pending = fit(self._pending, ends)
            if not (self._pending or self._verdicts) or self._try(
                plan(self._contract.id, self._pending, ends), self._verdicts, began
            ):
                self._pending, self._verdicts = [], []
        self.held = 0

    def _try(self, ready: Plan, verdicts: list[QualityVerdict], began: float) -> bool:
        rows = lake_rows(self._pending, self.table.schema, self._contract.time.field, EVENT_DATE)
        try:
            version = self.table.commit(
                rows, ready.expected, {**ready.advance, **self._rules.marks()}, self._metadata(ready, verdicts)
            )
        except Conflict as conflict:
            self._meter.inc("driftline_lake_commits_total", table="events", result="conflict")
            log("lake_conflict", "warning", table="events", reason=conflict)
            self.table.reload()
            return False
        self._report(version, rows.num_rows, ready, status_of(verdicts), began)
        return True

    def _metadata(self, ready: Plan, verdicts: list[QualityVerdict]) -> dict[str, str]:
        before = self.table.last_metadata()
        partitions = sorted({*json.loads(before.get("partitions", "[]")), *ready.ranges})
        ever_judged: list[Status] = ["ok"] if verdicts or before.get("worst", "unknown") != "unknown" else []
        flagged = carry(violations(before), verdicts)
        newest = [t for t in (before.get("watermark"), ready.watermark and to_text(ready.watermark)) if t]
        return {
            "contract": self._contract.name,
            "ranges": ranges_text(ready.ranges),
            "partitions": json.dumps(partitions),
            "counts": json.dumps(dict(sorted(ready.counts.items()))),
            "watermark": max(newest, default=""),
            "status": status_of(verdicts),
            "worst": worst([*ever_judged, *(v["severity"] for v in flagged)]),  # type: ignore[list-item]
            "violations": json.dumps(flagged),
        }

    def _report(self, version: int, rows: int, ready: Plan, status: Status, began: float) -> None:
        report_commit(self._meter, self.table, "events", version, rows, began)
        self._landed(Commit(self.topic, self.table.path, version, rows, ready.ranges))
        for each in STATUSES:
            self._meter.set("driftline_quality_status", float(each == status), dataset=self._contract.id, status=each)
        log(
            "lake_committed",
            table="events",
            version=version,
            rows=rows,
            ranges=ranges_text(ready.ranges),
            quality=status,
        )

    def _end(self, partition: int) -> int | None:
        return self.table.position(f"{self._contract.id}/{partition}")


class Quality:
    """The open windows of the dataset rules, and which blocks must be read again to rebuild them."""

    def __init__(
        self,
        contract: Contract,
        partitions: Sequence[int],
        position: Callable[[str], int | None],
        clock: Callable[[], float],
    ):
        self._contract, self._clock = contract, clock
        self._behind = set(partitions)  # their end was not reached since their last block
        self._groups = [
            Windows(contract, length, rules, None if length is None else position(_closed_name(ms(length))))
            for length, rules in groups(contract).items()
        ]
        self._lateness, self._idle = ms(contract.time.lateness), contract.time.idle.total_seconds()
        self._newest: dict[int, tuple[int, float]] = {}  # partition -> newest event time, when it was seen
        self._blocks: dict[int, deque[tuple[int, int]]] = {}  # partition -> (block offset, newest time in it)
        self._next: dict[int, int] = {}

    def caught_up(self, partition: int) -> None:
        self._behind.discard(partition)

    def add(self, block: Block, offset: int) -> None:
        if not self._groups:
            return
        h = block.header
        self._behind.add(h.partition)
        rows = prepare(pl.DataFrame(pl.from_arrow(block.rows)), self._contract)
        for windows in self._groups:
            windows.add(rows)
        newest = rows["__time"].max()
        self._blocks.setdefault(h.partition, deque()).append((offset, newest if isinstance(newest, int) else -1))
        self._next[h.partition] = offset + 1
        if h.max_event_time is not None:
            before = self._newest.get(h.partition, (h.max_event_time, 0.0))[0]
            self._newest[h.partition] = (max(before, h.max_event_time), self._clock())

    def close(self, final: bool) -> list[QualityVerdict]:
        """Verdicts of what the watermark closes; at a final flush of what is open too, which stays open."""
        watermark = self._watermark()
        return [v for w in self._groups for v in (w.close(watermark) + w.peek(final))]

    def marks(self) -> dict[str, int]:
        """App transactions: up to where windows are closed, and from which block on a restart must read."""
        if not self._groups:
            return {}
        closed = {
            _closed_name(w.length): w.closed for w in self._groups if w.length is not None and w.closed is not None
        }
        whole_run = any(w.length is None for w in self._groups)
        starts = [w.oldest() for w in self._groups if w.length is not None]
        needed = min((s for s in starts if s is not None), default=None)
        return {**closed, **{f"open/{p}": self._open(p, needed, whole_run) for p in self._next}}

    def _open(self, partition: int, needed: int | None, whole_run: bool) -> int:
        kept = self._blocks[partition]
        while not whole_run and kept and (needed is None or kept[0][1] < needed):
            kept.popleft()
        return kept[0][0] if kept else self._next[partition]

    def _watermark(self) -> int | None:
        """Minimum over the partitions that are behind or not idle for long; None while one of them has shown no time yet."""
        now = self._clock()
        active = {p for p, (_, seen) in self._newest.items() if now - seen < self._idle} | self._behind
        if not active <= self._newest.keys():
            return None
        return min(self._newest[p][0] for p in active or self._newest) - self._lateness if self._newest else None


@dataclass
class RecordsLanding:
    """Dead letters or outcomes into their table; a message that is none is counted in the commit, and logged once a commit."""

    name: str
    topic: str
    table: Table
    row: Callable[[Landed], Row | None]
    meter: Meter
    landed: Callable[[Commit], None] = lambda commit: None
    held: int = field(default=0, init=False)
    _rows: list[tuple[int, int, Row | None]] = field(default_factory=list, init=False)  # partition, offset, row

    def position(self, partition: int) -> int | None:
        return self.table.position(f"{self.name}/{partition}")

    def add(self, message: Message) -> None:
        landed = landed_of(message)
        self._rows.append((landed.partition, landed.offset, self.row(landed)))
        self.held += 1

    def caught_up(self, partition: int) -> None: ...

    def flush(self, final: bool = False) -> None:
        while self._rows:
            began = time.monotonic()
            # Everything from our own position on was read, so what the table does not have follows on from wherever it stands.
            expected = {p: self.position(p) for p in {partition for partition, _, _ in self._rows}}
            self._rows = [r for r in self._rows if r[1] >= (expected[r[0]] or 0)]
            if self._rows and self._try({f"{self.name}/{p}": at for p, at in expected.items()}, began):
                self._rows = []
        self.held = 0

    def _try(self, expected: Mapping[str, int | None], began: float) -> bool:
        rows = pa.Table.from_pylist([r for _, _, r in self._rows if r is not None], schema=self.table.schema)
        invalid = len(self._rows) - rows.num_rows
        advance: dict[str, int] = {}
        taken: dict[int, tuple[int, int]] = {}
        for partition, offset, _ in self._rows:
            advance[f"{self.name}/{partition}"] = offset + 1
            taken[partition] = taken.get(partition, (offset, 0))[0], offset + 1
        before = int(self.table.last_metadata().get("invalid", "0"))
        partitions = sorted(
            {*json.loads(self.table.last_metadata().get("partitions", "[]")), *(p for p, _, _ in self._rows)}
        )
        try:
            version = self.table.commit(
                rows, expected, advance, {"invalid": str(before + invalid), "partitions": json.dumps(partitions)}
            )
        except Conflict as conflict:
            self.meter.inc("driftline_lake_commits_total", table=self.name, result="conflict")
            log("lake_conflict", "warning", table=self.name, reason=conflict)
            self.table.reload()
            return False
        report_commit(self.meter, self.table, self.name, version, rows.num_rows, began)
        self.landed(Commit(self.topic, self.table.path, version, rows.num_rows, taken))
        log("lake_committed", table=self.name, version=version, rows=rows.num_rows, invalid=invalid)
        return True


def open_table(path: Path, schema: pa.Schema, by: str, sort: str, source: Mapping[str, str]) -> Table:
    """Open the table, or make it; a named error if its columns or its source are not these."""
    try:
        table = Table(path)
    except LakeMissing:
        table = Table.create(path, schema, by, {**source, "sort": sort})
        log("lake_created", table=path)
    check_source(table.properties, source, str(path))
    check_schema(table.schema, schema, str(path))
    return table


def landed_of(message: Message) -> Landed:
    return Landed(
        int(message.partition() or 0),
        int(message.offset() or 0),
        int(message.timestamp()[1]),
        message.key(),
        message.value(),
        dict(headers_of(message)),
    )


def report_commit(meter: Meter, table: Table, name: str, version: int, rows: int, began: float) -> None:
    meter.inc("driftline_lake_commits_total", table=name, result="ok")
    meter.inc("driftline_lake_rows_total", rows, table=name)
    meter.observe("driftline_lake_commit_seconds", time.monotonic() - began, table=name)
    meter.set("driftline_table_version", version, table=name)
    meter.set("driftline_table_files", table.file_count(), table=name)
    meter.set("driftline_last_commit_timestamp_seconds", time.time(), table=name)
    if version % CHECKPOINT_EVERY == 0:
        try:
            table.checkpoint()
        except (OSError, DeltaError) as error:  # the commit stands, and opening reads more entries until the next one
            log("lake_checkpoint_put_off", "warning", table=name, error=error)


def _closed_name(length: int) -> str:
    return f"closed/{length}"
