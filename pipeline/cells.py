"""PURE. One field of one record: its cell, and the first rule of the field that its value breaks."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import Field, Reject
from pipeline.json_record import HugeInteger, show
from pipeline.times import ms

INT64 = (-(2**63), 2**63 - 1)
YEARS_1_TO_9999 = (-62_135_596_800_000, 253_402_300_799_999)  # ms: what a Python datetime can hold
EVENT_TIMES = (0, 7_258_118_400_000 - 1)  # ms: 1970-01-01 .. 2199-12-31

Cell = str | int | float | bool | date | None  # a timestamp is its milliseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = Annotated[datetime, msgspec.Meta(tz=True)]
_TYPES = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date as text",
    "timestamp": "a time as text",
}


def cell_of(f: Field, record: Mapping[str, object], is_event_time: bool) -> tuple[Cell, Reject | None]:
    """(the cell, null where there is no value of the field's type; the first rule that it breaks)."""
    if f.name not in record:
        return None, Reject("missing", f.name, f"expected {_expected(f)}, got nothing") if f.required else None
    value = record[f.name]
    if value is None:
        return None, Reject("not_null", f.name, f"expected {_expected(f)}, got null") if f.required else None
    cell, code = _CELLS[f.type](value)
    if code is None:
        code = _text_fault(f, cell) if isinstance(cell, str) else _number_fault(f, cell)
    if code is None and is_event_time and isinstance(cell, int) and not EVENT_TIMES[0] <= cell <= EVENT_TIMES[1]:
        code = "time_range"
    if isinstance(cell, str):
        cell = unicodedata.normalize("NFC", cell)
    return cell, Reject(code, f.name, f"expected {_expected(f)}, got {show(value)}") if code else None


def _text_fault(f: Field, text: str) -> str | None:
    if not (text.isascii() and text.isprintable()):
        kinds = {unicodedata.category(c) for c in text}
        if "Cc" in kinds:
            return "control_char"
        if "Cf" in kinds:
            return "charset"
    if f.allowed is not None and text not in f.allowed:
        return "allowed"
    if (f.min_length is not None and len(text) < f.min_length) or (
        f.max_length is not None and len(text) > f.max_length
    ):
        return "length"
    return "format" if f.pattern is not None and not matches(f.pattern, text) else None


def _number_fault(f: Field, value: Cell) -> str | None:
    if f.type not in ("integer", "number") or not isinstance(value, int | float):
        return None
    low = (f.minimum is not None and value < f.minimum) or (
        f.exclusive_minimum is not None and value <= f.exclusive_minimum
    )
    return "range" if low or (f.maximum is not None and value > f.maximum) else None


def anchored(pattern: str) -> str:
    r"""The pattern for a whole value in RE2; `$` alone would let a trailing newline pass.

    >>> anchored("a|b")
    '\\A(?:a|b)\\z'
    """
    return rf"\A(?:{pattern})\z"


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text has the pattern. RE2, as over a batch: linear in the text, and one dialect everywhere."""
    return bool(pc.match_substring_regex(pa.array([text], pa.string()), anchored(pattern))[0].as_py())


def _string(value: object) -> tuple[Cell, str | None]:
    return (value, None) if isinstance(value, str) else (None, "type")


def _int(value: object) -> tuple[Cell, str | None]:
    if isinstance(value, HugeInteger):
        return None, "range"
    if not isinstance(value, int) or isinstance(value, bool):
        return None, "type"
    return (value, None) if INT64[0] <= value <= INT64[1] else (None, "range")


def _number(value: object) -> tuple[Cell, str | None]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, "type"
    number = float(value)
    return (None, "range") if math.isinf(number) else (number, None)


def _boolean(value: object) -> tuple[Cell, str | None]:
    return (value, None) if isinstance(value, bool) else (None, "type")


def _date(value: object) -> tuple[Cell, str | None]:
    if not isinstance(value, str):
        return None, "type"
    try:
        return msgspec.convert(value, date), None
    except msgspec.ValidationError:
        return None, "format"


def _timestamp(value: object) -> tuple[Cell, str | None]:
    if not isinstance(value, str):
        return None, "type"
    try:
        since = msgspec.convert(value, _RFC3339) - _EPOCH
    except msgspec.ValidationError:
        return None, "format"
    at = ms(since)
    return (at, None) if YEARS_1_TO_9999[0] <= at <= YEARS_1_TO_9999[1] else (None, "format")


_CELLS: dict[str, Callable[[object], tuple[Cell, str | None]]] = {
    "string": _string,
    "integer": _int,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
}


def _expected(f: Field) -> str:
    if f.allowed is not None:
        return f"one of {', '.join(f.allowed)}"
    bounds = [
        _between(f.minimum, f.maximum) if f.exclusive_minimum is None else f"> {f.exclusive_minimum:.15g}",
        f"<= {f.maximum:.15g}" if f.exclusive_minimum is not None and f.maximum is not None else "",
        f"of {f.min_length or 0} to {f.max_length if f.max_length is not None else 'any'} characters"
        if (f.min_length, f.max_length) != (None, None)
        else "",
        f"like {f.pattern}" if f.pattern is not None else "",
        f"as {f.format or 'YYYY-MM-DD'}" if f.type == "date" else "",
        "as RFC 3339" if f.type == "timestamp" else "",
    ]
    return " ".join([_TYPES[f.type], *[b for b in bounds if b]])


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low:.15g} to {high:.15g}"
    return f">= {low:.15g}" if low is not None else f"<= {high:.15g}" if high is not None else ""
