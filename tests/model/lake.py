"""A lake made by hand through the one table module: what the compactor would have written."""

from __future__ import annotations

import json
from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from batch import table
from batch.landed_rows import OUTCOME_DATE, outcome_schema
from pipeline.contract import Contract, OutcomeLabel
from pipeline.settings import Settings


def write_events(settings: Settings, contract: Contract, rows: pl.DataFrame, **metadata: str) -> None:
    """Append rows; offsets continue where each partition's rows end."""
    rows = rows.with_columns(pl.col(contract.time.field).dt.date().alias(table.EVENT_DATE))
    schema = table.lake_schema(contract)
    lake = _open(settings, contract, table.EVENTS, schema, table.EVENT_DATE)
    ends = dict(rows.group_by("raw_partition").agg(pl.col("raw_offset").max() + 1).iter_rows())
    before = lake.last_metadata()
    known = json.loads(before.get("partitions", "[]"))
    _commit(
        lake,
        _arrow(rows, schema),
        {f"{contract.id}/{p}": end for p, end in ends.items()},
        {
            "worst": "ok",
            "violations": "[]",
            "contract": contract.name,
            "partitions": json.dumps(sorted({*known, *ends})),
            **metadata,
        },
    )


def write_outcomes(settings: Settings, contract: Contract, rows: pl.DataFrame) -> None:
    assert isinstance(contract.label, OutcomeLabel)
    schema = outcome_schema(contract, contract.label)
    rows = rows.with_columns(pl.col(contract.time.field).dt.date().alias(OUTCOME_DATE))
    outcomes, held = _open(settings, contract, table.OUTCOMES, schema, OUTCOME_DATE), _arrow(rows, schema)
    ends = dict(rows.group_by("topic_partition").agg(pl.col("topic_offset").max() + 1).iter_rows())
    advance = {
        f"{table.OUTCOMES}/{p}": max(end, outcomes.position(f"{table.OUTCOMES}/{p}") or 0) for p, end in ends.items()
    }
    known = json.loads(outcomes.last_metadata().get("partitions", "[]"))
    _commit(outcomes, held, advance, {"partitions": json.dumps(sorted({*known, *ends}))})


def _open(settings: Settings, contract: Contract, name: str, schema: pa.Schema, by: str) -> table.Table:
    path = table.location(settings, contract.id, name)
    if table.exists(settings, contract.id, name):
        return table.Table(path)
    return table.Table.create(path, schema, by, {})


def _commit(lake: table.Table, rows: pa.Table, advance: Mapping[str, int], metadata: Mapping[str, str]) -> None:
    lake.commit(rows, {}, advance, metadata)


def _arrow(rows: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return rows.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
