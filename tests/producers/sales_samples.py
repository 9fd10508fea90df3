"""What the tests of the generator share: orders of a scenario, the true probabilities, losses."""

from __future__ import annotations

import numpy as np

from pipeline.contract_file import load
from producers.arrivals import Timeline
from producers.batches import Batch, first
from producers.sales import BLOCK_ORDERS, Orders, Return, orders, propensity, return_log_odds
from producers.sales_stream import stream
from producers.scenarios import scenario

START_MS = 1_789_948_800_000  # 2026-09-21T00:00Z, a Monday
SALES = load("sales")


def timeline(rate: float = 100.0) -> Timeline:
    return Timeline(START_MS, START_MS, rate, 1.0, catches_up=False)


def sample(names: str, blocks: int = 48, seed: int = 7, step_ms: int = 700) -> Orders:
    """About 100,000 orders of a scenario, evenly spaced."""
    world = {0: scenario(names)[0].world}
    times = START_MS + np.arange(blocks * BLOCK_ORDERS) * step_ms
    parts = [orders(world, seed, i, times[i * BLOCK_ORDERS : (i + 1) * BLOCK_ORDERS]) for i in range(blocks)]
    return Orders(*(np.concatenate([getattr(p, name) for p in parts]) for name in Orders.__slots__))


def law_of(names: str) -> Return:
    return scenario(names)[0].world.law


def probability(law: Return, rows: Orders) -> np.ndarray:
    price, discount = rows.price_cents / 100, rows.discount_cents / 100
    own = propensity(rows.customer, rows.product)
    return 1 / (1 + np.exp(-return_log_odds(law, rows.category, rows.channel, rows.quantity, price, discount, own)))


def expected_log_loss(truth: np.ndarray, forecast: np.ndarray) -> float:
    return float(-np.mean(truth * np.log(forecast) + (1 - truth) * np.log(1 - forecast)))


def auc(truth: np.ndarray) -> float:
    """Of the ideal classifier: how probably a returned order has a higher true probability than a kept one."""
    p = np.sort(truth)
    kept_below = np.cumsum(1 - p) - 0.5 * (1 - p)
    return float((p * kept_below).sum() / (p.sum() * (1 - p).sum()))


def produced(names: str = "baseline", count: int = 20_000, seed: int = 1, rate: float = 100.0) -> list[Batch]:
    return list(first(stream(SALES, scenario(names), seed, timeline(rate)), count))


def values(batches: list[Batch]) -> list[bytes | None]:
    return [value for batch in batches for value in batch.values]
