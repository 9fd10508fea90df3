"""Windows that slide and windows by rows: where they lie, what late rows and idle partitions do to them."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest

from pipeline.contract import Contract
from pipeline.times import to_ms
from stream_processors.judging.timeline import Timeline
from tests.drift_stream.harness import IDLE_S, Harness, counted
from tests.drift_stream.samples import CONTRACT, DAY0, HOUR, MINUTE, block, blocks_of, draw, reference_set, with_plan

TIMELINE = Timeline((reference_set(1, DAY0),))
SLIDING = with_plan(slide=timedelta(minutes=15))
BY_ROWS = with_plan(window_rows=100, window=CONTRACT.drift.pane)
Row = tuple[int, float, str]


def every(minutes: float, first: int, last: int, factor: float = 1.0) -> list[Row]:
    """A row every so many minutes of [first, last)."""
    times = np.arange(DAY0 + first * MINUTE, DAY0 + last * MINUTE, round(minutes * MINUTE)).tolist()
    return draw(np.random.default_rng(first), times, factor)


def run_of(contract: Contract, *partitions: list[Row], timeline: Timeline = TIMELINE) -> Harness:
    harness = Harness(len(partitions), timeline, contract)
    for p, rows in enumerate(partitions):
        for partials in counted(blocks_of(p, rows, list(range(50, len(rows), 50))), timeline, (), contract):
            harness.write(*partials)
    harness.turn(0.1)
    return harness


def late(harness: Harness, partition: int, start: int, rows: list[Row], before: int) -> None:
    [partials] = counted([block(partition, start, rows, before)], TIMELINE, (), harness.contract)
    harness.write(*partials)
    harness.turn(0.1)


def spans(harness: Harness) -> list[tuple[int, int, int]]:
    """(start, end in minutes, n) of each window's latest verdict of the price."""
    told = [json.loads(v) for k, v in sorted(harness.latest.items()) if k[1:] == ("price", "*")]
    minutes = lambda text: (to_ms(text) - DAY0) // MINUTE  # noqa: E731
    return [(minutes(v["window_start"]), minutes(v["window_end"]), v["n"]) for v in told]


def test_sliding_windows_begin_every_slide_and_overlap():
    #  minutes   0    15   30   45   60   75   90  100      watermark 90
    #           [------------------)                        and, as the first row lies in them, those that began earlier
    harness = run_of(SLIDING, every(1, 0, 100))
    assert spans(harness) == [(-45, 15, 15), (-30, 30, 30), (-15, 45, 45), (0, 60, 60), (15, 75, 60)]


def test_a_late_row_revises_every_window_that_holds_it():
    harness = run_of(SLIDING, every(1, 0, 120))
    before = {start: n for start, _, n in spans(harness)}
    late(harness, 0, 120, [(DAY0 + 20 * MINUTE, 20.0, "north")], DAY0 + 119 * MINUTE)
    assert {start: n - before[start] for start, _, n in spans(harness) if n != before[start]} == dict.fromkeys(
        (-30, -15, 0, 15), 1
    )
    assert [c for _, c in harness.causes].count("revision") == 4


def test_panes_are_kept_for_open_windows_only():
    harness = run_of(SLIDING, every(1, 0, 600))
    assert min(harness.judge.panes) == DAY0 + (600 - 10 - 60 + 10) * MINUTE  # the oldest open window's
    harness = run_of(BY_ROWS, every(1, 0, 600))
    assert len(harness.judge.panes) < 100 / 5 + 5


def test_a_shift_is_told_by_every_sliding_window_that_holds_it():
    harness = run_of(SLIDING, every(0.05, 0, 180) + every(0.05, 180, 300, factor=1.5))
    told = {k[0]: json.loads(v)["state"] for k, v in sorted(harness.latest.items()) if k[1:] == ("price", "*")}
    alarms = [(to_ms(k) - DAY0) // MINUTE for k, state in told.items() if state == "alarm"]
    assert alarms[0] == 135 and alarms == list(range(135, alarms[-1] + 1, 15))


def test_a_window_by_rows_ends_with_the_pane_in_which_it_is_full():
    #  10 rows a pane until minute 100, then 2: full after 10 panes, then after 10, then after 50
    harness = run_of(BY_ROWS, every(0.5, 0, 100) + every(2.5, 100, 400))
    assert spans(harness) == [(0, 50, 100), (50, 100, 100), (100, 350, 100)]


def test_windows_by_rows_leave_no_gap_over_a_quiet_day():
    harness = run_of(BY_ROWS, every(0.5, 0, 50) + every(0.5, 1500, 1600))
    assert spans(harness)[:2] == [(0, 50, 100), (50, 1550, 100)]


def test_late_rows_do_not_move_a_window_by_rows():
    rows = every(0.5, 0, 120)
    harness = run_of(BY_ROWS, rows)
    late(harness, 0, len(rows), [(DAY0 + 20 * MINUTE, 20.0, "north")] * 30, rows[-1][0])
    assert spans(harness) == [(0, 50, 130), (50, 100, 100)]
    assert [c for _, c in harness.causes] == ["final", "final", "revision"]


def test_while_a_partition_is_idle_one_window_by_rows_is_told_as_it_grows():
    #  partition 1 stops at minute 30: the first window's end is not known, for its rows may come
    zero, one = every(0.5, 0, 200), every(0.5, 0, 30)
    harness = run_of(BY_ROWS, zero, one)
    assert harness.causes == []
    harness.turn(IDLE_S)
    assert harness.causes == [(DAY0, "provisional")] * 4
    assert spans(harness) == [(0, 170, 400)]
    rest = blocks_of(1, one + every(0.5, 30, 200), [len(one)])[1:]
    harness.write(*[p for ps in counted(rest, TIMELINE, (), BY_ROWS) for p in ps])
    harness.turn(0.1)
    assert spans(harness)[:3] == [(0, 25, 100), (25, 50, 100), (50, 75, 100)]


def test_a_window_by_rows_is_not_told_across_a_change_of_reference_while_a_partition_is_idle():
    #  the first reference comes at minute 60: the window that is cut in the end has no verdicts of segments
    timeline = Timeline((reference_set(1, DAY0 + 60 * MINUTE),))
    zero, one = every(0.5, 0, 200), every(0.5, 0, 200)
    behind = counted(blocks_of(1, one, [60]), timeline, (), BY_ROWS)
    harness = Harness(2, timeline, BY_ROWS)
    harness.write(*[p for ps in counted(blocks_of(0, zero, []), timeline, (), BY_ROWS) for p in ps], *behind[0])
    harness.turn(0.1)
    harness.turn(IDLE_S)
    assert harness.causes == [(DAY0, "provisional")]
    harness.write(*behind[1])
    harness.drain()
    plain = run_of(BY_ROWS, zero, one, timeline=timeline)
    plain.drain()
    assert harness.latest == plain.latest


def test_a_reference_learned_late_keeps_windows_by_rows_where_they_are():
    rows = every(0.5, 0, 300)
    timeline = Timeline((reference_set(1, DAY0), reference_set(2, DAY0 + 130 * MINUTE, seed=11)))
    harness = Harness(1, timeline, BY_ROWS)
    for partials in counted(blocks_of(0, rows, list(range(50, 600, 50))), timeline, [(0, 1), (12, 2)], BY_ROWS):
        harness.write(*partials)
        harness.turn(0.1)
    assert spans(harness) == spans(run_of(BY_ROWS, rows, timeline=timeline))
    assert [(s, e) for s, e, _ in spans(harness)] == [(50 * i, 50 * i + 50) for i in range(5)]
    versions = [
        json.loads(v)["reference_version"] for k, v in sorted(harness.latest.items()) if k[1:] == ("price", "*")
    ]
    assert versions == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("contract", [CONTRACT, SLIDING, BY_ROWS], ids=["tumbling", "sliding", "by rows"])
@pytest.mark.parametrize(
    "first",
    [every(0.5, 0, 20) + every(0.5, 120, 200), [*every(0.5, 60, 200), (DAY0 + 10 * MINUTE, 20.0, "north")]],
    ids=["on time", "late"],
)
def test_a_window_whose_rows_all_lie_before_a_reference_learned_late_is_said_again(contract, first):
    #  minutes  0...10..20   30      60    120...    rows until 20, version 2 from 30 on, known after the window closed
    rows = first + every(0.5, 200, 300)
    timeline = Timeline((reference_set(1, DAY0), reference_set(2, DAY0 + 30 * MINUTE, seed=11)))
    harness = Harness(1, timeline, contract)
    for partials in counted(blocks_of(0, rows, [200, 300]), timeline, [(0, 1), (3, 2)], contract):
        harness.write(*partials)
        harness.turn(0.1)
    plain = run_of(contract, rows, timeline=timeline)
    assert harness.latest == plain.latest
    assert len(plain.latest) > 0


def test_one_partitions_clock_that_runs_ahead_closes_no_window():
    #  partition 1 is an hour ahead: what is final is what partition 0 has passed too
    harness = run_of(CONTRACT, every(0.5, 0, 80), every(0.5, 60, 140))
    assert [w for w, _ in harness.causes] == [DAY0]
    assert spans(harness) == [(0, 60, 120)]
    harness.turn(IDLE_S)
    assert {c for w, c in harness.causes if w > DAY0} == {"provisional"}


def test_a_partition_that_never_held_a_record_holds_nobody_back():
    harness = Harness(2, TIMELINE)
    rows = every(0.5, 0, 200)
    harness.write(*[p for ps in counted(blocks_of(0, rows, []), TIMELINE) for p in ps])
    assert harness.turn(0.1) == 0
    harness.judge.unused = frozenset({1})
    harness.turn(0.1)
    assert harness.causes == [(DAY0, "final"), (DAY0 + HOUR, "final"), (DAY0 + 2 * HOUR, "final")]
    assert min(harness.judge.panes) >= DAY0 + 3 * HOUR


def test_when_it_begins_its_rows_in_panes_that_are_walked_count_as_late_for_good():
    harness = Harness(2, TIMELINE)
    rows = every(0.5, 0, 200)
    harness.write(*[p for ps in counted(blocks_of(0, rows, []), TIMELINE) for p in ps])
    harness.judge.unused = frozenset({1})
    harness.turn(0.1)
    other = blocks_of(1, every(0.5, 100, 400), [300])
    harness.write(*counted(other, TIMELINE)[0])
    harness.restart()
    harness.turn(0.1)
    assert spans(harness)[1:3] == [(60, 120, 160), (120, 180, 240)]
    found = {k[0]: json.loads(v)["revision"] for k, v in sorted(harness.latest.items()) if k[1:] == ("price", "*")}
    assert list(found.values()) == [0, 40, 120]
    harness.restart()
    harness.write(*counted(other, TIMELINE)[1])
    harness.write(*[p for ps in counted(blocks_of(0, rows + every(0.5, 200, 400), [400])[1:], TIMELINE) for p in ps])
    harness.turn(0.1)
    assert spans(harness)[3:6] == [(180, 240, 240), (240, 300, 240), (300, 360, 240)]
    at_180 = next(
        k for k in sorted(harness.latest)[::-1] if k[0].startswith("2026-06-01T03") and k[1:] == ("price", "*")
    )
    assert json.loads(harness.latest[at_180])["revision"] == 10  # the pane of minute 180 was walked
