"""The drift process watches itself: what it publishes, how much it may cost, and what it must not touch."""

import re
from dataclasses import replace

import numpy as np

from monitoring.metrics import PrometheusMeter
from stream_processors.drift.self_watch import CORE, SelfWatch
from stream_processors.judging.judge import Closed, Judge
from stream_processors.judging.timeline import Timeline
from tests.drift_stream.samples import (
    CLOCK,
    CONTRACT,
    DAY0,
    HOUR,
    blocks_of,
    draw,
    partials_of,
    reference_set,
    with_plan,
)

FOUND = reference_set(1, DAY0)


def windows(hours: int = 3) -> list[Closed]:
    """The final closes of a quiet stream."""
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(DAY0, DAY0 + (hours + 1) * HOUR, 1_200 * (hours + 1))).tolist()
    judge = Judge(CONTRACT, CLOCK, [0], 0.0)
    judge.know(Timeline((FOUND,)))
    for offset, partial in enumerate(partials_of(blocks_of(0, draw(rng, times), []), Timeline((FOUND,)))):
        judge.feed(offset, partial, 0.0)
    return judge.turn(0.0).closed[:hours]


def said(meter: PrometheusMeter) -> dict[str, float]:
    """Series of the self-watch -> value."""
    found = re.findall(r"^(driftline_drift_\S+) (\S+)$", meter.exposition().decode(), re.M)
    return {name: float(value) for name, value in found if "_created" not in name}


def test_every_series_is_there_before_the_first_window():
    meter = PrometheusMeter()
    SelfWatch(CONTRACT, CLOCK, meter)
    shown = said(meter)
    assert shown['driftline_drift_null_panes_total{dataset="tiny"}'] == 0
    assert {f'driftline_drift_false_pages_ratio{{bound="{b}",dataset="tiny"}}' for b in ("low", "estimate", "high")} < set(shown)  # fmt: skip


def test_final_windows_are_walked_and_their_figures_published():
    meter = PrometheusMeter()
    watch = SelfWatch(CONTRACT, CLOCK, meter)
    assert [watch.heard(closed, FOUND) for closed in windows()] == [True] * 3
    shown = said(meter)
    assert shown['driftline_drift_null_panes_total{dataset="tiny"}'] == 3 * 12 * 6
    assert 0 < shown['driftline_drift_false_pages_ratio{bound="high",dataset="tiny"}'] < 1
    assert shown['driftline_drift_stated_false_pages_ratio{dataset="tiny"}'] > 0.999
    assert 0 < shown['driftline_drift_smallest_shift{dataset="tiny",feature="price",segment="*"}'] < 1
    caught, missed = (shown[f'driftline_drift_canaries_total{{dataset="tiny",result="{r}"}}'] for r in ("caught", "missed"))  # fmt: skip
    assert 6 <= caught + missed <= 18 and caught > missed


def test_revisions_provisional_closes_and_windows_without_a_reference_are_not_walked():
    watch, [closed] = SelfWatch(CONTRACT, CLOCK, PrometheusMeter()), windows(1)
    assert not watch.heard(replace(closed, cause="provisional"), FOUND)
    assert not watch.heard(replace(closed, cause="revision"), FOUND)
    assert not watch.heard(closed, None)
    off = SelfWatch(with_plan(null_monitor=False), CLOCK, PrometheusMeter())
    assert not off.heard(closed, FOUND)


def test_a_pane_is_walked_once_where_windows_overlap():
    meter = PrometheusMeter()
    watch, [closed] = SelfWatch(CONTRACT, CLOCK, meter), windows(1)
    for _ in range(2):
        watch.heard(closed, FOUND)
    assert said(meter)['driftline_drift_null_panes_total{dataset="tiny"}'] == 12 * 6


def test_it_stops_where_it_would_cost_more_than_its_share(monkeypatch):
    spent, wall, walked = [0.0], [0.0], []
    watch = SelfWatch(CONTRACT, CLOCK, PrometheusMeter(), cpu=lambda: spent[0], wall=lambda: wall[0])

    def costly(self: SelfWatch, closed: Closed) -> None:
        walked.append(closed.window)
        spent[0] += 10.0  # CPU seconds

    monkeypatch.setattr(SelfWatch, "_walk", costly)
    one, two, three = windows()
    assert watch.heard(one, FOUND) and not watch.heard(two, FOUND)
    wall[0] = 10.0 / CORE  # a hundredth of a core has come up for it
    assert watch.heard(three, FOUND) and walked == [one.window, three.window]
