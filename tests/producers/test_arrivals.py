"""Arrivals keep the rate that was asked for, follow day and week, and event time runs as the timeline says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.arrivals import DAY_MS, HOUR_MS, WEEK_MS, Timeline, intensity
from producers.sales import BLOCK_ORDERS
from producers.sales_stream import arrivals
from tests.producers.sales_samples import START_MS

NOW_MS = START_MS + 10 * DAY_MS


def until(timeline: Timeline, end_ms: int, seed: int = 3) -> np.ndarray:
    blocks = []
    for block in arrivals(seed, timeline):
        blocks.append(block)
        if block[-1] >= end_ms:
            times = np.concatenate(blocks)
            return times[times < end_ms]
    raise AssertionError("arrivals are endless")


def test_a_week_has_the_mean_rate_and_the_cycle() -> None:
    times = until(Timeline(START_MS, START_MS, 1.0, 1.0, catches_up=False), START_MS + WEEK_MS)
    assert len(times) == pytest.approx(WEEK_MS / 1000, abs=5 * (WEEK_MS / 1000) ** 0.5)
    assert (np.diff(times) >= 0).all()
    by_hour = np.bincount((times - START_MS) // HOUR_MS, minlength=7 * 24)
    expected = intensity(START_MS + np.arange(7 * 24) * HOUR_MS + 1) * 3600

    assert np.corrcoef(by_hour, expected)[0, 1] > 0.95
    assert by_hour.max() > 3 * by_hour.min() > 0


def test_counts_are_poisson_not_even() -> None:
    times = until(Timeline(START_MS, START_MS, 2.0, 1.0, catches_up=False), START_MS + WEEK_MS)
    minutes = np.bincount((times - START_MS) // 60_000)[: 7 * 24 * 60]
    means = intensity(START_MS + np.arange(7 * 24 * 60) * 60_000 + 30_000) * 120
    dispersion = np.mean((minutes - means) ** 2 / means)
    assert 0.9 < dispersion < 1.15


def test_compressed_time_reaches_now_and_goes_on_at_its_pace_with_the_same_wall_rate() -> None:
    #  event time   start ......1440x...... present ---1x---
    timeline = Timeline(NOW_MS - 10 * DAY_MS, NOW_MS, 50.0, 1440.0)
    present = timeline.present_ms
    assert present == pytest.approx(NOW_MS + 10 * DAY_MS / 1439, abs=1)
    assert timeline.wall_ms(present) == pytest.approx(present, abs=1)
    assert timeline.wall_ms(present + HOUR_MS) == present + HOUR_MS
    times = until(timeline, int(present) + HOUR_MS)
    wall = timeline.wall_ms(times)
    before = (wall < present).sum() / ((present - NOW_MS) / 1000)
    after = (wall >= present).sum() / 3600 / np.mean(intensity(np.linspace(present, present + HOUR_MS, 60).astype(int)))
    assert before == pytest.approx(50, rel=0.12)  # ten days are not a whole week
    assert after == pytest.approx(50, rel=0.05)


@given(
    st.integers(0, 20 * DAY_MS),
    st.floats(1.0, 5000.0),
    st.floats(0.1, 10_000.0),
    st.booleans(),
    st.lists(st.integers(0, 10**6), min_size=2, max_size=20),
)
def test_event_time_rises_with_the_count_and_wall_time_is_the_inverse_of_now(
    back: int, speed: float, rate: float, catches_up: bool, points: list[int]
) -> None:
    timeline = Timeline(NOW_MS - back, NOW_MS, rate, speed, catches_up)
    events = timeline.event_ms(np.array(sorted(points), dtype=float))
    assert (np.diff(events) >= 0).all() and events[0] >= timeline.start_ms - 1
    for event in events[:5].tolist():
        assert timeline.now_ms(float(timeline.wall_ms(event))) == pytest.approx(event, rel=1e-12, abs=1 + 1e-3 * speed)


def test_flat_out_with_a_count_ends_before_now() -> None:
    timeline = Timeline.ending_at(NOW_MS, 50_000, 100.0, 1.0)
    last = np.concatenate(
        [block for block, _ in zip(arrivals(1, timeline), range(50_000 // BLOCK_ORDERS + 1), strict=False)]
    )[49_999]
    assert NOW_MS - 120_000 < last < NOW_MS
