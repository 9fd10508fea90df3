"""EDGE. Rows that were stored, as the blocks that the stream would make of them: from the lake, or from a file.

A lake row keeps its raw coordinate, and the dead letters keep theirs, so the log of each partition can be put together
again. A file is one partition, in its own order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from batch.reference import rejects_of
from batch.reference_build import outcomes
from batch.rejudge import blocks_of, needed, tail
from pipeline import decode, topics
from pipeline.blocks import Block
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT, Contract
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.times import to_text
from producers import replay

SHOWN_FAULTS = 3


class Lake:
    """The events table and the dead letters beside it."""

    def __init__(self, settings: Settings, contract: Contract):
        from batch import table  # the lake's libraries take a second to import

        self._settings, self._contract, self._time = settings, contract, contract.time.field
        self._events = table.scan(settings, contract.id)
        self._letters = (
            table.scan(settings, contract.id, table.DEAD_LETTERS)
            if table.exists(settings, contract.id, table.DEAD_LETTERS)
            else None
        )

    def reference_rows(self, since: int | None, until: int | None) -> tuple[pl.DataFrame, pa.Table | None]:
        """(valid rows, outcomes of all records of the same stretch)."""
        columns = self._events.select(*needed(self._contract), RAW_PARTITION, RAW_OFFSET)
        rows = _between(columns, self._time, since, until).collect()
        return rows, rejects_of(self._settings, self._contract, rows)

    def holds(self) -> str:
        """What there is, for the message that something is not."""
        low, high = self._events.select(low=pl.col(self._time).min(), high=pl.col(self._time).max()).collect().row(0)
        return (
            "the lake holds no row"
            if low is None
            else f"the lake holds rows from {low:%Y-%m-%d %H:%M} to {high:%Y-%m-%d %H:%M} UTC"
        )

    def blocks(self, first: int, until: int | None) -> list[Block]:
        """The log from the first row of event time `first` to the last before `until`, and how far time went beyond."""
        # What is left out at either end cannot change a window between: only a partition's newest event time can.
        at, offset = pl.col(self._time), pl.col(RAW_OFFSET)
        # Windows by rows lie where the rows before them put them, so of these nothing is left out at the beginning.
        inside = at >= _moment(first) if self._contract.drift.window_rows is None else at.is_not_null()
        if until is not None:
            inside &= at < _moment(until)
        bounds = (
            self._events.group_by(RAW_PARTITION)
            .agg(offset.filter(inside).min().alias("low"), offset.filter(inside).max().alias("high"), at.max().alias("newest"))
            .filter(pl.col("low").is_not_null())
        )  # fmt: skip
        placed = self._events.join(bounds, on=RAW_PARTITION)
        before = placed.filter(offset < pl.col("low")).group_by(RAW_PARTITION).agg(at.max())
        found, earlier = (frame.collect() for frame in (bounds, before))
        ranges = {int(p): (int(low), int(high)) for p, low, high, _ in found.rows()}
        newest = {int(p): _ms(n) for p, _, _, n in found.rows()}
        rows = placed.filter((offset >= pl.col("low")) & (offset <= pl.col("high"))).select(
            *needed(self._contract), pl.col(RAW_PARTITION), offset, pl.lit(None, pl.String).alias(REJECT)
        )
        table = pl.concat([rows.collect(), self._rejects(ranges)], how="diagonal_relaxed").to_arrow()
        made = blocks_of(_typed(table, self._contract), self._contract, {int(p): _ms(n) for p, n in earlier.rows()})
        return made + [tail(self._contract, p, ranges[p][1] + 1, newest[p]) for p in sorted(ranges)]

    def _rejects(self, ranges: dict[int, tuple[int, int]]) -> pl.DataFrame:
        """A row for each dead letter of the ranges: its coordinate and reason."""
        empty = pl.DataFrame(schema={RAW_PARTITION: pl.Int32, RAW_OFFSET: pl.Int64, REJECT: pl.String})
        if self._letters is None:
            return empty
        mine = self._letters.filter(pl.col("raw_topic") == topics.events(self._contract.id))
        inside = pl.any_horizontal(
            [(pl.col(RAW_PARTITION) == p) & pl.col(RAW_OFFSET).is_between(low, high) for p, (low, high) in ranges.items()] or [pl.lit(False)]
        )  # fmt: skip
        return mine.filter(inside).select(RAW_PARTITION, RAW_OFFSET, pl.col("reason").alias(REJECT)).collect()


class File:
    """A file in its own order, as one partition: through the contract's checks, or taken as they are if they had them."""

    def __init__(self, path: Path, contract: Contract):
        self._contract, self._time = contract, contract.time.field
        self._faults: Counter[tuple[str, str]] = Counter()  # (code, field) -> records
        try:
            replay.expect_file(path)
            checked = _checked(path, contract)
            parts = [] if checked is not None else list(_decoded(path, contract, self._faults))
        except UsageError as error:
            raise UsageError(str(error).replace("--replay", "--file")) from error
        except (pl.exceptions.PolarsError, pa.ArrowInvalid, OSError) as error:
            raise UsageError(f"--file {path}: not readable as {path.suffix[1:]}: {error}") from error
        if not parts and not checked:
            raise UsageError(f"--file {path}: expected rows, got none")
        self._rows = checked if checked else _typed(pa.concat_tables(parts), contract)

    def reference_rows(self, since: int | None, until: int | None) -> tuple[pl.DataFrame, pa.Table | None]:
        """(valid rows, outcomes of all records of the same stretch)."""
        known = pl.from_arrow(self._rows)
        assert isinstance(known, pl.DataFrame)
        valid = known.lazy().filter(pl.col(REJECT).is_null()).drop(REJECT)
        rows = _between(valid, self._time, since, until).collect()
        ends = rows.group_by(RAW_PARTITION).agg(low=pl.col(RAW_OFFSET).min(), high=pl.col(RAW_OFFSET).max())
        inside = known.join(ends, on=RAW_PARTITION).filter(pl.col(RAW_OFFSET).is_between(pl.col("low"), pl.col("high")))
        return rows, outcomes(inside, rows, self._time)

    def holds(self) -> str:
        """What there is, for the message that something is not."""
        records, rejected = len(self._rows), len(self._rows) - self._rows.column(REJECT).null_count
        said = []
        if rejected:
            faults = self._faults.most_common(SHOWN_FAULTS)
            causes = ", ".join(f"{code} `{field}` {n:,}" if field else f"{code} {n:,}" for (code, field), n in faults)
            said.append(f"{rejected:,} of {records:,} records are rejected: {causes}")
        if rejected < records:
            valid = self._rows.filter(pc.is_null(self._rows.column(REJECT))).column(self._time)
            low, high = (to_text(t.cast(pa.int64()).as_py())[:16].replace("T", " ") for t in pc.min_max(valid).values())
            said.append(f"valid rows lie from {low} to {high} UTC")
        return "; ".join(said)

    def blocks(self, first: int, until: int | None) -> list[Block]:
        """Everything: the judge passes over what has no reference, and the report over what lies behind `until`."""
        return blocks_of(self._rows, self._contract)


def _checked(path: Path, contract: Contract) -> pa.Table | None:
    """The rows of a Parquet file that carries the lake's coordinates."""
    if path.suffix != ".parquet":
        return None
    names = pl.scan_parquet(path).collect_schema().names()
    if not {RAW_PARTITION, RAW_OFFSET, *needed(contract)} <= set(names):
        return None
    rows = pl.scan_parquet(path).select(*needed(contract), RAW_PARTITION, RAW_OFFSET)
    return _typed(rows.with_columns(pl.lit(None, pl.String).alias(REJECT)).collect().to_arrow(), contract)


def _decoded(path: Path, contract: Contract, faults: Counter[tuple[str, str]]) -> Iterator[pa.Table]:
    """The file's records as the validator would judge them; append time is the record's own."""
    decoder, start = decode.compile(contract), 0
    columns = [*needed(contract), RAW_OFFSET, REJECT]
    for part in replay.stream(contract, path):
        offsets = np.arange(start, start + len(part))
        decoded = decoder.decode_batch(part.values, offsets, part.event_ms)
        faults.update((r.code, r.field) for r in decoded.rejects.values())
        rows = pa.Table.from_batches([decoded.batch]).select(columns)
        here = set(rows.column(RAW_OFFSET).to_pylist()) if decoded.rejects else set()
        lost = {start + i: r.code for i, r in decoded.rejects.items() if start + i not in here}
        gone = pa.table({RAW_OFFSET: pa.array(lost, pa.int64()), REJECT: pa.array(lost.values(), pa.string())})
        whole = pa.concat_tables([rows, gone], promote_options="default")
        yield whole.append_column(RAW_PARTITION, pa.array(np.zeros(len(whole), np.int32)))
        start += len(part)


def _typed(rows: pa.Table, contract: Contract) -> pa.Table:
    """The columns in the types that a block has; microseconds of a time are cut off."""
    kinds = {f.name: f.type for f in contract.block_schema} | {RAW_PARTITION: pa.int32()}
    made = {
        name: rows.column(name).cast(kinds[name], safe=not pa.types.is_timestamp(kinds[name])) for name in rows.column_names
    }  # fmt: skip
    return pa.table(made)


def _between(frame: pl.LazyFrame, column: str, since: int | None, until: int | None) -> pl.LazyFrame:
    if since is not None:
        frame = frame.filter(pl.col(column) >= _moment(since))
    return frame if until is None else frame.filter(pl.col(column) < _moment(until))


def _moment(ms: int) -> pl.Expr:
    return pl.lit(datetime.fromtimestamp(ms / 1000, UTC)).cast(pl.Datetime("us", "UTC"))


def _ms(when: datetime) -> int:
    return round(when.timestamp() * 1000)
