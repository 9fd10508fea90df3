"""PURE. From a value to its cell: 2 * #(u < x) + [x is one of u], by a table of buckets and a short search.

A bucket holds the range of `u` that may follow, so a look-up costs 5 to 30 ns instead of a binary search's 100 to 200.
The bucket is monotone in x, so the result is exact whatever the rounding. Two tables are tried: linear in the value, and
linear in the bits of the float (a logarithm, nearly), which suits long tails; the one with fewer values per look-up stays.

All that is compiled and reads such a table stands here, the grid's loops too: the compiler's cache looks at the file of a
function, not at those that it takes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

_BUCKETS_A_VALUE, _MANY = 2, 500_000  # of more values one bucket each: the table has to come from memory
_LEAST_BUCKETS = 64
SORT_FIRST = 16
_LOWEST = np.int64(-(2**63))


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    values: np.ndarray  # distinct, sorted float64
    table: np.ndarray  # int32[B + 1]
    bits: bool  # the table is over the float's own bits
    low: float
    scale: float


def lookup_of(values: np.ndarray, buckets_a_value: int | None = None, inner: slice = slice(None)) -> Lookup:
    """The buckets are laid over the `inner` values; those beyond lie in the first and the last one."""
    wanted = buckets_a_value or (_BUCKETS_A_VALUE if len(values) <= _MANY else 1)
    buckets = max(_LEAST_BUCKETS, len(values) * wanted)
    found = [_table(values, buckets, bits, inner) for bits in (False, True)]
    return min(found, key=lambda f: float(np.square(np.diff(f.table).astype(np.float64)).sum()))


def codes_of(lookup: Lookup, x: np.ndarray) -> np.ndarray:
    """uint32 codes of the values that are not NaN, in their order."""
    if not len(lookup.values):
        return np.zeros(int((~np.isnan(x)).sum()), np.uint32)
    out = np.empty(len(x), np.uint32)
    return out[: _CODES[lookup.bits](x, lookup.values, lookup.table, lookup.low, lookup.scale, out)]


def counted(lookup: Lookup, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct codes in order, rows of each) of the values that are not NaN.

    Whether values or codes are sorted makes no difference but time: of many values the sorted ones are looked up in the order
    of the table, which then need not be fetched from memory, each from where the one before it ended (18 ns a value instead
    of 32, 100,000 against 1,000,000).
    """
    if len(lookup.values) and len(x) * SORT_FIRST >= len(lookup.values):
        distinct, n = np.empty(len(x), np.uint32), np.empty(len(x), np.int64)
        size = _WALKS[lookup.bits](np.sort(x), lookup.values, lookup.table, lookup.low, lookup.scale, distinct, n)
        return distinct[:size], n[:size]
    codes = codes_of(lookup, x)
    codes.sort()
    distinct, n = np.empty(len(codes), np.uint32), np.empty(len(codes), np.int64)
    size = _runs(codes, distinct, n)
    return distinct[:size], n[:size]


def _table(values: np.ndarray, buckets: int, bits: bool, inner: slice) -> Lookup:
    finite = values[inner][np.isfinite(values[inner])]
    low, high = 0.0, 1.0
    if len(finite):
        places = _order(finite) if bits else finite
        # the central 99.8 %, so that a far tail does not starve the body of buckets
        low, high = float(places[int(0.001 * (len(places) - 1))]), float(places[int(0.999 * (len(places) - 1))])
    with np.errstate(over="ignore", divide="ignore"):
        scale = float(np.float64(buckets) / (np.float64(high) - np.float64(low)))
    if not (np.isfinite(scale) and scale > 0):
        scale = 1.0
    return Lookup(values, _fill(values, bits, low, scale, buckets), bits, low, scale)


def _order(x: np.ndarray) -> np.ndarray:
    """The bits of each float as a number that grows with it."""
    as_int = (x + 0.0).view(np.int64)
    return np.where(as_int < 0, _LOWEST - as_int, as_int).astype(np.float64)


@njit(cache=True, inline="always")
def by_value(x, low, scale, top):
    """A bucket from 0 to `top`, never smaller for a larger x, so what lies in lower buckets is smaller; without a branch."""
    t = (x - low) * scale
    t = t if t > 0.0 else 0.0
    return np.uint64(t if t < top else top)


@njit(cache=True, inline="always")
def by_bits(as_int, low, scale, top):
    """The same from the float's bits."""
    t = (np.float64(as_int if as_int >= 0 else _LOWEST - as_int) - low) * scale
    t = t if t > 0.0 else 0.0
    return np.uint64(t if t < top else top)


@njit(cache=True)
def _fill(values, bits, low, scale, buckets):
    table = np.zeros(buckets + 1, np.int32)
    ints = values.view(np.int64)
    for i in range(values.size):
        b = by_bits(ints[i], low, scale, buckets - 1.0) if bits else by_value(values[i], low, scale, buckets - 1.0)
        table[b + np.uint64(1)] += 1
    for b in range(buckets):
        table[b + 1] += table[b]
    return table


def _coder(bits: bool) -> Callable[..., int]:
    """The loop over one kind of table: one that asks which kind it has takes 5 ns a value more."""

    @njit(cache=True, nogil=True)
    def codes(x, values, table, low, scale, out):
        top, size, written = np.float64(table.size - 2), values.size, 0
        ints = x.view(np.int64)
        for t in range(x.size):
            v = x[t]
            if v != v:
                continue
            b = by_bits(ints[t], low, scale, top) if bits else by_value(v, low, scale, top)
            i, j = np.int64(table[b]), np.int64(table[b + np.uint64(1)])
            while j - i > 8:
                m = (i + j) >> 1
                if values[m] < v:
                    i = m + 1
                else:
                    j = m
            # nearly all buckets hold three values at most: three steps without a branch that could be mispredicted
            i += (i < j) & (values[min(i, size - 1)] < v)
            i += (i < j) & (values[min(i, size - 1)] < v)
            i += (i < j) & (values[min(i, size - 1)] < v)
            while i < j and values[i] < v:
                i += 1
            out[written] = 2 * i + ((i < size) & (values[min(i, size - 1)] == v))
            written += 1
        return written

    return codes


def _walker(bits: bool) -> Callable[..., int]:
    """Of sorted values the distinct codes and the rows of each, in one pass; NaN stand last."""

    @njit(cache=True, nogil=True)
    def walk(x, values, table, low, scale, distinct, n):
        top, size, runs, last, i = np.float64(table.size - 2), values.size, -1, np.int64(-1), np.int64(0)
        ints = x.view(np.int64)
        for t in range(x.size):
            v = x[t]
            if v != v:
                break
            i = max(i, np.int64(table[by_bits(ints[t], low, scale, top) if bits else by_value(v, low, scale, top)]))
            while i < size and values[i] < v:
                i += 1
            code = 2 * i + ((i < size) & (values[min(i, size - 1)] == v))
            if code != last:
                runs += 1
                distinct[runs], n[runs], last = code, 0, code
            n[runs] += 1
        return runs + 1

    return walk


@njit(cache=True, nogil=True)
def _runs(codes, distinct, n):
    """Run lengths of sorted codes."""
    runs, last = -1, np.int64(-1)
    for t in range(codes.size):
        code = np.int64(codes[t])
        runs += code != last
        distinct[runs], n[runs], last = code, t + 1, code
    for k in range(runs, 0, -1):
        n[k] -= n[k - 1]
    return runs + 1


@njit(cache=True, nogil=True)
def count_cells(x, stride, rows, edges, table, cell, ints, reals, out):
    """Feature f holds x[f * stride : f * stride + rows]; its counts in the cells of `grid.Grids` are added to `out`."""
    bits_of = x.view(np.int64)
    for f in range(ints.shape[0]):
        first, last, table_from, buckets, cell_from, bits, out_from, null_at = ints[f]
        held = np.zeros(2 * (last - first) + 1, np.int64)
        own, low, high = table[table_from : table_from + buckets], f * stride, f * stride + rows
        if bits:
            nulls = _count_by_bits(
                x[low:high], bits_of[low:high], edges[first:last], own, reals[f, 0], reals[f, 1], held
            )
        else:
            nulls = _count_by_value(
                x[low:high], bits_of[low:high], edges[first:last], own, reals[f, 0], reals[f, 1], held
            )
        for code in range(held.size):
            out[out_from + cell[cell_from + code]] += held[code]
        out[null_at] += nulls


@njit(cache=True, nogil=True)
def place_cells(x, edges, table, cell, bits, low, scale, out, null):
    """The cell of each value, in order; `null` for NaN."""
    bits_of, top = x.view(np.int64), np.float64(table.size - 1)
    for t in range(x.size):
        v = x[t]
        code = np.int64(table[by_bits(bits_of[t], low, scale, top) if bits else by_value(v, low, scale, top)])
        if v != v:
            out[t] = null
            continue
        if code < 0:
            i = _first(edges, v, -1 - code)
            code = 2 * i + (i < edges.size and edges[i] == v)
        out[t] = cell[code]
    return out


@njit(cache=True, nogil=True)
def _first(edges, v, i):
    """The first edge from the i-th on that is not smaller. The code is made where it is used: in here it costs seven times as much."""
    while i < edges.size and edges[i] < v:
        i += 1
    return i


def _counter(bits: bool) -> Callable[..., int]:
    """As `_coder`, for the same reason: one loop that asks which table it has takes four times as long."""

    @njit(cache=True, nogil=True)
    def count(x, ints, edges, table, low, scale, held):
        top, nulls = np.float64(table.size - 1), 0
        for t in range(x.size):
            v = x[t]
            code = table[by_bits(ints[t], low, scale, top) if bits else by_value(v, low, scale, top)]
            if code >= 0:
                held[np.uint64(code)] += 1
            elif v != v:
                nulls += 1
            else:
                i = _first(edges, v, np.int64(-1 - code))
                held[np.uint64(2 * i + (i < edges.size and edges[i] == v))] += 1
        return nulls

    return count


_CODES = {bits: _coder(bits) for bits in (False, True)}
_WALKS = {bits: _walker(bits) for bits in (False, True)}
_count_by_value, _count_by_bits = _counter(False), _counter(True)  # by name: compiled code calls them
