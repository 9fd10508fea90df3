"""The service as its users see it: a real BentoML server, a real broker, real models."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest

from pipeline import blocks, contract_file, decode, topics
from pipeline.kafka import producer, read_all
from tests.contracts import contract_file_named
from tests.serving.conftest import body, bundle, order, promote
from tests.waiting import wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture
def world(fresh_topics, tmp_path):
    """Settings and contract of a dataset of its own, with its topics, and two models on disk."""
    file = contract_file_named(tmp_path, id="served")
    contract = contract_file.load(str(file))
    settings = replace(fresh_topics("served", 2), contract=str(file))
    settings = replace(settings, ports={**settings.ports, "serving": free_port()})
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings, contract, [bundle(settings, contract, str(v), v) for v in (1, 2)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def running(settings):
    environment = {
        **os.environ,
        "DRIFTLINE_HOME": str(settings.home), "DRIFTLINE_BOOTSTRAP": settings.bootstrap, "DRIFTLINE_CONTRACT": settings.contract,
        "DRIFTLINE_SERVING_PORT": str(settings.ports["serving"]),
    }  # fmt: skip
    log = (settings.home / "serve.log").open("wb")
    child = subprocess.Popen([sys.executable, "-m", "pipeline.cli", "serve"], env=environment, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{settings.ports['serving']}"

    def ready() -> bool:
        assert child.poll() is None, (settings.home / "serve.log").read_text()[-3000:]
        try:
            return httpx.get(f"{base}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(ready, 90, "the service to be ready", 0.2)
        yield base
    finally:
        child.terminate()
        child.wait(30)


def version(base: str) -> str | None:
    answer = httpx.post(f"{base}/predict", content=body(order()), headers=JSON)
    return answer.json()["version"] if answer.status_code == 200 else None


def test_the_service_follows_the_ledger_and_logs_every_prediction(world):
    settings, contract, artifacts = world
    with running(settings) as base:
        # nothing has passed the gate: no ungated model answers
        assert httpx.post(f"{base}/predict", content=body(order()), headers=JSON).status_code == 503

        promote(settings, contract, 1, "1", artifacts[0])
        wait_until(lambda: all(version(base) == "1" for _ in range(20)), 20, "every worker on version 1")

        # the contract's verdict, over HTTP
        answer = httpx.post(f"{base}/predict", content=body(order(quantity=5000)), headers=JSON)
        assert (answer.status_code, answer.json()["field"], answer.json()["rule"]) == (422, "quantity", "range")
        assert httpx.post(f"{base}/predict", content=b"{", headers=JSON).status_code == 400
        assert (
            httpx.post(f"{base}/predict", content=body(order()), headers={"content-type": "text/plain"}).status_code
            == 415
        )

        # a body of 60 MB is answered, not cut off by a reset connection; so is one that is no UTF-8
        huge = b" " * (60 * 1024 * 1024)
        for path in ("/predict", "/predict_batch"):
            assert httpx.post(f"{base}{path}", content=huge, headers=JSON, timeout=60).status_code == 413
        assert httpx.post(f"{base}/predict_batch", content=b'{"row\xcf":1}', headers=JSON).status_code == 400

        # a batch answers in order, and as the single endpoint does
        rows = [order(i, price=1.5 * i + 1) for i in range(40)]
        batch = httpx.post(f"{base}/predict_batch", content=body({"rows": rows}), headers=JSON).json()
        assert batch["keys"] == [r["order_id"] for r in rows]
        one = httpx.post(f"{base}/predict", content=body(rows[7]), headers=JSON).json()
        assert one["score"] == pytest.approx(batch["scores"][7], abs=1e-12)
        assert httpx.post(f"{base}/model", content=b"{}", headers=JSON).json()["version"] == "1"

        # a swap under load fails no request, and each answer comes from one version
        seen, failed, done = [], [], threading.Event()

        def load() -> None:
            with httpx.Client(base_url=base, headers=JSON) as client:
                while not done.is_set():
                    answer = client.post("/predict_batch", content=body({"rows": rows}))
                    (seen if answer.status_code == 200 else failed).append(answer.json().get("version"))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        promote(settings, contract, 2, "2", artifacts[1])
        wait_until(lambda: all(version(base) == "2" for _ in range(20)), 20, "every worker on version 2")
        done.set()
        for thread in threads:
            thread.join(20)
        assert not failed
        assert {"1", "2"} >= set(seen) and seen

        # files that do not match the ledger's digest never serve
        promote(settings, contract, 3, "1", {**artifacts[0], "sha256": "0" * 64}, action="rollback")
        log = settings.home / "serve.log"
        wait_until(lambda: log.read_text().count("model_refused") >= 2, 20, "both workers to refuse the model")
        assert version(base) == "2"

        asked = {m.key().decode() for m in read_all(settings, topics.predictions(contract.id))}
        assert {r["order_id"] for r in rows} <= wait_until(lambda: asked, 5, "predictions")
        entry = json.loads(next(iter(read_all(settings, topics.predictions(contract.id)))).value())
        assert set(entry) == {"id", "order_id", "score", "model", "version", "digest", "at", "event_time", "raw"}
        exposition = httpx.get(f"{base}/metrics").text
        assert 'driftline_predictions_total{endpoint="predict",version="2"}' in exposition
        assert "driftline_serving_model_version" in exposition


def write_block(settings, contract, partition: int, start: int, rows: int) -> None:
    decoder = decode.compile(contract)
    values = [body(order(start + i, price=3.5 + i)) for i in range(rows)] + [body(order(0, quantity=-1))]
    decoded = decoder.decode_batch(values, range(start, start + rows + 1), [1_800_000_000_000] * (rows + 1))
    header = blocks.BlockHeader(
        topics.events(contract.id), partition, start, start + rows + 1, decoded.counts, None, None, None, contract.name
    )
    client = producer(settings, "test-blocks")
    client.produce(
        topics.blocks(contract.id), blocks.encode(decoded.batch), headers=blocks.to_headers(header), partition=partition
    )
    assert client.flush(10) == 0


def coordinates(settings, contract) -> list[tuple[int, int, str]]:
    entries = [json.loads(m.value()) for m in read_all(settings, topics.predictions(contract.id))]
    return [(e["raw"]["partition"], e["raw"]["offset"], e["version"]) for e in entries if e["raw"]]


def test_score_uses_the_model_on_the_stream_and_names_each_rows_coordinate(world):
    settings, contract, artifacts = world
    with running(settings) as base:
        environment = {
            **os.environ,
            "DRIFTLINE_HOME": str(settings.home),
            "DRIFTLINE_BOOTSTRAP": settings.bootstrap,
            "DRIFTLINE_CONTRACT": settings.contract,
            "DRIFTLINE_SERVING": base,
            "DRIFTLINE_METRICS_PORT": str(port := free_port()),
        }
        log = (settings.home / "score.log").open("wb")
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "score", "--rows", "30"], env=environment, stdout=log, stderr=log
        )

        def metric(name: str) -> float:
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            except httpx.HTTPError:
                return 0.0
            return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))

        try:
            write_block(settings, contract, 0, 0, 50)  # before the first champion: counted, not scored
            wait_until(
                lambda: metric("driftline_unscored_rows_total") == 50, 60, "the rows without a model to be counted"
            )
            promote(settings, contract, 1, "1", artifacts[0])
            wait_until(lambda: all(version(base) == "1" for _ in range(20)), 20, "version 1")
            write_block(settings, contract, 1, 0, 70)
            wait_until(lambda: metric("driftline_scored_rows_total") == 70, 30, "the rows to be scored")
            expected = [(1, offset, "1") for offset in range(70)]
            wait_until(
                lambda: sorted(coordinates(settings, contract)) == expected, 20, "their predictions, and no other"
            )
        finally:
            child.terminate()
            assert child.wait(30) == 0
