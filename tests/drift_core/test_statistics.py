"""Statistics of a closed window equal scipy's, are bounded, and are never NaN."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stream_processors import cells, statistics
from tests.drift_core.samples import SHARES, categorical, channels, floats, numeric

NUMBERS = st.lists(st.floats(allow_nan=False) | st.sampled_from([0.0, 1.0, 2.0, np.inf]), min_size=5, max_size=50)


def sample(rng: np.random.Generator, n: int, case: int) -> np.ndarray:
    """Continuous, cents, Poisson, constant, half tied, with infinities, tiny and huge values."""
    x = rng.normal(rng.choice([0, 0.1, 1.0]), 1, n)
    return [
        x, np.round(rng.gamma(2, 3 + x[0] / 9, n), 1), rng.poisson(3, n).astype(float), rng.choice([1.0, 2.0, 3.0], n, p=[0.1, 0.8, 0.1]),
        np.where(rng.random(n) < 0.5, np.round(x), x), np.where(rng.random(n) < 0.2, np.inf * np.sign(x), x), x * 1e-300, x * 1e300,
    ][case]  # fmt: skip


def test_ks_distance_equals_scipys_on_thousands_of_tied_and_odd_samples():
    rng = np.random.default_rng(3)
    for trial in range(2_400):
        case = trial % 8
        reference = sample(rng, int(rng.choice([1, 2, 7, 60, 900])), case)
        window = sample(rng, int(rng.choice([1, 3, 40, 500])), case)
        if trial % 3 == 0:
            window[: len(window) // 2] = rng.choice(reference, len(window) // 2)
        known = numeric(reference)
        ours = statistics.ks(known, cells.count(known, floats(window)))
        assert abs(ours.statistic - stats.ks_2samp(window, reference, method="asymp").statistic) <= 1e-12


@settings(max_examples=200, deadline=None)
@given(NUMBERS, NUMBERS)
def test_ks_distance_is_symmetric_and_in_the_unit_interval(a, b):
    def distance(reference, window):
        known = numeric(reference)
        return statistics.ks(known, cells.count(known, floats(np.array(window)))).statistic

    assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-15)
    assert 0 <= distance(a, b) <= 1
    assert distance(a, a) == 0


@pytest.mark.parametrize(
    ("n", "rows"), [(20, 400), (50, 10_000), (150, 10_000), (400, 10_000), (1_000, 100_000), (9_000, 9_000)]
)
def test_p_value_is_within_a_hundredth_of_scipys(n, rows):
    rng = np.random.default_rng(n)
    reference = np.sort(rng.normal(size=rows))
    known = numeric(reference)
    for shift in (0, 0, 0, 0.05, 0.1, 0.3):
        window = rng.normal(shift, 1, n)
        ours = statistics.compare(known, cells.count(known, floats(window)))
        theirs = stats.ks_2samp(window, reference, method="auto")
        assert abs(ours.p_value - theirs.pvalue) <= 0.01
        assert (ours.statistic > ours.critical_value) == (ours.p_value < 0.05)


def test_small_p_values_keep_their_order_of_magnitude():
    for distance in (0.06, 0.08, 0.1, 0.15):
        theirs = stats.kstwo.sf(distance, 990)
        assert statistics.ks_p_value(distance, 1_000, 99_000) == pytest.approx(theirs, rel=0.15)


@pytest.mark.parametrize("n", [8, 35, 200])
def test_one_sample_law_equals_scipys(n):
    for distance in np.linspace(0.5 / n + 1e-3, 0.6, 25):
        assert statistics._one_sample_p(distance, n) == pytest.approx(stats.kstwo.sf(distance, n), abs=2e-4)


def test_sign_says_where_the_window_lies():
    known = numeric(np.arange(1_000.0))
    up = statistics.compare(known, cells.count(known, floats(np.arange(1_000.0) + 300)))
    down = statistics.compare(known, cells.count(known, floats(np.arange(1_000.0) - 300)))
    assert (up.sign, down.sign, up.effect) == (1, -1, 0.3)
    assert up.mean_shift == pytest.approx(0.95, abs=0.15)


def test_quantiles_are_those_of_the_rows_to_the_nearest_reference_value():
    rng = np.random.default_rng(5)
    known = numeric(rng.lognormal(3, 1, 50_000))
    window = rng.lognormal(3.3, 1, 4_000)
    found = statistics.compare(known, cells.count(known, floats(window)))
    want = np.quantile(window, statistics.QUANTILES, method="inverted_cdf")
    assert found.quantiles_window == pytest.approx(want, rel=0.005)
    assert found.quantiles_reference[2] == pytest.approx(np.exp(3), rel=0.03)


def test_categories_have_chi_square_p_and_jensen_shannon_distance_like_scipys():
    rng = np.random.default_rng(6)
    reference, window = channels(rng, 20_000), channels(rng, 800, (0.45, 0.32, 0.17, 0.06))
    known = categorical(reference)
    found = statistics.compare(known, cells.count(known, pa.array(window)))
    table = np.array([[np.sum(s == c) for c in np.unique(reference)] for s in (reference, window)])
    assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, abs=1e-9)
    from scipy.spatial.distance import jensenshannon

    assert found.statistic == pytest.approx(jensenshannon(table[0], table[1], base=2), abs=1e-9)


def test_categorical_critical_value_is_exceeded_in_about_alpha_of_quiet_windows():
    rng = np.random.default_rng(7)
    known = categorical(channels(rng, 50_000))
    found = [statistics.compare(known, cells.count(known, pa.array(channels(rng, 500)))) for _ in range(600)]
    exceeded = np.mean([f.statistic > f.critical_value for f in found])
    significant = np.mean([f.p_value < 0.05 for f in found])
    assert 0.025 <= exceeded <= 0.085 and abs(exceeded - significant) <= 0.01


def test_new_category_is_named_and_counts_as_a_move_of_shares():
    rng = np.random.default_rng(8)
    known = categorical(channels(rng, 20_000))
    window = np.concatenate((channels(rng, 500), ["kiosk"] * 100))
    found = statistics.compare(known, cells.count(known, pa.array(window)))
    assert (found.at, found.sign) == ("(new)", 1)
    assert found.effect == pytest.approx(1 / 6) and found.p_value < 1e-9


@pytest.mark.parametrize(
    ("window", "reason"),
    [([], "no rows"), ([None, None], "only nulls"), ([1.0, 2.0], "2 rows with a value, fewer than 5")],
)
def test_too_little_is_undefined_and_says_why(window, reason):
    known = numeric(np.arange(100.0))
    found = statistics.compare(known, cells.count(known, pa.array(window, pa.float64())))
    assert (found.undefined, found.statistic, found.p_value) == (reason, None, None)
    assert statistics.compare(numeric([None]), cells.EMPTY).undefined == "reference without values"


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.lists(st.none() | st.floats() | st.just(np.inf), max_size=50))
def test_no_statistic_is_ever_nan_or_infinite(reference, window):
    known = numeric(reference)
    found = statistics.compare(known, cells.count(known, pa.array(window, pa.float64())))
    for value in asdict(found).values():
        for one in value if isinstance(value, tuple) else (value,):
            assert not isinstance(one, float) or np.isfinite(one)


@pytest.mark.parametrize("values", [np.full(200, 7.0), np.array([np.inf] * 100 + [-np.inf] * 100), np.arange(5.0)])
def test_constant_infinite_and_tiny_references_give_numbers(values):
    known = numeric(values)
    same = statistics.compare(known, cells.count(known, floats(values)))
    assert same.statistic == 0 and same.p_value == 1 and same.psi == pytest.approx(0, abs=0.1)


def test_psi_of_equal_shares_is_zero_and_of_a_shift_is_not():
    equal = np.full(10, 1_000.0)
    assert statistics.psi(equal, equal) == 0
    moved = np.array([500.0] * 5 + [1_500.0] * 5)
    want = np.sum((moved - equal) / 1e4 * np.log(moved / equal))
    assert statistics.psi(equal, moved) == pytest.approx(want, rel=0.01)
    assert sum(SHARES) == pytest.approx(1)
