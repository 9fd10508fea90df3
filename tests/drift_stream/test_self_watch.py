"""The drift process watches itself: what it publishes, how much it may cost, and what it must not touch."""

import re
from dataclasses import replace

import numpy as np
import pytest

from monitoring.metrics import PrometheusMeter
from stream_processors.drift.self_watch import CORE, SLICE_S, SelfWatch
from stream_processors.judging.judge import Closed, Judge
from stream_processors.judging.panes import Key
from stream_processors.judging.timeline import ReferenceSet, Timeline
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
    with_rejects,
)
from tests.drift_stream.scores import NAMES, SCORED, with_scores

FOUND = reference_set(1, DAY0)
KEYS = 6
COVERED = 'driftline_drift_false_pages_covered_ratio{dataset="tiny"}'


def windows(hours: int = 3) -> list[Closed]:
    """The final closes of a quiet stream."""
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(DAY0, DAY0 + (hours + 1) * HOUR, 1_200 * (hours + 1))).tolist()
    judge = Judge(CONTRACT, CLOCK, [0], 0.0)
    judge.know(Timeline((FOUND,)))
    for offset, partial in enumerate(partials_of(blocks_of(0, draw(rng, times), []), Timeline((FOUND,)))):
        judge.feed(offset, partial, 0.0)
    return judge.turn(0.0).closed[:hours]


def in_hour(hour: int, found: ReferenceSet) -> tuple[Closed, Closed]:
    """A window of the rows and one of the scores, 500 rows in every feature and segment."""
    [closed] = windows(1)
    told = [replace(closed.verdicts[0], n=500, null_ratio=0.0, feature=f, segment=s) for f, s in found.load()]
    of_rows = tuple(v for v in told if v.feature not in NAMES)
    of_scores = tuple(v for v in told if v.feature in NAMES)
    moved = replace(closed, window=closed.window + hour * HOUR, end=closed.end + hour * HOUR, verdicts=of_rows)
    return moved, replace(moved, verdicts=of_scores, of_scores=True)


def hear(watch: SelfWatch, closed: Closed, found: ReferenceSet | None = FOUND) -> int:
    """How many keys were walked for it."""
    watch.heard(closed, found)
    return watch.turn()


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
    watch = SelfWatch(CONTRACT, CLOCK, meter, cpu=lambda: 0.0)
    assert [hear(watch, closed) for closed in windows()] == [KEYS] * 3
    shown = said(meter)
    assert shown['driftline_drift_null_panes_total{dataset="tiny"}'] == 3 * 12 * KEYS
    assert 0 < shown['driftline_drift_false_pages_ratio{bound="high",dataset="tiny"}'] < 1
    assert shown['driftline_drift_stated_false_pages_ratio{dataset="tiny"}'] > 0.999
    assert 0 < shown['driftline_drift_smallest_shift{dataset="tiny",feature="price",segment="*"}'] < 1
    caught, missed = (shown[f'driftline_drift_canaries_total{{dataset="tiny",result="{r}"}}'] for r in ("caught", "missed"))  # fmt: skip
    assert KEYS <= caught + missed <= 3 * KEYS and caught > missed


def test_every_key_of_the_budget_is_walked_scores_and_rejects_too():
    found, meter = with_scores(with_rejects(FOUND)), PrometheusMeter()
    keys = set(found.load())
    watch = SelfWatch(SCORED, CLOCK, meter, cpu=lambda: 0.0)
    for hour in range(2):
        for closed in in_hour(hour, found):
            watch.heard(closed, found)
        assert watch.turn() == len(keys) == 13
        assert said(meter)[COVERED] == hour  # one walk of a key is not enough to be part of the rate
    gauges = set(re.findall(r'smallest_shift{dataset="tiny",feature="(.+?)",segment="(.+?)"}', meter.exposition().decode()))  # fmt: skip
    assert gauges == keys - {("region", f"region={r}") for r in ("north", "south")}  # constant: no shift of a share


def test_what_there_was_no_time_for_comes_next():
    found, meter, now = with_rejects(FOUND), PrometheusMeter(), [0.0]
    watch = SelfWatch(CONTRACT, CLOCK, meter, cpu=lambda: now[0], wall=lambda: now[0] / CORE)
    order, walk = [], watch._walk

    def slow(key: Key, *rest: object) -> None:
        order.append(key)
        now[0] += 2 * SLICE_S  # one key a turn
        walk(key, *rest)

    watch._walk = slow  # type: ignore[method-assign]
    keys, covered = len(found.load()), []
    for hour in range(2 * keys):
        for closed in in_hour(hour, found)[:1]:
            watch.heard(closed, found)
        watch.turn()
        covered.append(said(meter)[COVERED])
    assert set(order[:keys]) == set(order[keys : 2 * keys]) == set(found.load())
    assert {segment for _, segment in order[:3]} == {"*"}  # the whole first
    assert covered == sorted(covered) and 0 < covered[keys + 1] < 1 and covered[-1] == pytest.approx(1)


def test_revisions_provisional_closes_and_windows_without_a_reference_are_not_walked():
    watch, [closed] = SelfWatch(CONTRACT, CLOCK, PrometheusMeter()), windows(1)
    assert not hear(watch, replace(closed, cause="provisional"))
    assert not hear(watch, replace(closed, cause="revision"))
    assert not hear(watch, closed, None)
    off = SelfWatch(with_plan(null_monitor=False), CLOCK, PrometheusMeter())
    assert not hear(off, closed)


def test_a_pane_is_walked_once_where_windows_overlap():
    meter = PrometheusMeter()
    watch, [closed] = SelfWatch(CONTRACT, CLOCK, meter, cpu=lambda: 0.0), windows(1)
    later = replace(closed, window=closed.window + HOUR // 2, end=closed.end + HOUR // 2)
    assert [hear(watch, one) for one in (closed, closed, later)] == [KEYS, 0, KEYS]
    assert said(meter)['driftline_drift_null_panes_total{dataset="tiny"}'] == (12 + 6) * KEYS


def test_it_stops_where_it_would_cost_more_than_its_share(monkeypatch):
    spent, wall, walked = [0.0], [0.0], []
    watch = SelfWatch(CONTRACT, CLOCK, PrometheusMeter(), cpu=lambda: spent[0], wall=lambda: wall[0])

    def costly(self: SelfWatch, key: Key, closed: Closed, n: int) -> None:
        walked.append(closed.window)
        spent[0] += 10.0  # CPU seconds

    monkeypatch.setattr(SelfWatch, "_walk", costly)
    one, two, three = windows()
    assert hear(watch, one) == 1 and hear(watch, two) == 0
    wall[0] = 10.0 / CORE  # a hundredth of a core has come up for it
    assert hear(watch, three) == 1 and walked == [one.window, three.window]
