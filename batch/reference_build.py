"""PURE. References of everything that a contract watches, from rows: whole, by segment, and of the rejects.

Of a segment grouping the largest values have a reference of their own, the rest share one (`column=*`). Rows whose
grouping column is null are judged in `*` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.blocks import VALID
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT, REJECTS, Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.record import CODES
from stream_processors.detectors.budget import SEGMENT_ROWS, SEGMENTS_A_GROUPING, SMALLEST_SEGMENT
from stream_processors.judging.panes import (
    WHOLE,
    Clock,
    Key,
    pooled_name,
    segment_name,
)
from stream_processors.reference import cells
from stream_processors.reference import fit as reference_fit
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.rejects import category_of


def build(
    contract: Contract,
    clock: Clock,
    rows: pl.DataFrame | pa.Table,
    version: int,
    effective_from: int,
    rejects: pa.Table | None = None,
) -> dict[Key, FeatureReference]:
    """The references of every monitored feature, whole and by segment; CheckFailed if there is no row.

    `rejects` are the records of the same stretch (`outcomes`); None (a file knows of none) leaves that feature without a
    reference.
    """
    table = rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows
    plan = contract.drift
    expect_columns(contract, table.column_names, "reference rows")
    if table.num_rows == 0:
        raise CheckFailed("reference rows: expected some, got none; is the time range right?")
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    needed = [c for g in plan.segments for c in g] + [f.name for f in plan.features]
    if contract.time.field in frame.columns:
        frame = frame.drop_nulls(contract.time.field)
        needed.append(contract.time.field)
    frame = frame.select(list(dict.fromkeys(needed)))
    chosen = [
        (feature, segment, part)
        for columns, segment, part in _segments(contract, frame)
        for feature in plan.features
        if feature.name not in columns  # constant within its own segment
    ]
    made = {}
    for feature, segment, part in chosen:
        whole = made.get((feature.name, WHOLE))  # the whole comes first
        made[feature.name, segment] = reference_fit.fit(
            feature, segment, _column(part.to_arrow().column(feature.name)), _times(part, contract),
            reference_fit.wish_of(plan, feature, len(chosen), whole.slots if whole else None),
            version=version, effective_from=effective_from,
        )  # fmt: skip
    if plan.rejects and rejects is not None:
        made[REJECTS.name, WHOLE] = of_rejects(contract, rejects, len(chosen) + 1, version, effective_from)
    return made


def expect_columns(contract: Contract, got: Sequence[str], where: str, more: Sequence[str] = ()) -> None:
    """UsageError if a column is missing that the contract's references are made of, or one of `more`."""
    plan = contract.drift
    needed = dict.fromkeys([*more, *(f.name for f in plan.features), *(c for s in plan.segments for c in s)])
    if missing := [name for name in needed if name not in got]:
        raise UsageError(
            f"{where}: expected the columns {', '.join(needed)} of {contract.name}, got {', '.join(got) or 'none'}; "
            f"missing {', '.join(missing)}: rename them, or name another contract with --contract"
        )


def outcomes(records: pl.DataFrame, rows: pl.DataFrame, time: str) -> pa.Table:
    """Records by outcome (`valid`, or the reason why not) and the event time (ms) where their partition's log stood.

    `records` holds coordinate, event time and reject code (null = valid) of all that lies between the reference's `rows`.
    What stands before a partition's first valid row has no place (`stream_processors.reference.rejects`), and what stands before or
    behind the rows' event times, where late ones are, is another stretch: both are left out.
    """
    own = pl.when(pl.col(REJECT).is_null()).then(_ms(pl.col(time)))
    placed = own.cum_max().forward_fill().over(RAW_PARTITION).alias("time")
    ordered = records.sort(RAW_PARTITION, RAW_OFFSET).select(placed, outcome=pl.col(REJECT).fill_null(VALID))
    low, high = rows.select(low=_ms(pl.col(time).min()), high=_ms(pl.col(time).max())).row(0)
    return ordered.filter(pl.col("time").is_between(low, high)).to_arrow()


def of_rejects(
    contract: Contract, records: pa.Table, tests: int, version: int, effective_from: int
) -> FeatureReference:
    """The feature `reject` of `outcomes`. Every outcome that the contract can give is named, so that a first one is too.

    Rejects come in bursts (a bad upload, one invoice's lines), so dependence is fitted as on any feature.
    """
    codes = [*CODES, *(r.code for r in contract.rules)]
    wish = reference_fit.wish_of(contract.drift, replace(REJECTS, rhythm="none"), tests)
    wish = replace(wish, named=tuple(sorted({VALID, *(category_of(c) for c in codes)})))
    encoded = _column(records.column("outcome")).dictionary_encode()
    names = [c if c == VALID else category_of(c) for c in encoded.dictionary.to_pylist()]
    return reference_fit.fit(
        REJECTS, WHOLE, pa.array(names, pa.string()).take(encoded.indices), records.column("time").to_numpy(), wish,
        version=version, effective_from=effective_from,
    )  # fmt: skip


def _segments(contract: Contract, rows: pl.DataFrame) -> Iterator[tuple[tuple[str, ...], str, pl.DataFrame]]:
    """Grouping columns, segment name, rows; values that could not page by themselves are in the pool, too."""
    yield (), WHOLE, rows
    for columns in contract.drift.segments:
        names = list(columns)
        known = rows.drop_nulls(names)
        sizes = known.group_by(names).len().sort(["len", *names], descending=[True, *[False] * len(names)])
        own = sizes.filter(pl.col("len") >= SEGMENT_ROWS).head(SEGMENTS_A_GROUPING)
        parts = known.join(own, on=names, how="semi").partition_by(names, maintain_order=True, as_dict=True)
        for *values, _ in own.rows():
            yield columns, segment_name(columns, tuple(values)), parts[tuple(values)]
        paging = own.filter(pl.col("len") >= SMALLEST_SEGMENT)
        rest = known.join(paging, on=names, how="anti", maintain_order="left")
        if rest.height >= SMALLEST_SEGMENT:
            yield columns, pooled_name(columns), rest


def _times(rows: pl.DataFrame, contract: Contract) -> np.ndarray | None:
    """Event times in ms; None if the rows carry none."""
    if contract.time.field not in rows.columns or not rows.schema[contract.time.field].is_temporal():
        return None
    return rows.select(_ms(pl.col(contract.time.field))).to_series().to_numpy()


def _ms(time: pl.Expr) -> pl.Expr:
    return time.cast(pl.Datetime("ms")).to_physical()


def _column(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    kind = whole.type
    text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_dictionary(kind)
    return whole.cast(pa.string()) if text else whole


def as_window(known: FeatureReference, other: FeatureReference) -> cells.Counts:
    """The rows of another reference as a window counted in the cells of `known`."""
    if known.kind == "numeric":
        codes = cells.codes(known, other.values)
        dense = np.bincount(codes, weights=other.counts, minlength=known.code_count)
    else:
        codes = cells.category_indices(known, pa.array(other.categories, pa.string()))
        dense = np.bincount(codes, weights=other.counts, minlength=len(known.categories) + 1)
        dense[-1] += other.other
    share = other.rows / max(1, other.source_rows)  # nulls were not thinned with the rows
    return cells.from_dense(dense.astype(np.int64), round(other.nulls * share))
