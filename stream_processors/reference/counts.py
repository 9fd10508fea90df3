"""PURE. Counts by code: integer, sparse, additive. An abelian group, so any split and merge of the rows gives the same.

What a code means is the reference's business (`cells`). Equal counts give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

_MAGIC = b"C1"
_WIDTHS = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How many values fell in each cell; an abelian group under + and -."""

    codes: np.ndarray  # uint32, sorted, distinct
    n: np.ndarray  # int64, never 0
    nulls: int = 0

    @property
    def rows(self) -> int:
        """Rows with a value."""
        return int(self.n.sum())

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

    def and_bytes(self, value: bytes) -> tuple[Counts, int]:
        """(self + from_bytes(value), the rows with a value that it adds), in one pass."""
        if value[:2] != _MAGIC:
            raise ValueError(f"counts: expected bytes that begin with {_MAGIC!r}, got {value[:2]!r}")
        codes, n, nulls, rows = _added_bytes(np.frombuffer(value, np.uint8), self.codes, self.n)
        if rows < 0:
            raise ValueError(f"counts: expected {-rows} bytes, got {len(value)}")
        return Counts(codes, n, self.nulls + nulls), rows


EMPTY = Counts(np.empty(0, np.uint32), np.empty(0, np.int64))


def sum_of(parts: Sequence[Counts]) -> Counts:
    """Their sum, whatever their order; faster than one + after the other."""
    held = [p for p in parts if not p.empty]
    if len(held) < 2:
        return held[0] if held else EMPTY
    codes, n = np.concatenate([p.codes for p in held]), np.concatenate([p.n for p in held])
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    first = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1]))) if len(codes) else np.empty(0, np.int64)
    summed = np.add.reduceat(n[order], first) if len(codes) else n
    return Counts(codes[first], summed, sum(p.nulls for p in held))


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
def _added_bytes(raw, left_codes, left_n):
    """(codes, n, nulls, rows) of the sum; as rows minus the expected length if the bytes have another."""
    at = 14
    if raw.size < at + 2:
        return left_codes, left_n, 0, -(at + 2)
    size = _number(raw, 2, 4)
    if raw.size < at + 2 + size * np.int64(raw[at]):
        return left_codes, left_n, 0, -(at + 2 + size * np.int64(raw[at]))
    gap, counts_at = np.int64(raw[at]), at + 1 + size * np.int64(raw[at])
    wide, expected = np.int64(raw[counts_at]), counts_at + 1 + size * np.int64(raw[counts_at])
    if raw.size != expected:
        return left_codes, left_n, 0, -expected
    codes = np.empty(left_codes.size + size, np.uint32)
    n = np.empty(codes.size, np.int64)
    i = written = rows = code = 0
    for j in range(size):
        code += _number(raw, at + 1 + j * gap, gap)
        count = _number(raw, counts_at + 1 + j * wide, wide)
        rows += count
        while i < left_codes.size and left_codes[i] < code:
            codes[written], n[written] = left_codes[i], left_n[i]
            i, written = i + 1, written + 1
        if i < left_codes.size and left_codes[i] == code:
            count += left_n[i]
            i += 1
        codes[written], n[written] = code, count
        written += 1
    while i < left_codes.size:
        codes[written], n[written] = left_codes[i], left_n[i]
        i, written = i + 1, written + 1
    return codes[:written], n[:written], _number(raw, 6, 8), rows


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
