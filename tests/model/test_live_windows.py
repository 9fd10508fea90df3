"""Windows of live figures: told while they change, closed once, by the slices that the service names."""

from __future__ import annotations

import json

import msgspec
import pytest

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file
from pipeline.contract import OutcomeLabel
from pipeline.times import to_text
from serving.predicted import Answered, messages
from stream_processors.live import live_told
from stream_processors.live.evaluate import AGE_DELAYS, Evaluator
from stream_processors.live.joining import NEVER, Labelled, Prediction
from stream_processors.live.live_windows import RECENT, WHOLE, Windows

CONTRACT = contract_file.load("sales")
HOUR = 3_600_000
PREDICTIONS, OUTCOMES = ("sales.predictions", 0), ("sales.outcomes", 0)


def evaluator() -> Evaluator:
    assert isinstance(CONTRACT.label, OutcomeLabel)
    return Evaluator(CONTRACT, CONTRACT.label, PrometheusMeter())


def outcome(key: str, at_ms: int, returned: bool) -> dict[str, object]:
    return {"order_id": key, "returned": returned, "event_time": to_text(at_ms)}


def answer(live: Evaluator, said: Answered) -> None:
    """As the service logs it."""
    for part in messages(said, 0, "sales-returned", "order_id", "event_time"):
        for message in part:
            value = message["value"]
            assert isinstance(value, bytes)
            live.prediction(msgspec.json.decode(value), PREDICTIONS)


def test_what_the_service_logs_is_counted_in_its_slices() -> None:
    slices = {"region": ["north", "atlantis"], "channel": ["web", "web"]}
    live = evaluator()
    answer(live, Answered("a", ["o1", "o2"], [HOUR, HOUR], [0.2, 0.7], "3", "d", slices=slices))
    live.outcome(outcome("o1", 2 * HOUR, True), OUTCOMES)
    ((key, record),) = live.records()
    assert key == f"3/{HOUR}" and (record["predicted"], record["labelled"], record["final"]) == (2, 1, False)
    tallies = record["tallies"]
    assert isinstance(tallies, dict) and set(tallies) == {WHOLE, "channel=web", "region=north"}  # no such region


@pytest.mark.parametrize(
    ("positives", "labelled", "holds", "counted"),
    [(30, 100, True, 'result="held"'), (80, 100, False, 'result="missed"'), (30, 80, None, None)],
)
def test_a_window_tells_when_no_label_can_come_any_more_whether_its_estimate_held(
    positives: int, labelled: int, holds: bool | None, counted: str | None
) -> None:
    live, keys = evaluator(), [f"o{n}" for n in range(100)]
    answer(live, Answered("a", keys, [HOUR] * 100, [0.3] * 100, "3", "d"))
    for n, key in enumerate(keys[:labelled]):
        live.outcome(outcome(key, 2 * HOUR, n < positives * labelled // 100), OUTCOMES)
    ((_, record),) = live.records()
    assert not record["final"]
    answer(live, Answered("b", ["later"], [60 * HOUR], [0.3], "3", "d"))
    live.outcome(outcome("later", 60 * HOUR, False), OUTCOMES)
    record = dict(live.records())[f"3/{HOUR}"]
    assert (record["final"], record["estimate_holds"]) == (True, holds)
    told = [
        line for line in live.meter.exposition().decode().splitlines() if "driftline_estimate_windows_total{" in line
    ]  # type: ignore[attr-defined]
    assert [line.split()[-1] for line in told] == ([] if counted is None else ["1.0"]) and all(
        str(counted) in t for t in told
    )


def prediction(event_ms: int, key: str = "k", score: float = 0.3) -> Prediction:
    return Prediction(key, "1", score, event_ms, f"{key}/{event_ms}", ("region=north",))


def test_a_window_is_told_when_it_changes_and_closes_once() -> None:
    windows, late = Windows(CONTRACT, "m"), prediction(HOUR // 2)
    windows.predicted(late)
    assert [(k, r["final"]) for k, r in windows.records(0)] == [("1/0", False)]
    assert list(windows.records(0)) == []
    windows.labelled(Labelled(late, True))
    windows.predicted(prediction(3 * HOUR))
    assert [(k, r["final"]) for k, r in windows.records(HOUR)] == [("1/0", True), (f"1/{3 * HOUR}", False)]
    windows.predicted(late)  # read again after a restart
    assert list(windows.records(HOUR)) == [] and windows.closed_ms == HOUR


def test_gauges_speak_of_whole_windows_that_hold_enough_rows() -> None:
    windows = Windows(CONTRACT, "m")
    for hour in range(4):
        for i in range(RECENT // 2):
            one = prediction(hour * HOUR, f"k{i}")
            windows.predicted(one)
            windows.labelled(Labelled(one, i % 4 == 0))
    recent = windows.recent("1")
    assert recent[WHOLE].rows == RECENT and recent["region=north"].rows == RECENT
    assert windows.recent("2") == {}


def test_nothing_is_settled_before_every_partition_was_read() -> None:
    live = evaluator()
    live.begin({PREDICTIONS: NEVER, OUTCOMES: NEVER}, NEVER)
    for hour in range(23):
        live.outcome(outcome(f"o{hour}", hour * HOUR, False), OUTCOMES)
    assert live.settled_ms < 0 and live.age_ms == AGE_DELAYS * 6 * HOUR


def test_windows_of_one_version_add_up_to_what_one_window_would_have_said() -> None:
    parts, whole = Windows(CONTRACT, "m"), Windows(CONTRACT, "m")
    for i in range(400):
        one, together = prediction(i % 4 * HOUR, f"k{i}", (i % 97) / 100), prediction(0, f"k{i}", (i % 97) / 100)
        for windows, it in ((parts, one), (whole, together)):
            windows.predicted(it)
            windows.labelled(Labelled(it, i % 5 == 0))

    told = [json.loads(json.dumps(record)) for _, record in parts.records(-1)]
    alone = [json.loads(json.dumps(record)) for _, record in whole.records(-1)]
    plan = CONTRACT.evaluation
    four, one_, two = (list(live_told.summed(r, plan, n)) for r, n in (([*told, *told], 9), (alone, 9), (told, 2)))
    assert [f["realised"] for f in four] == [o["realised"] for o in one_] and four[0]["windows"] == 4
    assert (two[0]["windows"], two[0]["labelled"]) == (2, 200)
