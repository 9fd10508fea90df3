"""Question: does a backtest say what the live stream said, and how soon? The same code over stored rows."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batch.rejudge import Rejudged, blocks_of, needed, rejudge
from pipeline import contract_file
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT, Contract
from producers.sales import BLOCK_ORDERS, CATEGORIES, CHANNELS, REGIONS, World, orders
from stream_processors.judging.panes import WHOLE, clock_of
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.reference import cells
from tests.bench._drift_answers import Answer, Size, shared_out
from tests.bench._drift_order import PARTITIONS, SEED, Latest, Log, disturbed
from tests.bench.report import bar, progress
from tests.drift_stream.samples import CLOCK, CONTRACT, DAY0, HOUR

LOGS = {"short": Log(hours=24, a_partition=480), "default": Log(168, 3_360), "full": Log(168, 3_360)}
RUNS = {"short": 1, "default": 4, "full": 20}
ROWS = {"short": 50_000, "default": 1_000_000, "full": 4_000_000}
REFERENCE = 100_000


def stored(log: Log) -> pa.Table:
    """The log as the lake has it: rows with their coordinates."""
    parts = []
    for p in range(PARTITIONS):
        (block,) = log.blocks(p, [])
        rows = pa.Table.from_batches([block.rows]).select([*needed(CONTRACT), RAW_OFFSET, REJECT])
        lost = sorted(log.broken(p)[1])
        gone = pa.table({RAW_OFFSET: pa.array(lost, pa.int64()), REJECT: pa.array(["syntax"] * len(lost))})
        rows = pa.concat_tables([rows, gone], promote_options="default")
        parts.append(rows.append_column(RAW_PARTITION, pa.array(np.full(len(rows), p, np.int32))))
    return pa.concat_tables(parts)


def latest(found: Rejudged) -> Latest:
    return {v.place: v.to_bytes() for v in found.verdicts}


@dataclass(frozen=True, slots=True)
class Live:
    log: Log
    seed: int


def live(job: Live) -> Latest:
    """The log through the live path with restarts, redelivery and late references."""
    return disturbed(job.log, np.random.default_rng([SEED, 2_000, job.seed]), blocks=job.log.hours // 3)[0]


def sales_rows(contract: Contract, seed: int, rows: int) -> pa.Table:
    """Quiet orders, 2,000 an event hour, in four partitions, as the lake has them."""
    parts = []
    for block in range(-(-rows // BLOCK_ORDERS)):
        number = np.arange(block * BLOCK_ORDERS, min(rows, (block + 1) * BLOCK_ORDERS))
        times = DAY0 + number * (HOUR // 2_000)
        made = orders({0: World()}, seed, block, times)
        named = {
            "category": (made.category, CATEGORIES),
            "region": (made.region, REGIONS),
            "channel": (made.channel, CHANNELS),
        }
        columns = {
            contract.time.field: pa.array(times, pa.timestamp("ms", "UTC")),
            "price": made.price_cents / 100, "quantity": made.quantity.astype(np.int64), "discount": made.discount_cents / 100,
            **{name: pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), list(of)).cast(pa.string()) for name, (codes, of) in named.items()},
            RAW_PARTITION: (number % 4).astype(np.int32), RAW_OFFSET: number // 4, REJECT: pa.nulls(len(number), pa.string()),
        }  # fmt: skip
        parts.append(pa.table(columns))
    whole = pa.concat_tables(parts)
    kinds = {f.name: f.type for f in contract.block_schema}
    return whole.cast(pa.schema([(n, kinds.get(n, whole.schema.field(n).type)) for n in whole.column_names]))


def sales_references(contract: Contract, rows: pa.Table) -> Timeline:
    made = {}
    for segment in (WHOLE, *(f"region={r}" for r in REGIONS)):
        part = rows if segment == WHOLE else rows.filter(pa.compute.equal(rows["region"], segment.partition("=")[2]))
        for f in contract.drift.features:
            if segment == WHOLE or f.name != "region":
                column = part[f.name].combine_chunks()
                made[f.name, segment] = cells.build(f, segment, column, version=1, effective_from=DAY0)
    return Timeline((ReferenceSet(1, DAY0, lambda: made),))


def speed(rows: int) -> tuple[float, int, int]:
    """(CPU seconds a million rows, verdicts, episodes that fired) of the sales contract."""
    contract = contract_file.load("sales")
    timeline = sales_references(contract, sales_rows(contract, 8, REFERENCE))
    table = sales_rows(contract, 9, rows)
    rejudge(
        contract, clock_of(contract), timeline, blocks_of(table.slice(0, 20_000), contract)
    )  # compiled, banks built
    began = time.process_time()
    found = rejudge(contract, clock_of(contract), timeline, blocks_of(table, contract))
    seconds = (time.process_time() - began) / rows * 1e6
    return seconds, len(found.verdicts), len({a.episode for a in found.alerts if a.state == "firing"})


def run(size: Size) -> Answer:
    log = LOGS[size]
    ours = latest(rejudge(CONTRACT, CLOCK, log.timeline, blocks_of(stored(log), CONTRACT)))
    differ = [
        sum(theirs.get(k) != v for k, v in ours.items()) + len(theirs.keys() - ours.keys())
        for theirs in shared_out(live, [Live(log, seed) for seed in range(RUNS[size])])
    ]
    progress(f"backtest: {len(ours)} verdicts, differing in {len(differ)} live runs: {differ}")
    seconds, verdicts, pages = speed(ROWS[size])
    progress(f"backtest: {seconds:.1f} s a million rows")
    return Answer(
        "A backtest says what the live stream said",
        f"{log.hours} hours of event time in {PARTITIONS} partitions went through the live path, in memory, {RUNS[size]} times, each time with other blocks, restarts, redelivery "
        "and references learned late, and once through the backtest from rows as the lake has them. Compared are the bytes of every latest verdict "
        "(`driftline backtest --check` asks the same of a broker's topic and the lake, as tests/drift_stream/test_windows_broker.py does). "
        f"Then {ROWS[size]:,} quiet orders under the shipped sales contract, references of {REFERENCE:,} orders.",
        [
            bar("backtest: verdicts that differ from the live ones", sum(differ), "==", 0),
            bar("backtest: verdicts compared", len(ours), ">=", 3 * log.hours),
            bar("backtest: CPU seconds a million rows, sales contract", round(seconds, 2), "<=", 10, size != "short"),
            bar("backtest: pages of quiet orders", pages, "==", 0),
        ],
        {"verdicts_of_sales": verdicts},
    )
