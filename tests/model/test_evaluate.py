"""`driftline evaluate` as a process on a real broker: figures, an alert, and a restart that says nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import topics
from pipeline.kafka import producer, read_all
from pipeline.settings import Settings
from pipeline.times import to_text
from tests.model.sales_rows import START_MS
from tests.waiting import wait_until


class Process:
    """The verb, its log, its own port."""

    def __init__(self, environment: dict[str, str], log: Path, port: int):
        self.port, self._log = port, log.open("ab")
        env = {**environment, "DRIFTLINE_METRICS_PORT": str(port)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "evaluate"], env=env, stderr=self._log, stdout=self._log
        )

    def metric(self, line: str) -> float | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer:
                found = [text for text in answer.read().decode().splitlines() if text.startswith(line)]
        except OSError:
            return None
        return float(found[0].rsplit(" ", 1)[1]) if found else None

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(10)
        self._log.close()


def write(settings: Settings, count: int, shift: float, first: int, seed: int) -> None:
    """Predictions of version 1 and their outcomes, whose true log odds are `shift` off; every outcome twice."""
    rng, client = np.random.default_rng(seed), producer(settings, "test")
    odds = rng.normal(-1.7, 1.0, count)
    returned = rng.random(count) < 1 / (1 + np.exp(-(odds + shift)))
    for i in range(count):
        key, time = f"o{first + i}", to_text(START_MS + (first + i) * 1_000)
        raw = {"topic": "sales.events", "partition": 0, "offset": first + i}
        body = {
            "id": key,
            "order_id": key,
            "score": 1 / (1 + np.exp(-odds[i])),
            "model": "sales-returned",
            "version": "1",
            "event_time": time,
            "raw": raw,
        }
        outcome = json.dumps({"order_id": key, "returned": bool(returned[i]), "event_time": time}).encode()
        client.produce(topics.predictions("sales"), key=key.encode(), value=json.dumps(body).encode())
        for _ in range(2):
            client.produce(topics.outcomes("sales"), key=key.encode(), value=outcome)
        if i % 1_000 == 0:
            client.poll(0)
    assert client.flush(30) == 0


def alerts(settings: Settings) -> list[tuple[str, str]]:
    found = [json.loads(m.value()) for m in read_all(settings, topics.ALERTS)]
    return [(a["source"], a["state"]) for a in found]


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_broken_promise_fires_once_also_after_a_kill(
    fresh_topics: Callable[..., Settings], environment: dict[str, str], tmp_path: Path, free_port: int
) -> None:
    settings = fresh_topics("sales", 2)
    client = producer(settings, "test")
    client.produce(
        topics.LEDGER,
        key=b"sales-returned",
        value=json.dumps(
            {"seq": 1, "model": "sales-returned", "action": "promote", "version": "1", "hash": "x"}
        ).encode(),
    )
    assert client.flush(10) == 0
    write(settings, 12_000, 0.0, 0, seed=1)
    process = Process({**os.environ, **environment}, tmp_path / "log", free_port)
    try:
        rows = 'driftline_labelled_rows{model="sales-returned",version="1"}'
        wait_until(lambda: process.metric(rows) == 5_000, 60, "5,000 labelled predictions in the window")
        loss = process.metric('driftline_model_loss{model="sales-returned",version="1"}')
        assert loss is not None and 0.3 < loss < 0.55
        assert process.metric('driftline_labels_total{dataset="sales",result="joined"}') == 12_000
        assert process.metric('driftline_labels_total{dataset="sales",result="duplicate"}') == 12_000
        assert alerts(settings) == []

        write(settings, 6_000, 0.9, 12_000, seed=2)
        wait_until(lambda: ("loss", "firing") in alerts(settings), 60, "a firing loss episode")
        said = alerts(settings)
        process.kill()
        process = Process({**os.environ, **environment}, tmp_path / "log", free_port)
        firing = 'driftline_episode_state{dataset="sales",source="loss",state="firing"}'
        wait_until(lambda: process.metric(firing) == 1, 60, "the restarted process to know the open episode")
        assert alerts(settings) == said and said.count(("loss", "firing")) == 1
    finally:
        process.kill()
