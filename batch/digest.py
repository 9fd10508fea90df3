"""PURE. A digest of a table's rows that depends on the rows alone: not on files, commits, their order or a library's version.

Rows are ordered by raw coordinate and cut into pages of raw offsets [k * 65,536, (k + 1) * 65,536). A page's digest is SHA-256 over each
column in name order: name, type, row count, validity bits, values as little-endian bytes with nulls as zero, strings as lengths then
bytes. A partition's digest is SHA-256 over its pages' numbers and digests, the table's over its partitions' numbers and digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.contract import RAW_OFFSET, RAW_PARTITION

PAGE = 65_536  # raw offsets
READ = 16 * PAGE  # raw offsets held in memory at once
SKIPPED = ("event_date",)  # derived


def content_digest(frame: pl.LazyFrame, ranges: Mapping[int, tuple[int, int]]) -> tuple[int, str]:
    """(rows, hex digest) of the frame's rows inside `ranges`."""
    total, rows = hashlib.sha256(), 0
    names = sorted(n for n in frame.collect_schema().names() if n not in SKIPPED)
    for partition, (start, end) in sorted(ranges.items()):
        pages, found = _partition(frame.filter(pl.col(RAW_PARTITION) == partition).select(names), start, end)
        if found:
            total.update(f"{partition}:".encode() + pages.digest())
        rows += found
    return rows, total.hexdigest()


def _partition(frame: pl.LazyFrame, start: int, end: int) -> tuple[hashlib._Hash, int]:
    pages, rows = hashlib.sha256(), 0
    for low in range(start - start % READ, end, READ):
        inside = (pl.col(RAW_OFFSET) >= max(low, start)) & (pl.col(RAW_OFFSET) < min(low + READ, end))
        part = frame.filter(inside).sort(RAW_OFFSET).collect()
        rows += part.height
        numbers = part[RAW_OFFSET].to_numpy() // PAGE
        for page in np.unique(numbers).tolist():
            lo, hi = np.searchsorted(numbers, [page, page + 1])
            pages.update(f"{page}:".encode() + page_digest(part.slice(int(lo), int(hi - lo))))
    return pages, rows


def page_digest(rows: pl.DataFrame) -> bytes:
    """SHA-256 of a page in canonical form.

    >>> page_digest(pl.DataFrame({"a": [1, None]})) == page_digest(pl.DataFrame({"a": [1, 0]}))
    False
    """
    page = hashlib.sha256()
    for name in rows.columns:
        column = rows[name]
        page.update(f"{name}\0{_kind(column.dtype)}\0{rows.height}\0".encode())
        page.update(np.packbits(column.is_not_null().to_numpy()).tobytes())
        for piece in _values(column):
            page.update(piece)
    return page.digest()


def _kind(dtype: pl.DataType) -> str:
    """Our own names: a library may rename its types."""
    if dtype in (pl.String, pl.Binary):
        return "bytes"
    if isinstance(dtype, pl.Datetime):
        return "time_" + dtype.time_unit
    return "date" if dtype == pl.Date else "float" if dtype.is_float() else "flag" if dtype == pl.Boolean else "integer"


def _values(column: pl.Series) -> list[bytes]:
    if column.dtype in (pl.String, pl.Binary):
        array = column.cast(pl.Binary).fill_null(b"").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        _, offsets, data = array.cast(pa.large_binary()).buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        text = b"" if data is None else memoryview(data)[int(bounds[0]) : int(bounds[-1])]
        return [np.diff(bounds).astype("<i8").tobytes(), bytes(text)]
    if column.dtype.is_float():
        return [column.cast(pl.Float64).fill_null(0.0).to_numpy().astype("<f8").tobytes()]
    return [column.to_physical().cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes()]
