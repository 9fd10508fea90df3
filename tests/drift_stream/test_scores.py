"""The model's score and confidence are features like any other: judged from a stream of their own, in one budget, one episode."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.contract import SCORES, MonitoredFeature, Tolerance
from stream_processors.detectors.budget import thresholds
from stream_processors.drift.backlog import ScorerReach
from stream_processors.drift.judge_owner import unscored
from stream_processors.judging.judge import Progress
from stream_processors.judging.timeline import Timeline
from stream_processors.live.score_blocks import UNSCORED, Answers, score_block
from stream_processors.reference import cells
from tests.drift_stream.harness import IDLE_S, Harness, counted
from tests.drift_stream.samples import DAY0, HOUR, MINUTE, blocks_of, draw, reference_set
from tests.drift_stream.scores import NAMES, SCORED, Both, answered, scored_set

FIRST = scored_set(1, DAY0)
OF_SCORES = SCORED.of_scores


def rows(partition: int, hours: int, an_hour: int = 400, factor: float = 1.0, since: int = 2**62) -> list:
    rng = np.random.default_rng([7, partition])
    times = np.sort(rng.integers(DAY0, DAY0 + hours * HOUR, an_hour * hours)).tolist()
    plain, moved = draw(rng, times), draw(rng, times, factor)
    return [m if m[0] >= since else p for p, m in zip(plain, moved, strict=True)]


def blocks(partition: int, hours: int, **more: object) -> list:
    own = rows(partition, hours, **more)
    return blocks_of(partition, own, list(range(100, len(own), 100)))


def both(timeline: Timeline, hours: int, *, score: dict | None = None, **row: object) -> Both:
    """Two partitions of rows and all their scores, hour by hour as both come in."""
    made = Both(2, timeline)
    parts = [blocks(p, hours, **row) for p in range(2)]
    for pair in zip(*parts, strict=True):
        for b in pair:
            for partials in counted([b], timeline, (), SCORED.of_rows):
                made.rows.write(*partials)
            for partials in counted(answered([b], **(score or {})), timeline, (), OF_SCORES):
                made.scores.write(*partials)
        made.turn(0.1)
    made.drain()
    return made


def test_scores_of_a_quiet_stream_stay_quiet():
    made = both(Timeline((FIRST,)), 8)
    for name in NAMES:
        assert set(made.scores.states(name)) == {"ok"}
        assert set(made.scores.states(name, "region=north")) == {"ok"}
    assert made.alerts == []


def test_scores_that_move_while_inputs_are_quiet_page_and_say_so():
    made = both(Timeline((FIRST,)), 8, score={"move": 0.6, "since": DAY0 + 4 * HOUR})
    assert made.changes == [("firing", None)]
    [alert] = made.alerts
    assert {f.feature for f in alert.features} <= set(NAMES) and alert.source == "data"
    assert "no input has" in alert.causes[0].evidence and alert.causes[0].place.startswith(NAMES)
    assert set(made.rows.states("price")) == {"ok"}


def test_a_shift_of_inputs_and_scores_is_one_episode_that_names_both():
    made = both(
        Timeline((FIRST,)), 10, factor=1.4, since=DAY0 + 4 * HOUR, score={"move": 0.8, "since": DAY0 + 4 * HOUR}
    )
    assert {a.state for a in made.alerts} <= {"pending", "firing"}
    assert len({a.episode for a in made.alerts}) == 1
    named = {f.feature for f in made.alerts[-1].features}
    assert "price" in named and named & set(NAMES)
    assert made.alerts[-1].causes[0].place.startswith("price")  # inputs that moved explain the scores


def test_an_episode_ends_when_both_streams_have_returned():
    timeline, made = Timeline((FIRST,)), Both(1, Timeline((FIRST,)))
    plain = rows(0, 16, an_hour=1000)
    moved = rows(0, 16, an_hour=1000, factor=1.6, since=DAY0 + 3 * HOUR)
    own = [m if m[0] < DAY0 + 6 * HOUR else p for p, m in zip(plain, moved, strict=True)]
    stream = blocks_of(0, own, list(range(200, len(own), 200)))
    for block in stream:
        move = 1.0 if block.header.max_event_time < DAY0 + 9 * HOUR else 0.0  # the scores move three hours longer
        made.rows.write(*counted([block], timeline, (), SCORED.of_rows)[0])
        made.scores.write(*counted(answered([block], move=move, since=DAY0 + 3 * HOUR), timeline, (), OF_SCORES)[0])
        made.turn(0.1)
    made.drain()
    assert made.changes[-1] == ("resolved", "returned")
    assert len({a.episode for a in made.alerts}) == 1
    [resolved] = [a for a in made.alerts if a.state == "resolved"]
    alarmed = [w for (w, f, g), v in made.rows.latest.items() if (f, g) == ("price", "*") and b'"alarm"' in v]
    assert max(alarmed) < "2026-06-01T10" and resolved.window_start > "2026-06-01T11"  # the rows were back long before


def test_another_model_is_not_counted_told_by_number_and_does_not_page():
    """Version 2 answers from hour 4 on; its references are in force from hour 6."""
    swap = lambda time: "2" if time >= DAY0 + 4 * HOUR + 13 * MINUTE else "1"  # noqa: E731
    timeline = Timeline((FIRST, scored_set(2, DAY0 + 6 * HOUR, "2")))
    made = both(timeline, 10, score={"version_of": swap})
    assert made.alerts == []
    told = [json.loads(v) for k, v in sorted(made.scores.latest.items()) if k[1:] == ("score", "*")]
    assert [v["other_model"] > 0 for v in told] == [False] * 4 + [True, True] + [False] * 3
    assert [v["n"] + v["other_model"] for v in told] == [
        json.loads(v)["n"] for k, v in sorted(made.rows.latest.items()) if k[1:] == ("price", "*")
    ]
    assert [v["state"] for v in told] == ["ok"] * 5 + ["undefined"] + ["ok"] * 3


def test_the_same_answers_judged_by_the_other_models_reference_would_page():
    made = both(Timeline((FIRST,)), 6, score={"version_of": lambda time: "1"})
    assert made.alerts == []
    wrong = replace(scored_set(1, DAY0, "2"))
    members = {k: replace(r, model="1") if r.model else r for k, r in wrong.load().items()}
    assert both(Timeline((replace(wrong, load=lambda: members),)), 6).changes[-1] == ("firing", None)


def test_what_the_model_knows_of_the_past_is_judged_like_its_answers_and_says_so():
    """Beside quiet inputs and quiet scores; a block from before it was watched holds nulls, and no process dies of it."""
    past = MonitoredFeature("customer_rate_1d", "numeric")
    contract = replace(SCORED, drift=replace(SCORED.drift, scores=(*SCORES, past)))
    drawn = lambda rng, rows: rng.gamma(3.0, 0.05, rows)  # noqa: E731
    known = pa.array(drawn(np.random.default_rng(5), 12_000))
    reference = replace(cells.build(past, "*", known, version=1, effective_from=DAY0), model="1")
    timeline = Timeline((replace(FIRST, load=lambda: {**FIRST.load(), (past.name, "*"): reference}),))
    made, rng = Both(1, timeline, contract), np.random.default_rng(6)
    for block in blocks(0, 8, an_hour=800):
        [scored] = answered([block])
        told = scored.rows.column("score").to_pylist(), scored.rows.column("model_version").to_pylist()
        factor = 1.8 if block.header.min_event_time >= DAY0 + 4 * HOUR else 1.0
        past_of = {past.name: (drawn(rng, scored.rows.num_rows) * factor).tolist()}
        made.rows.write(*counted([block], timeline, (), contract.of_rows)[0])
        whole = score_block(block, contract, Answers(*told, past_of))
        made.scores.write(*counted([whole], timeline, (), contract.of_scores)[0])
        made.turn(0.1)
    made.drain()
    assert made.changes == [("firing", None)]
    [alert] = made.alerts
    assert {f.feature for f in alert.features} == {past.name} and alert.onset >= "2026-06-01T03"
    assert alert.causes[0].evidence.startswith(
        "what the model knows of the past moved and no input has: customer_rate_1d"
    )
    assert set(made.scores.states("score")) == {"ok"}
    [older] = answered(blocks(0, 1)[:1])
    [partial] = counted([older], timeline, (), contract.of_scores)[0]
    assert past.name not in older.rows.schema.names and sum(p.on_time for p in partial.panes) == older.rows.num_rows


def test_answers_add_up_and_part_with_what_was_known():
    one, none = Answers([0.1, 0.2], ["1", "1"], {"past": [3.0, None]}), Answers([0.3], ["0"])
    both_ = one + none
    assert (both_.scores, both_.versions, both_.history) == (
        [0.1, 0.2, 0.3],
        ["1", "1", "0"],
        {"past": [3.0, None, None]},
    )
    assert both_[1:] == Answers([0.2, 0.3], ["1", "0"], {"past": [None, None]})
    assert (none + one).known("past") == [None, 3.0, None] and none.known("past") == [None]


def test_a_stopped_scorer_never_holds_back_the_rows():
    timeline = Timeline((FIRST,))
    made = Both(1, timeline)
    stream = blocks(0, 6)
    for at, b in enumerate(stream):
        made.rows.write(*counted([b], timeline, (), SCORED.of_rows)[0])
        if at < len(stream) // 2:
            made.scores.write(*counted(answered([b]), timeline, (), OF_SCORES)[0])
        made.turn(0.1)
    assert len(made.rows.states("price")) == 5 and len(made.scores.states("score")) == 2


def test_a_partition_is_waited_for_only_while_a_score_can_come():
    rows_ = {p: Progress(next=300, block=3) for p in range(4)}
    heard = {0: Progress(next=300), 1: Progress(next=200), 2: Progress(), 3: Progress()}
    assert unscored(rows_, heard, {}) == {1, 2, 3}
    assert unscored(rows_, heard, {1: 2, 2: 3, 3: 9}) == {1}  # the scorer is past all blocks of 2 and 3


def test_the_scorer_is_past_what_it_committed_once_nothing_is_on_the_way_and_a_repeat_does_not_hold_for_ever():
    reach, asked = ScorerReach(None, "tiny"), []
    on_the_way = frozenset({1})
    reach._passed = lambda partitions: asked.append(1) or dict.fromkeys(partitions, 7)
    reach._scores.behind = lambda heard: on_the_way
    assert reach.of({0: 4, 1: 4}, 100.0) == {0: 7}
    assert reach.of({0: 4, 1: 4}, 101.0) == {0: 7} and len(asked) == 1
    assert reach.of({0: 4, 1: 4}, 159.0) == {0: 7}
    assert reach.of({0: 4, 1: 4}, 165.0) == {0: 7, 1: 7}


def test_one_page_budget_for_inputs_and_scores():
    members = FIRST.load()
    rows_, scores = (thresholds(plan, members) for plan in (SCORED.drift.of_rows, SCORED.drift.of_scores))
    assert rows_.shares == scores.shares and sum(rows_.shares.values()) == pytest.approx(1)
    assert {f for f, _ in rows_.by_key} == {"price", "region"} and {f for f, _ in scores.by_key} == set(NAMES)
    assert rows_.by_key | scores.by_key == thresholds(SCORED.drift, members).by_key


def test_weight_and_tolerance_count_as_of_any_feature():
    heavy = replace(SCORES[0], weight=3.0, tolerance=Tolerance("distance", 0.5))
    contract = replace(SCORED, drift=replace(SCORED.drift, scores=(heavy, SCORES[1])))
    budget = thresholds(contract.drift.of_scores, FIRST.load())
    assert budget.shares["score", "*"] == pytest.approx(3 * budget.shares["confidence", "*"])
    made = Harness(1, Timeline((FIRST,)), contract.of_scores)
    for partials in counted(
        answered(blocks(0, 6), move=0.6, since=DAY0 + 3 * HOUR), Timeline((FIRST,)), (), contract.of_scores
    ):
        made.write(*partials)
    made.drain()
    assert "alarm" not in made.states("score") and "alarm" in made.states("confidence")


def test_without_references_of_scores_their_rows_are_counted_and_nothing_pages():
    made = both(Timeline((reference_set(1, DAY0),)), 4)
    assert set(made.scores.states("score")) == {"reference_missing"} and made.alerts == []


def test_a_block_without_a_model_holds_its_range_and_no_row():
    [block] = blocks_of(0, rows(0, 1), [])
    empty = score_block(block, SCORED, None)
    assert empty.rows.num_rows == 0 and empty.header.counts == {UNSCORED: block.valid.num_rows}
    assert (empty.header.start, empty.header.end) == (block.header.start, block.header.end)
    with pytest.raises(ValueError, match="expected 400 scores, got 1"):
        score_block(block, SCORED, Answers([0.5], ["1"]))


@st.composite
def runs(draw_: st.DrawFn):
    cuts = [sorted(draw_(st.sets(st.integers(1, 199), max_size=6))) for _ in range(2)]
    learned = [sorted(draw_(st.lists(st.integers(0, len(own) + 1), min_size=2, max_size=2))) for own in cuts]
    swap = DAY0 + draw_(st.integers(0, 5 * 60)) * MINUTE
    return cuts, learned, swap, draw_(st.lists(st.integers(0, 9), max_size=50))


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(runs())
def test_verdicts_of_scores_are_a_function_of_their_log(run):
    """Interleavings, redelivery, restarts, late learning of references, a model swapped in the middle of a block."""
    cuts, learned, swap, steps = run
    timeline = Timeline((FIRST, scored_set(2, DAY0 + 3 * HOUR + 25 * MINUTE, "2")))
    version_of = lambda time: "2" if time >= swap else "1"  # noqa: E731
    own = [rows(p, 5, an_hour=40) for p in range(2)]
    plain, odd = (Harness(2, timeline, OF_SCORES) for _ in range(2))
    for p in range(2):
        for partials in counted(answered(blocks_of(p, own[p], []), version_of), timeline, (), OF_SCORES):
            plain.write(*partials)
    plain.drain()
    waiting = [
        counted(
            answered(blocks_of(p, own[p], cuts[p]), version_of),
            timeline,
            [(learned[p][0], 1), (learned[p][1], 2)],
            OF_SCORES,
        )
        for p in range(2)
    ]
    for step in steps:
        if step < 4 and waiting[step % 2]:
            odd.write(*waiting[step % 2].pop(0))
        elif step < 6 and odd.log:
            odd.write(odd.log[step * 13 % len(odd.log)])
        elif step == 6:
            odd.turn()
        elif step == 7:
            odd.turn(IDLE_S)
        elif step == 8:
            odd.restart()
    for p in range(2):
        while waiting[p]:
            odd.write(*waiting[p].pop(0))
            odd.turn(0.1)
    odd.drain()
    assert odd.latest == plain.latest and plain.latest
