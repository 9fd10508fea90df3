"""The fast path counts what the exact one counts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors.reference import cells, grid
from tests.drift_core.samples import categorical, channels, floats, numeric

ODD = st.sampled_from([-np.inf, -1e300, -2.5, -0.0, 0.0, 5e-324, 1.0, 1.5, 2.0, 1e300, np.inf, np.nan])


@settings(max_examples=300)
@given(
    st.lists(ODD | st.floats(), min_size=1, max_size=60),
    st.lists(ODD | st.floats(), max_size=60),
    st.integers(1, 60),
)
def test_grid_counts_equal_the_exact_counts_on_coarse_cells(reference, window, times):
    known = numeric(reference * times)
    want = cells.coarse(known, cells.count(known, floats(np.array(window))))
    assert grid.coarse_counts(known, floats(np.array(window))).tolist() == want.tolist()
    assert np.bincount(grid.coarse_codes(known, np.array(window)), minlength=len(want)).tolist() == want.tolist()


def test_many_columns_at_once_are_the_columns_one_by_one_end_to_end():
    rng = np.random.default_rng(1)
    known = [
        numeric(rng.lognormal(3, 1, 30_000)),
        categorical(channels(rng, 5_000)),
        numeric(rng.poisson(4.0, 9_000)),
        numeric([]),
    ]
    columns = [
        floats(rng.lognormal(3, 1, 500)),
        pa.array([*channels(rng, 498), None, "kiosk"]),
        rng.poisson(4, 500),
        floats(np.zeros(500)),
    ]
    found = grid.coarse_many(known, columns)
    for reference, column, counts in zip(known, columns, found, strict=True):
        exact = cells.count(reference, column if isinstance(column, pa.Array) else floats(column.astype(float)))
        assert counts.tolist() == cells.coarse(reference, exact).tolist()
    assert np.concatenate(found).tolist() == found[0].base.tolist()
    encoded = columns[1].dictionary_encode()
    assert grid.coarse_counts(known[1], encoded).tolist() == found[1].tolist()


def test_grid_is_a_table_read_even_with_a_far_tail():
    rng = np.random.default_rng(2)
    values = np.concatenate((rng.normal(size=50_000), 10 ** rng.uniform(2, 200, 50)))
    known = numeric(values)
    want = cells.coarse(known, cells.count(known, floats(values)))
    assert grid.coarse_counts(known, values).tolist() == want.tolist()
