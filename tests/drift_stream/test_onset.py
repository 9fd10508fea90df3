"""The history of panes, and where a change began."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import MonitoredFeature
from pipeline.times import to_ms
from stream_processors.detectors.onset import A_SPAN, EMPTY, SPANS, History, Onset, estimate
from stream_processors.reference import cells
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import CLOCK, DAY0, HOUR, blocks_of
from tests.drift_stream.test_judge import TIMELINE, hours

PANE = CLOCK.pane
KEY = ("price", "*")
NORMAL = cells.build(
    MonitoredFeature(*KEY[:1], "numeric"), "*", pa.array(np.random.default_rng(0).normal(size=50_000)), version=1, effective_from=0
)  # fmt: skip
MEMBERS = {KEY: NORMAL}


def coarse_of(values: np.ndarray) -> np.ndarray:
    return cells.coarse(NORMAL, cells.count(NORMAL, pa.array(values)))


def pushed(history: History, pane: int, values: np.ndarray) -> History:
    return history.push(1, DAY0 + pane * PANE, MEMBERS, coarse_of(values))


def found(level: Callable[[np.ndarray], np.ndarray], panes: int, seed: int, rows: int = 100) -> Onset:
    """`level` is the mean by time in panes; the alarm is in the last one."""
    rng, history = np.random.default_rng(seed), EMPTY
    for pane in range(panes):
        times = pane + np.sort(rng.random(rows))
        history = pushed(history, pane, rng.normal(size=rows) + level(times))
    onset = estimate(history, NORMAL, DAY0 + (panes - 1) * PANE, None, PANE)
    assert onset is not None
    return onset


def at(pane: float) -> float:
    return DAY0 + pane * PANE


def test_a_step_is_dated_to_its_pane():
    #  0 ......................... 70.5 |~~~~| 76     half a sd up, 100 rows a pane
    onset = found(lambda t: 0.5 * (t >= 70.5), 76, seed=1)
    assert abs(onset.at - at(70.5)) <= PANE and onset.low <= at(70.5) <= onset.high
    assert onset.shape == "abrupt" and onset.high - onset.low <= 6 * PANE


def test_a_ramp_is_seen_as_one_and_its_beginning_lies_in_the_interval():
    onset = found(lambda t: np.clip((t - 80) / 40, 0, 1), 115, seed=2)
    assert onset.shape == "gradual" and onset.low <= at(80) <= onset.high
    assert onset.high - onset.low < 30 * PANE


def test_the_interval_covers_nine_of_ten_steps_and_ramps():
    steps = [found(lambda t: 0.3 * (t >= 40.5), 50, seed) for seed in range(60)]
    ramps = [found(lambda t: 0.6 * np.clip((t - 40) / 30, 0, 1), 65, seed) for seed in range(60)]
    for onsets, true in ((steps, at(40.5)), (ramps, at(40))):
        assert sum(o.low <= true <= o.high for o in onsets) >= 52  # of 60: 1.5 standard errors below nine of ten
        assert np.median([o.high - o.low for o in onsets]) < 40 * PANE


def test_a_pulse_that_is_over_is_dated_if_the_panes_end_with_it():
    rng, history = np.random.default_rng(5), EMPTY
    for pane in range(60):
        history = pushed(history, pane, rng.normal(size=100) + (50 <= pane < 54))
    onset = estimate(history, NORMAL, DAY0 + 53 * PANE, None, PANE)
    assert onset is not None and abs(onset.at - at(50)) <= PANE


def test_what_was_before_the_last_incident_ended_is_not_asked():
    rng, history = np.random.default_rng(6), EMPTY
    for pane in range(80):
        history = pushed(history, pane, rng.normal(size=100) + 0.8 * (20 <= pane < 40) + 0.4 * (pane >= 72))
    onset = estimate(history, NORMAL, DAY0 + 79 * PANE, DAY0 + 45 * PANE, PANE)
    assert onset is not None and abs(onset.at - at(72)) <= 2 * PANE


@settings(max_examples=25)
@given(st.integers(1, 900), st.integers(0, 1 << 30))
def test_a_history_is_bounded_and_loses_no_row(panes, seed):
    rng, history, rows = np.random.default_rng(seed), EMPTY, 0
    packed = coarse_of(rng.normal(size=3))
    for pane in range(panes):
        history = history.push(1, DAY0 + pane * PANE, MEMBERS, packed)
        rows += 3
    assert len(history.starts) <= A_SPAN * len(SPANS)
    assert np.sum(history.counts) == rows and sum(history.spans) == panes
    assert (np.diff(history.spans) <= 0).all()
    assert list(history.starts) == (DAY0 + PANE * (np.cumsum(history.spans) - history.spans)).tolist()
    assert history.starts[-1] == DAY0 + (panes - 1) * PANE
    again = History.from_bytes(history.to_bytes())
    assert again.to_bytes() == history.to_bytes() and np.array_equal(again.counts, history.counts)


def test_equal_panes_give_equal_bytes_and_another_version_begins_anew():
    def made() -> History:
        rng, history = np.random.default_rng(7), EMPTY
        for pane in range(200):
            history = pushed(history, pane, rng.normal(size=20))
        return history

    assert made().to_bytes() == made().to_bytes()
    newer = made().push(2, DAY0 + 200 * PANE, MEMBERS, coarse_of(np.empty(0)))
    assert (newer.version, len(newer.starts)) == (2, 1)


def test_without_panes_or_under_another_version_there_is_no_estimate():
    assert estimate(EMPTY, NORMAL, DAY0, None, PANE) is None
    assert estimate(pushed(EMPTY, 0, np.zeros(5)), NORMAL, DAY0 - 1, None, PANE) is None
    assert History.from_bytes(b"").to_bytes() == EMPTY.to_bytes()


def test_a_null_burst_is_dated_too():
    rng, history = np.random.default_rng(8), EMPTY
    for pane in range(40):
        values = rng.normal(size=200)
        values[rng.random(200) < (0.1 if pane >= 36 else 0.0)] = np.nan
        history = pushed(history, pane, values)
    onset = estimate(history, NORMAL, DAY0 + 39 * PANE, None, PANE)
    assert onset is not None and abs(onset.at - at(36)) <= PANE


def test_a_judge_that_was_killed_dates_the_change_as_one_that_was_not():
    rows = hours(0, 5, an_hour=900) + hours(5, 7, factor=1.5, an_hour=900)
    dated = []
    for restarts in (False, True):
        harness = Harness(1, TIMELINE)
        for partials in counted(blocks_of(0, rows, list(range(300, len(rows), 300))), TIMELINE):
            harness.write(*partials)
            harness.turn(0.1)
            if restarts:
                harness.restart()
        [first] = [a for a in harness.alerts if a.state == "firing"][:1]
        dated.append((first.onset_low, first.onset, first.onset_high, first.onset_shape))
    assert dated[0] == dated[1] and dated[0][3] == "abrupt"
    assert abs(to_ms(dated[0][1]) - (DAY0 + 5 * HOUR)) <= 2 * PANE
