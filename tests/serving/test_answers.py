"""What lies behind the HTTP door: one record without a frame, log entries, overload, which ledger entries count."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch import model
from pipeline import contract_file, decode
from pipeline.settings import from_environment
from serving.admission import JSON_TYPE, Admission, RawCoordinates
from serving.champion import promotion
from serving.explained import values_of
from serving.overload import Slots, Turns
from serving.predicted import SLICE, Answered, messages
from serving.refusal import Refusal
from serving.scoring import Champion, Scoring, answer_of
from serving.worker_metrics import forget_dead_workers
from stream_processors.live.feature_records import AsOf
from stream_processors.live.model_features import features_for
from tests.serving.conftest import body, bundle, order

CONTRACT = contract_file.load("sales")
HISTORY = len(features_for(CONTRACT).history)


class Nothing:
    """A store that knows no entity: the history features are all missing."""

    as_of: AsOf | None = None

    def row(self, record: decode.Row) -> tuple[list[float], AsOf | None]:
        return [np.nan] * HISTORY, self.as_of

    def matrix(self, frame: pl.DataFrame, raw: object = None) -> tuple[np.ndarray, AsOf | None]:
        return np.full((len(frame), HISTORY), np.nan), self.as_of


@pytest.fixture(scope="module")
def scoring() -> Scoring:
    return Scoring(CONTRACT, "sales-returned", Admission(decode.compile(CONTRACT)), Nothing(), lambda: "id")


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    made = from_environment({"DRIFTLINE_HOME": str(tmp_path_factory.mktemp("home"))})
    artifact = bundle(made, CONTRACT, "7", 1)
    scorer = model.load(made.home / artifact["uri"], artifact["sha256"])
    return Champion("7", artifact["sha256"], scorer)


RECORD = st.builds(
    lambda price, quantity, discount, when, category: order(
        price=price, quantity=quantity, discount=discount, event_time=f"{when.isoformat()}Z", category=category
    ),
    st.floats(0, 1e6), st.integers(0, 1000), st.floats(0, 1),
    st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)),
    st.sampled_from(["books", "toys", "home"]),
)  # fmt: skip


@given(record=RECORD)
def test_a_record_alone_is_scored_as_the_library_scores_it_in_a_batch(
    scoring: Scoring, champion: Champion, record: dict[str, object]
) -> None:
    one = json.loads(scoring.one(champion, JSON_TYPE, body(record)).body)
    many = json.loads(scoring.many(champion, JSON_TYPE, body({"rows": [record, order(1)]})).body)
    frame = pl.DataFrame([decode.compile(CONTRACT).decode(body(record))])
    matrix = champion.scorer.features.matrix(frame, np.full((1, HISTORY), np.nan))
    assert abs(one["score"] - champion.scorer.classifier.predict_proba(matrix)[0, 1]) < 1e-12
    assert one["score"] == many["scores"][0] and (one["version"], many["version"]) == ("7", "7")


@given(record=RECORD)
def test_an_explanation_takes_the_very_score_apart_and_its_parts_add_up(
    scoring: Scoring, champion: Champion, record: dict[str, object]
) -> None:
    one = json.loads(scoring.one(champion, JSON_TYPE, body(record)).body)
    answer = scoring.explain(champion, JSON_TYPE, body(record))
    told = json.loads(answer.body)
    assert {k: told[k] for k in one if k != "id"} == {k: v for k, v in one.items() if k != "id"}
    assert answer.answered is None  # an explanation is no prediction: it is not logged
    parts = told["contributions"]
    assert sorted(p["feature"] for p in parts) == sorted(champion.scorer.features.names)
    assert told["base"]["log_odds"] + sum(p["log_odds"] for p in parts) == pytest.approx(told["log_odds"], abs=1e-9)
    assert 1 / (1 + np.exp(-told["log_odds"])) == pytest.approx(told["score"], abs=1e-12)
    sizes = [abs(p["log_odds"]) for p in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert all(p["log_odds"] * p["probability"] >= 0 for p in parts)
    said = {p["feature"]: p["value"] for p in parts}
    assert (said["price"], said["category"], said["region"]) == (record["price"], record["category"], "north")
    assert {said[name] for name in champion.scorer.features.history} == {None}  # the store knows nobody


@given(record=RECORD)
def test_what_is_logged_of_an_answer_explains_it_as_its_record_does(
    scoring: Scoring, champion: Champion, record: dict[str, object]
) -> None:
    answered = scoring.one(champion, JSON_TYPE, body(record)).answered
    assert answered is not None
    [[message]] = messages(answered, 0, "sales-returned", "order_id", "event_time")
    row = [np.nan if v is None else v for v in json.loads(message["value"])["row"]]  # type: ignore[arg-type]
    features = champion.scorer.features
    told = scoring.explain_row(champion, row, values_of(features, row), answered.keys[0], None)
    by_record = json.loads(scoring.explain(champion, JSON_TYPE, body(record)).body)
    assert json.loads(answer_of(told).body) == by_record and told.score == answered.scores[0]


def test_every_answer_and_its_log_entry_say_up_to_when_the_past_was_known(champion: Champion) -> None:
    store = Nothing()
    store.as_of = AsOf(1_772_409_600_000, "d", {"0": 7}, {"0": 3})
    scoring = Scoring(CONTRACT, "sales-returned", Admission(decode.compile(CONTRACT)), store, lambda: "id")
    for answer in (
        scoring.one(champion, JSON_TYPE, body(order())),
        scoring.many(champion, JSON_TYPE, body({"rows": [order()]})),
    ):
        assert json.loads(answer.body)["features_as_of"] == "2026-03-02T00:00:00.000Z"
        assert answer.answered is not None
        [[message]] = messages(answer.answered, 0, "sales-returned", "order_id", "event_time")
        assert json.loads(message["value"])["features"] == store.as_of.json()  # type: ignore[arg-type]


def test_what_was_known_of_the_past_is_told_where_it_is_asked_for(scoring: Scoring, champion: Champion) -> None:
    rows = [order(), order(1)]
    assert "history" not in json.loads(scoring.many(champion, JSON_TYPE, body({"rows": rows})).body)
    told = json.loads(scoring.many(champion, JSON_TYPE, body({"rows": rows, "history": True})).body)
    assert told["history"] == {name: [None, None] for name in features_for(CONTRACT).history}  # nothing, so null


def test_each_model_is_explained_by_its_own_trees(scoring: Scoring, champion: Champion, tmp_path: Path) -> None:
    made = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    artifact = bundle(made, CONTRACT, "8", 2)
    scorer = model.load(made.home / artifact["uri"], artifact["sha256"])
    other = Champion("8", artifact["sha256"], scorer)
    for asked in (champion, other, champion):
        told = json.loads(scoring.explain(asked, JSON_TYPE, body(order())).body)
        assert 1 / (1 + np.exp(-told["log_odds"])) == pytest.approx(told["score"], abs=1e-12)
        assert told["version"] == asked.version


def test_log_entries_name_row_model_and_coordinate_in_slices() -> None:
    rows = SLICE + 1
    raw = RawCoordinates("sales.events", 3, list(range(100, 100 + rows)))
    regions = {"region": ["north"] * rows}
    seen = np.array([[i, np.nan] for i in range(rows)], dtype=float)
    answered = Answered("a", [f"O{i}" for i in range(rows)], np.arange(rows) * 1000, [0.5] * rows, "7", "d" * 64, raw, slices=regions, rows=seen)  # fmt: skip
    parts = list(messages(answered, 1_500, "sales-returned", "order_id", "event_time"))
    assert [len(p) for p in parts] == [SLICE, 1]
    assert parts[1][0]["key"] == f"O{SLICE}"
    assert json.loads(parts[1][0]["value"]) == {
        "id": f"a-{SLICE}", "order_id": f"O{SLICE}", "score": 0.5, "model": "sales-returned", "version": "7",
        "digest": "d" * 64, "at": "1970-01-01T00:00:01.500Z", "event_time": "1970-01-01T00:03:20.000Z",
        "raw": {"topic": "sales.events", "partition": 3, "offset": 100 + SLICE}, "features": None,
        "slices": {"region": "north"}, "row": [float(SLICE), None],
    }  # fmt: skip


def test_a_turn_that_has_lasted_its_time_refuses_the_rest_and_the_next_one_starts_anew() -> None:
    now, later = [0.0], []
    turns = Turns(lambda: now[0], later.append, most_s=0.02, few=2)
    turns.take()
    now[0] = 5.0
    turns.take()  # late, but one of a few
    with pytest.raises(Refusal) as caught:
        turns.take()
    assert caught.value.status == 429 and len(later) == 1
    later.pop()()
    for _ in range(5):
        turns.take()  # many, but within the time
    assert len(later) == 1


def test_slots_are_given_back_whatever_happens() -> None:
    slots = Slots(most=1)
    with pytest.raises(KeyError), slots:
        with pytest.raises(Refusal), slots:
            raise AssertionError("two at once")
        raise KeyError
    with slots:
        assert slots.taken == 1
    assert slots.taken == 0


ENTRY = {
    "seq": 4, "model": "m", "version": "2", "action": "promote", "artifact": {"uri": "models/m/2", "sha256": "ab"}, "hash": "x",
}  # fmt: skip


def test_only_a_whole_promotion_of_this_model_counts() -> None:
    found = promotion(json.dumps(ENTRY).encode(), "m")
    assert found is not None and (found.seq, found.version, found.artifact.uri) == (4, "2", "models/m/2")
    assert promotion(json.dumps({**ENTRY, "action": "rollback"}).encode(), "m") is not None
    for other in (
        {"action": "train"},
        {"action": "keep"},
        {"model": "n"},
        {"artifact": None},
        {"version": None},
        {"seq": "4"},
    ):
        assert promotion(json.dumps({**ENTRY, **other}).encode(), "m") is None
    for damaged in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000):
        assert promotion(damaged, "m") is None


def test_gauges_of_a_process_that_is_gone_are_removed(tmp_path: Path) -> None:
    for name in (
        "gauge_all_999999999.db",
        f"gauge_all_{os.getpid()}.db",
        "counter_999999999.db",
        "gauge_livesum_999999999.db",
    ):
        (tmp_path / name).touch()
    assert set(forget_dead_workers(tmp_path)) == {999999999}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["counter_999999999.db", f"gauge_all_{os.getpid()}.db"]
