"""Small streams for the drift tests: a contract of two features, references, rows, blocks cut from partitions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa

from pipeline.blocks import VALID, Block, BlockHeader
from pipeline.contract import (
    APPEND_TIME,
    RAW_OFFSET,
    REJECT,
    REJECTS,
    Contract,
    DriftPlan,
    Field,
    MonitoredFeature,
    TimePlan,
)
from stream_processors.judging.panes import Clock, Key, clock_of
from stream_processors.judging.partial import Partial
from stream_processors.judging.summarise import summarise
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.reference import cells

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY0 = 1_780_272_000_000  # a midnight, UTC

CONTRACT = Contract(
    id="tiny",
    version="1.0.0",
    fields=(
        Field("order", "string", required=True),
        Field("price", "number", required=True),
        Field("region", "string", required=True),
        Field("at", "timestamp", required=True),
    ),
    key="order",
    time=TimePlan("at", lateness=timedelta(minutes=10), idle=timedelta(seconds=5), revise_within=timedelta(days=2)),
    drift=DriftPlan(
        features=(MonitoredFeature("price", "numeric"), MonitoredFeature("region", "categorical")),
        segments=(("region",),),
        window=timedelta(hours=1),
        pane=timedelta(minutes=5),
    ),
)
CLOCK: Clock = clock_of(CONTRACT)
REGIONS = ("north", "south")


def with_plan(**changes: object) -> Contract:
    return replace(CONTRACT, drift=replace(CONTRACT.drift, **changes))


def draw(rng: np.random.Generator, times: Sequence[int], factor: float = 1.0) -> list[tuple[int, float, str]]:
    """(event time, price, region) for each time; prices are tied on purpose."""
    prices = np.round(rng.lognormal(3, 0.6, len(times)) * factor, 1)
    regions = rng.choice(REGIONS, len(times), p=(0.6, 0.4))
    return [(int(t), float(p), str(r)) for t, p, r in zip(times, prices, regions, strict=True)]


def batch(
    rows: Sequence[tuple[int, float | None, str | None]], start: int, rejects: Sequence[int] = ()
) -> pa.RecordBatch:
    """Rows as a block holds them, raw offsets from `start`; `rejects` are positions of rejected rows."""
    times = pa.array([t for t, _, _ in rows], pa.timestamp("ms", "UTC"))
    return pa.RecordBatch.from_pydict(
        {
            "order": pa.array([f"o{start + i}" for i in range(len(rows))], pa.string()),
            "price": pa.array([p for _, p, _ in rows], pa.float64()),
            "region": pa.array([r for _, _, r in rows], pa.string()),
            "at": times,
            RAW_OFFSET: pa.array(range(start, start + len(rows)), pa.int64()),
            APPEND_TIME: times,
            REJECT: pa.array(["range" if i in rejects else None for i in range(len(rows))], pa.string()),
        },
        schema=CONTRACT.block_schema,
    )


def block(
    partition: int,
    start: int,
    rows: Sequence[tuple[int, float, str]],
    before: int | None,
    rejects: Collection[int] = (),
    lost: Collection[int] = (),
) -> Block:
    """Raw offsets of `rejects` hold rejected rows; those of `lost` records that could not be decoded, so they have no row."""
    offsets = range(start, start + len(rows))
    times = [t for o, (t, _, _) in zip(offsets, rows, strict=True) if o not in rejects and o not in lost]
    counts = {VALID: len(times), "range": sum(o in rejects for o in offsets), "syntax": sum(o in lost for o in offsets)}
    header = BlockHeader(
        "tiny.events", partition, start, start + len(rows), {k: n for k, n in counts.items() if n}, min(times, default=None), max(times, default=None), before, CONTRACT.name
    )  # fmt: skip
    held = batch(rows, start, [o - start for o in rejects])
    return Block(header, held.filter(pa.array([o not in lost for o in offsets], pa.bool_())))


def blocks_of(
    partition: int,
    rows: Sequence[tuple[int, float, str]],
    cuts: Sequence[int],
    rejects: Collection[int] = (),
    lost: Collection[int] = (),
) -> list[Block]:
    """The partition's rows cut at `cuts`, each block with the maximum event time before it."""
    made, before = [], None
    for low, high in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        made.append(block(partition, low, rows[low:high], before, rejects, lost))
        before = max([t for o, (t, _, _) in enumerate(rows[:high]) if o not in rejects and o not in lost], default=None)
    return made


def reference_rows(seed: int, rows: int, factor: float = 1.0) -> pa.Table:
    drawn = draw(np.random.default_rng(seed), [DAY0] * rows, factor)
    return pa.Table.from_batches([batch(drawn, 0)])


def reference_set(
    version: int, effective_from: int, rows: int = 12_000, seed: int = 9, factor: float = 1.0
) -> ReferenceSet:
    table = reference_rows(seed, rows, factor)
    members: dict[Key, cells.FeatureReference] = {}
    for segment in ("*", *(f"region={r}" for r in REGIONS)):
        part = table if segment == "*" else table.filter(pa.compute.equal(table["region"], segment.partition("=")[2]))
        for feature in CONTRACT.drift.features:
            column = part.column(feature.name).combine_chunks()
            members[feature.name, segment] = cells.build(
                feature, segment, column, version=version, effective_from=effective_from
            )
    return ReferenceSet(version, effective_from, lambda: members)


def with_rejects(found: ReferenceSet, share: float = 0.01) -> ReferenceSet:
    """The same with a reference of outcomes."""
    told = pa.array(["valid"] * round(20_000 * (1 - share)) + ["range"] * round(20_000 * share))
    own = cells.build(REJECTS, "*", told, version=found.version, effective_from=found.effective_from)
    members = {**found.load(), ("reject", "*"): own}
    return replace(found, load=lambda: members)


def partials_of(blocks: Sequence[Block], timeline: Timeline, contract: Contract = CONTRACT) -> list[Partial]:
    return [p for i, b in enumerate(blocks) for p in summarise(b, i, contract, CLOCK, timeline)]
