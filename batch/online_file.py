"""EDGE. The online challenger's checkpoint, and what it is worth beside the champion on the rows that are new.

`models/<model>/online.json` holds the learner and the sums; it is replaced whole, so a kill leaves the one before. A file that
cannot be read, or of another feature set, starts anew: what is lost is what was learned, nothing that serves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from batch import compare, dataset, labels, ledger, online
from batch.labels import LABEL
from batch.ledger import Ledger
from batch.online import Learner, Paired
from pipeline.contract import Contract
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import ms, to_ms
from stream_processors.live import model_features

if TYPE_CHECKING:
    from batch.model import Scorer

NAME = "online.json"
MOST_ROWS = 50_000  # learned at once, the newest: a second


def look(settings: Settings, contract: Contract, model: str) -> Mapping[str, object]:
    """Go on over every labelled row of the lake that is new, beside the champion of the ledger."""
    return update(settings, contract, model, dataset.labelled(settings, contract).rows, champion_of(settings, model))


def champion_of(settings: Settings, model: str) -> tuple[str, Scorer] | None:
    """Version and bundle of the ledger's champion."""
    from batch import model as bundles  # imports scikit-learn

    now = ledger.champion(Ledger(ledger.path_of(settings)).entries(model))
    return now and (str(now.draft.version), bundles.load(*compare.bundle_path(settings.home, now.draft.artifact)))


def update(
    settings: Settings, contract: Contract, model: str, rows: pl.DataFrame, champion: tuple[str, Scorer] | None
) -> Mapping[str, object]:
    """Go on over the labelled rows (in event-time order) that are new; what it is worth by now.

    Compared with the champion on rows that the champion was not taught.
    """
    path = settings.home / "models" / model / NAME
    features = model_features.with_categories(model_features.features_for(contract), rows)
    what = f"{features.name}@{features.version}+{features.definition}"
    version = champion[0] if champion else ""
    learner, paired = _read(path, what, version)
    clock = pl.col(features.clock).dt.epoch("ms")
    new = rows.tail(MOST_ROWS) if learner.learned is None else rows.filter(clock > learner.learned).tail(MOST_ROWS)
    ours = online.follow(learner, online.events_of(features, new, LABEL), ms(labels.delay(contract)))
    if champion and new.height:
        times, tested_from = new[features.clock].dt.epoch("ms").to_numpy(), champion[1].meta.get("tested_from")
        untaught = times >= to_ms(str(tested_from)) if tested_from else np.zeros(len(times), dtype=bool)
        theirs = np.where(untaught, champion[1].score(new), np.nan)
        online.compare(paired, new[LABEL].to_numpy(), ours, theirs)
    _write(path, {"features": what, "paired": online.sums(paired), **learner.state()})
    return online.told(paired, learner)


def _read(path: Path, features: str, champion: str) -> tuple[Learner, Paired]:
    """Another champion starts the comparison anew, not the learner."""
    try:
        kept = json.loads(path.read_text())
        if kept["features"] == features:
            paired = Paired(**kept["paired"])
            return online.restored(kept), paired if paired.champion == champion else Paired(champion)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log("online_model_starts_anew", "warning", path=path, error=error)
    return Learner(), Paired(champion)


def _write(path: Path, state: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(state))
    part.replace(path)
