"""What the judge says when, on small streams drawn in time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa

from pipeline.contract import Tolerance
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.reference import cells
from stream_processors.reference.slots import Slots
from tests.drift_stream.harness import IDLE_S, Harness, counted
from tests.drift_stream.samples import CONTRACT, DAY0, HOUR, MINUTE, block, blocks_of, draw, reference_set, with_plan

TIMELINE = Timeline((reference_set(1, DAY0),))


def hours(
    first: int, last: int, seed: int = 0, factor: float = 1.0, an_hour: int = 300
) -> list[tuple[int, float, str]]:
    rng = np.random.default_rng([seed, first])
    times = DAY0 + first * HOUR + np.sort(rng.integers(0, (last - first) * HOUR, (last - first) * an_hour))
    return draw(rng, times.tolist(), factor)


def told(harness: Harness) -> dict[tuple[str, str, str], dict[str, object]]:
    return {place: json.loads(value) for place, value in harness.latest.items()}


def run_of(rows: list[tuple[int, float, str]], timeline: Timeline = TIMELINE, contract=None) -> Harness:
    harness = Harness(1, timeline, contract or CONTRACT)
    for partials in counted(blocks_of(0, rows, list(range(200, len(rows), 200))), timeline, (), contract or CONTRACT):
        harness.write(*partials)
        harness.turn(0.1)
    return harness


def test_a_window_closes_once_every_partition_has_passed_it():
    harness = Harness(2, TIMELINE)
    harness.write(*[p for ps in counted(blocks_of(0, hours(0, 3), []), TIMELINE) for p in ps])
    assert harness.turn(0.1) == 0
    harness.write(*[p for ps in counted(blocks_of(1, hours(0, 2, seed=1), []), TIMELINE) for p in ps])
    harness.turn(0.1)
    assert harness.causes == [(DAY0, "final")]


def test_an_idle_partition_makes_closes_provisional_until_it_returns():
    harness = Harness(2, TIMELINE)
    first = blocks_of(0, hours(0, 6), [])
    behind = blocks_of(1, hours(0, 6, seed=1), [300])  # its first block ends with hour 0
    harness.write(*[p for ps in counted(first, TIMELINE) for p in ps], *counted(behind, TIMELINE)[0])
    harness.turn(0.1)
    harness.turn(IDLE_S)
    assert {cause for _, cause in harness.causes} == {"provisional"}
    before = told(harness)
    harness.write(*counted(behind, TIMELINE)[1])
    harness.turn(0.1)
    after = told(harness)
    first_hour, second = sorted(k for k in after if k[1:] == ("price", "*"))[:2]
    assert (before[first_hour]["provisional"], after[first_hour]["provisional"]) == (True, False)
    assert after[second]["n"] > before[second]["n"]
    assert [c for _, c in harness.causes].count("final") == 5


def test_a_partition_with_blocks_not_counted_yet_holds_the_others_back_however_long():
    harness = Harness(2, TIMELINE)
    harness.write(*[p for ps in counted(blocks_of(0, hours(0, 4), []), TIMELINE) for p in ps])
    harness.turn(0.1, behind=(1,))
    assert harness.turn(100 * IDLE_S, behind=(1,)) == 0 and harness.causes == []
    assert harness.turn(0.1) == 3 and {cause for _, cause in harness.causes} == {"provisional"}


def test_a_returned_partition_drops_the_copy_of_the_detectors():
    #  partition 1 is idle through hours 1-3 and then brings shifted rows of just these hours
    shifted = hours(0, 1, seed=1) + hours(1, 5, seed=2, factor=3.0)
    both, late = Harness(2, TIMELINE), Harness(2, TIMELINE)
    zero, one = blocks_of(0, hours(0, 5), []), blocks_of(1, shifted, [300])
    for harness, idle in ((both, 0.1), (late, IDLE_S)):
        harness.write(*[p for ps in counted(zero, TIMELINE) for p in ps], *counted(one, TIMELINE)[0])
        harness.turn(0.1)
        harness.turn(idle)
        harness.write(*counted(one, TIMELINE)[1])
        harness.drain()
    assert late.latest == both.latest
    assert "provisional" in {c for _, c in late.causes}


def test_a_partition_that_returns_and_idles_again_leaves_no_trace_of_the_first_close():
    #  hours        0    1    2    3    4    5     partition 1 comes back with more of hour 1, which closes no window
    #  partition 0  [------------------------]
    #  partition 1  [-----] idle [==] idle
    near = [(t, p, r) for t, p, r in hours(1, 2, seed=2, factor=3.0) if t < DAY0 + HOUR + 50 * MINUTE]
    cut = sum(t < DAY0 + HOUR + 15 * MINUTE for t, _, _ in near)
    zero, one = blocks_of(0, hours(0, 5), []), blocks_of(1, hours(0, 1, seed=1) + near, [300 + cut])
    once, twice, warned = (Harness(2, TIMELINE) for _ in range(3))
    for harness, idle in ((once, 0.1), (twice, IDLE_S), (warned, IDLE_S)):
        harness.write(*[p for ps in counted(zero, TIMELINE) for p in ps], *counted(one, TIMELINE)[0])
        harness.turn(0.1)
        harness.turn(idle)
        if harness is warned:  # that news are on the way, a turn before they are counted
            harness.turn(0.1, behind=(1,))
        harness.write(*counted(one, TIMELINE)[1])
        harness.drain()
    assert [c for _, c in twice.causes].count("final") == 1 and twice.causes[1] == (DAY0 + HOUR, "provisional")
    assert twice.latest == once.latest == warned.latest


def test_late_rows_of_a_provisional_window_are_said_once_a_second():
    rows = hours(0, 5)
    harness = Harness(2, TIMELINE)  # partition 1 never speaks
    harness.write(*counted(blocks_of(0, rows, []), TIMELINE)[0])
    harness.turn()
    harness.turn(IDLE_S)
    harness.write(*counted([block(0, len(rows), [], max(t for t, _, _ in rows))], TIMELINE)[0])
    harness.turn(0.1)  # partition 0 is awake again, partition 1 is not
    key = next(k for k in sorted(told(harness)) if k[1:] == ("price", "*"))
    before = told(harness)[key]
    harness.write(*counted([block(0, len(rows), [(DAY0, 5.0, "north")], max(t for t, _, _ in rows))], TIMELINE)[0])
    assert harness.turn(0.1) == 0  # each telling is a transaction
    assert harness.turn(1.0) == 1 and harness.turn(1.0) == 0
    assert told(harness)[key]["n"] == before["n"] + 1
    assert told(harness)[key]["e_value"] == before["e_value"]


def test_late_rows_revise_the_numbers_and_never_the_alarm():
    rows = hours(0, 4)
    harness = run_of(rows)
    key = next(k for k in told(harness) if k[1:] == ("price", "*"))
    before = told(harness)[key]
    maximum = max(t for t, _, _ in rows)
    late = [(DAY0 + 30 * MINUTE, 500.0, "north")] * 50
    harness.write(*counted([block(0, len(rows), late, maximum)], TIMELINE)[0])
    harness.turn(0.1)
    after = told(harness)[key]
    assert (after["revision"], after["n"]) == (50, before["n"] + 50)
    assert after["statistic"] > before["statistic"]
    assert [after[f] for f in ("e_value", "state", "rule")] == [before[f] for f in ("e_value", "state", "rule")]
    assert after["offsets"]["0"][1] == len(rows) + 50


def test_a_repeated_late_block_revises_once():
    rows = hours(0, 4)
    harness = run_of(rows)
    [late] = counted([block(0, len(rows), [(DAY0 + MINUTE, 5.0, "north")], max(t for t, _, _ in rows))], TIMELINE)[0]
    harness.write(late)
    harness.turn(0.1)
    said = len(harness.verdicts)
    harness.write(late, late)
    harness.turn(0.1)
    harness.restart()
    harness.write(late)
    harness.turn(0.1)
    assert len(harness.verdicts) == said


def test_late_rows_of_a_window_that_is_no_longer_at_hand_read_it_again():
    rows = hours(0, 30, an_hour=60)  # more windows than are kept at hand
    harness = run_of(rows)
    key = next(k for k in sorted(told(harness)) if k[1:] == ("price", "*"))
    before = told(harness)[key]
    harness.write(
        *counted([block(0, len(rows), [(DAY0 + MINUTE, 5.0, "north")], max(t for t, _, _ in rows))], TIMELINE)[0]
    )
    harness.feed()
    assert list(harness.judge.wanted()) == [DAY0]
    harness.turn(0.1)
    assert told(harness)[key]["n"] == before["n"] + 1


def test_records_of_closed_windows_go_once_nothing_can_revise_them():
    harness = run_of(hours(0, 60, an_hour=20))  # revise_within is 2 days
    kept = [r.window for r in harness.records()]
    assert min(kept) > DAY0 and len(kept) <= 49


def test_without_a_reference_windows_are_counted_and_charted():
    rows = hours(0, 2)
    harness = run_of(rows, Timeline())
    first_hour = sum(t < DAY0 + HOUR for t, _, _ in rows)
    assert {(v["state"], v["n"], v["reference_version"]) for v in told(harness).values()} == {
        ("reference_missing", first_hour, 0)
    }


def test_a_small_reference_is_charted_and_never_pages():
    harness = run_of(hours(0, 4, factor=5.0), Timeline((reference_set(1, DAY0, rows=3000),)))
    assert set(harness.states("price")) == {"reference_too_small"}
    assert harness.alerts == []
    assert all(v["statistic"] is not None for k, v in told(harness).items() if k[1:] == ("price", "*"))


def test_a_shift_fires_and_its_return_resolves():
    harness = run_of(hours(0, 4, an_hour=1200) + hours(4, 7, factor=1.5, an_hour=1200) + hours(7, 20, an_hour=1200))
    assert [(a.state, a.resolution) for a in harness.alerts if a.state != "pending"] == [
        ("firing", None),
        ("resolved", "returned"),
    ]
    states = harness.states("price")
    assert states[:4] == ["ok"] * 4 and states[4:7] == ["alarm"] * 3 and states[-1] == "ok"


def test_a_newer_reference_judges_from_its_first_pane_on_even_if_learned_late():
    timeline = Timeline((reference_set(1, DAY0), reference_set(2, DAY0 + 3 * HOUR, seed=11)))
    rows = blocks_of(0, hours(0, 6), list(range(100, 1800, 100)))
    harness = Harness(1, timeline)
    for partials in counted(rows, timeline, [(0, 1), (len(rows), 2)]):
        harness.write(*partials)
        harness.turn(0.1)
    versions = {k[0]: v["reference_version"] for k, v in sorted(told(harness).items())}
    assert list(versions.values()) == [1, 1, 1, 2, 2]
    assert [c for _, c in harness.causes] == ["final"] * 7  # hours 3 and 4 were judged twice


def test_detectors_of_a_newer_reference_start_at_zero():
    #  hour  0  1  2  3 | 4  5  6      shifted all the time; version 2, from hour 4 on, has never seen hours 0 to 3
    rows, versions = hours(0, 7, factor=1.2, an_hour=400), (reference_set(1, DAY0), reference_set(2, DAY0 + 4 * HOUR))
    both, second = run_of(rows, Timeline(versions)), Harness(1, Timeline(versions[1:]))
    behind = next(i for i, (t, _, _) in enumerate(rows) if t >= DAY0 + 4 * HOUR)
    for partials in counted(blocks_of(0, rows, [behind])[1:], second.timeline):
        second.write(*partials)
    second.turn(0.1)
    fresh = {k: v["e_value"] for k, v in told(second).items()}
    assert {k: told(both)[k]["e_value"] for k in fresh} == fresh
    assert both.states("price")[3] == "alarm" and len(fresh) > 0


def test_the_published_rule_can_be_the_papers():
    harness = run_of(hours(0, 3, factor=1.5), TIMELINE, with_plan(rule="ks_alpha"))
    verdict = told(harness)[next(k for k in told(harness) if k[1:] == ("price", "*"))]
    assert (verdict["rule"], verdict["state"]) == ("ks_alpha", "alarm")
    assert verdict["statistic"] > verdict["critical_value"]


def test_silence_about_numbers_that_floats_confuse_is_undefined_and_an_alarm_stays_one():
    known = TIMELINE.sets[0].load()
    members = {k: replace(r, inexact=r.source_rows // 2) if k[0] == "price" else r for k, r in known.items()}
    timeline = Timeline((ReferenceSet(1, DAY0, lambda: members),))
    for rule in ("bank", "ks_alpha"):
        harness = run_of(hours(0, 2) + hours(2, 5, factor=1.5), timeline, with_plan(rule=rule))
        assert (harness.states("price")[0], harness.states("price")[-1]) == ("undefined", "alarm")
        assert harness.states("region")[0] == "ok"
        verdict = next(v for k, v in told(harness).items() if k[1:] == ("price", "*"))
        assert verdict["statistic"] > 0 and "50.0% of the reference's rows are whole" in verdict["undefined"]["state"]


def test_a_gap_of_weeks_between_two_rows_costs_nothing():
    rows = [
        (DAY0 + MINUTE, 20.0, "north"),
        (DAY0 + 400 * 24 * HOUR, 20.0, "north"),
        (DAY0 + 401 * 24 * HOUR, 20.0, "north"),
    ]
    harness = Harness(1, TIMELINE)
    for partials in counted(blocks_of(0, rows, [1]), TIMELINE):
        harness.write(*partials)
    harness.turn(0.1)
    assert [w for w, _ in harness.causes] == [DAY0, DAY0 + 400 * 24 * HOUR]


def with_nights() -> ReferenceSet:
    """Prices of the first half of the day, and three times as high ones of the second."""
    rng = np.random.default_rng(7)
    times = DAY0 + rng.integers(0, 7 * 24 * HOUR, 60_000)
    second = (times - DAY0) // HOUR % 24 >= 12
    prices = np.round(rng.lognormal(3, 0.6, len(times)) * np.where(second, 3.0, 1.0), 1)
    plan = Slots(((0,) * 12 + (1,) * 12) * 7, ("00-11", "12-23"))
    feature = CONTRACT.drift.features[0]
    found = cells.build(feature, "*", pa.array(prices), version=1, effective_from=DAY0, plan=plan, times=times)
    return ReferenceSet(1, DAY0, lambda: {("price", "*"): found})


def test_a_window_is_compared_with_the_hours_of_the_week_that_its_rows_fell_into():
    #  hour  0 ... 11 | 12 ... 23     the second half of the day is three times as dear, as it always was
    rows = hours(10, 12) + hours(12, 14, factor=3.0)
    harness = run_of(rows, Timeline((with_nights(),)))
    found = [v for k, v in sorted(told(harness).items()) if k[1:] == ("price", "*")]
    assert [v["slot"] for v in found] == ["00-11", "00-11", "12-23"]
    assert {v["state"] for v in found} == {"ok"}
    assert all(v["p_value"] > 0.01 for v in found)


def test_hours_that_are_apart_are_compared_and_never_judged():
    #  hour  10 11 | 12 13 14     the second half of the day is apart; prices rise tenfold at noon
    nights = with_nights().load()["price", "*"]
    apart = replace(nights, slots=replace(nights.slots, judged=1))
    rows = hours(10, 12) + hours(12, 15, factor=30.0)
    harness = run_of(rows, Timeline((ReferenceSet(1, DAY0, lambda: {("price", "*"): apart}),)))
    found = [v for k, v in sorted(told(harness).items()) if k[1:] == ("price", "*")]
    assert [v["state"] for v in found] == ["ok", "ok", "undefined", "undefined"]
    assert found[-1]["slot"] == "12-23" and found[-1]["statistic"] > 0.8
    assert "charted and never judged" in found[-1]["undefined"]["state"] and found[0]["undefined"] == {}


def test_a_window_over_two_slots_is_compared_with_their_mixture():
    rows = hours(11, 12) + hours(12, 13, factor=3.0) + hours(13, 15, factor=3.0)
    contract = with_plan(window=timedelta(hours=2), slide=timedelta(hours=1))
    harness = run_of(rows, Timeline((with_nights(),)), contract)
    found = [v for k, v in sorted(told(harness).items()) if k[1:] == ("price", "*")]
    assert [v["slot"] for v in found] == ["00-11", "00-11 + 12-23", "12-23"]
    assert all(v["p_value"] > 0.01 for v in found)


def test_a_verdict_tells_its_distance_in_the_features_units():
    harness = run_of(hours(0, 3, factor=1.5))
    found = next(v for k, v in sorted(told(harness).items()) if k[1:] == ("price", "*"))
    middle = found["quantiles_reference"][2]
    assert 0.3 * middle < found["wasserstein"] < middle
    assert all(shift > 0 for shift in found["quantile_shifts"])
    assert found["cramer_von_mises"] > 1 and found["null_p_value"] == 1.0


def test_a_shift_within_the_tolerance_is_told_and_raises_nothing():
    small = replace(CONTRACT.drift.features[0], tolerance=Tolerance("distance", 0.3))
    rows, contract = hours(0, 4, factor=1.5, an_hour=1200), with_plan(features=(small, CONTRACT.drift.features[1]))
    harness = run_of(rows, TIMELINE, contract)
    found = [v for k, v in sorted(told(harness).items()) if k[1:] == ("price", "*")]
    assert {v["state"] for v in found} == {"ok"}
    assert all(v["e_value"] > v["threshold"] and 0 < v["lower_effect"] < v["tolerance"] == 0.3 for v in found[1:])
    assert harness.alerts == []
    assert run_of(rows).states("price")[-1] == "alarm"
