"""Hostile records with their expected outcome: None = valid, else the reject code. Same verdict on every path."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterator

from tests.contract.records import ABSENT, SALE, sale, with_literal


def cases() -> Iterator[tuple[str, bytes | None, str | None]]:
    """(name, value, expected code) under the `sales` contract."""
    yield from framing()
    yield from numbers()
    yield from structure()
    yield from texts()
    yield from times()


def framing() -> Iterator[tuple[str, bytes | None, str | None]]:
    good = sale()
    yield "good", good, None
    yield "white space around", b" \r\n\t" + good + b" \n", None
    yield "empty", b"", "empty"
    yield "tombstone", None, "tombstone"
    yield "only white space", b"  ", "syntax"
    yield "literal null", b"null", "not_object"
    yield "array", b"[1]", "not_object"
    yield "text", b'"x"', "not_object"
    yield "number", b"12", "not_object"
    yield "two objects", b'{"a":1}{"a":2}', "trailing"
    yield "two good objects on two lines", good + b"\n" + good, "trailing"
    yield "single quotes", good.replace(b'"', b"'"), "syntax"
    yield "comment", good[:-1] + b"/*x*/}", "syntax"
    yield "trailing comma", good[:-1] + b",}", "syntax"
    yield "byte order mark", b"\xef\xbb\xbf" + good, "encoding"
    yield "UTF-16", good.decode().encode("utf-16"), "encoding"
    yield "invalid UTF-8", with_literal("customer_id", b'"\xff\xfe"'), "encoding"
    yield "overlong UTF-8", with_literal("customer_id", b'"\xc0\xaf"'), "encoding"
    yield "surrogate bytes", with_literal("customer_id", b'"\xed\xa0\x80"'), "encoding"
    yield "escaped lone surrogate", with_literal("customer_id", b'"\\ud800"'), "encoding"
    yield "raw control character", with_literal("customer_id", b'"a\x01b"'), "syntax"
    yield "raw tab", with_literal("customer_id", b'"a\tb"'), "syntax"
    yield "gzip", gzip.compress(good), "syntax"
    yield "pickle", pickle.dumps(SALE), "syntax"
    yield "Avro magic", b"Obj\x01" + good, "syntax"
    yield "Parquet magic", b"PAR1" + good, "syntax"
    yield (
        "at the size limit",
        with_literal("customer_id", b'"C"' + b" " * (65536 - len(with_literal("customer_id", b'"C"')))),
        None,
    )
    yield (
        "over the size limit",
        with_literal("customer_id", b'"C"' + b" " * (65537 - len(with_literal("customer_id", b'"C"')))),
        "size",
    )
    yield "ten megabytes of text", sale(customer_id="x" * 10_000_000), "size"


def numbers() -> Iterator[tuple[str, bytes, str | None]]:
    for literal in (b"NaN", b"Infinity", b"-Infinity", b"01", b"+1", b"1.", b".5", b"0x10", b"1_000"):
        yield f"number {literal.decode()}", with_literal("price", literal), "syntax"
    for literal in (b"1e400", b"-1e400", b"9" * 400, b"1e308", b"-0.01", b"1000000.01"):
        yield f"number {literal.decode()[:12]}", with_literal("price", literal), "range"
    for literal in (b"9223372036854775808", b"18446744073709551616", b"1001", b"-1", b"9" * 60_000):
        yield f"integer {literal.decode()[:20]}", with_literal("quantity", literal), "range"
    for literal in (b"1.0", b"1e2", b'"1"', b"true", b"[1]", b"{}"):
        yield f"integer {literal.decode()}", with_literal("quantity", literal), "type"
    for literal in (b'"1"', b"true", b"[]"):
        yield f"number {literal.decode()}", with_literal("price", literal), "type"
    for literal in (b"0", b"1000", b"-0"):
        yield f"integer {literal.decode()}", with_literal("quantity", literal), None
    for literal in (b"5e-324", b"0.30000000000000004", b"7", b"1e2", b"-0.0", b"1000000"):
        yield f"number {literal.decode()}", with_literal("price", literal), None


def structure() -> Iterator[tuple[str, bytes, str | None]]:
    good = sale()
    yield "duplicate key, same value", good[:-1] + b',"quantity":3}', "duplicate_key"
    yield "duplicate key, another value", good[:-1] + b',"quantity":4}', "duplicate_key"
    yield "duplicate key through an escape", good[:-1] + b',"quantit\\u0079":3}', "duplicate_key"
    yield "duplicate key at the front", b'{"price":1,' + good[1:], "duplicate_key"
    yield "key written with an escape", good.replace(b'"price"', b'"pric\\u0065"'), None
    yield "unknown field", sale(extra=1), "unknown_field"
    yield "unknown null field", sale(extra=None), "unknown_field"
    yield "missing field", sale(product_id=ABSENT), "missing"
    yield "null field", sale(product_id=None), "not_null"
    yield "no field at all", b"{}", "missing"
    yield "nested in a field", with_literal("customer_id", b"[" * 20 + b"]" * 20), "type"
    for depth in (33, 1_500, 30_000):
        yield f"{depth} arrays", with_literal("customer_id", b"[" * depth + b"]" * depth), "depth"
    yield "1,500 objects", with_literal("customer_id", b'{"a":' * 1500 + b"1" + b"}" * 1500), "depth"
    yield "60,000 open brackets", b"[" * 60_000, "depth"
    yield "a million open brackets", b"[" * 1_000_000, "size"
    yield "brackets within a text", sale(customer_id="[" * 40), None
    yield "quotes and backslashes without an end", b'{"a":"' + b'\\"' * 30_000, "syntax"
    for key in ("__proto__", "__class__", "Price", "pricе"):
        yield f"key {key}", sale(**{key: 1}), "unknown_field"


def texts() -> Iterator[tuple[str, bytes, str | None]]:
    yield "escaped NUL", with_literal("customer_id", b'"a\\u0000"'), "control_char"
    yield "escaped newline", sale(customer_id="a\n"), "control_char"
    yield "delete character", sale(customer_id="a\x7f"), "control_char"
    yield "C1 control", sale(customer_id="a\x85"), "control_char"
    yield "zero-width joiner", sale(customer_id="a\u200d"), "charset"
    yield "right-to-left override", sale(customer_id="\u202ea"), "charset"
    yield "composed letter", sale(customer_id="é"), None
    yield "decomposed letter", sale(customer_id="e\u0301"), None
    yield "emoji", sale(customer_id="😀"), None
    yield "escaped pair", with_literal("customer_id", b'"\\ud83d\\ude00"'), None
    yield "no-break space", sale(customer_id="a\u00a0b"), None
    yield "quote and backslash", sale(customer_id='a"\\'), None
    yield "script tag", sale(customer_id="</script><b>"), None
    yield "formula", sale(customer_id="=cmd|' /C calc'!A0"), None
    yield "path", sale(customer_id="../../etc/passwd"), None
    yield "URL", sale(customer_id="http://169.254.169.254/"), None
    yield "template", sale(customer_id="{{7*7}}"), None
    yield "empty text", sale(customer_id=""), "length"
    yield "65 characters", sale(customer_id="x" * 65), "length"
    yield "64 characters of four bytes", sale(customer_id="😀" * 64), None
    yield "50 kB of a", sale(customer_id="a" * 50_000), "length"
    yield "category that is not listed", sale(category="Fashion"), "allowed"
    yield "category of a trailing newline", sale(category="fashion\n"), "control_char"
    yield "empty category", sale(category=""), "allowed"
    yield "customer id as a number", sale(customer_id=123), "type"


def times() -> Iterator[tuple[str, bytes, str | None]]:
    for text in (
        "2026-02-30",
        "2026-13-01",
        "2026-3-4",
        "20260304",
        "2026-03-04T00:00:00Z",
        "0000-01-01",
        "2025-02-29",
        " 2026-03-04",
        "",
    ):
        yield f"date {text}", sale(order_date=text), "format"
    yield "leap day", sale(order_date="2024-02-29"), None
    yield "date as a number", sale(order_date=20260304), "type"
    good = (
        "2026-03-04T05:06:07Z",
        "2026-03-04T05:06:07.1Z",
        "2026-03-04T05:06:07.123456789Z",
        "2026-03-04T05:06:07+14:00",
    )
    good += (
        "2026-03-04t05:06:07z",
        "2026-03-04 05:06:07Z",
        "2024-02-29T00:00:00.000Z",
        "1970-01-01T00:00:00.000Z",
        "2020-01-01T00:00:00+0000",
    )
    for text in good:
        yield f"time {text}", sale(event_time=text), None
    bad = (
        "2026-02-30T00:00:00.000Z",
        "2025-02-29T00:00:00.000Z",
        "2026-03-04T05:06:60.000Z",
        "2026-03-04T24:00:00.000Z",
        "2026-03-04T05:06:07.000",
    )
    bad += (
        "2026-03-04",
        "2026-03-04T05:06Z",
        "yesterday",
        "",
        "1772600767",
        "2026-03-04T05:06:07.000Z ",
        "2026-03-04T05:06:07.000+25:00",
    )
    bad += ("9999-12-31T23:59:59.000-14:00", "0001-01-01T00:00:00.000+14:00")
    for text in bad:
        yield f"time {text}", sale(event_time=text), "format"
    for text in (
        "1969-12-31T23:59:59.999Z",
        "2200-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.000Z",
        "0001-01-01T00:00:00.000Z",
    ):
        yield f"time {text}", sale(event_time=text), "time_range"
    yield "epoch seconds", sale(event_time=1772600767), "type"
    yield "epoch milliseconds", sale(event_time=1772600767000), "type"
    yield "an hour ahead of the append time", sale(event_time="2026-03-04T06:06:08.000Z"), None
    yield "more than an hour ahead", sale(event_time="2026-03-04T06:06:08.001Z"), "time_future"
    yield "eight days late", sale(event_time="2026-02-24T05:06:07.000Z"), None
