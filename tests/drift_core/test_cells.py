"""Counts are exact, additive and deterministic, whatever the values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors.reference import cells
from stream_processors.reference.cells import EMPTY, KEPT_ROWS, NAMED_CATEGORIES, Counts
from stream_processors.reference.counts import from_dense
from stream_processors.reference.slots import Slots, Temper
from tests.drift_core.samples import NAME, NUMBER, categorical, floats, numeric

FEW = st.sampled_from([-np.inf, -1e300, -2.5, -0.0, 0.0, 5e-324, 1.0, 1.5, 2.0, 3.0, 1e300, np.inf])
NUMBERS = st.lists(st.one_of(FEW, st.floats(allow_nan=False)), min_size=1, max_size=60)
TEXTS = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", "", "z"])), max_size=40)


def naive(reference: list[float], x: float) -> int:
    known = sorted(set(reference))
    return 2 * sum(u < x for u in known) + (x in known)


@settings(max_examples=300)
@given(NUMBERS, NUMBERS)
def test_code_is_twice_the_values_below_plus_one_on_a_reference_value(reference, window):
    known = numeric(reference)
    counts = cells.count(known, floats(np.array(window)))
    codes = sorted(naive(reference, x) for x in window)
    within = cells.inside(known, counts)
    assert np.repeat(within.codes, within.n).tolist() == codes


@settings(max_examples=300)
@given(NUMBERS, NUMBERS)
def test_beyond_the_range_a_code_holds_the_value_between_two_fences(reference, window):
    known = numeric(reference)
    outside, x = known.outside, np.array(window)
    for value, code in zip(x.tolist(), cells.codes(known, x).tolist(), strict=True):
        if code > outside.inner:
            up = code <= outside.inner + len(outside.above)
            ladder, far = (outside.above, value) if up else (-outside.below, -value)
            j = code - outside.inner - (0 if up else len(outside.above))
            assert ladder[j - 1] <= far <= (*ladder, np.inf)[j]
        elif code == outside.inner:
            assert outside.high < value <= (*outside.above, np.inf)[0]
        elif code == 0:
            assert outside.low > value > (*outside.below, -np.inf)[0] or value == -np.inf
    assert cells.count(known, floats(x)) == from_dense(np.bincount(cells.codes(known, x), minlength=known.code_count))


def test_fences_stand_within_a_tenth_of_the_way_on_both_sides_and_towards_zero():
    outside = numeric(np.random.default_rng(3).normal(50, 10, 10_000)).outside
    way, range_ = outside.above - outside.high, outside.high - outside.low
    assert way[0] == pytest.approx(range_ / 64) and (way[1:] / way[:-1]).max() < 1.0906 and way[-1] > 2e5 * range_
    small = outside.below[(outside.below > 0) & (outside.below < outside.low / 2)]
    assert (small[:-1] / small[1:]).max() < 1.0906 and small[-1] < 1e-7 * outside.low


@settings(max_examples=200)
@given(NUMBERS, NUMBERS, st.lists(st.integers(0, 60), max_size=4), st.randoms())
def test_any_split_in_any_order_adds_up_to_the_whole(reference, window, cuts, random):
    known = numeric(reference)
    parts = [
        cells.count(known, floats(p)) for p in np.split(np.array(window), sorted(min(c, len(window)) for c in cuts))
    ]
    random.shuffle(parts)
    whole = cells.count(known, floats(np.array(window)))
    assert sum(parts, EMPTY) == whole
    assert sum(parts, EMPTY).to_bytes() == whole.to_bytes()


@settings(max_examples=100)
@given(TEXTS, TEXTS, TEXTS)
def test_retracting_what_was_added_leaves_what_was_there(reference, first, second):
    known = categorical(reference)
    a, b = (cells.count(known, pa.array(t, pa.string())) for t in (first, second))
    assert (a + b) - b == a
    assert Counts.from_bytes((a + b).to_bytes()) == a + b
    assert (a + b).rows + (a + b).nulls == len(first) + len(second)


def test_retracting_what_was_never_added_is_refused():
    known = numeric([1.0, 2.0])
    one, two = cells.count(known, floats(np.array([1.0]))), cells.count(known, floats(np.array([2.0])))
    with pytest.raises(ValueError, match="to retract"):
        one - two


def test_null_and_nan_are_nulls_and_infinities_have_their_order():
    known = numeric([0.0, 1.0, 2.0])
    counts = cells.inside(known, cells.count(known, pa.array([None, np.nan, -np.inf, np.inf, 1.0], pa.float64())))
    assert (counts.nulls, counts.codes.tolist()) == (2, [0, 3, 6])


def test_integers_dates_slices_and_chunks_are_counted_like_floats():
    known = numeric([0.0, 1.0, 2.0])
    want = cells.count(known, floats(np.array([1.0, 2.0, 2.0])))
    assert cells.count(known, pa.array([9, 1, 2, 2], pa.int64()).slice(1)) == want
    assert cells.count(known, pa.array([1, 2, 2], pa.int32()).cast(pa.date32())) == want
    assert cells.count(known, pa.chunked_array([[1], [2, 2]])) == want
    assert cells.count(known, pa.array([], pa.float64())) == EMPTY


def test_a_value_of_no_known_category_is_unseen_and_null_stays_null():
    known = categorical(["a", "b", "b"])
    counts = cells.count(known, pa.array(["b", "x", None, "y"]).dictionary_encode())
    assert (counts.codes.tolist(), counts.n.tolist(), counts.nulls) == ([1, 2], [1, 2], 1)


def test_coarse_cells_keep_every_row_and_hold_their_share_each():
    rng = np.random.default_rng(1)
    known = numeric(rng.lognormal(3, 1, 20_000))
    pane = cells.count(known, pa.array([*rng.lognormal(3, 1, 500), None, np.inf, -np.inf], pa.float64()))
    assert cells.coarse(known, pane).sum() == 503
    assert cells.coarse(known, pane)[-1] == 1
    held = known.cell_rows[:-2][known.cell_rows[:-2] > 0]
    assert held.min() >= 20 and len(held) > 450
    assert (numeric(rng.normal(size=5_000), "region=north").cell_rows > 0).sum() <= 64


def test_a_discrete_feature_tells_unseen_values_from_known_ones():
    known = numeric(np.repeat([1.0, 2.0, 3.0], 5_000))
    pane = cells.coarse(known, cells.count(known, floats(np.array([1.0, 2.5, 99.0]))))
    assert pane.tolist() == [1, 0, 0, 2, 0]


def test_rare_categories_share_a_cell():
    known = categorical(["web"] * 9_000 + ["app"] * 1_000 + [f"rare{i}" for i in range(15)])
    assert known.cell_rows.tolist() == [1_000, 9_000, 15, 0, 0] and known.cells == 3


def test_a_large_reference_is_thinned_to_its_order_statistics():
    known = numeric(np.arange(3 * KEPT_ROWS, dtype=float))
    assert (known.rows, known.source_rows) == (KEPT_ROWS, 3 * KEPT_ROWS)
    assert known.values[:3].tolist() == [1.0, 4.0, 7.0]


@pytest.mark.parametrize(
    "known",
    [
        numeric([1.0, 2.0, 2.0, None, np.inf]),
        numeric([], "region=north%2C"),
        categorical(["b", "a", None, ""]),
        categorical([None]),
    ],
)
def test_a_reference_survives_its_bytes(known):
    again = cells.from_arrow(cells.to_arrow(known))
    assert cells.to_arrow(again) == cells.to_arrow(known)
    assert cells.digest(again) == cells.digest(known)
    assert again.key == known.key and again.cell_rows.tolist() == known.cell_rows.tolist()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 6 * 24), st.none() | FEW), min_size=1, max_size=80),
    st.booleans(),
    st.sampled_from([3, KEPT_ROWS]),
)
def test_slots_add_up_to_the_reference_and_survive_its_bytes(rows, numbers, kept):
    """Any order of the rows gives the same bytes."""
    plan = Slots((0,) * 48 + (1,) * 60 + (2,) * 60, ("a", "b", "c"))

    def made(part):
        times = np.array([345_600_000 + hour * 3_600_000 for hour, _ in part], np.int64)
        values = [v for _, v in part]
        column = (
            pa.array(values, pa.float64()) if numbers else pa.array([None if v is None else str(v) for v in values])
        )
        feature = NUMBER if numbers else NAME
        known = cells.build(feature, "*", column, version=1, effective_from=0, plan=plan, times=times, kept=kept)
        temper = Temper({"shift +0.1 sd": 0.5, "nulls +1%": 0.25}, 1.5, 0.1, 99)
        return replace(known, temper=temper, evidence={"days": 7.0, "hour_p_value": 1e-9})

    known = made(rows)
    total = sum(known.slots.counts, EMPTY)
    codes = 2 * np.arange(len(known.counts)) + 1 if numbers else np.arange(len(known.counts))
    assert total == Counts(codes.astype(np.uint32), known.counts, known.nulls)
    assert sum(known.slot_cell_rows(s) for s in range(3)).tolist() == known.cell_rows.tolist()
    again = cells.from_arrow(cells.to_arrow(known))
    assert cells.to_arrow(again) == cells.to_arrow(known) == cells.to_arrow(made(rows[::-1]))
    assert again.slots.counts == known.slots.counts and again.temper == known.temper


def test_only_the_most_frequent_categories_are_named_and_the_rest_is_known_as_unseen():
    names = [f"sku{i:05}" for i in range(3_000)]
    known = categorical(np.repeat(names, np.where(np.arange(3_000) < 100, 50, 2)))
    assert (len(known.categories), known.cardinality) == (NAMED_CATEGORIES, 3_000)
    assert known.categories[:101] == tuple(names[:101])  # the first hundred by count, then by name
    held = known.rows - known.counts.sum()
    assert (known.other, known.cell_rows[-2], known.cell_rows.sum()) == (held, held, known.rows)
    assert known.source_rows == 10_800 and known.rows == pytest.approx(
        0.8 * 10_800, rel=0.03
    )  # a fifth chose the names
    assert known.choosing is not None and known.choosing.sum() < known.source_rows - known.rows
    assert cells.coarse(known, cells.count(known, pa.array(["sku02999", "sku00001", "never"])))[-2] == 2


def test_sliding_by_subtraction_is_counting_again():
    rng = np.random.default_rng(4)
    known = numeric(np.round(rng.lognormal(3, 1, 20_000), 1))
    panes = [cells.count(known, floats(np.round(rng.lognormal(3, 1, 300), 1))) for _ in range(12)]
    window = sum(panes[:4], EMPTY)
    for i in range(4, 12):
        window = window + panes[i] - panes[i - 4]
        assert window.to_bytes() == sum(panes[i - 3 : i + 1], EMPTY).to_bytes()


def test_bytes_of_counts_are_small_and_foreign_bytes_are_refused():
    rng = np.random.default_rng(2)
    counts = cells.count(numeric(rng.normal(size=100_000)), floats(rng.normal(size=1_000)))
    assert len(counts.to_bytes()) < 3_200
    assert Counts.from_bytes(EMPTY.to_bytes()) == EMPTY
    with pytest.raises(ValueError, match="expected bytes"):
        Counts.from_bytes(b"XX")


def test_thinning_takes_tied_rows_evenly_from_the_slots_whatever_their_order():
    plan = Slots((0,) * 84 + (1,) * 84, ("a", "b"))
    times = 345_600_000 + np.repeat([0, 100], [200, 100]) * 3_600_000

    def made(order):
        return cells.build(
            NUMBER, "*", floats(np.full(300, 7.0)), version=1, effective_from=0, kept=30, plan=plan, times=times[order]
        )

    assert made(np.arange(300)).slots.rows.tolist() == made(np.arange(299, -1, -1)).slots.rows.tolist() == [20, 10]
    shuffled = np.random.default_rng(1).permutation(300)
    assert made(shuffled).slots.rows.tolist() == [20, 10]


def test_a_reference_that_chose_its_categories_does_not_depend_on_the_order_of_rows_and_survives_its_bytes():
    drawn = np.random.default_rng(3).integers(0, 2_000, 20_000).astype("U6")
    known = categorical(drawn)
    assert cells.digest(categorical(np.sort(drawn))) == cells.digest(known)
    again = cells.from_arrow(cells.to_arrow(known))
    assert cells.digest(again) == cells.digest(known) and np.array_equal(again.cell_of, known.cell_of)
