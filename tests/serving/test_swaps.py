"""Models change under load, files are tampered with, workers die: requests go on, each answered by one good model."""

from __future__ import annotations

import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import polars as pl
import psutil
import pytest

from batch import model
from tests.bench._serving_client import Connection, request
from tests.serving.conftest import JSON, Served, body, order
from tests.waiting import wait_until

ROWS = [order(i, price=1.5 * i + 1) for i in range(40)]


def expected(served: Served) -> dict[str, np.ndarray]:
    """Digest -> the scores that the files on disk give to ROWS."""
    frame = pl.DataFrame(ROWS).with_columns(pl.col("event_time").str.to_datetime(time_unit="ms", time_zone="UTC"))
    found = {}
    for artifact in served.artifacts.values():
        scorer = model.load(served.settings.home / artifact["uri"], artifact["sha256"])
        history = np.zeros((len(ROWS), len(scorer.features.history)))
        found[artifact["sha256"]] = scorer.score_matrix(scorer.features.matrix(frame, history))
    return found


@contextmanager
def asking(served: Served, clients: int) -> Iterator[list[httpx.Response]]:
    """Clients that ask for ROWS over and over; what they were answered."""
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=served.base, headers=JSON, timeout=60) as client:
            while not done.is_set():
                answers.append(client.post("/predict_batch", content=body({"rows": ROWS})))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


def test_swaps_under_load_fail_no_request_and_each_answer_is_one_versions(served: Served) -> None:
    served.promote("1")
    served.await_version("1")
    with asking(served, 2) as answers:
        for turn in range(4):
            served.promote(version := "21"[turn % 2])
            served.await_version(version)
    scores = expected(served)
    assert {a.status_code for a in answers} == {200}
    told = [a.json() for a in answers]
    assert {t["version"] for t in told} == {"1", "2"}
    for t in told:
        assert served.artifacts[t["version"]]["sha256"] == t["digest"]
        assert np.max(np.abs(np.array(t["scores"]) - scores[t["digest"]])) < 1e-12


def test_a_repeated_or_older_ledger_entry_changes_nothing(served: Served) -> None:
    served.promote("2")
    served.await_version("2")
    seq, served.seq = served.seq, 0
    served.promote("1")  # seq 1, which was taken long ago
    served.seq = seq
    served.promote("2")
    wait_until(lambda: served.log().count(f"seq={served.seq}") == 2, 20, "both workers to take the next entry")
    assert "seq=1 " in served.log() and served.log().count(" seq=1 ") == 2
    served.await_version("2")


def tampered(served: Served, how: str) -> dict[str, str]:
    """A good version 3, which no worker has seen; then as it lies there."""
    source = served.settings.home / served.artifacts["1"]["uri"]
    target = source.with_name("3")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    (target / model.META).write_text(json.dumps({**json.loads((source / model.META).read_text()), "made_for": how}))
    artifact = {"uri": str(target.relative_to(served.settings.home)), "sha256": model.digest_of(target)}
    if how == "files":
        (target / model.META).rename(target / "elsewhere")
        (target / model.META).symlink_to("elsewhere")
    elif how == "digest":
        (target / model.MODEL).write_bytes((target / model.MODEL).read_bytes()[:-10])
    elif how == "path":
        artifact["uri"] = "models/../models/" + artifact["uri"].removeprefix("models/")
    elif how == "content":
        with zipfile.ZipFile(target / model.MODEL, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("schema.json", bytes(model.MOST_UNPACKED + 1))
        artifact["sha256"] = model.digest_of(target)
    elif how == "golden":
        rows = pl.read_ipc((target / model.GOLDEN).read_bytes())
        rows.with_columns(pl.col(model.SCORE) + 1e-6).write_ipc(target / model.GOLDEN)
        artifact["sha256"] = model.digest_of(target)
    return artifact


@pytest.mark.parametrize("how", ["files", "digest", "path", "content", "golden"])
def test_a_model_whose_files_are_not_right_never_serves_and_an_alert_fires(served: Served, how: str) -> None:
    served.promote("2")
    served.await_version("2")
    served.promote("3", tampered(served, how))
    refused = "driftline_serving_model_refused"
    wait_until(lambda: served.metric(refused).count(1.0) == 2, 20, "both workers to refuse the model")
    assert sum(served.metric("driftline_models_refused_total", reason=how)) == 2
    assert all(served.version() == "2" for _ in range(10))
    served.promote("2")
    wait_until(lambda: set(served.metric(refused)) == {0.0}, 20, "the alert to end with the next good model")


def test_the_way_back_needs_no_files_for_the_old_model_is_kept_warm(served: Served) -> None:
    for version in "12":
        served.promote(version)
        served.await_version(version)
    there = served.settings.home / served.artifacts["1"]["uri"]
    aside = there.with_name("aside")
    there.rename(aside)
    try:
        served.promote("1", action="rollback")
        served.await_version("1")
        assert all(served.version() == "1" for _ in range(20))
    finally:
        aside.rename(there)


def test_a_killed_worker_comes_back_on_the_champion_and_leaves_no_gauge_behind(served: Served) -> None:
    served.promote("1")
    served.await_version("1")
    said = served.post("/predict", body(order())).json()
    about_it = body({"prediction_id": said["id"]})
    wait_until(lambda: served.post("/explain", about_it).status_code == 200, 20, "the answer to be logged")
    worker = workers(served)[0]
    worker.kill()
    served.promote("2")
    wait_until(lambda: len(w := workers(served)) == 2 and worker.pid not in [p.pid for p in w], 60, "a new worker", 0.2)

    def settled() -> bool:
        return served.metric("driftline_serving_model_version") == [2.0, 2.0]

    wait_until(settled, 60, "two workers on version 2, and no trace of the third", 0.2)
    assert all(served.version() == "2" for _ in range(20))
    # what version 1 said is explained by version 1, by the new worker too, which has to read its files for that
    told = [served.post("/explain", about_it) for _ in range(20)]
    assert {t.status_code for t in told} == {200}, {t.text for t in told}
    assert {(t.json()["version"], t.json()["digest"]) for t in told} == {("1", said["digest"])}


def test_a_worker_that_starts_while_the_champion_is_refused_answers_by_the_one_before_and_takes_it_once_it_is_sound(
    served: Served,
) -> None:
    served.promote("1")
    served.await_version("1")
    artifact = tampered(served, "digest")
    served.promote("3", artifact)
    refused = "driftline_serving_model_refused"
    wait_until(lambda: served.metric(refused).count(1.0) == 2, 20, "both workers to refuse the model")
    worker = workers(served)[0]
    worker.kill()
    wait_until(lambda: len(w := workers(served)) == 2 and worker.pid not in [p.pid for p in w], 60, "a new worker", 0.2)

    def shown() -> bool:
        return (served.metric("driftline_serving_model_version"), served.metric(refused)) == ([1.0, 1.0], [1.0, 1.0])

    wait_until(shown, 60, "two workers on version 1 that say that they refuse version 3", 0.2)
    answers = [served.post("/predict", body(order())) for _ in range(20)]
    assert {a.status_code for a in answers} == {200} and {a.json()["version"] for a in answers} == {"1"}
    whole = served.settings.home / served.artifacts["1"]["uri"] / model.MODEL
    (served.settings.home / artifact["uri"] / model.MODEL).write_bytes(whole.read_bytes())  # from a backup
    wait_until(lambda: served.metric("driftline_serving_model_version") == [3.0, 3.0], 30, "the champion itself", 0.2)
    assert set(served.metric(refused)) == {0.0}
    served.promote("2")
    served.await_version("2")


def workers(served: Served) -> list[psutil.Process]:
    children = psutil.Process(served.child.pid).children(recursive=True)
    return [c for c in children if any("worker" in part and "service" in part for part in _command(c))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_more_than_a_worker_can_answer_is_refused_at_once_and_the_rest_answered(served: Served) -> None:
    served.promote("1")
    served.await_version("1")
    message = request("/predict_batch", body({"rows": [order(i) for i in range(200)]}))
    clients = [Connection(int(served.base.rpartition(":")[2])) for _ in range(120)]
    for client in clients:
        client.send(message)
    answers = [client.receive() for client in clients]
    for client in clients:
        client.close()
    assert {status for status, _ in answers} == {200, 429}
    refused = json.loads(next(told for status, told in answers if status == 429))
    assert "more requests" in refused["error"]
    assert served.metric("driftline_prediction_errors_total", status="429")
    assert served.version() in served.artifacts
