"""Hours of the week that a merged law does not hold for are told apart: no page from them, and none is missed elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contract import DriftPlan
from stream_processors.detectors import budget
from stream_processors.detectors.detector import Detectors
from stream_processors.detectors.smallest import smallest_shift
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.fit import Wish, fit
from stream_processors.reference.grid import coarse_codes
from stream_processors.reference.rhythm_told import told
from stream_processors.reference.slots import MONDAY
from tests.drift_core.samples import NAME, NUMBER

DAY, HOUR, PANE = 86_400_000, 3_600_000, 300_000
WISH = Wish(pane=PANE)
PLAN = DriftPlan((NUMBER,), pane=timedelta(minutes=5), pages=1.0, pages_per=timedelta(days=30))
Law = Callable[[np.ndarray], np.ndarray]


def monday(when: np.ndarray, size: float = 0.6) -> np.ndarray:
    """A rise every Monday from 9 to 11."""
    return size * (((when - MONDAY) // DAY % 7 == 0) & (when % DAY // HOUR >= 9) & (when % DAY // HOUR < 11))


def weekend(when: np.ndarray) -> np.ndarray:
    return 0.5 * ((when - MONDAY) // DAY % 7 >= 5)


def nothing(when: np.ndarray) -> np.ndarray:
    return 0.0 * when


def drawn(seed: int, law: Law, first: int, days: int, an_hour: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """(event times, values) of `days` from day `first` after a Monday."""
    rng = np.random.default_rng([seed, first])
    when = MONDAY + first * DAY + np.sort(rng.integers(0, days * DAY, days * 24 * an_hour))
    return when, rng.normal(size=len(when)) + law(when)


def known(when: np.ndarray, values: np.ndarray, wish: Wish = WISH) -> FeatureReference:
    return fit(NUMBER, "*", pa.array(values), when, wish, version=1, effective_from=0)


@cache
def mondays(seed: int) -> FeatureReference:
    return known(*drawn(seed, monday, 0, 21))


def panes(reference: FeatureReference, when: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts, of = np.unique(when // PANE, return_inverse=True)
    size = len(reference.cell_rows)
    codes = of * size + coarse_codes(reference, values).astype(np.int64)
    return np.bincount(codes, minlength=len(starts) * size).reshape(len(starts), size), starts * PANE


def pages(reference: FeatureReference, when: np.ndarray, values: np.ndarray) -> list[int]:
    """The panes' starts at which a detector fires; it begins anew after each."""
    detectors = Detectors({reference.key: reference}, PLAN)
    counts, starts = panes(reference, when, values)
    state, at, found = detectors.start(), 0, []
    while at < len(starts):
        at += detectors.step_panes(state, counts[at:], starts[at:])
        if detectors.fired(state)[0]:
            found.append(int(starts[at - 1]))
            detectors.reset(state, reference.key)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_every_monday_does_not_page(seed):
    reference = mondays(seed)
    slots = reference.slots
    assert slots is not None and set(slots.names[slots.judged :]) == {"Mon 09-10", "Mon 10-11"}
    assert slots.rows[slots.judged :].max() < 2_000 <= slots.rows[: slots.judged].min()
    assert pages(reference, *drawn(seed, monday, 21, 35)) == []


def test_the_law_of_all_days_pages_for_it():
    when, values = drawn(0, monday, 0, 21)
    merged = known(when, values, replace(WISH, rhythm="none"))
    assert len(pages(merged, *drawn(0, monday, 21, 35))) >= 5


@pytest.mark.parametrize("seed", range(2))
def test_a_shift_at_all_hours_still_pages_as_soon(seed):
    when, values = drawn(seed, monday, 21, 1)
    delays = []
    for reference in (mondays(seed), known(*drawn(seed, nothing, 0, 21))):
        found = pages(reference, when, values + 0.5)
        delays.append((found[0] - when[0]) // PANE)
    assert 0 < delays[0] <= 2 * delays[1] and delays[0] * 25 <= 350


@pytest.mark.parametrize("kind", ["independent", "dependent", "rare nulls", "names"])
def test_where_there_is_no_rhythm_nothing_is_apart(kind):
    rng, found = np.random.default_rng(5), 0
    for seed in range(8):
        when, values = drawn(seed, nothing, 0, 21, 60)
        if kind == "dependent":
            sums = np.cumsum(values)
            when, values = when[240:], (sums[240:] - sums[:-240]) / np.sqrt(240)  # four hours are alike
        column = pa.array(values, mask=rng.random(len(values)) < 1e-4) if kind == "rare nulls" else pa.array(values)
        if kind == "names":
            column = pa.array(np.array(["a", "b", "c", "d"])[np.digitize(values, [-2.5, 0, 3])])
        feature = NAME if kind == "names" else NUMBER
        found += (
            fit(feature, "*", column, when, replace(WISH, dependence="none"), version=1, effective_from=0).slots
            is not None
        )
    assert found <= 1


@pytest.mark.parametrize("seed", [7, 14])  # of 16: those where Student's t alone sets hours apart
def test_hours_that_differ_at_random_are_not_apart(seed):
    when, values = drawn(seed, nothing, 0, 21, 60)
    levels = np.random.default_rng([seed, 6]).normal(size=505)
    assert known(when, values + levels[(when - MONDAY) // HOUR], replace(WISH, dependence="none")).slots is None


def test_one_bad_monday_is_no_rhythm():
    when, values = drawn(0, nothing, 0, 21)
    bad = (when >= MONDAY + 7 * DAY + 9 * HOUR) & (when < MONDAY + 7 * DAY + 11 * HOUR)
    assert known(when, values + 3.0 * bad).slots is None


def test_what_came_once_cannot_be_known_and_that_is_said():
    week = known(*drawn(0, monday, 0, 7))
    assert week.slots is None and told(week) == "one law at all times; a weekday rhythm needs 14 days: 7 here"
    assert "a daily rhythm needs 3 days" in told(known(*drawn(0, monday, 0, 2)))
    when, values = drawn(0, lambda t: 0.6 * ((t - MONDAY) // DAY % 7 == 3) * (t % DAY < HOUR), 0, 11)
    kept = when < MONDAY + 10 * DAY + HOUR // 6  # ten minutes of the second Thursday are none
    assert known(when[kept], values[kept]).slots is None
    assert known(when, values).slots is not None
    assert known(*drawn(0, monday, 0, 14)).slots is not None


def test_hours_that_hold_enough_rows_are_judged_by_their_own_law():
    reference = known(*drawn(0, lambda t: monday(t, 1.0), 0, 21, 800))
    slots = reference.slots
    assert slots is not None and slots.judged == len(slots.names)
    assert slots.at(MONDAY + 9 * HOUR) != slots.at(MONDAY + DAY + 9 * HOUR)
    quiet, values = drawn(0, lambda t: monday(t, 1.0), 21, 14, 800)
    assert pages(reference, quiet, values) == []
    gone = pages(reference, quiet, values - monday(quiet, 1.0))  # the rise stays away: that is drift
    assert gone and (gone[0] - MONDAY) % DAY // HOUR in (9, 10)


def test_a_weekend_shows_in_fourteen_days():
    reference = known(*drawn(0, weekend, 0, 14))
    assert reference.slots is not None and reference.slots.names == ("Mon-Fri", "Sat-Sun")
    assert reference.temper is None and pages(reference, *drawn(0, weekend, 14, 14)) == []


def test_weekdays_are_kept_where_giving_them_up_would_set_hours_apart():
    both = lambda t: weekend(t) + 0.4 * np.sin(2 * np.pi * t / DAY)  # noqa: E731
    reference = known(*drawn(0, both, 0, 21))
    slots = reference.slots
    assert slots is not None and slots.by_weekday and len(slots.names) - slots.judged <= 4  # of 168 hours
    assert "48 slots, the smallest with 1," in told(reference)
    assert pages(reference, *drawn(0, both, 21, 14)) == []


def mondays_without_weekends(when: np.ndarray) -> np.ndarray:
    return 0.3 * ((when - MONDAY) // DAY % 7 == 0)


def high_weekends(when: np.ndarray) -> np.ndarray:
    return 2 * weekend(when)


def nightly(when: np.ndarray) -> np.ndarray:
    return 1.0 * (when % DAY // HOUR != 12)


def held(law: Law, when: np.ndarray, seed: int) -> np.ndarray:
    """Which rows these worlds have: no weekend, a thin one, or hardly any row but from 12 to 13."""
    many = when % DAY // HOUR == 12 if law is nightly else (when - MONDAY) // DAY % 7 < 5
    part = {mondays_without_weekends: 0.0, high_weekends: 1 / 15, nightly: 0.003}[law]
    return many | (np.random.default_rng([seed, int(when[0])]).random(len(when)) < part)


@pytest.mark.parametrize(
    ("law", "days", "an_hour", "slots", "judged"),
    [
        (mondays_without_weekends, 28, 300, ("Mon", "Tue", "Wed", "Thu", "Fri-Sun"), 5),
        (high_weekends, 28, 150, ("Mon-Fri", "Sat-Sun"), 1),
        (nightly, 21, 1_000, ("12-13", "00-12", "13-24"), 1),
    ],
)
def test_a_rhythm_of_which_some_stretches_hold_few_rows_or_none_is_followed_where_they_are_many(
    law, days, an_hour, slots, judged
):
    when, values = drawn(0, law, 0, days, an_hour)
    kept = held(law, when, 0)
    reference = known(when[kept], values[kept])
    assert reference.slots is not None and reference.slots.names == slots and reference.slots.judged == judged
    when, values = drawn(0, law, 28, 28, an_hour)
    kept = held(law, when, 0)
    assert pages(reference, when[kept], values[kept]) == []
    assert len(pages(reference, when[kept], values[kept] + 0.5)) > 0


def test_a_rhythm_that_cannot_be_followed_pages_never_and_says_so():
    when, values = drawn(0, lambda t: 3 * mondays_without_weekends(t), 0, 28, 82)
    kept = (when - MONDAY) // DAY % 7 < 5
    one = known(when[kept][::4], values[kept][::4])  # a day of four weeks holds fewer than 2,000 rows
    assert one.slots is None and "which never pages" in told(one)
    assert "too few to follow its rhythm" in (budget.refusal(replace(one, rows=10_000)) or "")


def test_an_hour_that_is_apart_changes_no_detector():
    reference = mondays(0)
    detectors = Detectors({reference.key: reference}, PLAN)
    state = detectors.start()
    when, values = drawn(0, lambda t: 5.0 + 0.0 * t, 21, 1)
    apart = when % DAY // HOUR == 9
    counts, starts = panes(reference, when[apart], values[apart])
    detectors.step_panes(state, counts, starts)
    assert detectors.evidence(state)[reference.key].e_value is None and not detectors.fired(state)[0]
    before, after = (smallest_shift(detectors, reference.key, 25, 12, pane_start=MONDAY + h * HOUR) for h in (8, 9))
    assert before < 2 and after == float("inf")


def test_a_reference_keeps_what_is_apart_and_says_it():
    reference = mondays(0)
    again = cells.from_arrow(cells.to_arrow(reference))
    assert again.slots.judged == reference.slots.judged == 1 and cells.digest(again) == cells.digest(reference)
    line = told(reference)
    assert line.startswith("one law; departing and below 2,000 rows, charted and never judged: Mon ")
    assert "Mon 10-11 (947 rows)" in line


def test_what_is_apart_counts_for_no_floor():
    reference = mondays(0)
    few = replace(reference, slots=replace(reference.slots, judged=0))
    assert budget.refusal(reference) is None
    assert "0 rows in hours that are judged, 10,000 needed" in (budget.refusal(few) or "")


def test_rows_of_any_order_give_the_same_slots():
    when, values = drawn(1, monday, 0, 21)
    order = np.random.default_rng(3).permutation(len(when))
    assert known(when[order], values[order]).slots.of == mondays(1).slots.of
