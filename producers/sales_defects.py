"""PURE. What can happen to a sales record on its way: each kind breaks one promise of the contract.

Three sorts: broken as bytes (no JSON object), broken by a record rule, and sound by itself but breaking a rule over the
whole dataset (the last of these only in `bad-records`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

from producers.sales import ALL_KINDS

Record = dict[str, object]
Sort = Literal["bytes", "record", "dataset"]


def _set(**changes: object) -> Callable[[Record], Record]:
    return lambda record: {**record, **changes}


def _without(name: str) -> Callable[[Record], Record]:
    return lambda record: {k: v for k, v in record.items() if k != name}


# Each takes the sound record's object and gives the object that is sent.
RECORD: dict[str, Callable[[Record], object]] = {
    "product_null": _set(product_id=None),
    "product_missing": _without("product_id"),
    "product_empty": _set(product_id=""),
    "quantity_negative": _set(quantity=-3),
    "quantity_above": _set(quantity=1001),
    "quantity_text": _set(quantity="2"),
    "quantity_fraction": _set(quantity=1.5),
    "quantity_boolean": _set(quantity=True),
    "order_date_impossible": _set(order_date="2026-02-30"),
    "order_date_day_first": _set(order_date="21/11/2026"),
    "order_date_words": _set(order_date="yesterday"),
    "customer_number": _set(customer_id=123),
    "customer_null": _set(customer_id=None),
    "order_id_missing": _without("order_id"),
    "order_id_long": _set(order_id="x" * 65),
    "category_unknown": _set(category="garden"),
    "region_capital": _set(region="North"),
    "channel_null": _set(channel=None),
    "price_negative": _set(price=-1.0),
    "price_text": _set(price="19.90 EUR"),
    "price_list": _set(price=[19.9]),
    "discount_above": _set(discount=1.5),
    "discount_negative": _set(discount=-0.1),
    "event_time_missing": _without("event_time"),
    "event_time_words": _set(event_time="now"),
    "event_time_far": _set(event_time="2199-01-01T00:00:00.000Z"),
    "unknown_field": _set(coupon="SPRING"),
}

# Each takes the sound record's bytes and gives the bytes that are sent; None is a tombstone.
BYTES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda sound: sound[: len(sound) // 2],
    "single_quotes": lambda sound: sound.replace(b'"', b"'"),
    "trailing": lambda sound: sound + b" {}",
    "empty": lambda sound: b"",
    "tombstone": lambda sound: None,
    "not_utf8": lambda sound: sound.replace(b'"C', b'"\xff', 1),
    "array": lambda sound: b"[" + sound + b"]",
    "text": lambda sound: json.dumps(sound.decode()).encode(),
    "null": lambda sound: b"null",
    "not_a_number": lambda sound: sound.replace(b'"price":', b'"price":NaN,"was":', 1),
    "overflow": lambda sound: sound.replace(b'"price":', b'"price":1e400,"was":', 1),
    "deep": lambda sound: b'{"order_id":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "oversized": lambda sound: sound[:-1] + b',"note":"' + b"x" * 70_000 + b'"}',
}

DATASET = ("order_id_twice", "price_placeholder")
_PLACEHOLDER_PRICE = 999_999.99  # inside the record rule; a few of them lift the mean of an hour over 1,000
KINDS: tuple[str, ...] = (*RECORD, *BYTES, *DATASET)


def sort_of(kind: str) -> Sort:
    return "record" if kind in RECORD else "bytes" if kind in BYTES else "dataset"


def kind_of(defect: int) -> str:
    """The kind that a row's `defect` number stands for."""
    one_by_one = len(RECORD) + len(BYTES)
    return KINDS[defect % len(KINDS)] if defect <= ALL_KINDS else KINDS[defect % one_by_one]


def damage(defect: int, sound: bytes, previous_id: str) -> bytes | None:
    """The record as it is sent instead of `sound`."""
    return apply(kind_of(defect), sound, previous_id)


def apply(kind: str, sound: bytes, previous_id: str) -> bytes | None:
    if kind in BYTES:
        return BYTES[kind](sound)
    record: Record = json.loads(sound)
    if kind in RECORD:
        return _dump(RECORD[kind](record))
    return _dump(
        {**record, "order_id": previous_id} if kind == "order_id_twice" else {**record, "price": _PLACEHOLDER_PRICE}
    )


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
