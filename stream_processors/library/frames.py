"""PURE. Rows of any kind as an Arrow table: frames, Arrow, dicts of arrays, a single array. Says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa

WIDEST = 64  # bits
ONE = "value"  # the feature's name where the data is a single array


class _Arrow(Protocol):
    """A polars or pandas frame, or anything else that hands out Arrow data."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


Data = pa.Table | pa.RecordBatch | Mapping[str, object] | np.ndarray | _Arrow


def table_of(data: Data, what: str) -> pa.Table:
    """Rows of any kind as an Arrow table with plain strings; a ValueError says what is wrong with them."""
    if isinstance(data, pa.RecordBatch):
        table = pa.Table.from_batches([data])
    elif isinstance(data, pa.Table):
        table = data
    elif isinstance(data, np.ndarray) and data.dtype.names:
        table = pa.table({name: _array(data[name], what, name) for name in data.dtype.names})
    elif isinstance(data, np.ndarray | pa.Array | pa.ChunkedArray) or _is_series(data):
        table = pa.table({ONE: _array(data, what, ONE)})
    elif isinstance(data, Mapping):
        arrays = {str(name): _array(values, what, str(name)) for name, values in data.items()}
        if len({len(a) for a in arrays.values()}) > 1:
            raise ValueError(f"{what}: expected columns of one length, got { {n: len(a) for n, a in arrays.items()} }")
        table = pa.table(arrays)
    elif hasattr(data, "__arrow_c_stream__"):
        try:
            table = pa.table(data)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueError(f"{what}: {type(data).__name__} is no table of numbers and texts: {error}") from error
    else:
        raise ValueError(f"{what}: expected a frame, an Arrow table, a dict of arrays or an array, got {type(data).__name__}")  # fmt: skip
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: expected different column names, got twice {twice}")
    made = {name: _plain(table.column(name)) for name in table.column_names}
    fields = [pa.field(n, a.type, metadata={"was": str(table.column(n).type)}) for n, a in made.items()]
    return pa.table(made, schema=pa.schema(fields))


def _is_series(data: object) -> bool:
    """A polars or pandas column: one dimension, no columns."""
    return not hasattr(data, "columns") and hasattr(data, "to_numpy") and hasattr(data, "dtype")


def _array(values: object, what: str, name: str) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"{what}: expected one dimension in {name!r}, got {values.ndim}")
    try:
        made = pa.array(values.to_arrow() if _is_series(values) and hasattr(values, "to_arrow") else values)
        return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"{what}: column {name!r} is no column of numbers or texts: {error}") from error


def _plain(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    kind = whole.type
    if pa.types.is_dictionary(kind):
        whole = _plain(pa.chunked_array([whole.dictionary])).take(whole.indices)
        kind = whole.type
    text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return whole.cast(pa.string()) if text or pa.types.is_boolean(kind) else whole


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def expect(table: pa.Table, what: str, names: Iterable[str]) -> None:
    """ValueError if a column is missing."""
    missing = [name for name in dict.fromkeys(names) if name not in table.column_names]
    if missing:
        raise ValueError(f"{what}: expected the columns {missing}, got {table.column_names}")


def alike(table: pa.Table, reference: pa.Schema, names: Iterable[str]) -> pa.Table:
    """The columns as the reference has them; ValueError where a column is of another kind. Only nulls fit any kind.

    0.05 in 32 bits is another number than in 64: rows are rounded as a narrower reference is; narrower rows are refused.
    """
    made = {}
    for name in dict.fromkeys(names):
        column, expected, got = table.column(name), reference.field(name).type, table.column(name).type
        if column.null_count == len(column):
            column = pa.nulls(table.num_rows, expected)
        elif got != expected and not (is_number(got) and is_number(expected)):
            raise ValueError(f"window: column {name!r}: expected {_called(reference.field(name))} as in the reference, got {_called(table.schema.field(name))}")  # fmt: skip
        elif _width(got) < _width(expected) and not pa.types.is_integer(expected):
            raise ValueError(f"window: column {name!r}: expected {expected} as in the reference, got {got}, which rounds otherwise: give rows that were never {got}, or a reference cast to {got}")  # fmt: skip
        elif got != expected and _width(expected) < WIDEST:
            column = column.cast(expected, safe=False)
        made[name] = column
    return pa.table(made)


def _width(kind: pa.DataType) -> int:
    """Bits that a number is rounded to; whole and decimal numbers are not."""
    return kind.bit_width if pa.types.is_floating(kind) else WIDEST


def _called(field: pa.Field) -> str:
    """The type that its owner gave it: a bool is kept as text."""
    was = (field.metadata or {}).get(b"was", str(field.type).encode()).decode()
    return "bool" if was == "bool" else "text" if pa.types.is_string(field.type) else was
