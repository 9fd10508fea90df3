"""Adding counts by their bytes, or many at once, gives what + gives; bytes that are no counts are refused."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.reference.counts import EMPTY, Counts, sums_of, sums_of_bytes

CODES = st.one_of(st.integers(0, 9), st.integers(0, 1 << 17), st.integers(0, (1 << 32) - 1))
ROWS = st.one_of(st.integers(1, 3), st.integers(1, 1 << 40))


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    held = sorted(draw(st.dictionaries(CODES, ROWS, max_size=12)).items())
    codes, n = np.array([c for c, _ in held], np.uint32), np.array([r for _, r in held], np.int64)
    return Counts(codes, n, draw(st.integers(0, 1 << 40)))


def added(parts: list[Counts]) -> Counts:
    return reduce(add, parts, EMPTY)


@given(st.lists(st.lists(counts(), min_size=1, max_size=4), max_size=4))
def test_adding_bytes_is_adding_what_they_hold(groups):
    found = sums_of_bytes([b"".join(part.to_bytes() for part in group) for group in groups])
    expected = [added(group) for group in groups]
    assert [(total.to_bytes(), rows) for total, rows in found] == [(total.to_bytes(), total.rows) for total in expected]


@given(st.lists(st.lists(counts(), max_size=6), max_size=4))
def test_sums_of_many_are_one_after_the_other(groups):
    expected = [added(group).to_bytes() for group in groups]
    assert [total.to_bytes() for total in sums_of(groups)] == expected
    assert [total.to_bytes() for total in sums_of([group[::-1] for group in groups])] == expected


@given(counts(), st.data())
def test_bytes_of_another_length_are_refused(own, data):
    value = own.to_bytes()
    short = value[: data.draw(st.integers(2, len(value) - 1))]
    for bad in (short, value + b"x", b"C2" + value[2:], value[:14] + b"\0" + value[15:]):
        with pytest.raises(ValueError, match="counts: expected"):
            sums_of_bytes([value, bad])
