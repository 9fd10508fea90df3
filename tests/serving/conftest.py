"""A small real model in a bundle, a ledger entry that promotes it, and a service that follows the ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator

from batch import model
from pipeline import contract_file, topics
from pipeline.broker import Broker, free_port
from pipeline.contract import Contract
from pipeline.kafka import create_topics, producer
from pipeline.settings import Settings, from_environment
from stream_processors.live.model_features import features_for
from tests.conftest import delete_topics, environment_for, start_early
from tests.contracts import contract_file_named
from tests.waiting import wait_until

JSON = {"content-type": "application/json"}


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
        pl.col("order_date").str.to_date(),
        pl.col("event_time").str.to_datetime(time_unit="ms", time_zone="UTC"),
        *(pl.lit(0.0).alias(name) for name in features_for(contract).history),
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


@dataclass
class Served:
    """A `driftline serve` of a dataset of its own, with two models on disk and none in the ledger."""

    settings: Settings
    contract: Contract
    artifacts: dict[str, dict[str, str]]
    base: str
    child: subprocess.Popen[bytes]
    seq: int = field(default=0)

    def promote(self, version: str, artifact: dict[str, str] | None = None, action: str = "promote") -> None:
        self.seq += 1
        promote(self.settings, self.contract, self.seq, version, artifact or self.artifacts[version], action)

    def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        kind = {k.replace("_", "-"): v for k, v in headers.items()} or JSON
        return httpx.post(f"{self.base}{path}", content=content, headers=kind, timeout=60)

    def version(self) -> str | None:
        answer = self.post("/predict", body(order()))
        return answer.json()["version"] if answer.status_code == 200 else None

    def await_version(self, version: str) -> None:
        """Until both workers answer by it: each new connection meets one of them."""
        wait_until(lambda: all(self.version() == version for _ in range(20)), 30, f"every worker on version {version}")

    def log(self) -> str:
        return (self.settings.home / "serve.log").read_text()

    def metric(self, name: str, **labels: str) -> list[float]:
        lines = httpx.get(f"{self.base}/metrics", timeout=60).text.splitlines()
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        return [float(x.split()[-1]) for x in lines if x.startswith(name + "{") and all(w in x for w in wanted)]


@pytest.fixture(scope="session", autouse=True)
def _service_early(request: pytest.FixtureRequest) -> None:
    start_early(request, "served", "service")


@pytest.fixture(scope="session")
def served(service: Served) -> Served:
    """One service for all that ask it. `test_service` comes first, and meets it before its first champion."""

    def ready() -> bool:
        assert service.child.poll() is None, service.log()[-3000:]
        try:
            return httpx.get(f"{service.base}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(ready, 240, "the service to be ready", 0.2)
    return service


@pytest.fixture(scope="session")
def service(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """From before it answers."""
    folder = tmp_path_factory.mktemp("served")
    file = contract_file_named(folder, id="served")
    port = free_port()
    environment = {
        **os.environ, **environment_for(broker, folder), "DRIFTLINE_CONTRACT": str(file), "DRIFTLINE_SERVING_PORT": str(port),
    }  # fmt: skip
    settings, contract = from_environment(environment), contract_file.load(str(file))
    settings = replace(settings, contract=str(file))
    settings.home.mkdir(parents=True, exist_ok=True)
    delete_topics(settings)
    create_topics(settings, topics.all_topics(contract.id, 2))
    artifacts = {v: bundle(settings, contract, v, int(v)) for v in ("1", "2")}
    base = f"http://127.0.0.1:{port}"
    with (settings.home / "serve.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "serve"], env=environment, stdout=log, stderr=log
        )
    try:
        yield Served(settings, contract, artifacts, base, child)
    finally:
        child.terminate()
        child.wait(90)
