"""PURE. Rows of any kind as an Arrow table: frames, Arrow, dicts of arrays, a single array. Says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa

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
    elif isinstance(data, np.ndarray):
        table = pa.table({ONE: _array(data, what, ONE)})
    elif isinstance(data, Mapping):
        table = pa.table({str(name): _array(values, what, str(name)) for name, values in data.items()})
    elif hasattr(data, "__arrow_c_stream__"):
        table = pa.table(data)
    else:
        raise ValueError(f"{what}: expected a frame, an Arrow table, a dict of arrays or an array, got {type(data).__name__}")  # fmt: skip
    return pa.table({name: _plain(table.column(name)) for name in table.column_names})


def _array(values: object, what: str, name: str) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"{what}: expected one dimension in {name!r}, got {values.ndim}")
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
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
