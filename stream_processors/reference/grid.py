"""PURE. Straight from values to coarse cells: what the detectors need, without the exact codes.

The same table of buckets as in `lookup`, over the edges of the coarse cells alone (over the values themselves where they
are few): 32 buckets an edge, so nearly every look-up is one read of a table that fits the cache. 2 to 4 ns a value; equal to
`cells.coarse(reference, cells.count(reference, column))` always. `statistics.bracket` says what D may be, given them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numba import njit

from stream_processors.reference.cells import FeatureReference, category_counts, floats
from stream_processors.reference.lookup import by_bits, by_value, lookup_of

BUCKETS_AN_EDGE = 32


@dataclass(frozen=True, slots=True, eq=False)
class Grids:
    """The tables of several numeric references laid end to end; one row of `ints` and `reals` each."""

    edges: np.ndarray  # float64
    table: np.ndarray  # int16: twice the edges below a bucket; -1 - that number, if an edge (or a NaN) lies in it
    cell: np.ndarray  # int32 coarse cell by 2 * #(edges < x) + [x is an edge]
    ints: np.ndarray  # int64[F, 8]: edge from, to; table from, buckets; cell from; bits; its counts from, its nulls at
    reals: np.ndarray  # float64[F, 2]: low, scale


def coarse_counts(reference: FeatureReference, column: pa.Array | pa.ChunkedArray | np.ndarray) -> np.ndarray:
    """int64 counts of the coarse cells, then `unseen`, then `null`. A NaN is a null."""
    return coarse_many((reference,), (column,))[0]


def coarse_codes(reference: FeatureReference, values: np.ndarray) -> np.ndarray:
    """int32 coarse cell of each number of a numeric reference, in order; that of null for NaN."""
    values = np.ascontiguousarray(values, np.float64)
    _, _, grids = _plan((reference,))
    out = np.empty(len(values), np.int32)
    return _place(
        values, grids.edges, grids.table, grids.cell, grids.ints[0, 5] != 0, *grids.reals[0], out, reference.cells + 1
    )


def coarse_many(
    references: Sequence[FeatureReference], columns: Sequence[pa.Array | pa.ChunkedArray | np.ndarray]
) -> list[np.ndarray]:
    """The same for several columns of one length, in one call for all that hold numbers.

    Each result is a view of one array that holds them end to end, in the order of the references (`.base`).
    """
    references = tuple(references)
    starts, numbers, grids = _plan(references)
    out = np.zeros(starts[-1], np.int64)
    if numbers:
        rows = [_numbers(columns[i]) for i in numbers]
        same = all(r is rows[0] for r in rows)
        _count(np.concatenate(rows) if not same else rows[0], 0 if same else len(rows[0]), len(rows[0]),
               grids.edges, grids.table, grids.cell, grids.ints, grids.reals, out)  # fmt: skip
    for i, reference in enumerate(references):
        if reference.kind == "categorical":
            dense, nulls = category_counts(reference, columns[i])
            held = np.bincount(reference.cell_of, weights=dense, minlength=reference.cells + 2)
            out[starts[i] : starts[i + 1]] = held
            out[starts[i + 1] - 1] += nulls
    return [out[starts[i] : starts[i + 1]] for i in range(len(references))]


def _numbers(column: pa.Array | pa.ChunkedArray | np.ndarray) -> np.ndarray:
    return column.astype(np.float64, copy=False) if isinstance(column, np.ndarray) else floats(column)


@lru_cache(maxsize=1024)
def _plan(references: tuple[FeatureReference, ...]) -> tuple[list[int], list[int], Grids]:
    """(where each reference's counts begin, which references hold numbers, their tables)."""
    starts = np.concatenate(([0], np.cumsum([r.cells + 2 for r in references]))).tolist()
    numbers = [i for i, r in enumerate(references) if r.kind == "numeric"]
    edges, tables, cells, ints, reals = [np.empty(0)], [np.empty(0, np.int16)], [np.empty(0, np.int32)], [], []
    at = np.zeros(3, np.int64)  # of edges, tables, cells
    for i in numbers:
        own, cell = _edges(references[i])
        found = lookup_of(own, BUCKETS_AN_EDGE)
        low, high = found.table[:-1], found.table[1:]
        table = np.where(low == high, 2 * low, -1 - low)
        table[[0, -1]] = -1 - low[[0, -1]]  # where a NaN ends
        ints.append((at[0], at[0] + len(own), at[1], len(table), at[2], int(found.bits), starts[i], starts[i + 1] - 1))
        reals.append((found.low, found.scale))
        edges.append(own)
        tables.append(table.astype(np.int16))
        cells.append(cell)
        at += (len(own), len(table), len(cell))
    return (
        starts,
        numbers,
        Grids(
            np.concatenate(edges), np.concatenate(tables), np.concatenate(cells),
            np.array(ints, np.int64).reshape(-1, 8), np.array(reals).reshape(-1, 2)
        ),
    )  # fmt: skip


def _edges(reference: FeatureReference) -> tuple[np.ndarray, np.ndarray]:
    """(values that part the cells, coarse cell by code over them)."""
    if reference.discrete or not len(reference.values):
        return reference.values, reference.cell_of
    of_value = reference.cell_of[1::2]
    last = np.flatnonzero(of_value[1:] != of_value[:-1])  # the last value of every cell but the last one
    cell = np.repeat(np.arange(len(last) + 1, dtype=np.int32), 2)[:-1]
    return reference.values[last], cell


@njit(cache=True, nogil=True)
def _count(x, stride, rows, edges, table, cell, ints, reals, out):
    """Feature f holds x[f * stride : f * stride + rows]; its counts are added to `out`."""
    bits_of = x.view(np.int64)
    for f in range(ints.shape[0]):
        first, last, table_from, buckets, cell_from, bits, out_from, null_at = ints[f]
        held = np.zeros(2 * (last - first) + 1, np.int64)
        own, low, high = table[table_from : table_from + buckets], f * stride, f * stride + rows
        if bits:
            nulls = _by_bits(x[low:high], bits_of[low:high], edges[first:last], own, reals[f, 0], reals[f, 1], held)
        else:
            nulls = _by_value(x[low:high], edges[first:last], own, reals[f, 0], reals[f, 1], held)
        for code in range(held.size):
            out[out_from + cell[cell_from + code]] += held[code]
        out[null_at] += nulls


# Two loops that differ in a word: one loop that asks which table it has takes four times as long.
@njit(cache=True, nogil=True)
def _by_value(x, edges, table, low, scale, held):
    top, nulls = np.float64(table.size - 1), 0
    for t in range(x.size):
        v = x[t]
        code = table[by_value(v, low, scale, top)]
        if code >= 0:
            held[np.uint64(code)] += 1
        elif v != v:
            nulls += 1
        else:
            i = np.int64(-1 - code)
            while i < edges.size and edges[i] < v:
                i += 1
            held[np.uint64(2 * i + (i < edges.size and edges[i] == v))] += 1
    return nulls


@njit(cache=True, nogil=True)
def _by_bits(x, bits_of, edges, table, low, scale, held):
    top, nulls = np.float64(table.size - 1), 0
    for t in range(x.size):
        v = x[t]
        code = table[by_bits(bits_of[t], low, scale, top)]
        if code >= 0:
            held[np.uint64(code)] += 1
        elif v != v:
            nulls += 1
        else:
            i = np.int64(-1 - code)
            while i < edges.size and edges[i] < v:
                i += 1
            held[np.uint64(2 * i + (i < edges.size and edges[i] == v))] += 1
    return nulls


@njit(cache=True, nogil=True)
def _place(x, edges, table, cell, bits, low, scale, out, null):
    bits_of, top = x.view(np.int64), np.float64(table.size - 1)
    for t in range(x.size):
        v = x[t]
        code = np.int64(table[by_bits(bits_of[t], low, scale, top) if bits else by_value(v, low, scale, top)])
        if v != v:
            out[t] = null
            continue
        if code < 0:
            i = -1 - code
            while i < edges.size and edges[i] < v:
                i += 1
            code = 2 * i + (i < edges.size and edges[i] == v)
        out[t] = cell[code]
    return out
