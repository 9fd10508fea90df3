"""`driftline evaluate` as a process on a real broker: figures, an alert, and a restart that says nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import KafkaException

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, topics
from pipeline.cli import main
from pipeline.contract import OutcomeLabel
from pipeline.kafka import producer, read_all
from pipeline.retry import until_success
from pipeline.settings import Settings
from pipeline.times import to_text
from stream_processors.live.evaluate import Evaluator
from stream_processors.live.joining import NEVER
from tests.model.sales_rows import START_MS
from tests.waiting import wait_until

FIGURE = "driftline_model_figure{"
HOUR_MS = 3_600_000
CONTRACT = contract_file.load("sales")


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
        wait_until(lambda: (process.metric(rows) or 0) >= 5_000, 120, "5,000 labelled predictions in the windows")
        loss = process.metric(FIGURE + 'bound="value",figure="log_loss",model="sales-returned",slice="*",version="1"}')
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


def write_days(settings: Settings, days: range, seed: int) -> None:
    """300 orders a day by two versions: predictions out of order and some twice, outcomes hours later, twice, or never."""
    rng, client = np.random.default_rng(seed), producer(settings, "test")
    for day in days:
        found: list[tuple[float, str, str, dict[str, object]]] = []
        for i in range(300):
            key, event = f"o{day}-{i}", START_MS + int((day + rng.random()) * 24 * HOUR_MS)
            told = {"order_id": key, "event_time": to_text(event)}
            answer = {**told, "id": key, "score": float(rng.beta(2, 6)), "version": str(1 + i % 2), "raw": None,
                      "slices": {"region": ("north", "south")[i % 2], "channel": "web"}}  # fmt: skip
            late = event + rng.integers(0, 2 * HOUR_MS)
            found += [(late + repeat, topics.predictions("sales"), key, answer) for repeat in range(1 + (i % 7 == 0))]
            if i % 5:
                happened = event + int(rng.integers(HOUR_MS, 20 * HOUR_MS))
                outcome = {"order_id": key, "event_time": to_text(happened), "returned": bool(rng.random() < 0.25)}
                found += [(happened, topics.outcomes("sales"), key, outcome)] * (1 + (i % 3 == 0))
        for _, topic, key, body in sorted(found, key=lambda f: f[0]):
            client.produce(topic, key=key.encode(), value=json.dumps(body).encode())
        client.poll(0)
    assert client.flush(30) == 0


def records(settings: Settings) -> dict[str, dict[str, object]]:
    """The newest record of each version and window."""
    return until_success(
        lambda: {m.key().decode(): json.loads(m.value()) for m in read_all(settings, topics.evaluations("sales"))},
        what="the records",
        errors=(KafkaException,),  # a topic so young that this client does not know its partition
        sleep=time.sleep,
        deadline_s=30,
    )


def expected(settings: Settings) -> dict[str, dict[str, object]]:
    """The same from the logs in one go, one topic after the other, without a process."""
    assert isinstance(CONTRACT.label, OutcomeLabel)
    evaluator = Evaluator(CONTRACT, CONTRACT.label, PrometheusMeter())
    sources = {topics.predictions("sales"): evaluator.prediction, topics.outcomes("sales"): evaluator.outcome}
    evaluator.begin({(topic, p): NEVER for topic in sources for p in range(2)}, NEVER)
    for topic, take in sources.items():
        for message in read_all(settings, topic):
            take(json.loads(message.value()), (topic, message.partition()))
    return json.loads(json.dumps(dict(evaluator.records())))


def test_what_is_joined_is_the_same_after_any_kill(
    fresh_topics: Callable[..., Settings], environment: dict[str, str], tmp_path: Path, free_port: int,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = fresh_topics("sales", 2)

    def finals() -> int:
        return sum(bool(r["final"]) for r in records(settings).values())

    for days in (range(0, 4), range(4, 8), range(8, 11)):
        before = finals()
        write_days(settings, days, seed=days.start)
        process = Process({**os.environ, **environment}, tmp_path / "log", free_port)
        try:
            wait_until(lambda before=before: finals() > before, 150, "windows that closed", every_s=0.5)  # type: ignore[misc]
        finally:
            process.kill()
    wanted = expected(settings)
    process = Process({**os.environ, **environment}, tmp_path / "log", free_port)
    try:
        wait_until(lambda: records(settings) == wanted, 150, "the records that the logs mean", every_s=0.5)
    finally:
        process.kill()
    assert sum(bool(r["final"]) for r in wanted.values()) > 300
    assert sum(r["predicted"] for r in wanted.values()) == 11 * 300  # type: ignore[misc]
    assert sum(r["labelled"] for r in wanted.values()) == 11 * 240  # type: ignore[misc]

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert main(["models", "live", "--json", "--windows", "500"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["version"], line["slice"], line["labelled"]) for line in lines] == [
        ("1", "*", 11 * 120), ("1", "channel=web", 11 * 120), ("1", "region=north", 11 * 120),
        ("2", "*", 11 * 120), ("2", "channel=web", 11 * 120), ("2", "region=south", 11 * 120),
    ]  # fmt: skip
    assert main(["models", "live", "--version", "2"]) == 0
    assert "region=south" in (said := capsys.readouterr().out) and "before labels" in said and "version 1" not in said
