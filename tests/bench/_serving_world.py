"""A prediction service as it runs: broker, trained models on disk, ledger entries, worker processes; and an empty one to compare with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from batch import fitting, model
from pipeline import topics
from pipeline.broker import free_port
from pipeline.kafka import producer
from serving.serve import KEEP_ALIVE_S
from stream_processors.live import model_features
from tests.bench._hops import ROOT, Hops
from tests.bench._serving_client import Connection
from tests.bench.report import progress
from tests.model import sales_rows

WORKERS = 2
ROWS = 12_000
READY_S = 120.0
FOLLOW_S = 20.0
JSON_TYPE = "application/json"
EMPTY = """
from typing import Any
import bentoml

@bentoml.service(name="empty", workers={workers}, threads=1, traffic={{"timeout": 30}}, logging={{"access": {{"enabled": False}}}})
class Empty:
    @bentoml.api
    async def empty(self) -> dict[str, Any]:
        return {{}}
"""


class World:
    """Models 1..n of the sales contract, fitted on other rows each; `seq` counts the ledger's entries."""

    def __init__(self, run: Hops, models: int):
        self.run, self.seq = run, 0
        self.name = f"{run.contract.id}-{run.contract.label.name}"  # type: ignore[union-attr]
        self.features = model_features.features_for(run.contract)
        self.rows = sales_rows.labelled(sales_rows.draw(ROWS, seed=11))
        self.artifacts = {str(v): self._bundle(str(v)) for v in range(1, models + 1)}

    def _bundle(self, version: str) -> dict[str, str]:
        rows = sales_rows.labelled(sales_rows.draw(ROWS, seed=100 + int(version)))
        matrix, label = self.features.matrix(rows), rows["label"].to_numpy()
        fitted = fitting.fit(matrix, label, fitting.split(np.arange(len(matrix))), seed=int(version))
        target = model.directory(self.run.settings, self.name, version)
        digest = model.save(target, fitted.classifier, self.features, {"metrics": fitted.metrics}, rows.head(64))
        return {"uri": str(target.relative_to(self.run.settings.home)), "sha256": digest}

    def promote(self, version: str) -> None:
        self.seq += 1
        entry = {
            "seq": self.seq, "at": "2026-01-01T00:00:00.000Z", "model": self.name, "action": "promote", "version": version,
            "artifact": self.artifacts[version],
        }  # fmt: skip
        client = producer(self.run.settings, "bench-ledger")
        client.produce(topics.LEDGER, json.dumps(entry).encode(), key=self.name)
        assert client.flush(10) == 0

    def records(self, count: int) -> list[bytes]:
        return [json.dumps(r).encode() for r in json.loads(self.frame(count).write_json())]

    def frame(self, count: int) -> pl.DataFrame:
        """Rows of the contract, as a client has them; beyond `ROWS` they repeat."""
        names = [f.name for f in self.run.contract.fields]
        own = self.rows.select(names).with_columns(pl.col("event_time").dt.cast_time_unit("ms"))
        return pl.concat([own] * (count // ROWS + 1)).head(count)


@contextmanager
def service(run: Hops) -> Iterator[int]:
    """`driftline serve` on a free port."""
    port = free_port()
    environment = {**run.environment, "DRIFTLINE_SERVING_PORT": str(port), "DRIFTLINE_SERVING_WORKERS": str(WORKERS)}
    with _server(run.home, "serve", run.command("serve", "--workers", str(WORKERS)), environment, port):
        yield port


@contextmanager
def empty(run: Hops) -> Iterator[int]:
    """A BentoML service with the same processes that answers {} to everything."""
    port, home = free_port(), run.home / "empty"
    home.mkdir()
    (home / "empty_service.py").write_text(EMPTY.format(workers=WORKERS))
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "empty_service:Empty",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--timeout-keep-alive",
        str(KEEP_ALIVE_S),
    ]
    environment = {**os.environ, "BENTOML_HOME": str(home / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    with _server(run.home, "empty", command, environment, port, home):
        yield port


@contextmanager
def _server(
    home: Path, name: str, command: list[str], environment: dict[str, str], port: int, cwd: Path = ROOT
) -> Iterator[None]:
    with (home / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, cwd=cwd, stdout=log, stderr=log)
        try:
            wait(lambda: child.poll() is not None or _ready(port), f"{name} to be ready", READY_S)
            if child.poll() is not None:
                raise SystemExit(f"{name} ended:\n{(home / f'{name}.log').read_text()[-3000:]}")
            yield
        finally:
            child.terminate()
            child.wait(120)


def _ready(port: int) -> bool:
    try:
        with Connection(port) as connection:
            return connection.get("/readyz")[0] == 200
    except OSError:
        return False


def versions(port: int, record: bytes, tries: int = 8) -> set[str]:
    """Versions that new connections are answered by; they spread over the workers."""
    found = set()
    for _ in range(tries):
        with Connection(port) as connection:
            status, body = connection.post("/predict", record)
            found.add(json.loads(body)["version"] if status == 200 else str(status))
    return found


def follow(world: World) -> float:
    """Seconds until every worker says that it answers by the last promotion."""
    began, said = time.monotonic(), re.compile(rf"model_loaded .* seq={world.seq} ")
    log = world.run.home / "serve.log"
    wait(lambda: len(said.findall(log.read_text())) >= WORKERS, f"promotion {world.seq}", FOLLOW_S, 0.01)
    return time.monotonic() - began


def wait(condition: Callable[[], bool], what: str, deadline_s: float, every_s: float = 0.05) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until:
            progress(f"waited {deadline_s:.0f} s for {what}")
            return
        time.sleep(every_s)
