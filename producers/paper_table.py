"""PURE. The ten thousand orders of the published table of data-quality checks: known faults, and no others.

10,000 records: 12 with a negative quantity, 18 order ids that occur twice (36 flagged rows). The copies differ from
their original in customer or in order date, so no pair (customer, order date) occurs twice, and the mean price lies in 10..1000.
"""

from __future__ import annotations

import json

import numpy as np

from pipeline.contract import Contract
from producers import sales_json, sales_stream
from producers.arrivals import DAY_MS
from producers.batches import Batch
from producers.sales import BLOCK_ORDERS, CUSTOMERS, Orders, orders
from producers.scenarios import scenario

Record = dict[str, object]
ROWS, NEGATIVE, TWICE = 10_000, 12, 18
DAYS = 30


def batch(contract: Contract, seed: int, start_ms: int) -> Batch:
    """All records of the run, in event-time order over 30 days. It has no late labels: the table is about the data's quality."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0, 3])))
    rows = _rows(seed, np.sort(start_ms + rng.integers(0, DAYS * DAY_MS, ROWS)))
    rows.customer[:] = _distinct_days(rng, rows)
    name = sales_stream.prefix(seed, start_ms)
    records = [json.loads(value) for value in sales_json.values(rows, sales_json.order_ids(name, rows.number)) if value]
    chosen = rng.choice(ROWS // 4, NEGATIVE + TWICE, replace=False) * 4 + 1  # never neighbours: faults stay apart
    for row in chosen[:NEGATIVE].tolist():
        records[row]["quantity"] = -int(rng.integers(1, 10))
    taken = {(record["customer_id"], record["order_date"]) for record in records}
    for turn, row in enumerate(chosen[NEGATIVE:].tolist()):
        records[row + 1] = _copy(records[row], records[row + 1], taken, other_customer=turn % 2 == 0)
    return Batch(
        event_ms=rows.event_ms,
        keys=[record[contract.key] for record in records] if contract.key else [None] * ROWS,
        values=[json.dumps(record, separators=(",", ":")).encode() for record in records],
    )


def _rows(seed: int, event_ms: np.ndarray) -> Orders:
    world = scenario("baseline")[0].world
    parts = [
        orders({0: world}, seed, i, event_ms[at : at + BLOCK_ORDERS])
        for i, at in enumerate(range(0, ROWS, BLOCK_ORDERS))
    ]
    return Orders(*(np.concatenate([getattr(part, name) for part in parts]) for name in Orders.__slots__))


def _distinct_days(rng: np.random.Generator, rows: Orders) -> np.ndarray:
    """Customers such that nobody orders twice on a day: a second order of the day goes to somebody else of the same region."""
    customer, seen = rows.customer.copy(), set()
    same_region = [np.unique(rows.customer[rows.region == region]) for region in range(rows.region.max() + 1)]
    for row, day in enumerate((rows.event_ms // DAY_MS).tolist()):
        while (int(customer[row]), day) in seen:
            customer[row] = rng.choice(same_region[rows.region[row]])
        seen.add((int(customer[row]), day))
    return customer


def _copy(original: Record, here: Record, taken: set[tuple[object, object]], *, other_customer: bool) -> Record:
    """The original again, at the time of the record it replaces: under another customer, or some days later."""
    again = {**original, "event_time": here["event_time"]}
    if other_customer:
        return {**again, "customer_id": _somebody_else(str(original["customer_id"]))}
    day = np.datetime64(str(original["order_date"]))
    later = (str(day + after) for after in range(1, DAYS))
    free = next(date for date in later if (original["customer_id"], date) not in taken)
    return {**again, "order_date": free}


def _somebody_else(customer: str) -> str:
    """A customer who is in no other record: the generator's numbers end below this."""
    return f"C{CUSTOMERS + int(customer[1:]):06d}"
