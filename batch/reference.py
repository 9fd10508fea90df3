"""EDGE. References: what the stream is compared with. Built from lake rows or a file, published as one version.

A version is a directory of Arrow files, one a feature and segment, and one record each on `drift.references`, all
written in one transaction after the files are durable. It is in force from `effective_from` on, an event time at a
window's start, whenever a process learns of it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import msgspec
import polars as pl
import pyarrow as pa
from confluent_kafka import KafkaException

from batch import reference_show, score_reference
from batch.ledger import Entry
from batch.reference_build import build, expect_columns, outcomes
from pipeline import contract_file, kafka, topics
from pipeline.contract import APPEND_TIME, RAW_OFFSET, RAW_PARTITION, REJECT, Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.judging.panes import Key, clock_of
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.store import ReferenceRecord, read_store

PUBLISH_S = 30.0


class Reference:
    summary = "Build the reference that the stream is judged by, show it, compare two."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        make = actions.add_parser(
            "build", help="from rows of the lake, a Parquet file or a training run, and publish it"
        )
        source = make.add_mutually_exclusive_group()
        source.add_argument("--table-version", type=int, help="version of the lake table (default: the newest)")
        source.add_argument("--file", type=Path, help="a Parquet file with the contract's columns instead of the lake")
        source.add_argument("--mlflow-run", metavar="RUN", help="the lake rows that this MLflow run was trained on")
        make.add_argument("--from", dest="since", metavar="TIME", help="first event time, RFC 3339 (default: all)")
        make.add_argument("--to", dest="until", metavar="TIME", help="event time behind the last (default: all)")
        make.add_argument("--last", metavar="SPAN", help="only so much event time before the newest row, e.g. 7d, 12h")
        make.add_argument(
            "--effective-from", metavar="TIME", help="in force from here on (default: the window after the last row)"
        )
        show = actions.add_parser("show", help="versions, features, segments; rhythm, dependence, what pages")
        diff = actions.add_parser("diff", help="what changed between two versions, or a version and a Parquet file")
        diff.add_argument("old", type=int, metavar="VERSION")
        diff.add_argument("new", metavar="VERSION|FILE")
        for one in (make, show, diff):
            one.add_argument("--json", action="store_true", help="one JSON object a line")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        if args.action == "show":
            return reference_show.show(read_store(settings, contract.id), contract, args.json)
        if args.action == "diff":
            return _diff(args, settings, contract)
        rows = _rows(args, settings, contract)
        effective = to_ms(args.effective_from) if args.effective_from else _window_after(rows, contract)
        records = publish(settings, contract, rows, version=None, effective_from=effective)
        loaded = {(r.feature, r.segment): cells.from_arrow(Path(r.uri).read_bytes()) for r in records}
        reference_show.print_records(records, args.json, loaded)
        return 0


def publish(
    settings: Settings,
    contract: Contract,
    rows: pl.DataFrame | pa.Table,
    *,
    version: int | None,
    effective_from: int,
    decision: Entry | None = None,
) -> list[ReferenceRecord]:
    """Publish the references of a new version; `version` None is the next one, `effective_from` goes up to a window's start.

    With them go those of the model's answers: of the model that serves by `decision`, or else of the one that serves now.
    The same version again with the same rows writes the same files and records. Unreachable if the broker stays away.
    """
    # 1. read what is published  2. files, fsynced  3. records in one transaction
    # A crash between 2 and 3 leaves files that no record names; the next attempt writes them anew.
    store, clock = read_store(settings, contract.id), clock_of(contract)
    number = store.timeline.generation + 1 if version is None else version
    effective = -(-effective_from // clock.window) * clock.window
    frame = rows if isinstance(rows, pl.DataFrame) else pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    references = build(contract, clock, frame, number, effective, rejects_of(settings, contract, frame))
    model = score_reference.champion(settings, contract, decision)
    references |= score_reference.references(settings, contract, frame, model, number, effective)
    earlier = tuple((s.version, to_text(s.effective_from)) for s in store.timeline.sets if s.version < number)
    records = written(settings, contract, references, earlier)
    send(settings, contract, records)
    log(
        "reference_published",
        dataset=contract.id,
        version=number,
        effective_from=to_text(effective),
        references=len(records),
    )
    return records


def written(
    settings: Settings,
    contract: Contract,
    references: Mapping[Key, FeatureReference],
    earlier: tuple[tuple[int, str], ...] = (),
) -> list[ReferenceRecord]:
    """The records of one version, its files durable; `earlier` = (version, effective from) of those before."""
    lake = _directory(settings, contract)
    return [
        _record(contract, r, _write(lake / f"v{r.version}", r), len(references), earlier) for r in references.values()
    ]


def rejects_of(settings: Settings, contract: Contract, frame: pl.DataFrame) -> pa.Table | None:
    """The `outcomes` of all records within the rows' own raw offsets; None where the rows carry no offset."""
    from batch import table

    if RAW_PARTITION not in frame.columns:
        return None
    ends = frame.group_by(RAW_PARTITION).agg(low=pl.col(RAW_OFFSET).min(), high=pl.col(RAW_OFFSET).max() + 1)
    ranges = {p: (low, high) for p, low, high in ends.iter_rows()}
    coordinate = [pl.col(RAW_PARTITION), pl.col(RAW_OFFSET)]
    records = [table.rows_in(table.scan(settings, contract.id), ranges).select(*coordinate, contract.time.field)]
    if table.exists(settings, contract.id, table.DEAD_LETTERS):
        letters = table.rows_in(table.scan(settings, contract.id, table.DEAD_LETTERS), ranges)
        own = letters.filter(pl.col("raw_topic") == topics.events(contract.id)).unique([RAW_PARTITION, RAW_OFFSET])
        records.append(own.select(*coordinate, pl.col("reason").alias(REJECT)))
    else:
        records = [records[0].with_columns(pl.lit(None, pl.String).alias(REJECT))]
    return outcomes(pl.concat(records, how="diagonal").collect(), frame, contract.time.field)


def _record(
    contract: Contract, reference: FeatureReference, file: Path, size: int, earlier: tuple[tuple[int, str], ...]
) -> ReferenceRecord:
    return ReferenceRecord(
        contract.id, reference.feature, reference.segment, reference.kind, reference.version,
        to_text(reference.effective_from), reference.rows, reference.cells, cells.digest(reference), str(file), size, earlier,
        reference.model,
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


def send(settings: Settings, contract: Contract, records: list[ReferenceRecord]) -> None:
    """All records of a version in one transaction; Unreachable if the broker stays away."""
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
    kafka.wait_until_readable(settings, name)


def _rows(args: argparse.Namespace, settings: Settings, contract: Contract) -> pl.DataFrame:
    clock = pl.col(contract.time.field)
    since, until = _time(args.since), _time(args.until)
    if args.file:
        rows = _parquet(args.file)
        timed = since or until or args.last or not args.effective_from
        expect_columns(contract, rows.collect_schema().names(), str(args.file), (contract.time.field,) if timed else ())
    else:
        from batch import table  # the lake's libraries take a second to import

        version = args.table_version
        if args.mlflow_run:
            version, since, until = trained_on(settings, contract, args.mlflow_run)
        rows = table.scan(settings, contract.id, version=version)
    if since:
        rows = rows.filter(clock >= since)
    if until:
        rows = rows.filter(clock < until)
    if args.last:
        newest = rows.select(clock.max()).collect().item()
        rows = rows.filter(clock > newest - span_of(args.last)) if newest else rows
    return rows.select(_columns(contract, rows.collect_schema().names())).collect()


def _parquet(file: Path) -> pl.LazyFrame:
    try:
        rows = pl.scan_parquet(file)
        rows.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{file}: expected a Parquet file, got {str(error).splitlines()[0]}") from error
    return rows


def _columns(contract: Contract, there: list[str]) -> list[str]:
    """What a reference is made of, and what a model reads; a column that is not there is missed where it is needed."""
    wanted = {f.name for f in contract.drift.features} | {c for s in contract.drift.segments for c in s}
    if contract.drift.scores:
        wanted |= {f.name for f in contract.fields} | {APPEND_TIME}
    return [c for c in there if c in wanted | {contract.time.field, RAW_PARTITION, RAW_OFFSET}]


def trained_on(settings: Settings, contract: Contract, run: str) -> tuple[int, datetime, datetime]:
    """(table version, first event time, event time behind the last) of a training run."""
    from batch import registry

    tags = registry.data_of(settings, run)
    try:
        version, start, end = int(tags["table_version"]), to_ms(tags["start"]), to_ms(tags["end"]) + 1
    except (KeyError, ValueError) as error:
        raise CheckFailed(
            f"MLflow run {run}: expected the data of a `driftline train` run in its tags, got {tags}"
        ) from error
    if tags.get("contract") != contract.name:
        raise CheckFailed(f"MLflow run {run}: expected data of {contract.name}, got {tags.get('contract')}")
    return version, *(datetime.fromtimestamp(ms / 1000, UTC) for ms in (start, end))


def span_of(text: str, option: str = "--last") -> timedelta:
    """
    >>> span_of("7d"), span_of("90m")
    (datetime.timedelta(days=7), datetime.timedelta(seconds=5400))
    """
    units = {"d": "days", "h": "hours", "m": "minutes"}
    if text[:-1].isdigit() and text[-1:] in units and int(text[:-1]):
        return timedelta(**{units[text[-1]]: int(text[:-1])})
    raise UsageError(f"{option} {text}: expected a number of days, hours or minutes, e.g. 7d, 12h, 90m")


def _diff(args: argparse.Namespace, settings: Settings, contract: Contract) -> int:
    store = read_store(settings, contract.id)
    old = reference_show.members(store, args.old)
    if args.new.isdigit():
        new = reference_show.members(store, int(args.new))
    elif Path(args.new).is_file():
        rows = _parquet(Path(args.new)).collect()
        expect_columns(contract, rows.columns, args.new)
        new = build(contract, clock_of(contract), rows, 0, 0)
    else:
        raise UsageError(f"reference diff: expected a version or a Parquet file, got {args.new}")
    return reference_show.diff(old, new, contract.drift.alpha, args.json)


def _time(text: str | None) -> datetime | None:
    return datetime.fromtimestamp(to_ms(text) / 1000, UTC) if text else None


def _window_after(rows: pl.DataFrame, contract: Contract) -> int:
    clock = clock_of(contract)
    newest = rows[contract.time.field].max() if rows.height else None
    if not isinstance(newest, datetime):
        raise CheckFailed(
            f"reference rows: expected a newest {contract.time.field}, got {newest!r}; say --effective-from"
        )
    when = newest if newest.tzinfo else newest.replace(tzinfo=UTC)
    return clock.window_of(int(when.timestamp() * 1000)) + clock.window
