"""PURE. Rows of any kind as an Arrow table: frames, Arrow, dicts of arrays, a single array. Says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WIDEST = 64  # bits
DIGITS = 38  # of a decimal
ONE = "value"  # the feature's name where the data is a single array


class _Arrow(Protocol):
    """A polars or pandas frame, or anything else that hands out Arrow data."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


Data = pa.Table | pa.RecordBatch | Mapping[str, object] | np.ndarray | _Arrow


def table_of(data: Data, what: str) -> pa.Table:
    """Rows of any kind as an Arrow table with plain strings, NaN as null; a ValueError says what is wrong with them."""
    _refuse_lazy(data, what)
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
            raise ValueError(f"{what}: {_unfit(data)}: expected columns of numbers or texts, got what Arrow does not take ({error}): cast it to 64-bit numbers or to text") from error  # fmt: skip
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


def _refuse_lazy(data: object, what: str) -> None:
    """A polars LazyFrame, say; asked of its type, for the frame itself would warn of the work that its columns are."""
    if callable(getattr(type(data), "collect", None)):
        raise ValueError(f"{what}: expected rows, got {type(data).__name__}, which holds none yet: give its .collect()")


def _unfit(data: object) -> str:
    """The columns of a frame that Arrow does not take, by name where they are known one by one."""
    unfit = []
    for name in getattr(data, "columns", ()):
        try:
            pa.table(data[[name]])
        except (pa.ArrowException, TypeError, ValueError):
            unfit.append(f"column {name!r}")
    return ", ".join(unfit) or type(data).__name__


def _array(values: object, what: str, name: str) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    _refuse_lazy(values, f"{what}: column {name!r}")
    if values is None or np.isscalar(values) or isinstance(values, Mapping | Set | bytearray):
        raise ValueError(f"{what}: column {name!r}: expected an array or a list of values, got {values!r:.40}: one value a row, in the rows' order")  # fmt: skip
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"{what}: expected one dimension in {name!r}, got {values.ndim}")
    try:
        made = pa.array(values.to_arrow() if _is_series(values) and hasattr(values, "to_arrow") else values)
        return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
    except (pa.ArrowException, TypeError, OverflowError) as error:
        wrong = _wrong_value(values) if isinstance(values, Sequence | np.ndarray) else None
        raise ValueError(f"{what}: column {name!r} is no column of numbers or texts: {wrong or error}") from error


def _wrong_value(values: Iterable[object]) -> str | None:
    """The first value that no column can hold, and what to write for it."""
    for value in values:
        if isinstance(value, Decimal) and not value.is_finite():
            instead = "None" if value.is_nan() else "floats, float('inf') for it"
            return f"expected finite decimals, got {value!r}: give {instead}"
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return f"expected whole numbers of 64 bits, got {value!r:.40}: give floats, or text"
    return None


def _plain(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    kind = whole.type
    if pa.types.is_dictionary(kind):
        whole = _plain(pa.chunked_array([whole.dictionary])).take(whole.indices)
        kind = whole.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(whole), pa.scalar(None, kind), whole)
    text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return whole.cast(pa.string()) if text or pa.types.is_boolean(kind) else whole


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def expect(table: pa.Table, what: str, names: Iterable[str]) -> None:
    """ValueError if a column is missing."""
    missing = [name for name in dict.fromkeys(names) if name not in table.column_names]
    if missing:
        raise ValueError(f"{what}: expected the columns {missing}, got {table.column_names}")


def alike(table: pa.Table, reference: pa.Schema, names: Iterable[str], groupings: Iterable[Sequence[str]]) -> pa.Table:
    """The columns as the reference has them; ValueError where a column is of another kind. Only nulls fit any kind.

    0.05 in 32 bits is another number than in 64: rows are rounded as a narrower reference is; narrower rows are refused.
    The columns of a grouping name their segments as in the reference.
    """
    made, grouping = {}, {name for columns in groupings for name in columns}
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
        made[name] = _named_alike(column, expected, name) if name in grouping else column
    return pa.table(made)


def _named_alike(column: pa.ChunkedArray, expected: pa.DataType, name: str) -> pa.Array:
    """The numbers in a type that writes them as the reference's does, 1.0 as 1, each of the same value; or a ValueError.

    A new value is no fault, so whole numbers may be as large as 64 bits hold, and decimals as long as any.
    """
    got, whole = column.type, pa.types.is_integer(expected)
    if got == expected or (whole and pa.types.is_integer(got)):
        return column
    wanted = pa.int64() if whole and not pa.types.is_uint64(expected) else _widest(expected)
    try:
        values = column.cast(_widest(got))
        # Arrow multiplies a decimal by a power of ten: 0.3 would not be the float that it reads from a text
        made = values.cast(pa.string()).cast(wanted) if pa.types.is_floating(wanted) else values.cast(wanted)
        kept = made.cast(values.type).equals(values)
    except pa.ArrowException:
        kept = False
    if not kept:
        raise ValueError(f"window: column {name!r}, which makes segments: expected values that {expected} holds, as in the reference, got {got} with others: cast both to one type, text say")  # fmt: skip
    return made


def _widest(kind: pa.DataType) -> pa.DataType:
    return pa.decimal128(DIGITS, kind.scale) if pa.types.is_decimal(kind) else kind


def _width(kind: pa.DataType) -> int:
    """Bits that a number is rounded to; whole and decimal numbers are not."""
    return kind.bit_width if pa.types.is_floating(kind) else WIDEST


def _called(field: pa.Field) -> str:
    """The type that its owner gave it: a bool is kept as text."""
    was = (field.metadata or {}).get(b"was", str(field.type).encode()).decode()
    return "bool" if was == "bool" else "text" if pa.types.is_string(field.type) else was
