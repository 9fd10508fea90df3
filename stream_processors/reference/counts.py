"""PURE. Counts by code: integer, sparse, additive. An abelian group, so any split and merge of the rows gives the same.

What a code means is the reference's business (`cells`). Equal counts give equal bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
from numba import njit

_MAGIC = b"C1"
_C, _1 = _MAGIC
_WIDTHS = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


class Counts(msgspec.Struct, frozen=True, eq=False, gc=False):
    """How many values fell in each cell; an abelian group under + and -."""

    codes: np.ndarray  # uint32, sorted, distinct
    n: np.ndarray  # int64, never 0
    nulls: int = 0

    @property
    def rows(self) -> int:
        """Rows with a value."""
        return int(np.add.reduce(self.n))

    @property
    def empty(self) -> bool:
        return not len(self.n) and not self.nulls

    def __add__(self, other: Counts) -> Counts:
        if other.empty:
            return self
        if self.empty:
            return other
        return _added(self, other, 1)

    def __sub__(self, other: Counts) -> Counts:
        """Retract what was added; a ValueError if it was not."""
        left = _added(self, other, -1)
        if left.nulls < 0 or (len(left.n) and left.n.min() < 0):
            raise ValueError("counts to retract: expected at most what was added, got more in some cell")
        return left

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counts):
            return NotImplemented
        same = np.array_equal(self.codes, other.codes) and np.array_equal(self.n, other.n)
        return same and self.nulls == other.nulls

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Equal counts give equal bytes: gaps between codes, then counts, each in the least width that fits."""
        gaps = self.codes.copy()
        gaps[1:] -= self.codes[:-1]
        body = [_MAGIC, len(self.n).to_bytes(4, "little"), self.nulls.to_bytes(8, "little")]
        return b"".join([*body, *_packed(gaps), *_packed(self.n)])

    @staticmethod
    def from_bytes(value: bytes) -> Counts:
        if value[:2] != _MAGIC:
            raise ValueError(f"counts: expected bytes that begin with {_MAGIC!r}, got {value[:2]!r}")
        size, nulls = int.from_bytes(value[2:6], "little"), int.from_bytes(value[6:14], "little")
        gaps, at = _unpacked(value, 14, size)
        n, at = _unpacked(value, at, size)
        if at != len(value):
            raise ValueError(f"counts: expected {at} bytes, got {len(value)}")
        return Counts(np.cumsum(gaps, dtype=np.uint32), n.astype(np.int64), nulls)


EMPTY = Counts(np.empty(0, np.uint32), np.empty(0, np.int64))


def sums_of(groups: Sequence[Sequence[Counts]]) -> list[Counts]:
    """Of each group the sum, whatever its order: one sort for all of them, by group and code."""
    parts = [p for group in groups for p in group]
    sizes = [sum(len(p.n) for p in group) for group in groups]
    codes, n = (
        np.concatenate([EMPTY.codes, *(p.codes for p in parts)]),
        np.concatenate([EMPTY.n, *(p.n for p in parts)]),
    )
    places = np.repeat(np.arange(len(groups)) << 32, sizes) | codes
    order = np.argsort(places, kind="stable")
    places = places[order]
    first = np.flatnonzero(np.diff(places, prepend=-1))
    summed = np.add.reduceat(n[order], first) if len(n) else n
    codes, ends = (
        (places[first] & 0xFFFFFFFF).astype(np.uint32),
        np.searchsorted(places[first] >> 32, np.arange(len(groups) + 1)),
    )
    return [
        Counts(codes[low:high], summed[low:high], sum(p.nulls for p in group))
        for group, (low, high) in zip(groups, itertools.pairwise(ends.tolist()), strict=True)
    ]


def sums_of_bytes(groups: Sequence[bytes]) -> list[tuple[Counts, int]]:
    """Of each group the sum of what its bytes hold, one after the other, and the rows with a value in it: one call for all."""
    raw = np.frombuffer(b"".join(groups), np.uint8)
    ends = np.cumsum([len(group) for group in groups], dtype=np.int64)
    codes, n = np.empty(len(raw) // 2, np.uint32), np.empty(len(raw) // 2, np.int64)  # a code takes two bytes at least
    found = np.empty((len(groups), 3), np.int64)
    if (bad := _sum_bytes(raw, ends, codes, n, found)) >= 0:
        raise ValueError(f"counts: expected bytes as Counts.to_bytes gives them, got others at {bad} of {len(raw)}")
    made, first = [], 0
    for end, nulls, rows in found.tolist():
        made.append((Counts(codes[first:end], n[first:end], nulls), rows))
        first = end
    return made


def from_dense(dense: np.ndarray, nulls: int = 0) -> Counts:
    """Counts from one number for each code."""
    codes = np.flatnonzero(dense)
    return Counts(codes.astype(np.uint32), dense[codes].astype(np.int64), nulls)


def _added(left: Counts, right: Counts, sign: int) -> Counts:
    codes, n = _merged(left.codes, left.n, right.codes, right.n, sign)
    return Counts(codes, n, left.nulls + sign * right.nulls)


@njit(cache=True, nogil=True)
def _merged(left_codes, left_n, right_codes, right_n, sign):
    """Two sorted lists of codes as one, without those whose counts cancel."""
    codes = np.empty(left_codes.size + right_codes.size, np.uint32)
    n = np.empty(codes.size, np.int64)
    i = j = written = 0
    while i < left_codes.size or j < right_codes.size:
        own = j >= right_codes.size or (i < left_codes.size and left_codes[i] <= right_codes[j])
        other = i >= left_codes.size or (j < right_codes.size and right_codes[j] <= left_codes[i])
        codes[written] = left_codes[i] if own else right_codes[j]
        n[written] = (left_n[i] if own else 0) + (sign * right_n[j] if other else 0)
        i, j = i + own, j + other
        written += n[written] != 0
    return codes[:written], n[:written]


@njit(cache=True, nogil=True)
def _sum_bytes(raw, ends, codes, n, found):
    """Fills `codes` and `n` group after group, and `found` with (their end, nulls, rows) of each; where bytes are no counts, or -1.

    Into arrays that are there: one that compiled code gives back costs a microsecond.
    """
    at = first = 0
    for g in range(ends.size):
        held, nulls, rows = first, np.int64(0), np.int64(0)
        while at < ends[g]:
            left = ends[g] - at
            if left < 16 or raw[at] != _C or raw[at + 1] != _1:
                return at
            size, gap = _number(raw, at + 2, 4), np.int64(raw[at + 14])
            if gap < 1 or left < 16 + size * gap:
                return at
            counts_at = at + 15 + size * gap
            wide = np.int64(raw[counts_at])
            if wide < 1 or left < 16 + size * (gap + wide):
                return at
            nulls += _number(raw, at + 6, 8)
            held, added = _merge_in(raw, at + 15, gap, counts_at + 1, wide, size, codes, n, first, held)
            rows += added
            at += 16 + size * (gap + wide)
        found[g, 0], found[g, 1], found[g, 2], first = held, nulls, rows, held
    return -1


@njit(cache=True, nogil=True)
def _merge_in(raw, codes_at, gap, counts_at, wide, size, codes, n, first, held):
    """Merge `size` codes and counts into those that stand in [first, held): (their new end, rows)."""
    old_codes, old_n = codes[first:held].copy(), n[first:held].copy()
    i, written, code, rows = 0, first, np.int64(0), np.int64(0)
    for j in range(size):
        code += _number(raw, codes_at + j * gap, gap)
        count = _number(raw, counts_at + j * wide, wide)
        rows += count
        while i < old_codes.size and old_codes[i] < code:
            codes[written], n[written] = old_codes[i], old_n[i]
            i, written = i + 1, written + 1
        if i < old_codes.size and old_codes[i] == code:
            count += old_n[i]
            i += 1
        codes[written], n[written] = code, count
        written += 1
    while i < old_codes.size:
        codes[written], n[written] = old_codes[i], old_n[i]
        i, written = i + 1, written + 1
    return written, rows


@njit(cache=True, nogil=True)
def _number(raw, at, width):
    value = np.int64(0)
    for b in range(width):
        value |= np.int64(raw[at + b]) << (8 * b)
    return value


def _packed(values: np.ndarray) -> Sequence[bytes]:
    bits = int(values.max(initial=0)).bit_length()
    width = 1 if bits <= 8 else 2 if bits <= 16 else 4 if bits <= 32 else 8
    return bytes([width]), values.astype(_WIDTHS[width]).tobytes()


def _unpacked(value: bytes, at: int, size: int) -> tuple[np.ndarray, int]:
    width = value[at]
    return np.frombuffer(value, _WIDTHS[width], size, at + 1), at + 1 + size * width
