"""What a change is called is what happened, however far beyond the bank's list, and its size is the window's."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors.comparing.change import named
from stream_processors.comparing.statistics import compare
from stream_processors.monitor import Monitor
from stream_processors.reference import cells
from tests.drift_core.samples import categorical, channels, floats, numeric

RNG = np.random.default_rng(81)
PRICE = numeric(RNG.normal(50, 10, 50_000))
COUNTED = numeric(RNG.poisson(6.0, 50_000).astype(float) + 1)
TAILED = numeric(RNG.lognormal(3, 1, 50_000))
CHANNELS = categorical(channels(RNG, 50_000))
LISTED = ("scale x1.5", "scale x0.67", "shift +0.8 sd", "upper tail +10.0%", "shape 3 +0.2", "shape, over 4 panes")


def told(known, window, nearest: str) -> str:
    made = pa.array(window, pa.string()) if known.kind == "categorical" else floats(np.asarray(window, float))
    return named(compare(known, cells.count(known, made)), nearest)


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def window(n: int = 4_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([82, seed]).normal(50, 10, n)


@pytest.mark.parametrize("nearest", LISTED)
@pytest.mark.parametrize("size", [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_is_a_shift_of_its_size_whatever_the_list_says(size, sign, nearest):
    text = told(PRICE, window() + sign * size * 10, nearest)
    assert number(r"shift ([+-][\d.]+) sd", text) == pytest.approx(sign * size, rel=0.06, abs=0.05)
    assert "scale" not in text or size >= 16


@pytest.mark.parametrize("nearest", LISTED)
@pytest.mark.parametrize("factor", [0.5, 0.67, 0.8, 1.25, 1.5, 2, 3, 5, 10, 20])
def test_a_scale_is_a_scale_of_its_size(factor, nearest):
    text = told(PRICE, 50 + (window() - 50) * factor, nearest)
    assert number(r"scale x([\d.]+)$", text) == pytest.approx(factor, rel=0.07)
    assert "shift" not in text


@pytest.mark.parametrize("known", [PRICE, COUNTED, TAILED], ids=["normal", "counts", "long tail"])
@pytest.mark.parametrize("factor", [1e-6, 0.001, 0.01, 0.1, 0.45, 1.8, 10, 60, 100, 1_000, 1e6])
def test_another_unit_is_a_factor_of_all_values(known, factor):
    if known is COUNTED and 0.1 < factor < 10:
        return  # most of them fall into gaps between whole numbers
    rng = np.random.default_rng(83)
    rows = {
        PRICE: rng.normal(50, 10, 3_000),
        COUNTED: rng.poisson(6.0, 3_000) + 1.0,
        TAILED: rng.lognormal(3, 1, 3_000),
    }
    text = told(known, factor * rows[known], "scale x1.5")
    assert number(r"^all values x([\d.e+-]+)", text) == pytest.approx(factor, rel=0.08)


@pytest.mark.parametrize(("nearest", "where"), [("upper tail +2.0%", 1), ("lower tail +2.0%", -1)])
@pytest.mark.parametrize("far", [3, 30])
def test_a_few_rows_far_out_on_one_side_are_a_tail_of_their_share(nearest, where, far):
    rows = window()
    rows[:120] = 50 + where * far * 10
    text = told(PRICE, rows, nearest)
    assert text.startswith(nearest[:10]) and number(r"\+([\d.]+)%", text) == pytest.approx(3, abs=1)


def test_dearer_by_a_fifth_is_a_factor():
    known = numeric(np.random.default_rng(85).lognormal(3, 0.5, 50_000))
    text = told(known, 1.2 * np.random.default_rng(86).lognormal(3, 0.5, 5_000), "shift +0.2 sd")
    assert number(r"^all values x([\d.]+) ", text) == pytest.approx(1.2, rel=0.03)


def test_shift_and_scale_together_are_both_told():
    text = told(PRICE, 80 + (window() - 50) * 2, "shift +0.8 sd")
    assert number(r"shift \+([\d.]+) sd", text) == pytest.approx(3, rel=0.05)
    assert number(r"scale x([\d.]+)", text) == pytest.approx(2, rel=0.05)


def test_nulls_new_values_and_shares_are_told_by_their_shares():
    some = window().tolist()
    assert told(PRICE, [None] * 500 + some[500:], "nulls +5%") == "nulls 0.0% -> 12.5%"
    assert told(PRICE, [None] * 4_000, "nulls +20%") == "nulls 0.0% -> 100.0%"
    seen = RNG.poisson(6.0, 1_900) + 1.0
    assert told(COUNTED, [*seen, *[2.5] * 100], "new values +5%") == "new values 5.0%"
    mixed = ["web"] * 300 + ["app"] * 550 + ["store"] * 100 + ["partner"] * 50
    assert number(r"^app \+([\d.]+)%", told(CHANNELS, mixed, "web x0.5")) == pytest.approx(25, abs=1)
    assert told(CHANNELS, ["kiosk"] * 300 + mixed[:700], "app +15%") == "new values 30.0%"


def test_a_category_may_be_called_nulls():
    known = categorical(["nulls"] * 500 + ["web"] * 9_500)
    assert told(known, ["nulls"] * 300 + ["web"] * 700, "nulls +20%") == "nulls +25.0%"


def test_what_no_statistic_shows_keeps_the_name_of_the_list_and_nothing_stays_nothing():
    assert told(PRICE, window(), None) is None
    assert told(PRICE, window(200), "scale x1.1") == "scale x1.1"
    assert told(PRICE, [], "shift +0.1 sd") == "shift +0.1 sd"


def test_nulls_of_the_list_without_nulls_are_told_by_the_numbers():
    assert "shift" in told(PRICE, window() + 10, "nulls +5%")
    assert told(PRICE, window(), "nulls +5%").startswith("shape, distance 0.0")


@pytest.mark.parametrize("nearest", ["scale x1.5", "shift +0.8 sd", "nulls +5%"])
def test_what_no_shift_or_scale_explains_is_told_by_its_place_and_share(nearest):
    rng = np.random.default_rng(87)
    known, rows = numeric(rng.normal(10, 2, 50_000)), rng.normal(10, 2, 4_000)
    far, zeros, middle = rows.copy(), rows.copy(), rows.copy()
    far[:1_200] *= 100
    zeros[:1_000] = 0
    middle[:1_500] = 10
    assert number(r"^upper tail \+([\d.]+)%$", told(known, far, nearest)) == pytest.approx(30, abs=2)
    assert number(r"^lower tail \+([\d.]+)%$", told(known, zeros, nearest)) == pytest.approx(25, abs=2)
    assert not told(known, middle, "scale x1.5").startswith("scale x1.5")


@pytest.mark.parametrize("known", [PRICE, numeric(np.full(20_000, 5.0)), numeric(RNG.normal(0, 1e-300, 20_000))])
@pytest.mark.parametrize("size", [1e7, 1e120, 1e300, -1e300, np.inf])
def test_astronomic_numbers_are_told_shortly(known, size):
    for rows in (window() + size, window() * size):
        text = told(known, rows, "shift +0.8 sd")
        assert not re.search(r"nan|inf", text) and len(text) < 60


@pytest.mark.parametrize("nearest", ["shift +0.8 sd", "upper tail +5.0%", "lower tail +5.0%"])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("value", [1e300, -1e300, np.inf, -np.inf])
@pytest.mark.parametrize("known", [PRICE, COUNTED, TAILED, numeric(np.full(20_000, 5.0))])
def test_rows_beyond_the_last_fence_are_told_by_their_share_and_where_it_stands(known, value, share, nearest):
    rows = np.random.default_rng(88).choice(known.values, 4_000, p=known.counts / known.rows)
    rows[: int(share * 4_000)] = value
    text = told(known, rows, nearest)
    side, fence = ("above", known.outside.above) if value > 0 else ("below", known.outside.below)
    assert number(rf"^([\d.]+)% of the rows {side} ", text) == pytest.approx(100 * share, abs=0.1)
    assert float(text.split()[-1]) == pytest.approx(fence[-1], rel=0.01)


@pytest.mark.parametrize("known", [PRICE, COUNTED, TAILED])
def test_zeros_are_zeros_and_not_negative(known):
    found = compare(known, cells.count(known, floats(np.zeros(400))))
    assert found.quantiles_window == (0.0,) * 5 and found.wasserstein == pytest.approx(np.average(known.values, weights=known.counts))  # fmt: skip
    assert named(found, "scale x1.5").startswith("90% or more near 0 (shift -")
    rows = np.random.default_rng(89).choice(known.values, 4_000, p=known.counts / known.rows)
    rows[:2_400] = 0
    assert told(known, rows, "upper tail +5.0%") == "lower tail +60.0%"
    five = numeric(np.full(20_000, 5.0))
    assert told(five, np.zeros(400), "shift -0.8 sd") == "shift -5"
    assert told(numeric(np.full(20_000, -5.0)), np.zeros(400), "shift +0.8 sd") == "shift +5"


@pytest.mark.parametrize("value", [5, 47, 50, 71, 120])
def test_a_value_that_froze_is_told_as_such_and_where(value):
    text = told(PRICE, np.full(400, float(value)), "scale x0.67")
    assert number(r"^90% or more near ([\d.]+) \(shift", text) == pytest.approx(value, rel=0.05)
    half = window()
    half[:2_400] = 50
    assert number(r"^50% or more near ([\d.]+)$", told(PRICE, half, "scale x0.67")) == pytest.approx(50, abs=0.1)


def test_a_constant_that_varies_is_told_by_the_share_that_left_it():
    known, rows = numeric(np.full(20_000, 5.0)), np.full(4_000, 5.0)
    rows[:1_200] = 7
    assert told(known, rows, "shift +0.8 sd") == "30.0% or more other than 5"


def test_the_library_tells_a_large_shift_as_it_is():
    rng = np.random.default_rng(84)
    monitor = Monitor({"price": rng.normal(50, 10, 20_000)})
    assert number(r"shift \+([\d.]+) sd", monitor.update({"price": rng.normal(950, 10, 2_000)})["price"].change) == pytest.approx(90, rel=0.06)  # fmt: skip


@settings(max_examples=150)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.05, 20), st.sampled_from(LISTED), st.integers(0, 400))
def test_every_window_has_a_finite_name_and_a_shift_keeps_its_side(seed, shift, scale, nearest, n):
    rng = np.random.default_rng(seed)
    text = told(PRICE, rng.normal(50 + 10 * shift, 10 * scale, n), nearest)
    assert text and not re.search(r"nan|inf", text)
    if n >= 100 and abs(shift) > 2 * scale + 1:
        assert (number(r"shift ([+-][\d.e+]+) sd", text) > 0) == (shift > 0)
