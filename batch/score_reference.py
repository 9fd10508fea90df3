"""EDGE. References of the model's score and confidence: what the champion answers to rows that it was not fitted on.

Those are the rows of a reference that lie behind the event time from which the model was tested (`tested_from` in its
bundle). They come with every version of the references and name the model version: the drift process counts no answer
of another one. Where there is no champion, or none of the rows is new to it, there are none, and the log says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from batch import compare, ledger
from batch.ledger import Entry, Ledger
from batch.reference_build import build
from batch.train import model_name
from pipeline.contract import APPEND_TIME, CONFIDENCE, RAW_OFFSET, RAW_PARTITION, SCORE, Contract
from pipeline.errors import CheckFailed
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms
from stream_processors.judging.panes import WHOLE, Key, clock_of
from stream_processors.reference.cells import FeatureReference

if TYPE_CHECKING:
    from batch.model import Scorer


@dataclass(frozen=True, slots=True)
class Bundle:
    """The model that answers from now on."""

    version: str
    artifact: Mapping[str, object]  # as it stands in the ledger


def champion(settings: Settings, contract: Contract, entry: Entry | None = None) -> Bundle | None:
    """The model that serves under a ledger entry's decision; without an entry the one that serves now."""
    file = ledger.path_of(settings)
    if contract.label is None or not file.exists():
        return None
    entries = Ledger(file).entries(model_name(contract))
    found = entry or ledger.champion(entries)
    if found is None or found.draft.version is None:
        return None
    artifact = found.draft.artifact or ledger.artifact_of(entries, found.draft.version)
    if artifact is None:
        return None
    return Bundle(found.draft.version, artifact)


def references(
    settings: Settings, contract: Contract, rows: pl.DataFrame, model: Bundle | None, version: int, effective_from: int
) -> dict[Key, FeatureReference]:
    """The references of score and confidence, whole and by segment; none where there is nothing to make them of."""
    if not contract.drift.scores or model is None:
        return {}
    from batch import model as bundles  # scikit-learn

    try:
        scorer = bundles.load(*compare.bundle_path(settings.home, model.artifact))
        held_out = _held_out(settings, contract, rows, scorer)
    except CheckFailed as error:
        log("no_score_reference", "warning", dataset=contract.id, model=model.version, reason=error)
        return {}
    made = of_answers(contract, held_out, scorer, model.version, version, effective_from)
    log("score_reference", dataset=contract.id, model=model.version, rows=made[SCORE, WHOLE].source_rows)
    return made


def of_answers(
    contract: Contract, rows: pl.DataFrame, scorer: Scorer, model: str, version: int, effective_from: int
) -> dict[Key, FeatureReference]:
    """The references of a model's answers to the rows."""
    score = pl.Series(SCORE, scorer.score(rows))
    known = [pl.col(name).cast(pl.Float64).fill_nan(None) for name in contract.watched_history]
    answered = rows.with_columns(score, pl.max_horizontal(score, 1 - score).alias(CONFIDENCE), *known)
    made = build(contract.of_scores, clock_of(contract), answered, version, effective_from)
    return {key: replace(reference, model=model) for key, reference in made.items()}


def _held_out(settings: Settings, contract: Contract, rows: pl.DataFrame, scorer: Scorer) -> pl.DataFrame:
    tested_from = scorer.meta.get("tested_from")
    if tested_from is None:
        raise CheckFailed("its bundle does not say from when on it was tested; train it again")
    clock = pl.col(contract.time.field).dt.epoch("ms")
    unseen = rows.filter(clock > to_ms(str(tested_from)))
    if not unseen.height:
        raise CheckFailed(f"expected rows behind {tested_from}, which the model was not fitted on, got none")
    there = set(unseen.columns)
    if set(scorer.features.history) - there and {RAW_PARTITION, RAW_OFFSET, APPEND_TIME} <= there:
        from batch import dataset

        unseen = dataset.with_history(settings, contract, unseen)
    missing = sorted(set(scorer.columns) - set(unseen.columns))
    if missing:
        raise CheckFailed(f"the model reads {', '.join(missing)}, which the rows lack")
    if unread := sorted(set(contract.watched_history) - set(scorer.features.history)):
        raise CheckFailed(f"the contract watches {', '.join(unread)}, which the model does not read; train it again")
    return unseen
