"""EDGE. The one module that touches the lake's tables: create, commit with offsets inside, merge, vacuum, read, name.

A commit is files (written and fsynced here), then one Delta log entry that holds the files and, as app transactions,
the next offsets. The entry is created exclusively as the version after the snapshot that was checked: a compare-and-set.
It knows no Kafka and no contract rule. Never use the dataset-based readers of deltalake: a short process that did may
abort at exit (seen in 4 of 30 runs); polars reads instead.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError

from batch import table_log
from batch.digest import content_digest
from batch.table_log import LOG, Action, sync
from pipeline.contract import APPEND_TIME, RAW_OFFSET, RAW_PARTITION, Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings

EVENTS, DEAD_LETTERS, OUTCOMES = "events", "dead_letters", "outcomes"
EVENT_DATE = "event_date"  # the partition column of `events`
META = "driftline."  # prefix of our commit metadata and table properties
OF_ONE_COMMIT = ("ranges", "counts", "status", "commit")
SMALL_FILE = 16 * 1024 * 1024  # a file below this is worth merging, and no merge reads more: some 400,000 sales rows
_NULL_DATE = "__HIVE_DEFAULT_PARTITION__"
_STATS_TYPES = (pa.types.is_integer, pa.types.is_timestamp)  # bounds that prune: offsets and times
_READER, _WRITER = 1, 2  # the protocol that we write; a table that asks for more is not ours to write to


class LakeMissing(CheckFailed):
    """There is no such table, or no such version of it."""


class Conflict(Exception):
    """Another writer committed since the snapshot was read; nothing of this commit is in the table."""


@dataclass(frozen=True, slots=True)
class Version:
    """One commit of a table as its log tells it."""

    version: int
    at: int  # ms, wall time
    operation: str
    metadata: Mapping[str, str]  # ours, without the prefix


@dataclass(frozen=True, slots=True)
class Identity:
    """What names a table's data: `digest` depends on the rows alone, not on files, commits or their order."""

    version: int
    ranges: Mapping[int, tuple[int, int]]  # raw offsets [start, end) by partition
    rows: int
    digest: str
    status: str  # worst quality status over the data
    violations: tuple[Mapping[str, str], ...]  # {"rule","severity","window_start"} of failed dataset rules, newest 200
    contract: str
    metadata: Mapping[str, str]


def location(settings: Settings, dataset: str, table: str = EVENTS) -> Path:
    """The directory of a table; a UsageError for an object store, whose files this module cannot fsync."""
    lake = settings.lake.removeprefix("file://")
    if "://" in lake:
        raise UsageError(f"DRIFTLINE_LAKE={settings.lake}: expected a directory; object stores are not supported yet")
    return Path(lake) / dataset / table


def lake_schema(contract: Contract) -> pa.Schema:
    """The events table: the contract's columns, the raw coordinate, the append time, the partition column."""
    if contract.time.field and any(f.name == EVENT_DATE for f in contract.fields):
        raise UsageError(f"contract {contract.name}: field {EVENT_DATE!r} is the name of the lake's partition column")
    own = [
        pa.field(RAW_PARTITION, pa.int32()),
        pa.field(RAW_OFFSET, pa.int64()),
        pa.field(APPEND_TIME, pa.timestamp("us", "UTC")),
        pa.field(EVENT_DATE, pa.date32()),
    ]
    return pa.schema([pa.field(f.name, stored_type(f.type)) for f in contract.row_schema] + own)


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Delta knows microseconds only."""
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(kind) else kind


class Table:
    """A table open for writing. One snapshot at a time; `reload` takes the newest."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.reload()
        except (TableNotFoundError, FileNotFoundError) as error:
            raise LakeMissing(f"{path}: no table here yet; `driftline compact` makes it") from error
        asked = self._delta.protocol().min_writer_version
        if asked > _WRITER:
            raise CheckFailed(
                f"{path}: expected a table of writer version {_WRITER}, got {asked}: another program changed it"
            )
        self.schema = pa.schema(self._delta.schema().to_arrow())
        self._by = list(self._delta.metadata().partition_columns)

    @classmethod
    def create(cls, path: Path, schema: pa.Schema, by: str, properties: Mapping[str, str]) -> Table:
        """Make the table, durable before this returns; one that another writer made meanwhile is opened."""
        (path / LOG).mkdir(parents=True, exist_ok=True)
        for directory in (path, *list(path.parents)[:2]):
            sync(directory)
        now = _now_ms()
        description = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(schema).to_json(),
            "partitionColumns": [by],
            "createdTime": now,
            "configuration": {META + k: v for k, v in properties.items()},
        }
        with contextlib.suppress(FileExistsError):
            table_log.enter(
                path,
                0,
                [
                    {"commitInfo": {"timestamp": now, "operation": "CREATE TABLE", "operationParameters": {}}},
                    {"protocol": {"minReaderVersion": _READER, "minWriterVersion": _WRITER}},
                    {"metaData": description},
                ],
            )
        return cls(path)

    @property
    def version(self) -> int:
        return self._delta.version() or 0

    @property
    def properties(self) -> dict[str, str]:
        """What was fixed when the table was made."""
        return _ours(self._delta.metadata().configuration)

    def reload(self) -> None:
        sync(
            self.path / LOG
        )  # another writer may have died before this: what follows on must not outlive what it follows
        self._delta = DeltaTable(str(self.path))

    def position(self, app: str) -> int | None:
        """The number that the last commit of this app transaction left; kept through merges and checkpoints."""
        return self._delta.transaction_version(app)

    def last_metadata(self) -> dict[str, str]:
        """Our metadata of the snapshot's newest commit (merges carry it over)."""
        return _ours(self._delta.history(1)[0])

    def file_count(self) -> int:
        return len(self._delta.file_uris())

    def files(self) -> list[dict[str, object]]:
        return pa.table(self._delta.get_add_actions(flatten=True)).to_pylist()

    def commit(
        self,
        rows: pa.Table,
        expected: Mapping[str, int | None],
        advance: Mapping[str, int],
        metadata: Mapping[str, str],
    ) -> int:
        """Append rows and move positions in one atomic step; the new version. Conflict if anybody was faster.

        `expected` is what the caller's rows follow on from: it is compared with the very snapshot that is replaced.
        """
        # 1. positions as expected  2. files written, fsynced  3. log entry written, fsynced, then linked under its version.
        # A crash before the link leaves orphans (vacuum takes them), after it the commit stands.
        for app, position in expected.items():
            if self.position(app) != position:
                raise Conflict(
                    f"{self.path.name}: {app} is at {self.position(app)}, the rows follow on from {position}"
                )
        added = self._write(rows)
        self._enter(added, [], advance, metadata)
        return self.version

    def merge(self, at_most: int) -> int:
        """Rewrite the small files of each date that has more than `at_most` of them as few sorted ones; how many went away.

        A merge changes no row; each is a commit of its own and loses against any other. Memory: the rows of one SMALL_FILE.
        """
        gone = 0
        for date, files in _small_files(self.files()).items():
            if len(files) > at_most:
                gone += sum(self._merge_date(date, some) for some in _within(SMALL_FILE, files) if len(some) > 1)
        return gone

    def checkpoint(self) -> None:
        table_log.checkpoint(self.path)

    def vacuum(self, keep_hours: int) -> int:
        """Delete files that no version of the last `keep_hours` hours needs, orphans of refused commits included."""
        # The library only says which: its own vacuum enters two versions that nobody fsyncs.
        hours = max(1, keep_hours)  # never 0: a commit in progress has files without a log entry
        gone = self._delta.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)
        for file in gone:
            (self.path / unquote(file)).unlink(missing_ok=True)
        for stray in (*self.path.glob(f"{table_log.SCRATCH}*"), *(self.path / LOG).glob("*.tmp")):
            if _now_ms() - stray.stat().st_mtime * 1000 > hours * 3_600_000:
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)
        return len(gone)

    def _kept_metadata(self) -> dict[str, str]:
        """What describes all rows so far; what describes one commit (its ranges, counts, status) stays with that commit."""
        return {k: v for k, v in self.last_metadata().items() if k not in OF_ONE_COMMIT}

    def _merge_date(self, date: str, files: Sequence[Mapping[str, object]]) -> int:
        parts = [pq.ParquetFile(self.path / str(f["path"])).read() for f in files]
        rows = pa.concat_tables(parts)
        clock = self.properties.get("sort")
        rows = rows.sort_by(clock) if clock else rows
        added = [self._write_file(rows, None if date == _NULL_DATE else date, data_change=False)]
        values = {self._by[0]: None if date == _NULL_DATE else date}
        removed: list[Action] = [
            {
                "remove": {
                    "path": f["path"],
                    "deletionTimestamp": _now_ms(),
                    "dataChange": False,
                    "extendedFileMetadata": True,
                    "partitionValues": values,
                    "size": f["size_bytes"],
                }
            }
            for f in files
        ]
        self._enter(added, removed, {}, self._kept_metadata())
        return len(removed) - 1

    def _enter(
        self,
        added: Sequence[Action],
        removed: Sequence[Action],
        advance: Mapping[str, int],
        metadata: Mapping[str, str],
    ) -> None:
        token, version = uuid.uuid4().hex, self.version + 1
        info = {"timestamp": _now_ms(), "operation": "WRITE", "operationParameters": {"mode": "Append"}}
        ours = {META + k: v for k, v in metadata.items()} | {META + "commit": token}
        moved = [{"txn": {"appId": app, "version": at}} for app, at in advance.items()]
        try:
            table_log.enter(self.path, version, [{"commitInfo": info | ours}, *moved, *added, *removed])
        except OSError as error:
            # The error is not the outcome: the log is. Ours is there only if our token is.
            self.reload()
            if all(_ours(h).get("commit") != token for h in self._delta.history(10)):
                for action in added:
                    (self.path / str(action["add"]["path"])).unlink(missing_ok=True)
                if isinstance(error, FileExistsError):
                    raise Conflict(f"{self.path}: version {version} is there already") from error
                raise
        else:
            self.reload()

    def _write(self, rows: pa.Table) -> list[Action]:
        """One file a date, rows sorted by the table's clock."""
        if rows.num_rows == 0:
            return []
        clock, by = self.properties.get("sort"), self._by[0]
        dates = rows.column(by)
        added: list[Action] = []
        for date in pc.unique(dates).to_pylist():
            mask = pc.is_null(dates) if date is None else pc.equal(dates, pa.scalar(date, pa.date32()))
            part = rows.filter(mask).drop_columns([by])
            added.append(self._write_file(part.sort_by(clock) if clock else part, date and date.isoformat()))
        return added

    def _write_file(self, rows: pa.Table, date: str | None, data_change: bool = True) -> Action:
        directory = self.path / f"{self._by[0]}={date or _NULL_DATE}"
        directory.mkdir(exist_ok=True)
        file = directory / f"part-{uuid.uuid4().hex}.parquet"
        try:
            pq.write_table(rows, file, compression="zstd", use_dictionary=True, write_statistics=True)
            sync(file)
        except OSError:
            file.unlink(missing_ok=True)  # a full disk: half a file helps nobody
            raise
        sync(directory)
        sync(self.path)  # though the directory may be old: who made it may have died before this
        size, relative = file.stat().st_size, str(file.relative_to(self.path))
        return {
            "add": {
                "path": relative,
                "partitionValues": {self._by[0]: date},
                "size": size,
                "modificationTime": _now_ms(),
                "dataChange": data_change,
                "stats": _stats(rows),
            }
        }


def scan(settings: Settings, dataset: str, table: str = EVENTS, version: int | None = None) -> pl.LazyFrame:
    """The rows of one version (the newest at the time of the call, or a named one) as a polars query; LakeMissing if there is none."""
    delta = _open(settings, dataset, table, version)
    return pl.scan_delta(str(location(settings, dataset, table)), version=delta.version())


def exists(settings: Settings, dataset: str, table: str = EVENTS) -> bool:
    return DeltaTable.is_deltatable(str(location(settings, dataset, table)))


def count(settings: Settings, dataset: str, table: str = EVENTS, version: int | None = None) -> int:
    """Rows of a version, by its log alone."""
    return sum(
        int(f["num_records"])
        for f in pa.table(_open(settings, dataset, table, version).get_add_actions(flatten=True)).to_pylist()
    )


def rows_in(
    frame: pl.LazyFrame, ranges: Mapping[int, tuple[int, int]], by: Sequence[str] = (RAW_PARTITION, RAW_OFFSET)
) -> pl.LazyFrame:
    """The rows whose coordinate lies in `ranges`: names data even after vacuum took an old version's files."""
    inside, (number, offset) = pl.lit(False), (pl.col(name) for name in by)
    for partition, (start, end) in ranges.items():
        inside |= (number == partition) & (offset >= start) & (offset < end)
    return frame.filter(inside)


def identity(
    settings: Settings,
    dataset: str,
    table: str = EVENTS,
    version: int | None = None,
    ranges: Mapping[int, tuple[int, int]] | None = None,
) -> Identity:
    """Name the rows of a version (or of some ranges of it): version, ranges, row count, content digest, quality status."""
    delta = _open(settings, dataset, table, version)
    metadata = _ours(delta.history(1)[0])
    found = ranges or _ranges(delta, dataset, metadata)
    rows, digest = content_digest(
        rows_in(pl.scan_delta(str(location(settings, dataset, table)), version=delta.version()), found), found
    )
    return Identity(
        version=delta.version() or 0,
        ranges=found,
        rows=rows,
        digest=digest,
        status=metadata.get("worst", "unknown"),
        violations=tuple(violations(metadata)),
        contract=metadata.get("contract", ""),
        metadata=metadata,
    )


def violations(metadata: Mapping[str, str]) -> list[dict[str, str]]:
    """The dataset rules that failed, as a commit's metadata lists them."""
    return json.loads(metadata.get("violations", "[]"))


def versions(settings: Settings, dataset: str, table: str = EVENTS, limit: int | None = None) -> list[Version]:
    """The table's commits, newest first, as far back as its log is kept."""
    entries = _open(settings, dataset, table, None).history(limit)
    return [
        Version(int(h["version"]), int(h.get("timestamp", 0)), str(h.get("operation", "")), _ours(h)) for h in entries
    ]


def newest(settings: Settings, dataset: str) -> Version | None:
    """The last commit; None where there is no lake yet."""
    return versions(settings, dataset, limit=1)[0] if exists(settings, dataset) else None


def positions(
    settings: Settings, dataset: str, table: str = EVENTS, version: int | None = None
) -> dict[int, tuple[int, int]]:
    """Offsets [start, end) of its topic that the table covers, by partition: raw ones for `events`."""
    delta = _open(settings, dataset, table, version)
    return _ranges(delta, dataset if table == EVENTS else table, _ours(delta.history(1)[0]))


def live_files(
    settings: Settings, dataset: str, table: str = EVENTS, version: int | None = None
) -> Iterator[tuple[str, Path]]:
    """(path below the table, absolute path) of each file of a version."""
    path = location(settings, dataset, table)
    for action in pa.table(_open(settings, dataset, table, version).get_add_actions(flatten=True)).to_pylist():
        yield str(action["path"]), path / str(action["path"])


def files_with(
    settings: Settings, dataset: str, ranges: Mapping[int, tuple[int, int]], version: int | None = None
) -> list[tuple[str, int, bool]]:
    """(path below the table, rows, is it there) of each events file of a version that may hold rows of `ranges`."""
    path, found = location(settings, dataset), []
    for f in pa.table(_open(settings, dataset, EVENTS, version).get_add_actions(flatten=True)).to_pylist():
        low, high = ((f.get(f"{end}.{RAW_PARTITION}"), f.get(f"{end}.{RAW_OFFSET}")) for end in ("min", "max"))
        if None in (*low, *high) or any(
            low[0] <= p <= high[0] and low[1] < end and high[1] >= start for p, (start, end) in ranges.items()
        ):
            name = str(f["path"])
            found.append((name, int(f["num_records"]), (path / unquote(name)).exists()))
    return found


def _open(settings: Settings, dataset: str, table: str, version: int | None) -> DeltaTable:
    path = location(settings, dataset, table)
    try:
        return DeltaTable(str(path), version=version)
    except TableNotFoundError as error:
        raise LakeMissing(f"{path}: no table here yet; `driftline compact` makes it") from error
    except DeltaError as error:
        what = "its log cannot be read" if version is None else f"no version {version}"
        raise LakeMissing(f"{path}: {what} ({error})") from error


def _ranges(delta: DeltaTable, app: str, metadata: Mapping[str, str]) -> dict[int, tuple[int, int]]:
    found = {}
    for partition in json.loads(metadata.get("partitions", "[]")):
        end = delta.transaction_version(f"{app}/{partition}")
        if end is not None:
            found[int(partition)] = (delta.transaction_version(f"begin/{partition}") or 0, end)
    return found


def _ours(entry: Mapping[str, object]) -> dict[str, str]:
    return {k.removeprefix(META): str(v) for k, v in entry.items() if k.startswith(META)}


def _small_files(files: Sequence[Mapping[str, object]]) -> dict[str, list[Mapping[str, object]]]:
    by_date: dict[str, list[Mapping[str, object]]] = {}
    for file in files:
        if int(str(file["size_bytes"])) < SMALL_FILE:
            date = str(file["path"]).partition("/")[0].partition("=")[2]
            by_date.setdefault(date, []).append(file)
    return by_date


def _within(size: int, files: Sequence[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    """Runs of files that are together no larger; one that is larger stands alone."""
    held, total = list[Mapping[str, object]](), 0
    for file in files:
        own = int(str(file["size_bytes"]))
        if held and total + own > size:
            yield held
            held, total = [], 0
        held, total = [*held, file], total + own
    if held:
        yield held


def _stats(rows: pa.Table) -> str:
    """Delta's file statistics: row count, and bounds of the integer and time columns."""
    low: dict[str, object] = {}
    high: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for name in rows.column_names:
        column = rows.column(name)
        nulls[name] = column.null_count
        if column.null_count < len(column) and any(is_type(column.type) for is_type in _STATS_TYPES):
            bounds = pc.min_max(column).as_py()
            low[name], high[name] = (_json_bound(bounds[k]) for k in ("min", "max"))
    return json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _json_bound(value: object) -> object:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if hasattr(value, "strftime") else value


def _now_ms() -> int:
    return int(time.time() * 1000)
