"""The online challenger: what it knew when it answered, that it goes on where it stopped, and what it is worth."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import gate, ledger, online, online_file
from batch.labels import LABEL
from batch.ledger import Ledger
from batch.online import Event, Learner, Paired
from batch.online_watch import OnlineWatch
from pipeline import contract_file
from pipeline.settings import Settings, from_environment
from stream_processors.live import model_features
from tests.model import lake, made, sales_rows
from tests.model.sales_rows import HOUR_MS

CONTRACT = contract_file.load("sales")
FEATURES = model_features.features_for(CONTRACT)
ROWS = sales_rows.labelled(sales_rows.draw(8_000, seed=3, hours=96))
DELAY = 6 * HOUR_MS


def events(rows: pl.DataFrame = ROWS) -> list[Event]:
    return list(online.events_of(FEATURES, rows, LABEL))


#  time   0    1    2    3    4        a label is known two later
#  event  a    b    c    d    e        d is answered by what a and b taught
def test_a_row_is_answered_by_what_was_known_when_it_happened() -> None:
    def scores(labels: list[bool]) -> list[float]:
        return online.follow(Learner(), [Event(i, ({"x": 1.0}, {}), y) for i, y in enumerate(labels)], 2).tolist()

    one = scores([True, True, False, False, False])
    assert one[0] == one[1] == 0.5 and one[2] > 0.5
    assert scores([True, True, True, True, True])[:4] == one[:4]
    assert scores([True, False, False, False, False])[3] != one[3]


@given(st.integers(0, 7_999), st.integers(0, 7_999))
@settings(max_examples=10)
def test_a_learner_that_stops_anywhere_answers_as_one_that_never_did(first: int, second: int) -> None:
    every, learner, scores = EVENTS, Learner(), []
    for end in (*sorted((first, second)), len(every)):
        learner = online.restored(json.loads(json.dumps(learner.state())))
        start = next((i for i, e in enumerate(every) if learner.learned is None or e.at > learner.learned), len(every))
        found = online.follow(learner, every[start:end], DELAY)
        scores += found[np.isfinite(found)].tolist()
    assert scores == STRAIGHT[1].tolist() and learner.state() == STRAIGHT[0].state()


EVENTS = events()
_straight = Learner()
STRAIGHT = (_straight, online.follow(_straight, EVENTS, DELAY))


def test_it_learns_the_world_and_a_world_that_changed() -> None:
    label, loss = ROWS[LABEL].to_numpy(), gate.log_loss
    late = slice(4_000, None)
    base = loss(label[late], np.full(4_000, label.mean())).mean()
    assert loss(label[late], STRAIGHT[1][late]).mean() < 0.95 * base
    turned = [Event(e.at, e.row, not e.label if i >= 3_000 else e.label) for i, e in enumerate(EVENTS)]
    scores = online.follow(Learner(), turned, DELAY)[-1_000:]
    assert loss(~label[-1_000:], scores).mean() < 0.5 * loss(~label[-1_000:], STRAIGHT[1][-1_000:]).mean()


@given(st.lists(st.integers(2, 60), min_size=1, max_size=5), st.integers(0, 99))
def test_sums_give_the_gates_own_bound(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=n), rng.uniform(0.1, 1, n)) for n in sizes]
    paired = Paired("1")
    for difference, loss in parts:
        paired.add(difference, loss)
    expected = gate.bound(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    found = paired.bound()
    assert found.rows == expected.rows
    assert [found.mean, found.error, found.upper, found.loss] == pytest.approx(
        [expected.mean, expected.error, expected.upper, expected.loss], abs=1e-9
    )


def test_weights_are_bounded_whatever_comes() -> None:
    learner = Learner()
    for i in range(online.MOST_WEIGHTS + 500):
        learner.learn(({}, {f"sku={i}": 1.0}), True)
    assert len(learner.model.weights) == online.MOST_WEIGHTS


def test_beside_a_champion_it_goes_on_and_a_new_champion_starts_the_comparison_anew(tmp_path: Path) -> None:
    place = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    scorers = {v: made.trained(place, CONTRACT, v, ROWS) for v in ("1", "2")}
    begun = online_file.update(place, CONTRACT, "m", ROWS.head(7_000), ("1", scorers["1"]))
    assert begun["rows"] == 7_000 - 6_000  # the champion was taught the others
    gone_on = online_file.update(place, CONTRACT, "m", ROWS, ("1", scorers["1"]))
    assert gone_on["rows"] == 2_000 and gone_on["champion"] == "1"
    both = gate.log_loss(ROWS[LABEL].to_numpy()[6_000:], STRAIGHT[1][6_000:])
    theirs = gate.log_loss(ROWS[LABEL].to_numpy()[6_000:], scorers["1"].score(ROWS)[6_000:])
    assert gone_on["mean"] == pytest.approx((both - theirs).mean(), rel=1e-9)
    again = online_file.update(place, CONTRACT, "m", ROWS, ("1", scorers["1"]))
    assert again == gone_on and "version 1 over 2000 labels" in online.text(again)
    anew = online_file.update(place, CONTRACT, "m", ROWS, ("2", scorers["2"]))
    assert anew["rows"] == 0 and anew["learned"] == again["learned"] and not anew["better"]


def test_a_torn_checkpoint_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    first = online_file.update(place, CONTRACT, "m", ROWS.head(2_000), None)
    path = tmp_path / "models" / "m" / online_file.NAME
    path.write_text(path.read_text()[:100])
    assert online_file.update(place, CONTRACT, "m", ROWS.head(2_000), None) == first
    assert "online_model_starts_anew" in capsys.readouterr().err


def test_rows_that_begin_behind_the_last_one_learned_leave_no_gap(tmp_path: Path) -> None:
    place = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    online_file.update(place, CONTRACT, "m", ROWS.head(2_000), None)
    onset = int(ROWS[FEATURES.clock].dt.epoch("ms")[5_000])
    since = online_file.update(place, CONTRACT, "m", ROWS[5_000:], None, onset)  # as a training after a shift sees them
    assert since["learned"] == kept(place, "m")["rows"] < 2_000
    assert online_file.update(place, CONTRACT, "m", ROWS, None)["learned"] == STRAIGHT[0].rows
    assert kept(place, "m")["weights"] == STRAIGHT[0].state()["weights"]


def test_between_trainings_it_learns_each_label_that_lands_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_file, "MOST_ROWS", 3_500)  # a beginning; what lands later is learned whole
    place = from_environment({"DRIFTLINE_HOME": str(tmp_path / "one")})
    block = sales_rows.draw(12_000, seed=3, hours=96)
    rows, heard = sales_rows.events(block, 2), sales_rows.outcomes(block)
    lake.write_outcomes(place, CONTRACT, heard)
    lake.write_events(place, CONTRACT, rows[:4_000])
    made.trained(place, CONTRACT, "1", ROWS)
    book = Ledger(ledger.path_of(place))
    [trained] = book.entries("sales-returned")
    book.crown(replace(trained.draft, action="promote"), None)
    first = online_file.look(place, CONTRACT, "sales-returned")
    lake.write_events(place, CONTRACT, rows[4_000:])
    watch, running = OnlineWatch(place, CONTRACT), threading.Event()
    watch.turn(running)
    there = kept(place, "sales-returned")
    assert int(str(there["rows"])) > 2 * int(str(first["learned"])) > 0
    watch.turn(running)  # the lake has not gone on
    assert kept(place, "sales-returned") == there
    assert online_file.look(place, CONTRACT, "sales-returned")["learned"] == there["rows"]  # nothing new
    # another home over the same lake, that looked twice too, and between them was asked again and again
    other = replace(place, home=tmp_path / "other")
    for end in (4_000, 4_000, 12_000):
        every = sales_rows.with_history(rows, rows, heard)[:end]
        labelled = every.with_columns(label=pl.Series(block.returned[:end].astype(bool)))
        mature = labelled.filter(pl.col("event_time") <= every["event_time"].max() - pl.duration(milliseconds=DELAY))
        online_file.update(other, CONTRACT, "m", mature, None)
    assert {k: there[k] for k in LEARNT} == {k: kept(other, "m")[k] for k in LEARNT}


LEARNT = ("learned", "scored", "rows", "scaler", "weights", "intercept", "steps")


def kept(place: Settings, model: str) -> dict[str, object]:
    return json.loads((place.home / "models" / model / online_file.NAME).read_text())
