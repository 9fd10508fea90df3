"""PURE. The bytes of one record into one JSON object, or the reason why not. Knows no contract.

The standard library's parser, fenced: over-long, deep and non-UTF-8 values never reach it, and what it would let pass in
silence (duplicate keys, NaN, lone surrogates, integers of any length) is found.
"""

from __future__ import annotations

import json
import re

from pipeline.contract import Reject
from pipeline.topics import RECORD_LIMIT

MAX_DEPTH = 32  # a contract has flat records; anything deep is an attack or a mistake
_INTEGER_DIGITS = 25  # longer ones are out of every range; int() would refuse 4,301 digits and is quadratic
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_JSON_START = tuple(bytes([b]) for b in b'{["-0123456789tfn')
# Strings are skipped whole; one without an end matches to the end, so the scan stays linear on hostile bytes.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|([\[{])|([\]}])', re.DOTALL)


class JsonObject(dict[str, object]):
    """A JSON object; `duplicate` is the first key that stands twice."""

    duplicate: str | None = None


class HugeInteger(float):
    """An integer literal of more digits than any bound; its float may be infinite."""


class _Constant(ValueError):
    pass


def parse(value: bytes | None) -> JsonObject | Reject:
    """The object, or why there is none."""
    if value is None:
        return Reject("tombstone", "", "expected a JSON object, got a null value")
    if not value:
        return Reject("empty", "", "expected a JSON object, got no byte")
    if len(value) > RECORD_LIMIT:
        return Reject("size", "", f"expected at most {RECORD_LIMIT} bytes, got {len(value)}")
    if value.startswith(_BYTE_ORDER_MARKS):
        return Reject("encoding", "", f"expected UTF-8 without a byte order mark, got {value[:3].hex(' ')}")
    if not value.lstrip(b" \t\r\n").startswith(_JSON_START):
        return Reject("syntax", "", f"expected a JSON object, got bytes {value[:8].hex(' ')}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        return Reject(
            "encoding", "", f"expected UTF-8, got byte 0x{value[error.start]:02x} at {error.start} ({error.reason})"
        )
    few = value.count(b"[") + value.count(b"{") <= MAX_DEPTH  # then there is nothing to find, and the scan costs 10 us
    if not few and (deep := _depth(value)) > MAX_DEPTH:
        return Reject("depth", "", f"expected nesting of at most {MAX_DEPTH}, got {deep}")
    return _load(text)


def _load(text: str) -> JsonObject | Reject:
    try:
        value = _PARSER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return Reject("trailing", "", f"expected one JSON value, got more at character {error.pos}")
        return Reject("syntax", "", f"expected JSON, got an error at character {error.pos}: {error.msg}")
    except _Constant as error:
        return Reject("syntax", constant_field(text), f"expected a JSON number, got {error}")
    if not isinstance(value, JsonObject):
        return Reject("not_object", "", f"expected a JSON object, got {kind(value)}")
    if _has_surrogate(value):
        return Reject("encoding", "", "expected Unicode text, got a lone surrogate")
    return value


_NO_NUMBER = re.compile(r'"([^"\\\\]{1,64})"\s*:\s*-?(?:NaN|Infinity)\b')


def constant_field(text: str) -> str:
    """The key of the first NaN or Infinity, which JSON does not have; "" if there is none.

    >>> constant_field('{"a": 1, "price": -Infinity}')
    'price'
    """
    found = _NO_NUMBER.search(text)
    return label(found[1]) if found else ""


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    found = JsonObject(pairs)  # the last one of equal keys stays, as in every parser that does not look
    if len(found) != len(pairs):
        seen: set[str] = set()
        found.duplicate = next(k for k, _ in pairs if k in seen or seen.add(k))
    return found


def _integer(text: str) -> int | HugeInteger:
    return int(text) if len(text) <= _INTEGER_DIGITS else HugeInteger(text)


def _constant(text: str) -> object:
    raise _Constant(text)


# Made once: json.loads with hooks makes a parser for every record.
_PARSER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def _depth(value: bytes) -> int:
    deepest = depth = 0
    for match in _BRACKETS.finditer(value):
        if match.lastindex == 1:
            depth += 1
            deepest = max(deepest, depth)
        elif match.lastindex == 2:
            depth -= 1
    return deepest


def _has_surrogate(value: object) -> bool:
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, dict):
        return any(_has_surrogate(k) or _has_surrogate(v) for k, v in value.items())
    return isinstance(value, list) and any(_has_surrogate(v) for v in value)


def kind(value: object) -> str:
    kinds = {str: "text", bool: "a boolean", list: "an array", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "an object")


def show(value: object) -> str:
    """A value for a message: short, printable, one line."""
    if isinstance(value, HugeInteger):
        return "an integer of more than 25 digits"
    if isinstance(value, list | dict):
        return kind(value)
    text = (
        ascii(value) if isinstance(value, str) else json.dumps(value) if isinstance(value, bool | None) else str(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def label(name: str) -> str:
    """A key as the reject's field: data, so short and printable (and no label of a metric)."""
    return name if len(name) <= 64 and name.isprintable() else ""
