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
MOST_ROWS = 50_000  # that a learner begins with, the newest: a second


def look(settings: Settings, contract: Contract, model: str) -> Mapping[str, object]:
    """Go on over every labelled row of the lake that is new, beside the champion of the ledger."""
    learned, champion = _learned(settings, model), champion_of(settings, model)
    if learned is None:
        return update(settings, contract, model, dataset.labelled(settings, contract).rows, champion)
    start = learned + 1
    there = dataset.count_labelled(settings, contract, start)
    rows = dataset.labelled(settings, contract, start).rows if there else pl.DataFrame()
    return update(settings, contract, model, rows, champion, start)


def champion_of(settings: Settings, model: str) -> tuple[str, Scorer] | None:
    """Version and bundle of the ledger's champion."""
    from batch import model as bundles  # imports scikit-learn

    now = ledger.champion(Ledger(ledger.path_of(settings)).entries(model))
    return now and (str(now.draft.version), bundles.load(*compare.bundle_path(settings.home, now.draft.artifact)))


def update(
    settings: Settings,
    contract: Contract,
    model: str,
    rows: pl.DataFrame,
    champion: tuple[str, Scorer] | None,
    start: int | None = None,
) -> Mapping[str, object]:
    """Go on over those that are new of all labelled rows since `start` (event time, ms; None: since ever), in event-time order.

    What it is worth by now. Rows that begin behind the last one learned would leave a gap: of them none is learned.
    Compared with the champion on rows that the champion was not taught.
    """
    path, features = _path(settings, model), model_features.features_for(contract)
    what = f"{features.name}@{features.version}+{features.definition}"
    learner, paired = _read(path, what, champion[0] if champion else "")
    clock = pl.col(features.clock).dt.epoch("ms")
    if learner.learned is None:
        new = rows.tail(MOST_ROWS)
    else:
        whole = rows.height and (start is None or start <= learner.learned + 1)
        new = rows.filter(clock > learner.learned) if whole else rows.clear()
    if new.height:
        _learn(contract, learner, paired, model_features.with_categories(features, rows), new, champion)
        _write(path, {"features": what, "paired": online.sums(paired), **learner.state()})
    return online.told(paired, learner)


def _learn(
    contract: Contract,
    learner: Learner,
    paired: Paired,
    features: model_features.FeatureSet,
    rows: pl.DataFrame,
    champion: tuple[str, Scorer] | None,
) -> None:
    ours = online.follow(learner, online.events_of(features, rows, LABEL), ms(labels.delay(contract)))
    if champion is None:
        return
    times, tested_from = rows[features.clock].dt.epoch("ms").to_numpy(), champion[1].meta.get("tested_from")
    untaught = times >= to_ms(str(tested_from)) if tested_from else np.zeros(len(times), dtype=bool)
    theirs = np.where(untaught, champion[1].score(rows), np.nan)
    online.compare(paired, rows[LABEL].to_numpy(), ours, theirs)


def _path(settings: Settings, model: str) -> Path:
    return settings.home / "models" / model / NAME


def _learned(settings: Settings, model: str) -> int | None:
    """Event time in ms of the last row learned."""
    try:
        return json.loads(_path(settings, model).read_text())["learned"]
    except (OSError, ValueError, KeyError):
        return None


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
