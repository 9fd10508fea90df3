"""Records by factory: a good one, changed where the test wants it."""

from __future__ import annotations

import json
from typing import Any

from pipeline.times import to_ms

SALE: dict[str, Any] = {
    "order_id": "5f0c2a9be1d34c7788aa0011",
    "customer_id": "C000123",
    "product_id": "P00042",
    "category": "fashion",
    "region": "north",
    "channel": "web",
    "quantity": 3,
    "price": 19.99,
    "discount": 0.1,
    "order_date": "2026-03-04",
    "event_time": "2026-03-04T05:06:07.890Z",
}
APPENDED = to_ms("2026-03-04T05:06:08.000Z")

LINE: dict[str, Any] = {
    "InvoiceNo": "536365",
    "StockCode": "85123A",
    "Description": "WHITE HANGING HEART T-LIGHT HOLDER",
    "Quantity": 6,
    "InvoiceDate": "2010-12-01T08:26:00.000Z",
    "UnitPrice": 2.55,
    "CustomerID": "17850.0",
    "Country": "United Kingdom",
}

ABSENT = object()


def sale(**changes: Any) -> bytes:
    return raw(SALE, **changes)


def line(**changes: Any) -> bytes:
    return raw(LINE, **changes)


def raw(record: dict[str, Any], **changes: Any) -> bytes:
    """The record as JSON bytes with fields changed, added, or left out (ABSENT)."""
    merged = {k: v for k, v in {**record, **changes}.items() if v is not ABSENT}
    return json.dumps(merged, separators=(",", ":"), ensure_ascii=False).encode()


def with_literal(field: str, literal: bytes) -> bytes:
    """A sale whose field holds these bytes as they are."""
    return sale(**{field: "@@"}).replace(b'"@@"', literal)
