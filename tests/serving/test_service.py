"""The service as its users see it: a real BentoML server, a real broker, real models."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from batch.answer_log import request_id
from pipeline import blocks, decode, topics
from pipeline.broker import free_port
from pipeline.kafka import headers_of, producer, read_all
from serving.admission import ARROW_TYPE
from stream_processors.live.model_features import features_for
from tests.serving.conftest import body, order
from tests.waiting import wait_until


def test_nothing_is_answered_before_a_model_has_passed_the_gate(served):
    for path in ("/predict", "/predict_batch", "/explain", "/model"):
        answer = served.post(path, body(order()))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "no model has passed the gate" in answer.json()["error"]


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


def predictions(settings, contract) -> list[dict]:
    return [json.loads(m.value()) for m in read_all(settings, topics.predictions(contract.id))]


def coordinates(settings, contract) -> list[tuple[int, int, str]]:
    entries = predictions(settings, contract)
    return [(e["raw"]["partition"], e["raw"]["offset"], e["version"]) for e in entries if e["raw"]]


def score_blocks(settings, contract) -> list[blocks.Block]:
    found = read_all(settings, topics.scores(contract.id))
    return [blocks.Block(blocks.from_headers(headers_of(m)), blocks.decode(m.value())) for m in found]


def test_score_uses_the_model_on_the_stream_and_names_each_rows_coordinate(served, tmp_path):
    settings, contract = served.settings, served.contract
    watching = tmp_path / "sales.yaml"
    answers = "confidence: {tolerance: 0.05}\n"
    more = "        history: [{name: customer_count_1d}, {name: customer_rate_1d}]\n"
    watching.write_text(Path(settings.contract).read_text().replace(answers, answers + more))
    environment = {
        **os.environ,
        "DRIFTLINE_HOME": str(settings.home),
        "DRIFTLINE_BOOTSTRAP": settings.bootstrap,
        "DRIFTLINE_CONTRACT": str(watching),
        "DRIFTLINE_SERVING": served.base,
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
        wait_until(lambda: metric("driftline_unscored_rows_total") == 50, 60, "the rows without a model to be counted")
        served.promote("1")
        served.await_version("1")
        write_block(settings, contract, 1, 0, 70)
        wait_until(lambda: metric("driftline_scored_rows_total") == 70, 30, "the rows to be scored")
        expected = [(1, offset, "1") for offset in range(70)]
        wait_until(lambda: sorted(coordinates(settings, contract)) == expected, 20, "their predictions, and no other")
        unscored, scored = sorted(score_blocks(settings, contract), key=lambda b: b.header.partition)
        assert (unscored.rows.num_rows, unscored.header.counts) == (0, {"unscored": 50})
        assert (scored.header.start, scored.header.end) == (0, 71)  # the rejected record's offset included
        said = {e["raw"]["offset"]: e["score"] for e in predictions(settings, contract) if e["raw"]}
        assert scored.rows.column("raw_offset").to_pylist() == list(range(70))
        assert scored.rows.column("score").to_pylist() == [said[offset] for offset in range(70)]
        assert scored.rows.column("confidence").to_pylist() == [max(p, 1 - p) for _, p in sorted(said.items())]
        assert set(scored.rows.column("model_version").to_pylist()) == {"1"}
        past = features_for(contract).history
        seen = {e["raw"]["offset"]: e["row"][-len(past) :] for e in predictions(settings, contract) if e["raw"]}
        for name in ("customer_count_1d", "customer_rate_1d"):  # what the model saw, and no other
            assert scored.rows.column(name).to_pylist() == [seen[o][past.index(name)] for o in range(70)]
        assert "product_rate_1d" not in scored.rows.schema.names
    finally:
        child.terminate()
        assert child.wait(30) == 0


def test_the_contracts_verdict_over_http(served):
    answer = served.post("/predict", body(order(quantity=5000)))
    assert (answer.status_code, answer.json()["field"], answer.json()["rule"]) == (422, "quantity", "range")
    assert served.post("/predict", b"{").status_code == 400
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/vnd.bentoml+pickle"):
        assert served.post("/predict", body(order()), content_type=kind).status_code == 415
    assert served.post("/predict_batch", b'{"row\xcf":1}').status_code == 400


def test_a_body_of_60_mb_is_answered_and_not_cut_off(served):
    huge = b" " * (60 * 1024 * 1024)
    for path in ("/predict", "/predict_batch", "/explain"):
        assert served.post(path, huge).status_code == 413


def test_one_a_batch_and_an_arrow_stream_get_the_same_answers_and_name_the_same_model(served):
    rows = [order(i, price=1.5 * i + 1) for i in range(40)]
    batch = served.post("/predict_batch", body({"rows": rows})).json()
    assert batch["keys"] == [r["order_id"] for r in rows]
    one = served.post("/predict", body(rows[7])).json()
    assert one["score"] == pytest.approx(batch["scores"][7], abs=1e-12)
    named = {"model": "served-returned", "version": "1", "digest": served.artifacts["1"]["sha256"]}
    assert {k: batch[k] for k in named} == {k: one[k] for k in named} == named
    told = served.post("/model", b"{}").json()
    assert {k: told[k] for k in named} == named and told["contract"] == served.contract.name

    sink = pa.BufferOutputStream()
    frame = pl.DataFrame(rows).with_columns(pl.col("event_time").str.to_datetime(time_unit="us", time_zone="UTC"))
    table = frame.to_arrow()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    answer = served.post("/predict_batch", sink.getvalue().to_pybytes(), content_type=ARROW_TYPE)
    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW_TYPE)
    found = pa.ipc.open_stream(answer.content).read_all()
    assert found.column("key").to_pylist() == batch["keys"] and found.column("score").to_pylist() == batch["scores"]
    assert {k: found.schema.metadata[k.encode()].decode() for k in named} == named


def test_explain_takes_a_prediction_apart_and_judges_records_as_predict_does(served):
    record = order(7, price=250.0)
    one, told = (served.post(path, body(record)).json() for path in ("/predict", "/explain"))
    assert {k: told[k] for k in ("key", "score", "version", "digest")} == {k: one[k] for k in ("key", "score", "version", "digest")}  # fmt: skip
    parts = {p["feature"]: p for p in told["contributions"]}
    assert told["base"]["log_odds"] + sum(p["log_odds"] for p in parts.values()) == pytest.approx(told["log_odds"])
    assert told["contributions"][0]["feature"] == "price" and parts["price"]["value"] == 250.0  # all that it learned
    assert (parts["category"]["value"], parts["category"]["log_odds"]) == ("books", 0.0)  # always the same
    for bad in (body(order(quantity=5000)), b"{", body({"rows": [record]})):
        refused, as_predict = (served.post(path, bad) for path in ("/explain", "/predict"))
        assert refused.status_code in (400, 422)
        assert (refused.status_code, refused.json()) == (as_predict.status_code, as_predict.json())
    assert served.post("/explain", body(record), content_type="text/plain").status_code == 415
    paths = httpx.get(f"{served.base}/docs.json", timeout=60).json()["paths"]
    assert "/explain" in paths


def explained(served, id: str) -> httpx.Response:
    return served.post("/explain", body({"prediction_id": id}))


def test_a_prediction_is_explained_by_its_id_as_it_was_given(served):
    rows = [order(200 + i, price=20.0 * i + 5, region=r) for i, r in enumerate(("north", "south", "east"))]
    one = served.post("/predict", body(rows[0])).json()
    batch = served.post("/predict_batch", body({"rows": rows})).json()
    wait_until(lambda: explained(served, f"{batch['id']}-2").status_code == 200, 20, "the answers to be logged", 0.3)
    for id, key, score in ((one["id"], one["key"], one["score"]), (f"{batch['id']}-2", rows[2]["order_id"], batch["scores"][2])):  # fmt: skip
        told = explained(served, id).json()
        assert (told["key"], told["version"], told["digest"]) == (key, one["version"], one["digest"])
        assert told["score"] == pytest.approx(score, abs=1e-12)
        assert 1 / (1 + np.exp(-told["log_odds"])) == pytest.approx(score, abs=1e-12)
    by_record = served.post("/explain", body(rows[0])).json()
    assert explained(served, one["id"]).json() == by_record  # nothing has happened to its customer since


def test_every_answer_is_in_the_prediction_log_under_its_id(served):
    rows = [order(i, price=3.0) for i in range(100, 150)]
    batch = served.post("/predict_batch", body({"rows": rows})).json()
    one = served.post("/predict", body(rows[0])).json()
    wanted = {f"{batch['id']}-{i}": s for i, s in enumerate(batch["scores"])} | {one["id"]: one["score"]}

    def logged() -> dict[str, float]:
        return {e["id"]: e["score"] for e in predictions(served.settings, served.contract) if e["id"] in wanted}

    wait_until(lambda: logged() == wanted, 20, "the log to hold every answer", 0.3)
    entry = predictions(served.settings, served.contract)[0]
    fields = {"id", "order_id", "score", "model", "version", "digest", "at", "event_time", "raw", "features", "slices", "row"}  # fmt: skip
    assert set(entry) == fields and entry["event_time"] == "2026-01-02T03:04:05.678Z"
    assert served.metric("driftline_predictions_total", endpoint="predict", version="1")


def test_what_cannot_be_explained_says_why(served):
    def id() -> str:
        return f"{request_id(time.time_ns() // 1_000_000, os.urandom(10))}-0"

    said = {"version": "1", "digest": served.artifacts["1"]["sha256"], "score": 0.5}
    logged = [
        (id(), {**said, "digest": "0" * 64, "row": [1.0]}, "are not kept here"),
        (id(), said, "what the model saw was not kept"),  # an answer from before rows were logged
        (id(), {**said, "row": [1.0, 2.0]}, "what the model saw was not kept"),
        (id(), {**said, "score": "high"}, "cannot be read"),
    ]
    client = producer(served.settings, "test-log")
    for name, entry, _ in logged:
        client.produce(topics.predictions(served.contract.id), body({"id": name, **entry}))
    assert client.flush(10) == 0
    never = [(id(), "does not hold it"), (f"{uuid.uuid4().hex}-0", "tells its time"), ("", "tells its time")]
    for name, reason in [*((name, reason) for name, _, reason in logged), *never]:
        answer = explained(served, name)
        assert (answer.status_code, answer.json()["field"]) == (404, "prediction_id"), answer.text
        assert f"prediction {name}: " in answer.json()["error"] and reason in answer.json()["error"]
    assert served.post("/explain", body({"prediction_id": id()}), content_type="text/plain").status_code == 415
    assert served.post("/explain", body({"prediction_id": 7})).status_code == 422  # no such record either
