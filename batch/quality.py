"""EDGE. `driftline quality`: the dataset rules again, over what the lake and the dead-letter table hold.

Decoded rows are the lake's valid rows plus the dead letters that still decode, so the answer does not depend on what
the compactor remembered. Memory: the columns that rules need, of the range asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from batch import table as lake
from batch.rules import QualityVerdict, evaluate, status_of
from pipeline import contract_file, decode
from pipeline.contract import APPEND_TIME, REJECT, Contract, Status
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.times import to_ms

SHOWN = 10  # critical verdicts named one by one


@dataclass(frozen=True, slots=True)
class Assessment:
    """Dataset-rule verdicts over a range of data."""

    status: Status
    rows: int
    verdicts: tuple[QualityVerdict, ...]

    @property
    def failed(self) -> tuple[QualityVerdict, ...]:
        return tuple(v for v in self.verdicts if not v.passed)

    @property
    def critical(self) -> tuple[QualityVerdict, ...]:
        """What halts training, by name."""
        return tuple(v for v in self.verdicts if v.status == "critical")


class Quality:
    summary = "Judge the dataset rules over the lake; exit 1 when one is critical."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object")
        parser.add_argument("--from", dest="since", metavar="TIME", help="event time, RFC 3339 (inclusive)")
        parser.add_argument("--to", dest="until", metavar="TIME", help="event time, RFC 3339 (exclusive)")
        parser.add_argument("--version", type=int, help="table version (default: the newest)")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        found = assess(
            settings, contract, since=_time(args.since, "--from"), until=_time(args.until, "--to"), version=args.version
        )
        print(json.dumps(_report(contract, found)) if args.json else _text(contract, found))
        for v in found.critical[:SHOWN]:
            print(f"critical: {v.rule} in {v.window_start}: expected {v.expected}, got {v.value}", file=sys.stderr)
        if len(found.critical) > SHOWN:
            print(f"critical: {len(found.critical) - SHOWN} more; --json names every one", file=sys.stderr)
        return 1 if found.critical else 0


def assess(
    settings: Settings,
    contract: Contract,
    *,
    since: int | None = None,
    until: int | None = None,
    version: int | None = None,
) -> Assessment:
    """Judge the rows whose event time lies in [since, until) ms; without bounds, all of them.

    With a bound, rows without an event time are left out, and whole-run rules judge the range.
    """
    rows = decoded_rows(settings, contract, version)
    time = pl.col(contract.time.field).cast(pl.Datetime("ms", "UTC")).to_physical()
    if since is not None:
        rows = rows.filter(time >= since)
    if until is not None:
        rows = rows.filter(time < until)
    verdicts = evaluate(rows, contract)
    return Assessment(status_of(verdicts), rows.height, tuple(verdicts))


def decoded_rows(settings: Settings, contract: Contract, version: int | None = None) -> pl.DataFrame:
    """The columns that rules need of every decoded row: valid ones from the lake, rejected ones from the dead letters."""
    needed = sorted({c for rule in contract.dataset_rules for c in rule.columns} | {contract.time.field})
    valid = (
        lake.scan(settings, contract.id, version=version)
        .select(*needed, APPEND_TIME)
        .with_columns(pl.lit(None, pl.String).alias(REJECT))
        .collect()
    )
    rejected = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([rejected_rows(settings, contract)])))
    return pl.concat([valid, rejected.select(valid.columns).cast(dict(valid.schema))])  # type: ignore[arg-type]


def rejected_rows(settings: Settings, contract: Contract) -> pa.RecordBatch:
    """Dead letters that decode to an object, as block rows (offsets are those of the raw records)."""
    if not lake.exists(settings, contract.id, lake.DEAD_LETTERS):
        return pa.RecordBatch.from_pylist([], contract.block_schema)
    letters = lake.scan(settings, contract.id, lake.DEAD_LETTERS).select("value", "raw_offset", "append_time").collect()
    append = letters["append_time"].cast(pl.Datetime("ms", "UTC")).to_physical().fill_null(0).to_numpy()
    decoded = decode.compile(contract).decode_batch(
        letters["value"].to_list(), letters["raw_offset"].to_numpy(), np.asarray(append, np.int64)
    )
    # What decodes as valid now was rejected under another contract version: its letter keeps it out of the lake, its row stays a row.
    return decoded.batch


def _time(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else to_ms(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _report(contract: Contract, found: Assessment) -> dict[str, object]:
    return {
        "contract": contract.name,
        "status": found.status,
        "rows": found.rows,
        "verdicts": [asdict(v) for v in found.verdicts],
    }


def _text(contract: Contract, found: Assessment) -> str:
    lines = [f"{contract.name}: {found.status} over {found.rows} decoded rows, {len(found.verdicts)} verdicts"]
    for rule in contract.dataset_rules:
        of_rule = [v for v in found.verdicts if v.rule == rule.name]
        broken = [v for v in of_rule if not v.passed]
        lines.append(
            f"  {rule.name:<24} {rule.severity:<9} {len(of_rule) - len(broken):>6} passed  {len(broken):>6} violated"
        )
        lines += [
            f"      {v.window_start}: expected {v.expected}, got {v.value} ({v.violations} of {v.rows} rows)"
            for v in broken[:3]
        ]
    return "\n".join(lines)
