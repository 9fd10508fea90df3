"""PURE. Orders and outcomes as the JSON that is sent.

Text that repeats is rendered once (a customer, a product, a second of the day) and looked up afterwards: 1 us an order
instead of the 6 us of a general JSON writer.
"""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np

from pipeline.times import to_text
from producers.arrivals import DAY_MS
from producers.sales import (
    CATEGORIES,
    CHANNELS,
    CUSTOMERS,
    MAX_DISCOUNT_CENTS,
    MAX_QUANTITY,
    PRODUCTS,
    REGIONS,
    Orders,
    entities,
)
from producers.sales_defects import damage

_PLAIN_CENTS = 100_000  # prices below 1,000.00 are looked up, dearer ones are rendered


def order_ids(prefix: str, number: np.ndarray) -> list[str]:
    """`<prefix>-0000000042`: unique within a stream, and between streams of different prefixes."""
    thousands, at = np.unique(number // 1000, return_inverse=True)
    heads = _objects([f"{prefix}-{k:07d}" for k in thousands.tolist()])
    return [head + tail for head, tail in zip(heads[at].tolist(), _thousandths()[number % 1000].tolist(), strict=True)]


def values(orders: Orders, ids: list[str]) -> list[bytes | None]:
    """One record an order, its fields in contract order; a damaged one as the damage left it."""
    sound = [
        f'{{"order_id":"{order}{customer}{product}{where}{price}{discount}{day}","event_time":"{day}T{second}.{milli}Z"}}'.encode()
        for order, customer, product, where, price, discount, day, second, milli in zip(
            ids,
            _customer_parts()[orders.customer].tolist(),
            _product_parts()[orders.product].tolist(),
            _where_parts()[
                (orders.region * len(CHANNELS) + orders.channel) * (MAX_QUANTITY + 1) + orders.quantity
            ].tolist(),
            _prices(orders.price_cents),
            _discount_parts()[orders.discount_cents].tolist(),
            _days(orders.event_ms // DAY_MS),
            _seconds()[orders.event_ms // 1000 % 86_400].tolist(),
            _thousandths()[orders.event_ms % 1000].tolist(),
            strict=True,
        )
    ]
    if not orders.defect.any():
        return sound
    damaged: list[bytes | None] = list(sound)
    for row in np.flatnonzero(orders.defect).tolist():
        damaged[row] = damage(int(orders.defect[row]), sound[row], ids[max(row - 1, 0)])
    return damaged


def customer_ids(orders: Orders) -> list[str]:
    return _customers()[orders.customer].tolist()


def product_ids(orders: Orders) -> list[str]:
    return _products()[orders.product].tolist()


def outcomes(ids: list[str], returned: np.ndarray, at_ms: np.ndarray, key: str, name: str, time: str) -> list[bytes]:
    """`{"<key>": order id, "<name>": true or false, "<time>": when it was known}`; the names are the contract's."""
    head, middle, tail = f'{{{json.dumps(key)}:"', f'",{json.dumps(name)}:', f',{json.dumps(time)}:"'
    said = ("false", "true")
    days, seconds, millis = (
        _days(at_ms // DAY_MS),
        _seconds()[at_ms // 1000 % 86_400].tolist(),
        _thousandths()[at_ms % 1000].tolist(),
    )
    return [
        f'{head}{order}{middle}{said[back]}{tail}{day}T{second}.{milli}Z"}}'.encode()
        for order, back, day, second, milli in zip(
            ids, returned.astype(int).tolist(), days, seconds, millis, strict=True
        )
    ]


def _prices(cents: np.ndarray) -> list[str]:
    texts = _cents()[np.minimum(cents, _PLAIN_CENTS - 1)].tolist()
    for row in np.flatnonzero(cents >= _PLAIN_CENTS).tolist():
        texts[row] = f"{cents[row] / 100}"
    return texts


def _days(days: np.ndarray) -> list[str]:
    unique, at = np.unique(days, return_inverse=True)
    return _objects([to_text(int(day) * DAY_MS)[:10] for day in unique.tolist()])[at].tolist()


def _objects(texts: list[str]) -> np.ndarray:
    table = np.empty(len(texts), dtype=object)
    table[:] = texts
    return table


@lru_cache(maxsize=1)
def _thousandths() -> np.ndarray:
    return _objects([f"{k:03d}" for k in range(1000)])


@lru_cache(maxsize=1)
def _seconds() -> np.ndarray:
    return _objects([f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in range(86_400)])


@lru_cache(maxsize=1)
def _cents() -> np.ndarray:
    return _objects([f"{c / 100}" for c in range(_PLAIN_CENTS)])


@lru_cache(maxsize=1)
def _customers() -> np.ndarray:
    return _objects([f"C{i:06d}" for i in range(CUSTOMERS)])


@lru_cache(maxsize=1)
def _products() -> np.ndarray:
    return _objects([f"P{i:05d}" for i in range(PRODUCTS)])


@lru_cache(maxsize=1)
def _customer_parts() -> np.ndarray:
    return _objects([f'","customer_id":"{name}"' for name in _customers()])


@lru_cache(maxsize=1)
def _product_parts() -> np.ndarray:
    category = entities().category
    return _objects(
        [f',"product_id":"{name}","category":"{CATEGORIES[category[i]]}"' for i, name in enumerate(_products())]
    )


@lru_cache(maxsize=1)
def _where_parts() -> np.ndarray:
    return _objects(
        [
            f',"region":"{region}","channel":"{channel}","quantity":{quantity},"price":'
            for region in REGIONS
            for channel in CHANNELS
            for quantity in range(MAX_QUANTITY + 1)
        ]
    )


@lru_cache(maxsize=1)
def _discount_parts() -> np.ndarray:
    return _objects([f',"discount":{cents / 100},"order_date":"' for cents in range(MAX_DISCOUNT_CENTS + 1)])
