"""Statistics of a closed window equal scipy's, are bounded, and are never NaN."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.contract import MonitoredFeature
from stream_processors.comparing import categories, p_values, statistics
from stream_processors.reference import cells
from stream_processors.reference.slots import Slots
from tests.drift_core.samples import NAME, NUMBER, SHARES, categorical, channels, floats, numeric

DAY0, HOUR = 345_600_000, 3_600_000  # a Monday, UTC
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


@settings(max_examples=200)
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
        assert p_values.ks_p_value(distance, 1_000, 99_000) == pytest.approx(theirs, rel=0.15)


@pytest.mark.parametrize("n", [8, 35, 200])
def test_one_sample_law_equals_scipys(n):
    for distance in np.linspace(0.5 / n + 1e-3, 0.6, 25):
        ours = p_values.ks_p_value(distance, n, 1_000_000_000)  # a reference so large that it is the law
        assert ours == pytest.approx(stats.kstwo.sf(distance, n), abs=2e-4)


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


@settings(max_examples=200)
@given(NUMBERS, st.lists(st.none() | st.floats() | st.just(np.inf), max_size=50))
def test_no_statistic_is_ever_nan_or_infinite(reference, window):
    known = numeric(reference)
    found = statistics.compare(known, cells.count(known, pa.array(window, pa.float64())))
    for value in msgspec.structs.asdict(found).values():
        for one in value if isinstance(value, tuple) else (value,):
            assert not isinstance(one, float) or np.isfinite(one)
    if found.undefined is None:
        assert 0 <= found.cvm_p_value <= 1 and 0 <= found.null_p_value <= 1 and found.cramer_von_mises >= 0


@pytest.mark.parametrize("values", [np.full(200, 7.0), np.array([np.inf] * 100 + [-np.inf] * 100), np.arange(5.0)])
def test_constant_infinite_and_tiny_references_give_numbers(values):
    known = numeric(values)
    same = statistics.compare(known, cells.count(known, floats(values)))
    assert same.statistic == 0 and same.p_value == 1
    assert same.psi is None if len(set(values)) == 1 else same.psi == pytest.approx(0, abs=0.1)


def of_numbers(reference, window) -> statistics.WindowStatistics:
    known = numeric(np.asarray(reference, float))
    return statistics.compare(known, cells.count(known, floats(np.asarray(window, float))))


SCALE_FREE = dict.fromkeys(("psi", "js", "mean_shift"), statistics.CONSTANT)


def test_a_constant_window_of_the_same_constant_is_equal_and_what_needs_spread_or_ranks_is_unsaid():
    found = of_numbers([7.0] * 200, [7.0] * 50)
    assert (found.undefined, found.statistic, found.p_value, found.effect, found.wasserstein) == (None, 0, 1, 0, 0)
    assert (found.psi, found.js, found.mean_shift, found.cramer_von_mises, found.cvm_p_value) == (None,) * 5
    same = "reference and window hold the same one value, so ranks say nothing"
    assert found.unsaid == {**SCALE_FREE, "cramer_von_mises": same, "cvm_p_value": same} == found.reasons


@pytest.mark.parametrize("window", [[8.0] * 50, [6.0, 7.0, 8.0] * 20])
def test_a_window_that_leaves_a_constant_reference_has_a_distance_and_a_place_in_units(window):
    found = of_numbers([7.0] * 200, window)
    theirs = stats.ks_2samp(window, [7.0] * 200, method="asymp").statistic
    assert found.statistic == pytest.approx(theirs) and found.p_value < 0.01
    assert found.cramer_von_mises > 0
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(window, [7.0] * 200), rel=0.05)
    assert found.unsaid == SCALE_FREE


def test_a_constant_window_beside_a_varied_reference_is_drift_like_any_other():
    varied = np.random.default_rng(14).normal(size=5_000)
    found = of_numbers(varied, [0.0] * 100)
    assert found.statistic == pytest.approx(stats.ks_2samp([0.0] * 100, varied, method="asymp").statistic)
    assert found.psi > 1 and found.js > 0.5 and found.p_value < 1e-9 and found.unsaid == {}


def test_what_infinite_values_leave_unsaid_says_so():
    found = of_numbers([-np.inf] * 50 + [np.inf] * 50, [np.inf] * 60)
    assert found.statistic == 0.5 and found.at is None
    assert set(found.unsaid.values()) == {statistics.INFINITE}
    assert {"at", "mean_shift", "wasserstein"} <= set(found.unsaid)


def test_a_law_of_two_values_has_a_psi_though_its_deciles_are_one_of_them():
    found = of_numbers([0.0] * 50 + [1.0] * 950, [0.0] * 100)
    assert found.psi > 1 and found.js > 0.5


@pytest.mark.parametrize("window", [["web"] * 50, ["app"] * 50, ["web"] * 40 + ["app"] * 10])
def test_constant_categories_are_compared_and_what_has_no_second_cell_is_unsaid(window):
    known = categorical(["web"] * 3_000)
    found = statistics.compare(known, cells.count(known, pa.array(window)))
    same = set(window) == {"web"}
    assert (found.statistic == 0) == (found.p_value == 1) == same
    assert found.unsaid == ({"critical_value": categories.ONE_CATEGORY} if same else {})
    assert (found.critical_value is None) == same


def test_a_move_within_the_one_cell_that_can_be_tested_has_no_p_value_and_says_why():
    names = np.array([f"v{i:02}" for i in range(50)])
    known = categorical(np.repeat(names, 60))
    found = statistics.compare(known, cells.count(known, pa.array(["v00"] * 4 + ["v01"])))
    assert found.statistic > 0.5 and found.p_value is None
    assert found.unsaid == dict.fromkeys(("p_value", "g_statistic", "g_p_value"), categories.FEW_EXPECTED)


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, np.inf, -np.inf]), min_size=1, max_size=12),
    st.lists(st.sampled_from([None, 0.0, 1.0, 2.0, 5.0, np.inf]), max_size=12),
)
def test_every_figure_of_numbers_is_said_or_the_reason_is(reference, window):
    known = numeric(reference)
    found = statistics.compare(known, cells.count(known, pa.array(window, pa.float64())))
    missing = {name for name in statistics.FIGURES if getattr(found, name) is None}
    assert set(found.reasons) == ({"statistic"} if found.undefined else missing)
    assert all(found.reasons.values())


REJECTED = MonitoredFeature("reject", "categorical")


def rejects(valid: int, **by_reason: int) -> pa.Array:
    return pa.array(["valid"] * valid + [reason for reason, n in by_reason.items() for _ in range(n)], pa.string())


@pytest.mark.parametrize(
    ("valid", "window"),
    [(990, {"range": 10}), (980, {"range": 15, "syntax": 5}), (1_000, {}), (1_900, {"missing": 100}), (3, {"range": 1}), (0, {"range": 9})],
)  # fmt: skip
def test_the_share_of_rejects_has_fishers_exact_p_value_of_valid_against_rejected(valid, window):
    known = cells.build(REJECTED, "*", rejects(29_700, range=250, syntax=50), version=1, effective_from=0)
    found = statistics.compare(known, cells.count(known, rejects(valid, **window)))
    bad = sum(window.values())
    tails = [stats.fisher_exact([[bad, valid], [300, 29_700]], alternative=side).pvalue for side in ("greater", "less")]
    assert found.reject_p_value == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-6)
    assert (found.undefined is not None) == (valid + bad < 5)  # an exact test needs no five rows


def test_only_the_rejects_have_that_p_value_and_an_empty_window_has_none():
    known = cells.build(REJECTED, "*", rejects(29_700, range=300), version=1, effective_from=0)
    assert statistics.compare(known, cells.EMPTY).reject_p_value is None
    other = categorical(["valid"] * 990 + ["range"] * 10)
    assert statistics.compare(other, cells.count(other, rejects(90, range=10))).reject_p_value is None


def test_psi_of_equal_shares_is_zero_and_of_a_shift_is_not():
    equal = np.full(10, 1_000.0)
    assert categories.psi(equal, equal) == 0
    moved = np.array([500.0] * 5 + [1_500.0] * 5)
    want = np.sum((moved - equal) / 1e4 * np.log(moved / equal))
    assert categories.psi(equal, moved) == pytest.approx(want, rel=0.01)
    assert sum(SHARES) == pytest.approx(1)


def test_cramer_von_mises_equals_scipys_where_values_are_distinct():
    rng = np.random.default_rng(11)
    for n, rows, shift in [(7, 12, 0), (40, 900, 0.3), (1_000, 5_000, 0), (800, 20_000, 0.1), (3_000, 500, 0)]:
        reference, window = rng.normal(size=rows), rng.normal(shift, 1, n)
        known = numeric(reference)
        found = statistics.compare(known, cells.count(known, floats(window)))
        theirs = stats.cramervonmises_2samp(window, reference, method="asymptotic")
        assert found.cramer_von_mises == pytest.approx(theirs.statistic, abs=1e-9)
        assert found.cvm_p_value == pytest.approx(theirs.pvalue, abs=1e-7)


def test_cramer_von_mises_of_ties_is_the_mean_over_the_ways_to_break_them():
    rng = np.random.default_rng(12)
    reference, window = rng.integers(0, 4, 60).astype(float), rng.integers(0, 5, 25).astype(float)
    known = numeric(reference)
    broken = [
        stats.cramervonmises_2samp(
            window + rng.random(25) / 2, reference + rng.random(60) / 2, method="asymptotic"
        ).statistic
        for _ in range(1_500)
    ]
    found = statistics.compare(known, cells.count(known, floats(window)))
    assert found.cramer_von_mises == pytest.approx(np.mean(broken), abs=4 * np.std(broken) / np.sqrt(1_500))


def test_wasserstein_equals_scipys_on_reference_values_and_nearly_between_them():
    rng = np.random.default_rng(13)
    for case in range(40):
        reference = np.round(rng.gamma(2, 10, 400 + 100 * (case % 3)), case % 3)
        known = numeric(reference)
        on = rng.choice(reference, 1 + 29 * (case % 4) + 5)
        found = statistics.compare(known, cells.count(known, floats(on)))
        assert found.wasserstein == pytest.approx(stats.wasserstein_distance(on, reference), abs=1e-9)
        inside = np.clip(rng.gamma(2, 11, 300), reference.min(), reference.max())
        found = statistics.compare(known, cells.count(known, floats(inside)))
        widest = (
            np.sum(np.diff(known.values, append=known.values[-1])[np.searchsorted(known.values, inside, "right") - 1])
            / 300
        )
        assert abs(found.wasserstein - stats.wasserstein_distance(inside, reference)) <= widest / 2 + 1e-9


def test_wasserstein_to_infinity_is_not_a_number_to_publish():
    known = numeric([*np.arange(100.0).tolist(), np.inf])
    found = statistics.compare(known, cells.count(known, floats(np.arange(50.0))))
    assert found.wasserstein is None and found.cramer_von_mises is not None


def test_wasserstein_is_the_shift_in_the_features_own_units():
    rng = np.random.default_rng(14)
    reference = rng.normal(100, 20, 50_000)
    known = numeric(reference)
    found = statistics.compare(known, cells.count(known, floats(reference[:20_000] + 7)))
    assert found.wasserstein == pytest.approx(7, abs=0.4)
    assert found.quantile_shifts == pytest.approx([7] * 5, abs=1)


@settings(max_examples=300)
@given(
    st.lists(st.floats(-3, 3) | st.sampled_from([0.0, 1.0, 2.0, np.inf, -np.inf]), min_size=1, max_size=400),
    st.lists(st.floats(-4, 4) | st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf]), min_size=1, max_size=60),
)
def test_bracket_holds_the_exact_distance(reference, window):
    known = numeric(reference * 20)
    counts = cells.count(known, floats(np.array(window)))
    low, high = statistics.bracket(known, cells.coarse(known, counts))
    assert 0 <= low <= statistics.ks(known, counts).statistic <= high <= 1


def test_bracket_is_narrow_on_a_large_reference():
    rng = np.random.default_rng(15)
    for values in (rng.normal(size=100_000), np.round(rng.lognormal(3, 0.5, 100_000), 2), rng.poisson(4.0, 100_000)):
        known = numeric(values.astype(float))
        counts = cells.count(known, floats(rng.choice(values, 1_000).astype(float)))
        low, high = statistics.bracket(known, cells.coarse(known, counts))
        assert low <= statistics.ks(known, counts).statistic <= high <= low + 0.006


@pytest.mark.parametrize(
    ("hits", "n", "was", "rows"), [(12, 1_000, 500, 100_000), (0, 900, 400, 40_000), (9, 50, 1, 300), (40, 40, 7, 9)]
)
def test_share_of_nulls_is_tested_exactly(hits, n, was, rows):
    law = stats.hypergeom(n + rows, hits + was, n)
    want = min(1.0, 2 * min(law.cdf(hits), law.sf(hits - 1)))
    assert p_values.share_p_value(hits, n, was, rows) == pytest.approx(want, rel=1e-6)


def test_null_burst_shows_in_its_p_value_and_a_quiet_window_does_not():
    rng = np.random.default_rng(16)
    known = numeric(np.where(rng.random(20_000) < 0.01, np.nan, rng.normal(size=20_000)))
    quiet = cells.count(known, floats(np.where(np.arange(1_000) < 11, np.nan, 0.1)))
    burst = cells.count(known, floats(np.where(np.arange(1_000) < 30, np.nan, 0.1)))
    assert statistics.compare(known, quiet).null_p_value > 0.5
    assert statistics.compare(known, burst).null_p_value < 1e-5


def test_g_test_equals_scipys_and_small_counts_are_pooled():
    rng = np.random.default_rng(17)
    reference, window = channels(rng, 20_000), channels(rng, 800, (0.45, 0.32, 0.17, 0.06))
    known = categorical(reference)
    found = statistics.compare(known, cells.count(known, pa.array(window)))
    table = np.array([[np.sum(s == c) for c in np.unique(reference)] for s in (reference, window)])
    theirs = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    assert (found.g_statistic, found.g_p_value) == pytest.approx((theirs.statistic, theirs.pvalue), abs=1e-8)
    many = np.array([f"sku{i}" for i in range(400)])
    shares = 1 / np.arange(1, 401) / np.sum(1 / np.arange(1, 401))
    known = categorical(rng.choice(many, 50_000, p=shares))
    quiet = [
        statistics.compare(known, cells.count(known, pa.array(rng.choice(many, 300, p=shares)))) for _ in range(200)
    ]
    assert np.mean([q.g_p_value < 0.05 for q in quiet]) <= 0.1


def test_vanished_and_new_categories_and_the_largest_moves_are_named():
    rng = np.random.default_rng(18)
    known = categorical(channels(rng, 20_000))
    window = channels(rng, 500)
    window = np.concatenate((np.where(window == "store", "web", window), ["kiosk"] * 100))
    found = statistics.compare(known, cells.count(known, pa.array(window)))
    assert found.vanished == ("store",) and found.new_share == pytest.approx(1 / 6)
    assert [name for name, _ in found.top_moves[:2]] == ["(new)", "store"] and found.top_moves[1][1] == pytest.approx(
        -0.15, abs=0.02
    )
    assert sum(move for _, move in found.top_moves) == pytest.approx(0, abs=1e-9)


def test_share_of_new_numbers_is_that_out_of_the_range_or_between_few_values():
    few, many = numeric(np.repeat([1.0, 2.0, 3.0], 5_000)), numeric(np.linspace(0, 1, 20_000))
    window = floats(np.array([1.0, 2.0, 2.5, 3.0, 9.0]))
    assert statistics.compare(few, cells.count(few, window)).new_share == 0.4
    assert (
        statistics.compare(many, cells.count(many, floats(np.array([0.1, 0.20001, -1.0, 2.0, 0.5])))).new_share == 0.4
    )


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_window_is_compared_with_the_slots_that_its_rows_came_in(kind):
    rng = np.random.default_rng(19)
    hours = np.repeat(np.arange(24), 3_000)
    times = DAY0 + hours * HOUR
    night = hours < 12
    plan = Slots(((0,) * 12 + (1,) * 12) * 7, ("night", "day"))
    if kind == "numeric":
        column, feature = floats(np.where(night, rng.normal(0, 1, len(hours)), rng.normal(2, 1, len(hours)))), NUMBER
        quiet, both = (
            floats(rng.normal(0, 1, 800)),
            floats(np.concatenate((rng.normal(0, 1, 600), rng.normal(2, 1, 200)))),
        )
    else:
        column, feature = (
            pa.array(np.where(night, channels(rng, len(hours)), channels(rng, len(hours), (0.1, 0.2, 0.3, 0.4)))),
            NAME,
        )
        quiet = pa.array(channels(rng, 800))
        both = pa.array(np.concatenate((channels(rng, 600), channels(rng, 200, (0.1, 0.2, 0.3, 0.4)))))
    known = cells.build(feature, "*", column, version=1, effective_from=0, plan=plan, times=times)
    counts = cells.count(known, quiet)
    assert statistics.compare(known, counts).p_value < 1e-9
    told = statistics.compare(known, counts, slot_rows={0: 800})
    assert told.p_value > 1e-3 and told.reference_n == 36_000
    assert statistics.compare(known, counts, slot_rows={1: 800}).p_value < 1e-9
    mixed = statistics.compare(known, cells.count(known, both), slot_rows={1: 200, 0: 600})
    assert mixed.p_value > 1e-3 and 36_000 < mixed.reference_n < 72_000
    assert statistics.compare(known, cells.count(known, both), slot_rows={0: 400, 1: 400}).p_value < 1e-9
    if kind == "numeric":
        own = stats.ks_2samp(quiet.to_numpy(), column.to_numpy()[night])
        assert told.statistic == pytest.approx(own.statistic, abs=1e-12)


def test_distances_of_categories_are_those_of_single_categories_and_one_cell_has_no_p_value():
    found = statistics.compare(
        categorical([f"k{i}" for i in range(30)] * 66),
        cells.count(categorical([f"k{i}" for i in range(30)] * 66), pa.array(["k1"] * 40)),
    )
    assert found.statistic == pytest.approx(0.945, abs=1e-3) and found.psi > 1
    assert found.p_value is None and found.g_p_value is None and found.effect == pytest.approx(29 / 30)


@pytest.mark.parametrize("values, rows", [(1_500, 10_000), (5_000, 50_000), (50_000, 50_000)])
def test_a_window_of_many_stationary_categories_has_no_tiny_p_value(values, rows):
    r = np.random.default_rng(2)
    known = categorical(r.integers(0, values, rows).astype("U6"))
    told = [
        statistics.compare(known, cells.count(known, pa.array(r.integers(0, values, 5_000).astype("U6"))))
        for _ in range(5)
    ]
    assert all(t.p_value > 1e-4 for t in told)
