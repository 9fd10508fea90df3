"""Samples: a small contract, blocks of it, a table of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from batch import table as lake
from batch.compaction import Pending, lake_rows, plan
from pipeline.blocks import VALID, BlockHeader
from pipeline.contract import APPEND_TIME, Contract, DatasetRule, DriftPlan, Field, OutcomeLabel, TimePlan

HOUR = 3_600_000
DAY = 24 * HOUR


def contract(*rules: DatasetRule, id: str = "shop", lateness: timedelta = timedelta(0)) -> Contract:
    return Contract(
        id=id,
        version="1.0.0",
        fields=(
            Field("order", "string", required=True),
            Field("amount", "number"),
            Field("at", "timestamp", required=True),
        ),
        key="order",
        time=TimePlan("at", lateness=lateness),
        drift=DriftPlan(()),
        dataset_rules=rules,
        label=OutcomeLabel("back", "order", timedelta(hours=6)),
    )


def batch(
    start: int, rows: list[tuple[str | None, float | None, int | None, str | None]], c: Contract | None = None
) -> pa.RecordBatch:
    """A block's body: (order, amount, at in ms, reject) at offsets start, start + 1, ..."""
    columns = [
        [r[0] for r in rows],
        [r[1] for r in rows],
        [r[2] for r in rows],
        list(range(start, start + len(rows))),
        [r[2] or 0 for r in rows],
        [r[3] for r in rows],
    ]
    schema = (c or contract()).block_schema
    return pa.RecordBatch.from_arrays(
        [pa.array(x, f.type) for x, f in zip(columns, schema, strict=True)], schema=schema
    )


def header(start: int, end: int, rows: pa.RecordBatch, partition: int = 0, dataset: str = "shop") -> BlockHeader:
    valid = [
        t
        for t, r in zip(rows.column("at").cast(pa.int64()).to_pylist(), rows.column("reject").to_pylist(), strict=True)
        if r is None
    ]
    counts = {VALID: len(valid), **({"range": end - start - len(valid)} if end - start > len(valid) else {})}
    return BlockHeader(
        f"{dataset}.events",
        partition,
        start,
        end,
        counts,
        min(valid, default=None),
        max(valid, default=None),
        None,
        f"{dataset}@1.0.0",
    )


def pending(start: int, end: int, partition: int = 0, message: int | None = None, step: int = 60_000) -> Pending:
    """A block of valid rows [start, end), one a minute of event time."""
    rows = batch(start, [(f"o{partition}-{i}", float(i), i * step, None) for i in range(start, end)])
    return Pending(header(start, end, rows, partition), start if message is None else message, rows)


def new_table(path: Path) -> lake.Table:
    return lake.Table.create(path, lake.lake_schema(contract()), lake.EVENT_DATE, {"sort": "at"})


def commit(table: lake.Table, blocks: list[Pending], ends: dict[int, int | None] | None = None) -> int:
    """Commit fitting blocks as the compactor does."""
    at = (
        ends if ends is not None else {b.header.partition: table.position(f"shop/{b.header.partition}") for b in blocks}
    )
    ready = plan("shop", blocks, at)
    rows = lake_rows(blocks, table.schema, "at", lake.EVENT_DATE)
    partitions = sorted(ready.ranges)
    return table.commit(rows, ready.expected, ready.advance, {"partitions": str(partitions), "worst": "ok"})


__all__ = ["APPEND_TIME", "DAY", "HOUR", "batch", "commit", "contract", "header", "new_table", "pending"]
