"""Adding counts by their bytes, or many at once, gives what + gives; bytes that are no counts are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors.reference.counts import EMPTY, Counts, sum_of

CODES = st.one_of(st.integers(0, 9), st.integers(0, 1 << 17), st.integers(0, (1 << 32) - 1))
ROWS = st.one_of(st.integers(1, 3), st.integers(1, 1 << 40))


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    held = sorted(draw(st.dictionaries(CODES, ROWS, max_size=12)).items())
    codes, n = np.array([c for c, _ in held], np.uint32), np.array([r for _, r in held], np.int64)
    return Counts(codes, n, draw(st.integers(0, 1 << 40)))


@settings(deadline=None)
@given(counts(), counts())
def test_adding_bytes_is_adding_what_they_hold(left, right):
    total, rows = left.and_bytes(right.to_bytes())
    assert total == left + right and rows == right.rows
    assert total.to_bytes() == (left + right).to_bytes()


@settings(deadline=None)
@given(st.lists(counts(), max_size=6))
def test_a_sum_of_many_is_one_after_the_other(parts):
    expected = EMPTY
    for part in parts:
        expected = expected + part
    assert sum_of(parts).to_bytes() == sum_of(parts[::-1]).to_bytes() == expected.to_bytes()


@settings(deadline=None)
@given(counts(), st.data())
def test_bytes_of_another_length_are_refused(own, data):
    value = own.to_bytes()
    short = value[: data.draw(st.integers(2, len(value) - 1))]
    for bad in (short, value + b"x"):
        with pytest.raises(ValueError, match="counts: expected"):
            EMPTY.and_bytes(bad)
