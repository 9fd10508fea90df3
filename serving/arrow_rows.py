"""PURE. The columns of an Arrow body judged by the contract: the verdict of a row is that of the JSON record that says the same.

As in `pipeline.decode`, questions to whole columns may suspect a good row and never pass a bad one (bounds, lists, lengths,
patterns, times, rules over several fields); a suspect is written down as JSON and the record decoder, which alone gives
codes, judges it. Saying the same: a number is a number (a float is no integer, NaN is no JSON), a text a text, a date
YYYY-MM-DD, a timestamp RFC 3339 (in UTC if its type has a zone, without an offset if not, which the contract refuses), null
is null; a value of another kind is an array. Knows no HTTP.
"""

from __future__ import annotations

import json
from datetime import date, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cells import EVENT_TIMES, INT64, YEARS_1_TO_9999, anchored
from pipeline.columns import TIMESTAMP, doubtful_texts, rows_of, to_ms
from pipeline.contract import Field, Reject
from pipeline.decode import Decoder, Row
from pipeline.topics import RECORD_LIMIT
from serving.arrow_body import Stream, is_text

DATES = (date.min.toordinal() - 719_163, date.max.toordinal() - 719_163)  # days since 1970 that a calendar can say
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def judge(decoder: Decoder, stream: Stream) -> pa.RecordBatch | tuple[int, Reject]:
    """All rows as columns of the contract, or the first row that breaks it, and why."""
    fields = decoder.contract.fields
    at = {name: place for place, name in reversed(list(enumerate(stream.names)))}
    suspects: set[int] = set() if _known(decoder, stream) else {0}
    arrays: list[pa.Array] = []
    for f in fields:
        column = stream.columns[at[f.name]] if f.name in at else pa.nulls(stream.rows)
        array, doubt = _typed(f, column, stream.rows)
        arrays.append(array)
        suspects.update(np.flatnonzero(doubt).tolist(), _suspects(f, array, f.name == decoder.contract.time.field))
    for rule in decoder.contract.rules:
        suspects.update(rows_of(decoder.broken(rule, arrays)))
    suspects.update(_long(arrays))
    settled: dict[int, Row] = {}
    for row in sorted(suspects):
        found = decoder.decode(_as_json(stream, row))
        if isinstance(found, Reject):
            return row, found
        settled[row] = found
    return pa.RecordBatch.from_arrays(_patched(fields, arrays, settled), schema=decoder.contract.row_schema)


def _known(decoder: Decoder, stream: Stream) -> bool:
    """False if each row has a key twice, or one that the contract does not know."""
    names = set(stream.names)
    unknown = names - {f.name for f in decoder.contract.fields}
    return len(names) == len(stream.names) and (not unknown or decoder.contract.unknown_fields == "ignore")


# -- a column as the contract's type; in doubt: rows whose value it cannot hold ----------------------------------------


def _typed(f: Field, column: pa.Array | None, rows: int) -> tuple[pa.Array, np.ndarray]:
    nothing, none = pa.nulls(rows, f.arrow_type), np.zeros(rows, bool)
    if column is None:  # of a kind that was not read
        return nothing, ~none
    kind = column.type
    if pa.types.is_null(kind):
        return nothing, none
    if f.type == "string" and is_text(kind):
        return column, none
    if f.type == "boolean" and pa.types.is_boolean(kind):
        return column, none
    if f.type == "number" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return column.cast(pa.float64(), safe=False), none
    if f.type == "integer" and pa.types.is_integer(kind):
        beyond = _true(pc.greater(column, pa.scalar(INT64[1], kind))) if kind == pa.uint64() else none
        return column.cast(pa.int64(), safe=False), beyond
    if f.type == "date" and (is_text(kind) or pa.types.is_date(kind)):
        return _dates(column)
    if f.type == "timestamp" and (is_text(kind) or (pa.types.is_timestamp(kind) and kind.tz is not None)):
        return _times(column)
    return nothing, np.asarray(column.is_valid())


def _dates(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    if pa.types.is_date(column.type):
        days = column.cast(pa.date32())
        return days, ~_within(days.cast(pa.int32()), *DATES)
    coded = column.dictionary_encode()  # few days in many rows
    known = pa.array([_date(text) for text in coded.dictionary.to_pylist()], pa.date32())
    days = known.take(coded.indices)
    return days, np.asarray(days.is_null()) & np.asarray(column.is_valid())


def _date(text: str) -> date | None:
    try:
        return msgspec.convert(text, date)
    except msgspec.ValidationError:
        return None


def _times(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    there = np.asarray(column.is_valid())
    if is_text(column.type):
        times = to_ms(column)
        doubt = (times == np.iinfo(np.int64).min) & there
    else:
        each = _PER_SECOND[column.type.unit]
        raw = column.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        low, high = (min(max(bound * each // 1_000, INT64[0]), INT64[1]) for bound in YEARS_1_TO_9999)
        doubt = (raw < low) | (raw > high)
        raw = np.where(doubt, 0, raw)
        times = raw * 1_000 if each == 1 else raw // (each // 1_000)
    return pa.array(np.where(there & ~doubt, times, 0), mask=~there | doubt).view(TIMESTAMP), doubt & there


# -- rules of one field over a column ------------------------------------------------------------------------------------


def _suspects(f: Field, array: pa.Array, is_event_time: bool) -> list[int]:
    masks = []
    if f.required:
        masks.append(np.asarray(array.is_null()))
    if f.allowed is not None:
        masks.append(~_true(pc.is_in(array, pa.array(f.allowed))) & np.asarray(array.is_valid()))
    if f.type == "string" and (f.min_length is not None or f.max_length is not None):
        masks.append(~_within(pc.utf8_length(array), f.min_length, f.max_length))
    if f.pattern is not None:
        masks.append(_true(pc.invert(pc.match_substring_regex(array, anchored(f.pattern)))))
    if f.type == "number":
        masks.append(_true(pc.invert(pc.is_finite(array))))
    if f.type in ("integer", "number"):
        numbers = array.cast(pa.float64(), safe=False)
        masks.append(~_within(numbers, f.minimum, f.maximum))
        if f.exclusive_minimum is not None:
            masks.append(_true(pc.less_equal(numbers, f.exclusive_minimum)))
        for bound in (f.minimum, f.maximum, f.exclusive_minimum):
            if f.type == "integer" and bound is not None and abs(bound) > 2**53:  # as floats, neighbours look equal
                masks.append(_true(pc.equal(numbers, float(bound))))
    if f.type == "timestamp":
        masks.append(~_within(array.view(pa.int64()), *(EVENT_TIMES if is_event_time else YEARS_1_TO_9999)))
    found = np.flatnonzero(np.logical_or.reduce(masks)).tolist() if masks else []
    return found + (doubtful_texts(array) if f.type == "string" and array.null_count < len(array) else [])


def _within(array: pa.Array, low: float | None, high: float | None) -> np.ndarray:
    """True where the value lies within, and where there is none."""
    inside = np.ones(len(array), bool)
    if low is not None:
        inside &= ~_true(pc.less(array, low))
    if high is not None:
        inside &= ~_true(pc.greater(array, high))
    return inside


def _true(mask: pa.Array) -> np.ndarray:
    return np.asarray(mask.fill_null(False))


def _long(arrays: list[pa.Array]) -> list[int]:
    """Rows that may be over a record's limit as JSON, where a text takes at most twice its bytes."""
    texts = [pc.fill_null(pc.binary_length(a), 0) for a in arrays if pa.types.is_string(a.type) and len(a) > 1]
    most = RECORD_LIMIT // 2 - 100 * len(arrays)
    if sum(pc.max(t).as_py() for t in texts) <= most:
        return []
    return np.flatnonzero(sum(t.to_numpy(zero_copy_only=False).astype(np.int64) for t in texts) > most).tolist()


# -- a row in doubt ------------------------------------------------------------------------------------------------------


def _as_json(stream: Stream, row: int) -> bytes:
    """The record that says what the row says, keys that stand twice included."""
    pairs = (
        f"{json.dumps(name, ensure_ascii=False)}:{json.dumps(_value(column, row), ensure_ascii=False)}"
        for name, column in zip(stream.names, stream.columns, strict=True)
    )
    return b"{%b}" % ",".join(pairs).encode("utf-8", "surrogatepass")


def _value(column: pa.Array | None, row: int) -> object:
    if column is None:
        return []
    cell = column[row]
    if not cell.is_valid:
        return None
    if pa.types.is_date(column.type):
        return _say(cell.cast(pa.date32()).value)
    if pa.types.is_timestamp(column.type):
        seconds, rest = divmod(cell.value, _PER_SECOND[column.type.unit])
        days, second = divmod(seconds, 86_400)
        micro = rest * 1_000_000 // _PER_SECOND[column.type.unit]
        clock = f"{timedelta(seconds=second)}".rjust(8, "0")
        return f"{_say(days)}T{clock}.{micro:06d}{'Z' if column.type.tz is not None else ''}"
    return cell.as_py()


def _say(days: int) -> str:
    """A day since 1970 as text; one that no calendar has is said as its number, which is no date."""
    return date.fromordinal(days + 719_163).isoformat() if DATES[0] <= days <= DATES[1] else f"day {days}"


def _patched(fields: tuple[Field, ...], arrays: list[pa.Array], settled: dict[int, Row]) -> list[pa.Array]:
    """Cells as the record decoder gave them: a text comes out in normal form, a rare spelling of a time as its time."""
    for i, f in enumerate(fields) if settled else ():
        cells = arrays[i].to_pylist()
        if any(cells[row] != value[f.name] for row, value in settled.items()):
            for row, value in settled.items():
                cells[row] = value[f.name]
            arrays[i] = pa.array(cells, f.arrow_type)
    return arrays
