"""The monitor watched: the measured false-alarm rate, a broken threshold, canaries of the size that the gauge says."""

import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from scipy import stats

from pipeline.contract import DriftPlan
from stream_processors.detectors import budget as budgets
from stream_processors.detectors.null_stream import NullStream, Rate, Walked, stated
from stream_processors.detectors.sensitivity import Sensitivity
from stream_processors.reference import cells
from tests.drift_core.samples import PLAN, categorical, channels, floats, numeric

MINUTE = 60_000
HOUR = 60 * MINUTE
RNG = np.random.default_rng(3)
REFERENCES = {r.key: r for r in (numeric(RNG.normal(50, 10, 60_000)), categorical(channels(RNG, 60_000)))}
ROWS = dict.fromkeys(REFERENCES, 100)


def plan(panes: float = 8640, factor: float = 1.0) -> DriftPlan:
    """One page in so many panes; `factor` times as many is what a broken budget would allow."""
    return replace(PLAN, pages=factor, pages_per=timedelta(minutes=5) * panes, rejects=False)


def stream(chosen: DriftPlan, name: str = "tiny@1.0.0") -> NullStream:
    return NullStream(REFERENCES, budgets.thresholds(chosen, REFERENCES), chosen, name)


def window(hour: int) -> range:
    return range(hour * HOUR, (hour + 1) * HOUR, 5 * MINUTE)


def a_day(null: NullStream, allowed: dict, hours: int = 24) -> Rate:
    rate = Rate(allowed)
    for hour in range(hours):
        rate.add(null.walk(window(hour), ROWS))
    return rate


def test_tilted_runs_agree_with_plain_counting_where_both_can_see():
    null = stream(plan(panes=60))
    rate, alarms, panes = Rate(null.allowed), 0, 0
    for hour in range(24):
        rate.add(null.walk(window(hour), ROWS))
    for first in range(0, 2000 * HOUR, 100 * HOUR):
        walked = null.walk(range(first, first + 100 * HOUR, 5 * MINUTE), ROWS, runs=0)
        alarms, panes = alarms + walked.alarms, panes + walked.panes
    allowed = panes * sum(null.allowed.values()) / len(null.allowed)
    low, high = stats.chi2.ppf(0.005, 2 * alarms) / 2, stats.chi2.ppf(0.995, 2 * alarms + 2) / 2
    assert panes == 2000 * 12 * 2 and alarms > 5
    assert low / allowed <= rate.interval[2] and rate.interval[0] <= high / allowed


def test_a_run_passes_through_slots_that_have_room_for_other_laws():
    #  11 hours of many rows, 13 of few: a law for the scan that lies within [0, 1] in one may not in the other
    pool, hours = numeric(np.concatenate([RNG.normal(50, 10, 54_000), RNG.normal(58, 10, 6_000)])), np.arange(168) % 24
    counts = tuple(cells.count(pool, floats(RNG.normal(*of))) for of in ((50, 10, 54_000), (58, 10, 6_000)))
    known = {
        pool.key: replace(pool, slots=cells.Slots(tuple((hours >= 11).astype(int).tolist()), ("day", "night"), counts))
    }
    chosen = plan(panes=600)
    null = NullStream(known, budgets.thresholds(chosen, known), chosen, "slots@1.0.0")
    rate = Rate(null.allowed)
    for hour in range(6 * 24):
        walked = null.walk(window(hour), dict.fromkeys(known, 40))
        assert all(np.isfinite(v) and v >= 0 for of in walked.rates.values() for v in of)
        rate.add(walked)
    low, measured, high = rate.interval
    assert low <= 1.0 and 0 < measured < high


def test_a_sound_budget_is_kept_in_days_of_24_hours():
    for day in range(4):
        null = stream(plan(), f"day {day}")
        low, estimate, high = a_day(null, null.allowed).interval
        assert 0 < low < estimate < high < 1  # the bound is conservative: the rate lies below the budget


def test_thresholds_that_raise_ten_times_the_pages_are_exposed_within_a_day():
    honest = stream(plan())
    broken = stream(plan(factor=300))  # what it costs to raise ten times the budget, for the bound has room
    rate = a_day(broken, honest.allowed)
    assert rate.interval[0] > 1 and rate.interval[1] > 5


def test_a_threshold_lowered_by_a_factor_of_ten_is_told_by_its_own_arithmetic():
    budget = budgets.thresholds(plan(), REFERENCES)
    lowered = {k: replace(t, bank=t.bank - math.log(10), scan=t.scan - math.log(10)) for k, t in budget.by_key.items()}
    assert stated(budget) == pytest.approx(1)
    assert stated(replace(budget, by_key=lowered)) == pytest.approx(10)


@pytest.mark.parametrize("rule", ["scan", "confseq"])
def test_every_rule_states_its_whole_budget(rule):
    assert stated(budgets.thresholds(replace(plan(), rule=rule), REFERENCES)) == pytest.approx(1)


def test_the_same_panes_give_the_same_draws():
    one, two, other = (a_day(stream(plan(), name), {}, hours=2) for name in ("a", "a", "b"))
    assert one.sums == two.sums != other.sums


def test_every_key_keeps_the_threshold_that_it_has_among_many():
    segments = {r.key: r for r in (numeric(RNG.normal(size=3000), f"region={i}") for i in range(8))}
    small = numeric(RNG.normal(size=300), "region=tiny")
    many = {**segments, small.key: small, **REFERENCES}
    budget = budgets.thresholds(plan(), many)
    null = NullStream(many, budget, plan(), "t")
    assert list(null.references)[:2] == [("channel", "*"), ("price", "*")]  # the whole first
    assert set(null.references) == set(many) - {small.key}  # too small to page
    for key in null.references:
        assert null.detectors(key).keys == (key,)
        assert null.detectors(key).budget.of(key) == budget.of(key)
    assert sum(null.allowed.values()) == pytest.approx(1 / 8640)  # pages a pane, of the whole budget


def test_the_rate_is_of_the_keys_that_have_enough_runs_and_says_their_share():
    rate = Rate({("a", "*"): 3e-6, ("b", "*"): 1e-6})
    assert rate.interval is None and rate.covered == 0
    rate.add(Walked(1, 0, {("a", "*"): (1e-6, 2e-6) * 4, ("b", "*"): (1.0,) * 4}))
    assert rate.covered == pytest.approx(0.75) and rate.interval[1] == pytest.approx(0.5)
    rate.add(Walked(1, 0, {("b", "*"): (0.0,) * 4}))
    assert rate.covered == pytest.approx(1) and rate.interval[1] == pytest.approx((1.5e-6 + 0.5) / 4e-6)


def test_walking_one_key_does_not_change_what_another_sees():
    whole, apart = (stream(plan(panes=60)) for _ in range(2))
    together = [whole.walk(window(hour), ROWS) for hour in range(4)]
    alone = [[apart.walk(window(hour), {key: 100}) for key in ROWS] for hour in range(4)]
    assert [w.rates for w in together] == [{k: r for w in one for k, r in w.rates.items()} for one in alone]
    assert [w.alarms for w in together] == [sum(w.alarms for w in one) for one in alone]


def test_canaries_of_the_smallest_shift_are_caught_nine_times_in_ten():
    sensitivity, caught, sent = Sensitivity(stream(plan())), 0, 0
    for hour in range(150):
        found = sensitivity.canaries(window(hour), ROWS)
        caught, sent = caught + sum(found.values()), sent + len(found)
    assert sent == 300
    assert 0.85 <= caught / sent <= 0.95


def test_more_rows_show_smaller_shifts_and_none_show_nothing():
    sensitivity = Sensitivity(stream(plan()))
    sizes = [sensitivity.smallest(("price", "*"), rows, window(0)) for rows in (30, 300, 3000)]
    assert sizes[0] > sizes[1] > sizes[2] > 0
    assert sensitivity.smallest(("price", "*"), 0, window(0)) is None
