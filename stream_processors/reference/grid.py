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

from stream_processors.reference.cells import FeatureReference, category_counts, floats
from stream_processors.reference.lookup import count_cells, lookup_of, place_cells

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
    return place_cells(
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
        count_cells(np.concatenate(rows) if not same else rows[0], 0 if same else len(rows[0]), len(rows[0]),
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
        found = lookup_of(own, BUCKETS_AN_EDGE, inner=slice(*_inner(references[i], len(own))))
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


def edges_of(reference: FeatureReference) -> np.ndarray:
    """float64, ascending: what parts the coarse cells of numbers, each edge in the cell below it."""
    if reference.discrete or not len(reference.values):
        return reference.values
    of_value = reference.cell_of[1 : 2 * len(reference.values) : 2]
    below, above = reference.fences
    # the last value of every cell but the last one
    return np.concatenate((below, reference.values[np.flatnonzero(of_value[1:] != of_value[:-1])], above))


def _edges(reference: FeatureReference) -> tuple[np.ndarray, np.ndarray]:
    """(values that part the cells, coarse cell by code over them)."""
    edges = edges_of(reference)
    if reference.discrete or not len(reference.values):
        return edges, reference.cell_of[: 2 * len(edges) + 1]
    return edges, np.repeat(np.arange(len(edges) + 1, dtype=np.int32), 2)[:-1]


def _inner(reference: FeatureReference, edges: int) -> tuple[int, int]:
    """Where the edges within the range begin and end: the buckets are for them."""
    below, above = reference.fences
    return len(below), edges - len(above)
