"""Attribution drift: parts add up to what the mean answer moved; moved inputs and moved answers are told apart."""

from __future__ import annotations

import argparse
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator

from batch import attribution, fitting, ledger, model
from batch.attributed import look
from batch.attribution import Attributed, Look, Sample, compared, lot
from batch.attribution_live import AttributionWatch, sentence
from batch.ledger import Draft, Ledger
from batch.models import Models
from batch.plan import compile_plan
from batch.tree_shap import Explainer, explainer_of
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings, from_environment
from pipeline.times import to_text
from stream_processors.live import model_features
from tests.model import lake, sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS

CONTRACT = contract_file.load("sales")
MODEL = "sales-returned"
TAUGHT, PER_WINDOW, HOURS = 12_000, 3_000, 6
SHIFTS = ("harmless-shift", "price-shift")  # one window each, behind the training data


@dataclass(frozen=True)
class World:
    settings: Settings
    tested_from: int
    rows: pl.DataFrame  # all of the lake's
    end: int  # of the training data


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    settings = from_environment({**os.environ, "DRIFTLINE_HOME": str(tmp_path_factory.mktemp("home"))})
    blocks = [sales_rows.draw(TAUGHT, seed=1)]
    start = START_MS + 24 * HOUR_MS
    for i, name in enumerate(SHIFTS):
        blocks.append(sales_rows.draw(PER_WINDOW, name, seed=2 + i, start_ms=start + i * HOURS * HOUR_MS, hours=HOURS))
    frames = [sales_rows.events(block) for block in blocks]
    counts = np.cumsum([0, *(f.height for f in frames)])
    rows = pl.concat([f.with_columns(raw_offset=pl.Series(np.arange(a, b))) for f, a, b in zip(frames, counts, counts[1:], strict=False)])  # fmt: skip
    heard = [sales_rows.outcomes(block) for block in blocks]
    outcomes = pl.concat([h.with_columns(topic_offset=pl.Series(np.arange(a, b))) for h, a, b in zip(heard, counts, counts[1:], strict=False)])  # fmt: skip
    lake.write_events(settings, CONTRACT, rows)
    lake.write_outcomes(settings, CONTRACT, outcomes)
    taught = sales_rows.with_history(frames[0], frames[0], heard[0].sort("append_time"))
    features = model_features.features_for(CONTRACT)
    parts = fitting.split(np.arange(TAUGHT))
    fitted = fitting.fit(features.matrix(taught), blocks[0].returned.astype(bool), parts, seed=1)
    times = taught["event_time"].dt.epoch("ms").to_numpy()
    tested_from, end = int(times[parts.test[0]]), int(times[-1])
    target = model.directory(settings, MODEL, "3")
    meta = {"version": "3", "tested_from": to_text(tested_from), "data": {"end": to_text(end)}}
    sha256 = model.save(target, fitted.classifier, features, meta, taught.head(16))
    artifact = {"uri": str(target.relative_to(settings.home)), "sha256": sha256}
    draft = Draft(to_text(end), MODEL, "promote", "3", artifact=artifact)
    Ledger(ledger.path_of(settings)).crown(draft, None)
    return World(settings, tested_from, rows, end)


def seen(world: World, **more: object) -> Look:
    return look(world.settings, CONTRACT, MODEL, window=HOURS * HOUR_MS, **more)  # type: ignore[arg-type]


def by_name(found: Attributed) -> dict[str, attribution.Feature]:
    return {f.feature: f for f in found.features}


def test_the_champions_windows_lie_behind_its_training_and_beside_what_it_was_measured_on(world: World) -> None:
    found = seen(world)
    assert (found.version, found.reference.rows) == ("3", int(TAUGHT * fitting.TEST_SHARE))
    assert [w.start for w in found.windows] == [START_MS + (24 + HOURS * i) * HOUR_MS for i in range(2)]
    assert [w.rows for w in found.windows] == [1_000, 1_000] and found.whole.rows == 2_000


def test_the_differences_of_all_features_add_up_to_what_the_mean_log_odds_moved(world: World) -> None:
    found = seen(world)
    for w in (*found.windows, found.whole):
        moved = w.log_odds - found.reference.log_odds
        assert sum(f.difference.value for f in w.features) == pytest.approx(moved, abs=1e-9)


def test_an_input_that_moved_and_changed_answers_is_told_from_one_that_moved_only(world: World) -> None:
    harmless, dearer = (by_name(w) for w in seen(world, rows=3_000).windows)
    # prices are a third higher, and the model asks for them
    assert dearer["price"].moved and dearer["price"].changed and not harmless["price"].moved
    assert dearer["price"].input > 0.05
    # other regions: what the model says hardly hangs on them
    assert harmless["region"].moved and harmless["region"].input > dearer["price"].input
    assert abs(harmless["region"].score) < 0.002 < 0.01 < dearer["price"].score
    assert not dearer["region"].moved


def test_a_look_depends_on_the_rows_alone_and_a_smaller_sample_is_part_of_a_larger_one(
    world: World, tmp_path: Path
) -> None:
    other = from_environment(
        {**os.environ, "DRIFTLINE_HOME": str(world.settings.home), "DRIFTLINE_LAKE": str(tmp_path)}
    )
    for part in (world.rows[::-2], world.rows[-2::-2]):  # other commits, other files, another order
        lake.write_events(other, CONTRACT, part)
    blind = look(other, CONTRACT, MODEL, window=HOURS * HOUR_MS)  # no outcomes there: rates of returns are not known
    assert by_name(blind.whole)["price"].input == by_name(seen(world).whole)["price"].input
    assert seen(world).json() == seen(world).json()
    assert seen(world, rows=200).whole.rows == 400


def test_what_cannot_be_looked_at_says_why(world: World) -> None:
    with pytest.raises(CheckFailed, match="knows no version 9"):
        seen(world, version="9")
    with pytest.raises(CheckFailed, match="the lake holds 2026-03-02"):
        seen(world, since=START_MS + 300 * HOUR_MS)
    few = seen(world, rows=attribution.FEWEST - 1).windows[0]
    assert (few.rows, few.score, few.features) == (attribution.FEWEST - 1, None, ())


def run(world: World, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    Models.configure(parser)
    return Models.run(parser.parse_args(["attribution", "--window", "6h", *argv]), world.settings)


def test_the_verb_tells_people_and_programs_and_draws(world: World, tmp_path: Path, capsys) -> None:
    picture = tmp_path / "parts.svg"
    assert run(world, "--plot", str(picture)) == 0
    said = capsys.readouterr().out
    assert "sales-returned version 3: 2,000 sampled rows, 2026-03-03 00:00" in said
    line = next(x for x in said.splitlines() if x.startswith("price "))
    assert line.endswith("moved, and changed answers")
    assert "mean answer" in picture.read_text() or picture.stat().st_size > 10_000
    assert run(world, "--json", "--from", to_text(START_MS + 30 * HOUR_MS)) == 0
    told = json.loads(capsys.readouterr().out)
    assert [w["start"] for w in told["windows"]] == ["2026-03-03T06:00:00.000Z"]
    assert {"feature", "input", "moved", "difference", "score", "changed"} <= set(told["whole"]["features"][0])
    with pytest.raises(UsageError, match="--from yesterday"):
        run(world, "--from", "yesterday")
    for wrong in (("--window", "soon"), ("--rows", "0"), ("--plot", "parts.txt")):
        with pytest.raises(UsageError, match=" ".join(wrong)):
            run(world, *wrong)


def test_the_newest_whole_window_is_looked_at_once_and_told_to_decisions_about_what_began_before_its_end(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    meter, go_on = PrometheusMeter(), threading.Event()
    watch = AttributionWatch(world.settings, CONTRACT, meter)
    watch.turn(go_on)  # a look in a process of its own
    start = START_MS + (24 + 2 * HOURS - 2) * HOUR_MS  # the newest order lies in the last hour
    (window,) = look(world.settings, CONTRACT, MODEL, since=start, until=start + HOUR_MS).windows
    price, gauge = by_name(window)["price"], meter.registry.get_sample_value
    labels = {"model": MODEL, "feature": "price"}
    assert price.changed and price.score > 0.01
    assert gauge("driftline_attribution_answer_change", labels) == price.score
    assert gauge("driftline_attribution_input_distance", labels) == price.input
    size = {**labels, "figure": "size", "bound": "low"}
    assert gauge("driftline_attribution_log_odds_change", size) == price.size_difference.low
    assert gauge("driftline_attribution_window_end_seconds", {"model": MODEL}) == (start + HOUR_MS) / 1000

    told = watch.since("3", start)["attribution"]
    assert (told["from"], told["to"]) == (to_text(start), to_text(start + HOUR_MS))
    assert f"price moved by {price.input:.3f} and changed the mean answer by {price.score:+.4f}" in told["said"]
    assert watch.since("3", start + HOUR_MS) == watch.since("4", start) == {}  # before it began, or another model

    assert capfd.readouterr().err.count(" attribution model=") == 1
    watch.turn(go_on)  # before its time
    watch._next = 0.0
    watch.turn(go_on)  # no new window
    assert capfd.readouterr().err == ""


def test_nothing_is_looked_at_without_a_champion_nor_while_stopping(world: World, tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    empty = from_environment({**os.environ, "DRIFTLINE_HOME": str(tmp_path)})
    for settings in (empty, world.settings):
        watch = AttributionWatch(settings, CONTRACT, PrometheusMeter())
        watch.turn(stopped)
        assert watch.seen is None and watch.since("3", 0) == {}


def test_the_sentence_names_what_changed_answers_most_and_whether_its_input_moved() -> None:
    row = {"input": 0.4, "moved": True, "changed": True}
    rows = [
        {**row, "feature": "region", "score": 0.0001, "changed": False},
        {**row, "feature": "price", "score": 0.01},
        {**row, "feature": "channel", "score": -0.02, "moved": False},
    ]
    assert sentence(rows) == (
        "channel did not move, yet changed the mean answer by -0.0200; "
        "price moved by 0.400 and changed the mean answer by +0.0100"
    )
    assert sentence(rows[:1]) == "no feature is shown to have changed the answers"


# -- the comparison itself, on a model of two features that matter together only


@pytest.fixture(scope="module")
def together() -> Explainer:
    """Says 'yes' where both are of one sign; the third it has no use for."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6_000, 3))
    y = rng.random(6_000) < np.where(x[:, 0] * x[:, 1] > 0, 0.8, 0.2)
    trees = HistGradientBoostingClassifier(max_leaf_nodes=5, max_iter=30, min_samples_leaf=200, random_state=1).fit(
        x[:4_000], y[:4_000]
    )
    return explainer_of(compile_plan(CalibratedClassifierCV(FrozenEstimator(trees), method="sigmoid").fit(x[4_000:], y[4_000:])))  # fmt: skip


def sample(explainer: Explainer, matrix: np.ndarray) -> Sample:
    return Sample(matrix, explainer.contributions(matrix), explainer.base)


def beside(explainer: Explainer, was: np.ndarray, now: np.ndarray, windows: int = 1) -> dict[str, attribution.Feature]:
    names = ("a", "b", "c")
    found = compared(sample(explainer, was), sample(explainer, now), names, (), start=0, end=1, windows=windows)
    return by_name(found)


def test_a_relation_that_turns_changes_answers_though_no_input_moves(together: Explainer) -> None:
    rng = np.random.default_rng(7)
    was, now = rng.normal(size=(8_000, 3)), rng.normal(size=(1_000, 3))
    now[np.argsort(now[:, 0]), 1] = -np.sort(-now[:, 1])  # the same values, each by itself as before
    found = beside(together, was, now)
    assert not (found["a"].moved or found["b"].moved or found["c"].moved)
    assert found["a"].changed and found["b"].changed
    assert found["a"].score + found["b"].score < -0.1


def test_an_input_that_the_model_does_not_ask_moves_far_and_changes_next_to_nothing(together: Explainer) -> None:
    rng = np.random.default_rng(3)
    was, now = rng.normal(size=(8_000, 3)), rng.normal(size=(1_000, 3))
    now[:, 2] += 2
    found = beside(together, was, now)
    assert found["c"].moved and found["c"].input > 0.6
    assert abs(found["c"].score) < 0.02


def test_windows_of_the_same_law_are_said_to_differ_in_few_looks(together: Explainer) -> None:
    rng = np.random.default_rng(4)
    was = rng.normal(size=(20_000, 3))
    looks = [beside(together, was, rng.normal(size=(500, 3))) for _ in range(60)]
    assert sum(any(f.changed for f in found.values()) for found in looks) <= 8  # 5 % of 60, and 2.9 deviations
    assert sum(any(f.moved for f in found.values()) for found in looks) <= 8


def test_categories_are_compared_by_shares_and_missing_is_one_of_them() -> None:
    rng = np.random.default_rng(5)
    was, now = rng.integers(0, 4, 5_000).astype(float), rng.integers(0, 4, 1_000).astype(float)
    assert attribution.shares(now, was)[1] > 0.01
    now[:100] = np.nan
    share, p = attribution.shares(now, was)
    assert share == pytest.approx(0.1) and p < 1e-9
    distance, p = attribution.distances(now, was)
    assert distance == pytest.approx(0.1, abs=0.02) and p < 1e-6


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1 << 40)), min_size=1, max_size=60, unique=True))
def test_a_lot_is_the_rows_own_whatever_stands_beside_it(places: list[tuple[int, int]]) -> None:
    partition, offset = (np.array(v) for v in zip(*places, strict=True))
    lots = lot(partition, offset)
    assert len(set(lots.tolist())) == len(places)
    assert lot(partition[-1:], offset[-1:])[0] == lots[-1]
    assert np.array_equal(lot(partition[::-1], offset[::-1]), lots[::-1])


def test_lots_are_spread_evenly_over_offsets_of_any_partition() -> None:
    for partition in range(3):
        lots = lot(np.full(100_000, partition), np.arange(100_000))
        chosen = np.sort(np.argsort(lots)[:1_000])
        assert abs(chosen.mean() / 50_000 - 1) < 0.06 and len(np.unique(chosen // 10_000)) == 10
