"""Sales orders of named scenarios as lake frames, with the true probabilities beside them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

from pipeline import contract_file
from producers import scenarios
from producers.sales import BLOCK_ORDERS, CATEGORIES, CHANNELS, REGIONS, Orders, orders
from stream_processors.live import feature_plan, feature_replay

CONTRACT = contract_file.load("sales")
START_MS = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1000)
HOUR_MS = 3_600_000


def draw(
    count: int, scenario: str = "baseline", seed: int = 1, start_ms: int = START_MS, hours: float = 24.0
) -> Orders:
    """`count` orders spread evenly over `hours`; the seed numbers the blocks too, so that two seeds share no order."""
    times = (start_ms + np.linspace(0, hours * HOUR_MS, count, endpoint=False)).astype(np.int64)
    world = scenarios.worlds(scenarios.scenario(scenario), start_ms)
    cuts = range(0, count, BLOCK_ORDERS)
    parts = [
        orders(world, seed, seed * 1000 + i, np.resize(times[at : at + BLOCK_ORDERS], BLOCK_ORDERS)).take(
            slice(0, min(BLOCK_ORDERS, count - at))
        )
        for i, at in enumerate(cuts)
    ]
    return Orders(*(np.concatenate([getattr(part, name) for part in parts]) for name in Orders.__slots__))


def events(block: Orders, partitions: int = 1) -> pl.DataFrame:
    """The lake's events table: contract columns, coordinate, append time."""
    time = pl.Series(block.event_ms).cast(pl.Datetime("ms", "UTC")).cast(pl.Datetime("us", "UTC"))
    number = np.asarray(block.number)
    return pl.DataFrame(
        {
            "order_id": order_ids(block),
            "customer_id": [f"C{c:06d}" for c in block.customer],
            "product_id": [f"P{p:05d}" for p in block.product],
            "category": np.array(CATEGORIES)[block.category],
            "region": np.array(REGIONS)[block.region],
            "channel": np.array(CHANNELS)[block.channel],
            "quantity": block.quantity.astype(np.int64),
            "price": block.price_cents / 100,
            "discount": block.discount_cents / 100,
            "order_date": time.dt.date(),
            "event_time": time,
            "raw_partition": (number % partitions).astype(np.int32),
            "raw_offset": number // partitions,
            "append_time": time,
        }
    )


def outcomes(block: Orders, delay_ms: int = 6 * HOUR_MS) -> pl.DataFrame:
    """The lake's outcomes table."""
    at = pl.Series((block.event_ms + block.label_after * delay_ms).astype(np.int64)).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(
        {
            "order_id": order_ids(block),
            "returned": block.returned.astype(bool),
            "event_time": at.cast(pl.Datetime("us", "UTC")),
            "topic_partition": np.zeros(len(block), np.int32),
            "topic_offset": np.arange(len(block), dtype=np.int64),
            "append_time": at.cast(pl.Datetime("us", "UTC")),
        }
    )


def order_ids(block: Orders) -> list[str]:
    return [f"o{n:012d}" for n in block.number]


def with_history(rows: pl.DataFrame, known: pl.DataFrame, heard: pl.DataFrame | None) -> pl.DataFrame:
    """The rows with their history features, as of their arrival."""
    history = feature_plan.compiled(CONTRACT)
    assert history is not None
    return rows.with_columns(feature_replay.values(history, CONTRACT, rows, known, heard))


def labelled(block: Orders) -> pl.DataFrame:
    rows = events(block)
    return with_history(rows, rows, outcomes(block).sort("append_time")).with_columns(
        label=pl.Series(block.returned.astype(bool))
    )
