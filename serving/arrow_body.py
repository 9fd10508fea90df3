"""PURE. The bytes of an Arrow stream into a table, or a Refusal: nothing in them is believed before it is checked.

A stream may unpack to far more than its bytes (compressed buffers, dictionaries, deltas of these, views of one text), may
say anything of its rows, and may hold offsets out of its buffers. What can grow is refused or bounded before it is read;
columns of a kind that no contract has (nested, binary, decimal ...) are never read. Knows no contract.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.refusal import MAX_BODY, MAX_ROWS, Refusal

MOST_MESSAGES = 1_000  # batches and dictionaries of a body
_RECORD_BATCH, _DICTIONARY = "record batch", "dictionary"


@dataclass(frozen=True, slots=True)
class Stream:
    """`columns` by place in the schema: one array a column; None where its type is none that a contract has."""

    names: tuple[str, ...]
    columns: tuple[pa.Array | None, ...]
    rows: int
    metadata: dict[bytes, bytes]


def read(body: bytes) -> Stream:
    """Refusal 400 no Arrow stream, 413 too many rows or bytes, 422 compressed or empty."""
    try:
        _check_messages(body)
        return _read(body)
    except (pa.ArrowException, struct.error, ValueError, EOFError, OSError, OverflowError) as error:
        raise Refusal(400, f"expected an Arrow IPC stream: {error}", field="", rule="syntax") from None


def _read(body: bytes) -> Stream:
    schema = pa.ipc.open_stream(body).schema
    for field in schema:
        if pa.types.is_timestamp(field.type):
            str(field.type.tz)  # pyarrow decodes it when asked only: raises here where it is no UTF-8
    names = tuple(schema.names)
    plain = [i for i, field in enumerate(schema) if is_plain(field.type)]
    options = pa.ipc.IpcReadOptions(included_fields=plain) if plain else None
    batches = _batches(pa.ipc.open_stream(body, options=options))
    rows = sum(b.num_rows for b in batches)
    if not rows:
        raise Refusal(422, f"expected 1 to {MAX_ROWS} rows, got 0", field="rows", rule="size")
    columns: list[pa.Array | None] = [None] * len(names)
    for place, at in enumerate(plain):
        columns[at] = _column([b.column(place) for b in batches])
    return Stream(names, tuple(columns), rows, dict(schema.metadata or {}))


def is_plain(kind: pa.DataType) -> bool:
    """A type that a field of a contract can come in."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    t = pa.types
    return is_text(kind) or any(
        f(kind) for f in (t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_date, t.is_timestamp)
    )


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_messages(body: bytes) -> None:
    count = 0
    for message in pa.ipc.MessageReader.open_stream(body):
        count += 1
        if count > MOST_MESSAGES:
            raise Refusal(413, f"expected at most {MOST_MESSAGES} messages", field="", rule="size")
        if message.type not in (_RECORD_BATCH, _DICTIONARY):
            continue
        compressed, delta = _flags(message.metadata.to_pybytes(), message.type == _DICTIONARY)
        if compressed or delta:
            what = "compressed buffers" if compressed else "a delta of a dictionary"
            raise Refusal(422, f"expected a stream of plain buffers, got {what}", field="", rule="compression")


def _flags(metadata: bytes, dictionary: bool) -> tuple[bool, bool]:
    """(compressed, delta) of a message: pyarrow does not tell them before it has unpacked. Layout: Arrow's Message.fbs."""
    message = struct.unpack_from("<I", metadata, 0)[0]
    header = _child(metadata, message, 2)
    if header is None:
        raise ValueError("a message without a header")
    if not dictionary:
        return _slot(metadata, header, 3) is not None, False
    data = _child(metadata, header, 1)
    delta = _slot(metadata, header, 2)
    return data is not None and _slot(metadata, data, 3) is not None, delta is not None and metadata[delta] != 0


def _slot(metadata: bytes, table: int, number: int) -> int | None:
    """Where a flatbuffer table keeps a field; None if it has its default."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise ValueError("a table outside its message")
    size = struct.unpack_from("<H", metadata, vtable)[0]
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, vtable + place)[0] if place + 2 <= size else 0
    return table + offset if offset else None


def _child(metadata: bytes, table: int, number: int) -> int | None:
    slot = _slot(metadata, table, number)
    return None if slot is None else slot + struct.unpack_from("<I", metadata, slot)[0]


def _batches(reader: pa.RecordBatchReader) -> list[pa.RecordBatch]:
    batches: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        rows += batch.num_rows
        if rows > MAX_ROWS:
            raise Refusal(413, f"expected 1 to {MAX_ROWS} rows, got {rows} and more", field="rows", rule="size")
        batch.validate(full=True)
        batches.append(batch)
    return batches


def _column(chunks: list[pa.Array]) -> pa.Array:
    """One array without what lies before, behind and between its values; texts are plain ones."""
    whole = pa.concat_arrays([_plain(chunk) for chunk in chunks])
    return whole.take(pa.array(np.arange(len(whole)))) if pa.types.is_string(whole.type) else whole


def _plain(chunk: pa.Array) -> pa.Array:
    """Texts unpacked, once their bytes are counted: many rows may show one long text."""
    if pa.types.is_dictionary(chunk.type):
        values = _lengths(chunk.dictionary)
        _check_bytes(values.take(chunk.indices))
        _check_bytes(values)
        return chunk.dictionary.cast(pa.string()).take(chunk.indices)
    if is_text(chunk.type):
        _check_bytes(_lengths(chunk))
        return chunk.cast(pa.string())
    return chunk


def _lengths(texts: pa.Array) -> pa.Array:
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts)
    views = np.frombuffer(texts.buffers()[1] or b"", np.int32).reshape(
        -1, 4
    )  # length, then prefix and place, or the text
    lengths = views[texts.offset : texts.offset + len(texts), 0]
    return pa.array(lengths, mask=~np.asarray(texts.is_valid()))


def _check_bytes(lengths: pa.Array) -> None:
    if (pc.sum(lengths.cast(pa.int64())).as_py() or 0) > MAX_BODY:
        raise Refusal(413, f"expected texts of at most {MAX_BODY} bytes in all", field="", rule="size")
