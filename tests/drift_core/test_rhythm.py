"""A rhythm is found where there is one, rarely where there is none, and slots below the floor are merged by a stated rule."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from stream_processors.reference import plans, rhythm
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.fit import Wish, fit
from stream_processors.reference.plans import FLOOR
from stream_processors.reference.rhythm import DAY, HOUR
from tests.drift_core.samples import NAME, NUMBER

MONDAY = 345_600_000
WISH = Wish(pane=5 * 60_000, dependence="none")


def times(rng: np.random.Generator, days: int, rows: int) -> np.ndarray:
    return MONDAY + rng.integers(0, days * DAY, rows)


def known(values: np.ndarray, when: np.ndarray, wish: Wish = WISH) -> FeatureReference:
    feature = NUMBER if values.dtype == float else NAME
    return fit(feature, "*", pa.array(values), when, wish, version=1, effective_from=0)


def wave(when: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * (when % DAY) / DAY)


@pytest.mark.parametrize("size", [0.1, 0.5])
def test_a_daily_cycle_gives_a_slot_an_hour(size):
    rng = np.random.default_rng(1)
    when = times(rng, 7, 60_000)
    found = known(rng.normal(size=60_000) + size * wave(when), when)
    assert found.slots is not None and len(found.slots.names) == 24
    assert found.slots.names[:2] == ("00-01", "01-02")
    assert found.slots.at(MONDAY + 3 * DAY + 5 * HOUR) == 5
    assert found.evidence["hour_p_value"] < 1e-6
    assert found.evidence["hour_size"] == pytest.approx(size / np.sqrt(2), rel=0.3)


def test_weekends_get_slots_of_their_own_and_alike_weekdays_share_one():
    rng = np.random.default_rng(2)
    when = times(rng, 28, 60_000)
    weekend = (when - MONDAY) // DAY % 7 >= 5
    found = known(np.where(weekend & (rng.random(60_000) < 0.2), "home", "shop"), when)
    assert found.slots is not None and found.slots.names == ("Mon-Fri", "Sat-Sun")
    assert found.slots.at(MONDAY + 5 * DAY) == found.slots.at(MONDAY + 13 * DAY) == 1


def test_the_arrival_rate_is_no_rhythm():
    rng = np.random.default_rng(3)
    when = times(rng, 14, 80_000)
    kept = rng.random(80_000) < 0.5 + 0.45 * wave(when)
    assert known(rng.normal(size=kept.sum()), when[kept]).slots is None


@pytest.mark.parametrize("kind", ["normal", "cents", "names", "dependent"])
def test_streams_without_a_rhythm_stay_without_slots(kind):
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(25):
        when = np.sort(times(rng, 21, 20_000))
        x = rng.normal(size=20_000)
        if kind == "dependent":
            x = np.convolve(x, np.ones(40), "same") / np.sqrt(40)
        values = {"cents": np.round(np.exp(x), 1), "names": np.array(["a", "b", "c"])[np.digitize(x, [0, 1])]}.get(
            kind, x
        )
        found += known(values, when).slots is not None
    assert found <= 2


def test_size_of_the_test_is_as_stated():
    rng = np.random.default_rng(5)
    shares = np.append(np.full(40, 1 / 40), (0.0, 0.0))
    p = []
    for _ in range(400):
        when = times(rng, 15, 6_000)
        evidence = rhythm.find(rng.integers(0, 40, 6_000), shares, True, when, pane=60_000).evidence
        p.append((evidence["hour_p_value"], evidence["week_p_value"]))
    assert np.mean(np.array(p) < 0.05, 0) == pytest.approx([0.05, 0.05], abs=0.035)


def test_a_few_days_are_too_few_to_see_a_rhythm_and_the_contract_may_insist():
    rng = np.random.default_rng(6)
    when = times(rng, 2, 60_000)
    values = rng.normal(size=60_000) + wave(when)
    assert known(values, when).slots is None
    insisted = known(values, when, Wish(pane=5 * 60_000, rhythm="hour", dependence="none"))
    assert insisted.slots is not None and len(insisted.slots.names) == 24
    assert known(values, times(rng, 14, 60_000), Wish(pane=5 * 60_000, rhythm="none", dependence="none")).slots is None


def test_slots_below_the_floor_give_up_weekdays_first_then_hours():
    #  0 h ........ 8 h ........ 24 h      few rows at night, many by day; 7 days
    night = np.repeat(np.arange(7 * 8), 100)  # 700 an hour over the week
    day = np.repeat(np.arange(7 * 16), FLOOR * 2 // 5)  # 5,600 an hour, 4,000 of them Mon-Fri, 1,600 at weekends
    when = MONDAY + np.concatenate((night // 8 * DAY + night % 8 * HOUR, day // 16 * DAY + (8 + day % 16) * HOUR))
    plan = plans.plan_of(when, 24, 0)
    assert plan is not None
    assert plan.names[:2] == ("00-04", "04-08")
    assert "12-13" in plan.names and not any(name.startswith(("Mon", "Sat")) for name in plan.names)
    rich = plans.plan_of(np.concatenate((when, np.repeat(when[len(night) :], 4))), 24, 0)
    assert rich is not None and {"Mon 12-13", "Sun 12-13"} <= set(rich.names)
    for made in (plan, rich):
        rows = np.bincount([made.at(int(t)) for t in when], minlength=len(made.names))
        assert len(made.of) == 168 and set(made.of) == set(range(len(made.names)))
        assert rows.min() >= FLOOR // 5
    assert plans.plan_of(when[:100], 24, 0) is None


def test_no_slot_is_shorter_than_a_pane():
    rng = np.random.default_rng(7)
    when = times(rng, 10, 80_000)
    found = known(rng.normal(size=80_000) + wave(when), when, Wish(pane=3 * HOUR, dependence="none"))
    assert found.slots is not None and found.slots.names[0] == "00-03"


def test_a_steep_cycle_of_a_large_reference_gets_quarters_of_an_hour():
    rng = np.random.default_rng(8)
    when = times(rng, 14, 900_000)
    found = known(rng.normal(size=900_000) + 0.7 * wave(when), when)
    assert found.slots is not None and found.slots.names[0] == "00:00-00:15" and found.rows == 900_000
