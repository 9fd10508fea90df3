"""References of scores: the champion's own answers, to rows that it was not fitted on, under the name of its version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batch import fitting, ledger, model, reference_show, score_reference
from batch.ledger import Draft, Entry, Ledger
from pipeline import contract_file
from pipeline.contract import MonitoredFeature
from pipeline.settings import Settings, from_environment
from pipeline.times import to_text
from stream_processors.live import model_features
from stream_processors.reference import cells
from tests.model import sales_rows

CONTRACT = contract_file.load("sales")
ROWS = sales_rows.labelled(sales_rows.draw(12_000, seed=5))
TIMES = ROWS["event_time"].dt.epoch("ms").to_numpy()
PARTS = fitting.split(TIMES)
MODEL = "sales-returned"
TESTED_FROM = to_text(int(TIMES[PARTS.test[0]]))


@pytest.fixture(scope="module")
def fitted() -> fitting.Fitted:
    features = model_features.features_for(CONTRACT)
    return fitting.fit(features.matrix(ROWS), ROWS["label"].to_numpy(), PARTS, seed=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment({"DRIFTLINE_HOME": str(tmp_path)})


def crowned(
    settings: Settings, fitted: fitting.Fitted, version: str, former: str | None = None, **meta: object
) -> Entry:
    """A bundle on disk and the ledger's entry that makes it champion."""
    features, target = model_features.features_for(CONTRACT), model.directory(settings, MODEL, version)
    sha256 = model.save(target, fitted.classifier, features, {"model": MODEL, **meta}, ROWS.head(16))
    artifact = {"uri": str(target.relative_to(settings.home)), "sha256": sha256}
    draft = Draft("2026-03-03T00:00:00.000Z", MODEL, "promote", version, artifact=artifact)
    return Ledger(ledger.path_of(settings)).crown(draft, former)


def made(settings: Settings, rows: pl.DataFrame = ROWS, entry: Entry | None = None):
    champion = score_reference.champion(settings, CONTRACT, entry)
    return score_reference.references(settings, CONTRACT, rows, champion, 4, int(TIMES[-1]))


def test_only_rows_behind_the_fitted_ones_are_answered_and_the_version_is_named(settings, fitted):
    crowned(settings, fitted, "7", tested_from=TESTED_FROM)
    found = made(settings)
    whole = found["score", "*"]
    unseen = PARTS.test[1:]
    assert (whole.model, whole.version, whole.source_rows) == ("7", 4, len(unseen))
    assert whole.values == pytest.approx(np.unique(fitted.scores[1:]), abs=1e-12)
    assert found["confidence", "*"].values.min() >= 0.5
    assert {s for f, s in found if f == "score"} >= {"*", "region=north", "region=south"}
    assert cells.from_arrow(cells.to_arrow(whole)).model == "7"
    assert str(reference_show.told(whole)["pages"]).startswith("no")  # 3,000 rows are too few to page by


def test_the_past_that_is_watched_has_a_reference_of_the_same_rows(settings, fitted):
    """Its law is that of the values in the rows the model was tested on, nulls apart; one that the model does not read has none."""
    crowned(settings, fitted, "7", tested_from=TESTED_FROM)
    past = MonitoredFeature("customer_rate_1d", "numeric")
    contract = replace(CONTRACT, drift=replace(CONTRACT.drift, scores=(*CONTRACT.drift.scores, past)))
    champion = score_reference.champion(settings, contract)
    found = score_reference.references(settings, contract, ROWS, champion, 4, int(TIMES[-1]))
    values = ROWS["customer_rate_1d"].fill_nan(None)[PARTS.test[1:]]
    assert found[past.name, "*"].model == "7" and found[past.name, "*"].source_rows == len(values)
    assert found[past.name, "*"].values == pytest.approx(np.unique(values.drop_nulls().to_numpy()))
    other = replace(contract, drift=replace(contract.drift, scores=(*contract.drift.scores, replace(past, name="age"))))
    assert score_reference.references(settings, other, ROWS, champion, 4, int(TIMES[-1])) == {}


def test_the_model_of_a_decision_answers_and_not_the_one_that_serves_now(settings, fitted):
    first = crowned(settings, fitted, "7", tested_from=TESTED_FROM)
    crowned(settings, fitted, "8", "7", tested_from=TESTED_FROM)
    assert made(settings)["score", "*"].model == "8"
    assert made(settings, entry=first)["score", "*"].model == "7"


def test_an_acceptance_names_the_champion_and_finds_its_bundle(settings, fitted):
    crowned(settings, fitted, "7", tested_from=TESTED_FROM)
    draft = Draft("2026-03-04T00:00:00.000Z", MODEL, "accept", "7", episode="e1")
    accepted = Ledger(ledger.path_of(settings)).decide(draft)
    assert made(settings, entry=accepted)["score", "*"].model == "7"


def test_without_a_champion_or_rows_that_are_new_to_it_there_is_none(settings, fitted, caplog):
    assert made(settings) == {}
    crowned(settings, fitted, "7")
    assert made(settings) == {}  # its bundle does not say what it was fitted on
    crowned(settings, fitted, "8", "7", tested_from=TESTED_FROM)
    assert made(settings, ROWS[PARTS.train]) == {}
    assert made(settings, ROWS.drop("price")) == {}
    assert made(settings) != {}


def test_a_bundle_that_lies_outside_the_models_is_not_loaded(settings, fitted):
    entry = crowned(settings, fitted, "7", tested_from=TESTED_FROM)
    assert entry.draft.artifact is not None
    (settings.home / str(entry.draft.artifact["uri"])).rename(settings.home / "elsewhere")
    draft = replace(entry.draft, artifact={**entry.draft.artifact, "uri": "elsewhere"})
    assert made(settings, entry=Ledger(ledger.path_of(settings)).crown(draft, "7")) == {}
