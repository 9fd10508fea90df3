"""Models without a registry: fitted on lake rows, kept as bundles, entered in the ledger; and their answers in the log."""

from __future__ import annotations

import os
import time

import numpy as np
import polars as pl

from batch import compare, fitting, ledger, model
from batch.answer_log import request_id
from batch.labels import LABEL
from batch.ledger import Draft, Ledger
from batch.model import Scorer
from batch.promotion import now
from batch.train import model_name
from pipeline import topics
from pipeline.contract import Contract
from pipeline.kafka import producer
from pipeline.settings import Settings
from pipeline.times import to_text
from serving.admission import RawCoordinates
from serving.predicted import Answered, key_of, messages
from stream_processors.live import model_features


def trained(
    settings: Settings, contract: Contract, version: str, rows: pl.DataFrame, label: np.ndarray | None = None
) -> Scorer:
    """A version taught on the rows (with other labels, if given), as `driftline train` leaves it."""
    features = model_features.with_categories(model_features.features_for(contract), rows)
    taught = rows[LABEL].to_numpy() if label is None else label
    parts = fitting.split(np.arange(rows.height))
    fitted = fitting.fit(features.matrix(rows), taught, parts, seed=int(version))
    target = model.directory(settings, model_name(contract), version)
    tested_from = rows[contract.time.field].dt.epoch("ms").to_list()[int(parts.test[0])]
    meta = {"version": version, "label": "returned", "contract": contract.name, "tested_from": to_text(tested_from)}
    sha256 = model.save(target, fitted.classifier, features, meta, rows.head(16))
    artifact = {"uri": str(target.relative_to(settings.home)), "sha256": sha256}
    draft = Draft(now(), model_name(contract), "train", version, actor="test", artifact=artifact)
    Ledger(ledger.path_of(settings)).append(draft)
    return model.load(*compare.bundle_path(settings.home, artifact))


def answer(
    settings: Settings, contract: Contract, version: str, rows: pl.DataFrame, scores: np.ndarray, *, placed: bool = True
) -> None:
    """The answers in the prediction log, as the service writes them; `placed`: asked by `score`, which knows coordinates."""
    client = producer(settings, "test")
    for partition in rows["raw_partition"].unique():
        mask = (rows["raw_partition"] == partition).to_numpy()
        part = rows.filter(mask)
        raw = RawCoordinates(topics.events(contract.id), int(partition), part["raw_offset"].to_list())
        key, clock = str(key_of(contract)), contract.time.field
        times = part[clock].dt.epoch("ms").to_numpy()
        said = Answered(
            request_id(time.time_ns() // 1_000_000, os.urandom(10)),
            part[key].to_list(),
            times,
            scores[mask].tolist(),
            version,
            "",
            raw if placed else None,
        )
        for some in messages(said, 0, model_name(contract), key, clock):
            for message in some:
                client.produce(topics.predictions(contract.id), **message)  # type: ignore[arg-type]
            client.poll(0)
    assert client.flush(30) == 0
