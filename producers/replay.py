"""EDGE. A file as a stream: CSV, Parquet or JSON lines, its text cast to the contract's types, in the file's order.

The only edge is reading the file. A value that does not cast is sent as its text, a line that is no JSON object as its
bytes, and a column that the contract does not know under its own name: the validator judges, not the replay.
Knows no column of any dataset.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from pipeline.contract import Contract, Field
from pipeline.errors import UsageError
from pipeline.json_record import JsonObject, parse
from pipeline.times import to_ms, to_text
from producers.batches import Batch, Key, Source

_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")  # gzip, zstd, zlib
ROWS = 20_000  # a batch: bounded memory whatever the file
LINE_LIMIT = 16 * 1024 * 1024  # of a file of lines; a file without line ends is not read whole into memory
Row = dict[str, object]


class _Line(dict[str, object]):
    """The object of a line of JSON, and the line itself, which says more: equal keys, the spelling of numbers."""

    __slots__ = ("text",)
    text: bytes


def stream(contract: Contract, path: Path, *, rows: int = ROWS) -> Source:
    """Batches of the file's records. The event time of a record that has none, or goes back, is that of the one before it."""
    casts = {field.name: _Cast(field) for field in contract.fields}
    latest = np.iinfo(np.int64).min
    for chunk in _read(path, rows):
        records = [record if isinstance(record, bytes) else _cast_row(record, casts) for record in chunk]
        values = [_value(read, record) for read, record in zip(chunk, records, strict=True)]
        times = np.maximum.accumulate(np.array([latest, *(_event_ms(contract, record) for record in records)]))[1:]
        latest = int(times[-1])
        yield Batch(times, [_key(contract, record) for record in records], values)


def expect_file(path: Path) -> None:
    """UsageError unless there is a file that can be read more than once."""
    if not path.exists():
        raise UsageError(f"--replay {path}: there is no such file")
    if not path.is_file():
        got = "a folder: name one file in it" if path.is_dir() else "a device or a pipe: write it to a file first"
        raise UsageError(f"--replay {path}: expected a file, got {got}")


def cast(value: object, field: Field) -> object:
    """A value of the file as a JSON value of the field's type, or unchanged as text where it does not cast."""
    if value is None or isinstance(value, list | dict):
        return value
    if isinstance(value, bytes):
        value = _utf8(value)
        if isinstance(value, list):
            return value
    text = value if isinstance(value, str) else _text(value)
    try:
        return _CASTS[field.type](text, field)
    except ValueError:
        # NaN is what table tools write for a missing number; JSON's encoder makes null of it, and of infinity too.
        return text if isinstance(value, str) or value in _INFINITE else value


_INFINITE = (math.inf, -math.inf)


def _utf8(value: bytes) -> str | list[int]:
    """Bytes as the text that they are; others as an array, which no contract takes for a text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return list(value)


def _integer(text: str, field: Field) -> int:
    """`12`, and `17850.0`, which is what a table tool makes of whole numbers in a column with gaps."""
    found = _WHOLE.fullmatch(text.strip())
    if not found or not -(2**63) <= int(found[1]) < 2**63:
        raise ValueError(text)
    return int(found[1])


def _number(text: str, field: Field) -> float:
    number = float(text)
    if not math.isfinite(number) or "_" in text:
        raise ValueError(f"{text}: JSON has no such number")
    return number


def _boolean(text: str, field: Field) -> bool:
    try:
        return {"true": True, "false": False}[text.strip().lower()]
    except KeyError as error:
        raise ValueError(text) from error


def _timestamp(text: str, field: Field) -> str:
    """RFC 3339 unless the contract states a format of its own; a time without a zone is read as UTC."""
    if field.format:
        return text
    when = datetime.fromisoformat(text.strip())
    return to_text(round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000))


_CASTS: dict[str, Callable[[str, Field], object]] = {
    "string": lambda text, field: text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": lambda text, field: text,
    "timestamp": _timestamp,
}


class _Cast:
    """`cast` for one field, remembering what repeats: most columns of a sales file do."""

    LIMIT = 100_000

    def __init__(self, field: Field):
        self._field, self._known = field, {}

    def __call__(self, value: object) -> object:
        if not isinstance(value, str):
            return cast(value, self._field)
        try:
            return self._known[value]
        except KeyError:
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            self._known[value] = done = cast(value, self._field)
            return done


def _cast_row(record: Row, casts: dict[str, _Cast]) -> Row:
    return {name: casts[name](value) if name in casts else value for name, value in record.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _key(contract: Contract, record: Row | bytes) -> Key:
    value = record.get(contract.key) if isinstance(record, dict) and contract.key else None
    return None if value is None or isinstance(value, list | dict) else _text(value)


def _event_ms(contract: Contract, record: Row | bytes) -> int:
    try:
        text = str(record[contract.time.field]) if isinstance(record, dict) else ""
        form = contract.field(contract.time.field).format
        return round(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1000) if form else to_ms(text)
    except (KeyError, ValueError):
        return np.iinfo(np.int64).min


def _value(read: Row | bytes, record: Row | bytes) -> bytes:
    """What is sent. A line goes as it stands unless a cast changed it; with equal keys it is not for us to choose one."""
    if isinstance(read, _Line) and isinstance(record, dict) and (_same(read, record) or _ambiguous(read.text)):
        return read.text
    return _bytes(record)


def _same(read: Row, record: Row) -> bool:
    return all(type(a) is type(b) and a == b for a, b in zip(read.values(), record.values(), strict=True))


def _ambiguous(line: bytes) -> bool:
    found = parse(line)
    return isinstance(found, JsonObject) and found.duplicate is not None


def _bytes(record: Row | bytes) -> bytes:
    if isinstance(record, bytes):
        return record
    try:
        return msgspec.json.encode(record, enc_hook=_text)
    except OverflowError:  # an integer beyond 64 bits
        return json.dumps(record, separators=(",", ":")).encode()


def _read(path: Path, rows: int) -> Iterator[list[Row | bytes]]:
    expect_file(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"--replay {path}: expected a name that ends in {', '.join(_READERS)}, got {path.suffix or 'none'}"
        )
    try:
        yield from reader(path, rows)
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"--replay {path}: not readable as {path.suffix[1:]}: {error}") from error


def _csv(path: Path, rows: int) -> Iterator[list[Row | bytes]]:
    """Every column as its text: what a type is, the contract says, not a guess from the first lines."""
    with path.open("rb") as file:
        if file.read(4).startswith(_PACKED):  # it would be unpacked whole, however large that is
            raise UsageError(f"--replay {path}: expected text, got a compressed file; unpack it first")
    return _frames(pl.scan_csv(path, infer_schema=False), rows)


def _parquet(path: Path, rows: int) -> Iterator[list[Row | bytes]]:
    return _frames(pl.scan_parquet(path), rows)


def _frames(frame: pl.LazyFrame, rows: int) -> Iterator[list[Row | bytes]]:
    for piece in frame.collect_batches(chunk_size=rows, maintain_order=True):
        if piece.height:
            yield piece.to_dicts()


def _lines(path: Path, rows: int) -> Iterator[list[Row | bytes]]:
    chunk: list[Row | bytes] = []
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT + 1), b""), 1):
            if len(line) > LINE_LIMIT:
                raise UsageError(f"--replay {path}:{number}: expected lines of at most {LINE_LIMIT} bytes, got more")
            if line := line.rstrip(b"\r\n"):
                chunk.append(_object(line))
            if len(chunk) >= rows:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _object(line: bytes) -> Row | bytes:
    try:
        found = msgspec.json.decode(line)  # strict: what it refuses (NaN, trailing text, bad UTF-8) is sent as it is
    except (msgspec.DecodeError, ValueError, RecursionError):
        return line
    if not isinstance(found, dict):
        return line
    record = _Line(found)
    record.text = line
    return record


_READERS: dict[str, Callable[[Path, int], Iterator[list[Row | bytes]]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _lines,
    ".ndjson": _lines,
}
