"""EDGE. References: what the stream is compared with. Built from lake rows or a file, published as one version.

A version is a directory of Arrow files, one a feature and segment, and one record each on `drift.references`, all
written in one transaction after the files are durable. It is in force from `effective_from` on, an event time at a
window's start, whenever a process learns of it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
import polars as pl
import pyarrow as pa
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors import cells
from stream_processors.cells import FeatureReference
from stream_processors.panes import WHOLE, Clock, Key, clock_of, segment_name
from stream_processors.reference_store import ReferenceRecord, ReferenceStore, read_store

# Of a grouping, the largest values get a reference of their own; rows of the others are judged in `*` only.
SEGMENTS_A_GROUPING = 50
SEGMENT_ROWS = 200  # below it a segment says nothing at all; the drift budget's own floor for paging is higher
PUBLISH_S = 30.0


class Reference:
    summary = "Build the reference that the stream is judged by, or show the one in force."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        build = actions.add_parser("build", help="from rows of the lake, or from a Parquet file, and publish it")
        build.add_argument("--table-version", type=int, help="version of the lake table (default: the newest)")
        build.add_argument("--from", dest="since", metavar="TIME", help="first event time, RFC 3339 (default: all)")
        build.add_argument("--to", dest="until", metavar="TIME", help="event time behind the last (default: all)")
        build.add_argument("--file", type=Path, help="a Parquet file with the contract's columns instead of the lake")
        build.add_argument(
            "--effective-from", metavar="TIME", help="in force from here on (default: the window after the last row)"
        )
        show = actions.add_parser("show", help="versions, features, segments")
        for one in (build, show):
            one.add_argument("--json", action="store_true", help="one JSON object a line")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        if args.action == "show":
            return _show(read_store(settings, contract.id), contract, args.json)
        rows = _rows(args, settings, contract)
        effective = to_ms(args.effective_from) if args.effective_from else _window_after(rows, contract)
        _print(publish(settings, contract, rows, version=None, effective_from=effective), args.json)
        return 0


def publish(
    settings: Settings, contract: Contract, rows: pl.DataFrame | pa.Table, *, version: int | None, effective_from: int
) -> list[ReferenceRecord]:
    """Publish the references of a new version; `version` None is the next one, `effective_from` goes up to a window's start.

    The same version again with the same rows writes the same files and records. Unreachable if the broker stays away.
    """
    # 1. read what is published  2. files, fsynced  3. records in one transaction
    # A crash between 2 and 3 leaves files that no record names; the next attempt writes them anew.
    store, clock = read_store(settings, contract.id), clock_of(contract)
    number = store.timeline.generation + 1 if version is None else version
    effective = -(-effective_from // clock.window) * clock.window
    references = build(contract, clock, rows, number, effective)
    directory = _directory(settings, contract) / f"v{number}"
    earlier = tuple((s.version, to_text(s.effective_from)) for s in store.timeline.sets if s.version < number)
    records = [_record(contract, r, _write(directory, r), len(references), earlier) for r in references.values()]
    _send(settings, contract, records)
    log(
        "reference_published",
        dataset=contract.id,
        version=number,
        effective_from=to_text(effective),
        references=len(records),
    )
    return records


def build(
    contract: Contract, clock: Clock, rows: pl.DataFrame | pa.Table, version: int, effective_from: int
) -> dict[Key, FeatureReference]:
    """The references of every monitored feature, whole and by segment; CheckFailed if there is no row."""
    table = rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows
    missing = [f.name for f in contract.drift.features if f.name not in table.column_names]
    if missing:
        raise UsageError(f"reference rows: expected the columns {missing}, got {table.column_names}")
    if table.num_rows == 0:
        raise CheckFailed("reference rows: expected some, got none; is the time range right?")
    made = {}
    for columns, segment, part in _segments(contract, pl.from_arrow(table)):
        for feature in (f for f in contract.drift.features if f.name not in columns):  # constant within its own segment
            column = _column(part.to_arrow().column(feature.name))
            made[feature.name, segment] = cells.build(
                feature, segment, column, version=version, effective_from=effective_from
            )
    return made


def _segments(contract: Contract, rows: pl.DataFrame) -> Iterator[tuple[tuple[str, ...], str, pl.DataFrame]]:
    """Grouping columns, segment name, rows."""
    yield (), WHOLE, rows
    for columns in contract.drift.segments:
        sizes = rows.drop_nulls(list(columns)).group_by(list(columns)).len().filter(pl.col("len") >= SEGMENT_ROWS)
        for *values, _ in (
            sizes.sort(["len", *columns], descending=[True, *[False] * len(columns)]).head(SEGMENTS_A_GROUPING).rows()
        ):
            same = pl.all_horizontal(pl.col(c) == v for c, v in zip(columns, values, strict=True))
            yield columns, segment_name(columns, tuple(values)), rows.filter(same)


def _column(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    kind = whole.type
    text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_dictionary(kind)
    return whole.cast(pa.string()) if text else whole


def _record(
    contract: Contract, reference: FeatureReference, file: Path, size: int, earlier: tuple[tuple[int, str], ...]
) -> ReferenceRecord:
    return ReferenceRecord(
        contract.id, reference.feature, reference.segment, reference.kind, reference.version,
        to_text(reference.effective_from), reference.rows, reference.cells, cells.digest(reference), str(file), size, earlier,
    )  # fmt: skip


def _directory(settings: Settings, contract: Contract) -> Path:
    lake = settings.lake.removeprefix("file://")
    if "://" in lake:
        raise UsageError(f"DRIFTLINE_LAKE={settings.lake}: expected a directory; object stores are not supported yet")
    return Path(lake).absolute() / contract.id / "references"


def _write(directory: Path, reference: FeatureReference) -> Path:
    """The file, complete and durable under its name."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{quote(reference.feature, safe='')}-{quote(reference.segment, safe='*=,')}.arrow"
    draft = file.with_suffix(".part")
    with draft.open("wb") as out:
        out.write(cells.to_arrow(reference))
        out.flush()
        os.fsync(out.fileno())
    draft.rename(file)
    for place in (directory, directory.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return file


def _send(settings: Settings, contract: Contract, records: list[ReferenceRecord]) -> None:
    name = topics.group(contract.id, "reference")
    producer = kafka.producer(settings, name, transactional_id=name)
    try:
        producer.init_transactions(PUBLISH_S)
        producer.begin_transaction()
        for record in records:
            producer.produce(topics.REFERENCES, msgspec.json.encode(record), record.key.encode())
        producer.commit_transaction(PUBLISH_S)
    except KafkaException as error:
        raise Unreachable(f"publishing the reference to {topics.REFERENCES}: {error.args[0].str()}") from error


def _rows(args: argparse.Namespace, settings: Settings, contract: Contract) -> pl.DataFrame:
    clock = pl.col(contract.time.field)
    if args.file:
        rows = pl.scan_parquet(args.file)
    else:
        from batch import table  # the lake's libraries take a second to import

        rows = table.scan(settings, contract.id, version=args.table_version)
    if args.since:
        rows = rows.filter(clock >= _time(args.since))
    if args.until:
        rows = rows.filter(clock < _time(args.until))
    return rows.select(
        {f.name for f in contract.drift.features}
        | {c for s in contract.drift.segments for c in s}
        | {contract.time.field}
    ).collect()


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(to_ms(text) / 1000, UTC)


def _window_after(rows: pl.DataFrame, contract: Contract) -> int:
    clock = clock_of(contract)
    newest = rows[contract.time.field].max() if rows.height else None
    if not isinstance(newest, datetime):
        raise CheckFailed(
            f"reference rows: expected a newest {contract.time.field}, got {newest!r}; say --effective-from"
        )
    when = newest if newest.tzinfo else newest.replace(tzinfo=UTC)
    return clock.window_of(int(when.timestamp() * 1000)) + clock.window


def _show(store: ReferenceStore, contract: Contract, as_json: bool) -> int:
    if not store.timeline.sets:
        raise CheckFailed(
            f"no reference for {contract.id} yet; `driftline reference build` or the first training publishes one"
        )
    _print([r for s in store.timeline.sets for _, r in sorted(store.records(s.version).items())], as_json)
    return 0


def _print(records: list[ReferenceRecord], as_json: bool) -> None:
    if as_json:
        for record in records:
            print(msgspec.json.encode(record).decode())
        return
    table = Table("version", "effective from", "feature", "segment", "kind", "rows", "cells")
    for r in records:
        table.add_row(str(r.version), r.effective_from, r.feature, r.segment, r.kind, str(r.rows), str(r.cells))
    Console(soft_wrap=True).print(table)
