"""Features, fit and bundle: the same number from the plan and from the library; what was changed on disk never serves."""

from __future__ import annotations

import json
import os
import zipfile
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context

from batch import fitting, labels, model
from batch.model import BadBundle, Scorer
from batch.plan import compile_plan
from pipeline import contract_file
from pipeline.errors import CheckFailed, UsageError
from stream_processors.live import model_features
from stream_processors.live.model_features import FeatureSet
from tests.model import sales_rows

CONTRACT = contract_file.load("sales")
ROWS = sales_rows.labelled(sales_rows.draw(12_000, seed=3))


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return model_features.features_for(CONTRACT)


@pytest.fixture(scope="module")
def fitted(features: FeatureSet) -> fitting.Fitted:
    parts = fitting.split(np.arange(ROWS.height))
    return fitting.fit(features.matrix(ROWS), ROWS["label"].to_numpy(), parts, seed=1)


@pytest.fixture
def bundle(tmp_path: Path, fitted: fitting.Fitted, features: FeatureSet) -> tuple[Path, str]:
    target = tmp_path / "sales-returned" / "1"
    return target, model.save(target, fitted.classifier, features, {"model": "sales-returned"}, ROWS.head(16))


def test_a_request_and_a_training_row_have_the_same_features(features: FeatureSet) -> None:
    row = ROWS.row(7, named=True)
    request = pl.DataFrame([{c: row[c] for c in features.columns}])
    assert np.array_equal(features.matrix(request)[0], features.matrix(ROWS)[7], equal_nan=True)
    assert features.names[:4] == ("price", "quantity", "discount", "value")


def test_an_unknown_category_and_a_null_are_nan(features: FeatureSet) -> None:
    odd = ROWS.head(1).with_columns(channel=pl.lit("fax"), price=pl.lit(None, pl.Float64))
    found = dict(zip(features.names, features.matrix(odd)[0], strict=True))
    assert np.isnan(found["channel"]) and np.isnan(found["price"]) and np.isnan(found["value"])
    assert not np.isnan(found["region"])


def test_another_contract_gets_features_from_what_it_monitors_and_learns_its_categories() -> None:
    retail = contract_file.load("online_retail")
    features = model_features.features_for(retail)
    assert features.name == "monitored" and features.categorical
    column = features.categorical[0]
    data = {n: [1.0, 2.0] for n in features.numeric if n not in ("hour", "weekday")}
    rows = pl.DataFrame(
        {
            **data,
            **{c: ["a", "b"] for c in features.categorical},
            **{c: [0.0, 1.0] for c in features.history},
            retail.time.field: [datetime(2011, 1, 3, 9, tzinfo=UTC)] * 2,
        }
    )
    learned = model_features.with_categories(features, rows)
    assert learned.categories[column] == ("a", "b")
    assert (
        model_features.from_spec(json.loads(json.dumps(learned.spec()))).matrix(rows).tolist()
        == learned.matrix(rows).tolist()
    )


def test_a_model_of_another_feature_version_is_refused(features: FeatureSet) -> None:
    with pytest.raises(UsageError, match="version 0"):
        model_features.from_spec({**features.spec(), "version": "0"})


def test_what_is_measured_lies_after_what_was_learned_and_after_the_onset() -> None:
    parts = fitting.split(np.arange(30_000), since=26_000)
    assert parts.train.max() < parts.calibrate.min() and parts.calibrate.max() < parts.test.min()
    assert parts.calibrate.min() > 26_000 and parts.train.min() < 26_000  # few since the onset: topped up
    plenty = fitting.split(np.arange(100_000), since=50_000)
    assert plenty.train.min() == 50_000
    with pytest.raises(CheckFailed, match="too few labelled rows"):
        fitting.split(np.arange(1_000))


def test_outcomes_heard_after_the_test_rows_begin_change_nothing_that_was_taught() -> None:
    """Labels that are records of their own need no gap before the test rows: see `fitting.split`."""
    assert labels.overlap(CONTRACT) == timedelta(0) < labels.delay(CONTRACT)
    block = sales_rows.draw(6_000, seed=5, hours=48)
    rows, heard = sales_rows.events(block), sales_rows.outcomes(block).sort("append_time")
    parts = fitting.split(rows["event_time"].dt.epoch("ms").to_numpy())
    border = rows["append_time"][int(parts.test[0])]
    told_later = heard.with_columns(pl.col("returned") ^ (pl.col("append_time") >= border))
    assert 0 < (told_later["returned"] != heard["returned"]).sum() < heard.height
    known, other = (sales_rows.with_history(rows, rows, h) for h in (heard, told_later))
    taught = np.concatenate([parts.train, parts.calibrate])
    assert known[taught].equals(other[taught])
    assert not known[parts.test].equals(other[parts.test])  # what came with them they do know


def test_the_model_beats_its_base_rate_and_the_same_seed_gives_the_same_model(
    fitted: fitting.Fitted, features: FeatureSet
) -> None:
    assert fitted.metrics["log_loss"] < 0.95 * fitted.baseline["log_loss"] and fitted.metrics["auc"] > 0.7
    again = fitting.fit(features.matrix(ROWS), ROWS["label"].to_numpy(), fitting.split(np.arange(ROWS.height)), seed=1)
    assert np.array_equal(again.scores, fitted.scores)


def test_plan_and_library_agree_to_1e_12_at_every_size(bundle: tuple[Path, str]) -> None:
    scorer = model.load(*bundle)
    matrix = scorer.features.matrix(ROWS.head(500))
    expected = scorer.classifier.predict_proba(matrix)[:, 1]
    for rows in (1, 2, 129, 500):
        assert np.max(np.abs(scorer.score(ROWS.head(rows)) - expected[:rows])) < 1e-12
    assert len(scorer.score(ROWS.head(0))) == 0


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, fitted: fitting.Fitted, features: FeatureSet) -> Scorer:
    target = tmp_path_factory.mktemp("bundles") / "1"
    return model.load(target, model.save(target, fitted.classifier, features, {}, ROWS.head(16)))


NUMBER = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1.0, 7.0])
TEXT = st.none() | st.sampled_from(["books", "north", "web", "fax", ""])
ROW = st.fixed_dictionaries(
    {
        **{c: NUMBER for c in ("price", "quantity", "discount")},
        **{c: TEXT for c in ("category", "region", "channel")},
        **{c: NUMBER for c in model_features.features_for(CONTRACT).history},
        "event_time": st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)),
    }
)
SCHEMA = {
    **dict.fromkeys(("price", "quantity", "discount", *model_features.features_for(CONTRACT).history), pl.Float64),
    **dict.fromkeys(("category", "region", "channel"), pl.String),
    "event_time": pl.Datetime("ms"),
}


@given(st.lists(ROW, min_size=1, max_size=8))
@settings(max_examples=60)
def test_plan_and_library_agree_on_any_row(scorer: Scorer, rows: list[dict[str, object]]) -> None:
    """Nulls, infinities and categories that nobody has seen included."""
    frame = pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.col("event_time").dt.replace_time_zone("UTC"))
    matrix = scorer.features.matrix(frame)
    with config_context(assume_finite=True):  # the library's check would refuse infinities that its trees can take
        expected = scorer.classifier.predict_proba(matrix)[:, 1]
    assert np.max(np.abs(scorer.score(frame) - expected)) < 1e-12


def test_a_plan_takes_no_row_of_another_width_and_no_tree_without_an_end(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="features"):
        scorer.plan.score(np.zeros((1, 3)))
    tree = deepcopy(scorer.classifier)
    nodes = tree.calibrated_classifiers_[0].estimator.estimator._predictors[0][0].nodes
    nodes["left"][0] = 0
    with pytest.raises(ValueError, match="does not end"):
        compile_plan(tree)


@pytest.mark.parametrize("file", model.FILES)
@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "linked", "a pipe", "huge"])
def test_a_bundle_that_was_touched_is_refused(bundle: tuple[Path, str], file: str, damage: str) -> None:
    path = bundle[0] / file
    body = path.read_bytes()
    if damage == "linked":
        path.rename(bundle[0] / "elsewhere")
        path.symlink_to("elsewhere")
    elif damage in ("gone", "a pipe"):
        path.unlink()
        if damage == "a pipe":
            os.mkfifo(path)
    elif damage == "huge":
        os.truncate(path, model.MOST_FILE + 1)
    else:
        path.write_bytes(body[:-1] if damage == "cut" else bytes([body[0] ^ 1]) + body[1:])
    with pytest.raises(BadBundle):
        model.load(*bundle)


def test_a_bundle_that_is_a_link_is_refused_and_so_is_a_path_out_of_the_models(bundle: tuple[Path, str]) -> None:
    home = bundle[0].parents[1]
    models = home / "models" / "m"
    models.mkdir(parents=True)
    (models / "1").symlink_to(bundle[0])
    with pytest.raises(BadBundle, match="expected the files"):
        model.load(models / "1", bundle[1])
    for uri in ("models/m/1", "../x", "models/../sales-returned/1", str(bundle[0]), "sales-returned/1", "models"):
        with pytest.raises(BadBundle) as caught:
            model.locate(home, uri)
        assert caught.value.reason == "path"
    assert model.locate(home, "models/m/2") == home.resolve() / "models/m/2"


@pytest.mark.parametrize(("files", "size"), [(1, model.MOST_UNPACKED + 1), (model.MOST_MEMBERS + 1, 0)])
def test_an_archive_that_unpacks_to_too_much_is_refused_unread(bundle: tuple[Path, str], files: int, size: int) -> None:
    with zipfile.ZipFile(bundle[0] / model.MODEL, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(files):
            archive.writestr(str(i), bytes(size))
    with pytest.raises(BadBundle, match="an archive of") as caught:
        model.load(bundle[0], model.digest_of(bundle[0]))
    assert caught.value.reason == "content"


def test_a_bundle_with_foreign_types_is_refused_whatever_its_digest(bundle: tuple[Path, str]) -> None:
    import skops.io

    skops.io.dump({"f": np.testing.assert_equal}, bundle[0] / model.MODEL)
    with pytest.raises(BadBundle, match="UntrustedTypes"):
        model.load(bundle[0], model.digest_of(bundle[0]))


def test_golden_rows_that_get_other_scores_stop_the_load(bundle: tuple[Path, str]) -> None:
    path = bundle[0] / model.GOLDEN
    pl.read_ipc(path.read_bytes()).with_columns(pl.col(model.SCORE) + 1e-6).write_ipc(path)
    with pytest.raises(BadBundle, match="golden rows"):
        model.load(bundle[0], model.digest_of(bundle[0]))


def test_a_version_is_never_written_twice(
    bundle: tuple[Path, str], fitted: fitting.Fitted, features: FeatureSet
) -> None:
    with pytest.raises(BadBundle, match="never rewritten"):
        model.save(bundle[0], fitted.classifier, features, {}, ROWS.head(1))
