"""A small real model in a bundle, and a ledger entry that promotes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator

from batch import model
from pipeline import contract_file, topics
from pipeline.contract import Contract
from pipeline.kafka import producer
from pipeline.settings import Settings
from stream_processors.live.model_features import features_for


def order(i: int = 0, **changed: object) -> dict[str, object]:
    """A record that keeps the sales contract; None drops the field."""
    record = {
        "order_id": f"O{i:024d}", "customer_id": "C000123", "product_id": "P-1", "category": "books", "region": "north", "channel": "web",
        "quantity": 2, "price": 12.5, "discount": 0.1, "order_date": "2026-01-02", "event_time": "2026-01-02T03:04:05.678Z",
    }  # fmt: skip
    return {k: v for k, v in {**record, **changed}.items() if v is not None}


def body(record: object) -> bytes:
    return json.dumps(record).encode()


def frame(contract: Contract, n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        order(i, price=float(p), quantity=int(q))
        for i, (p, q) in enumerate(zip(rng.lognormal(3, 1, n).round(2), rng.integers(1, 9, n), strict=True))
    ]
    return pl.DataFrame(rows).with_columns(
        pl.col("order_date").str.to_date(), pl.col("event_time").str.to_datetime(time_unit="ms", time_zone="UTC")
    )


def bundle(settings: Settings, contract: Contract, version: str, seed: int) -> dict[str, str]:
    """Train a small classifier and store it as `version`; the ledger's artifact field."""
    rows, features = frame(contract, 3000, seed), features_for(contract)
    target = np.random.default_rng(seed).random(3000) < 1 / (
        1 + np.exp(2 - rows["price"].log().to_numpy() * 0.4 * seed)
    )
    x = features.matrix(rows)
    fitted = HistGradientBoostingClassifier(max_iter=20, random_state=seed).fit(x[:2000], target[:2000])
    calibrated = CalibratedClassifierCV(FrozenEstimator(fitted), method="sigmoid").fit(x[2000:], target[2000:])
    name = f"{contract.id}-{contract.label.name}"
    where = model.directory(settings, name, version)
    digest = model.save(where, calibrated, features, {"metrics": {}}, rows.head(20))
    return {"uri": str(Path(where).relative_to(settings.home)), "sha256": digest}


def promote(
    settings: Settings, contract: Contract, seq: int, version: str, artifact: dict[str, str], action: str = "promote"
) -> None:
    entry = {
        "seq": seq,
        "at": "2026-01-01T00:00:00.000Z",
        "model": f"{contract.id}-{contract.label.name}",
        "action": action,
        "version": version,
        "artifact": artifact,
    }
    client = producer(settings, "test-ledger")
    client.produce(topics.LEDGER, json.dumps(entry).encode(), key=entry["model"])
    assert client.flush(10) == 0


@pytest.fixture(scope="session")
def sales() -> Contract:
    return contract_file.load("sales")
