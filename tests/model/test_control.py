"""The loop on a real broker and a real registry: first model, harmful shift promoted, harmless shift accepted, restarts."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace

import pytest

from batch import ledger, ledger_topic, model, promotion, reference, registry, training_child
from batch.controller import Controller
from batch.decisions import Policy, Request, Retrain, Wait
from batch.heard import Heard
from batch.ledger import ChampionMoved, Draft, Entry, Ledger
from batch.promotion import now
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, topics
from pipeline.errors import CheckFailed, Unreachable
from pipeline.kafka import producer, read_all
from pipeline.settings import Settings
from pipeline.times import to_text
from tests.model import lake, sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS
from tests.shared.lineage_oracle import as_the_client_writes_it
from tests.waiting import wait_until

CONTRACT = contract_file.load("sales")
MODEL = "sales-returned"
POLICY = Policy(first_rows=10_000, min_after=10_000, cooldown_s=0)
DAY_MS = 24 * HOUR_MS


def controller(settings: Settings) -> Controller:
    """A controller that has just started."""
    return Controller(settings, CONTRACT, POLICY, PrometheusMeter())


def day(settings: Settings, number: int, scenario: str) -> None:
    """Another day of orders with their outcomes; it takes a quarter of the next day until all of them are mature."""
    block = sales_rows.draw(16_000, scenario, seed=number + 1, start_ms=START_MS + number * DAY_MS)
    lake.write_events(settings, CONTRACT, sales_rows.events(block, 2))
    lake.write_outcomes(settings, CONTRACT, sales_rows.outcomes(block))


def fire(settings: Settings, episode: str, onset_ms: int) -> None:
    time = to_text(onset_ms)
    body = {"episode": episode, "contract": CONTRACT.name, "dataset": "sales", "source": "data", "state": "firing", "at": now(),
            "event_time": time, "onset": time, "onset_low": time, "onset_high": time, "features": [], "resolution": None}  # fmt: skip
    client = producer(settings, "test")
    client.produce(topics.ALERTS, key=episode.encode(), value=json.dumps(body).encode())
    assert client.flush(10) == 0


def decisions_of(settings: Settings) -> list[tuple[str, str | None, str | None]]:
    return [(e.draft.action, e.draft.version, e.draft.episode) for e in Ledger(ledger.path_of(settings)).entries(MODEL)]


def references(settings: Settings) -> dict[int, str]:
    records = [json.loads(m.value()) for m in read_all(settings, topics.REFERENCES)]
    return {r["version"]: r["effective_from"] for r in records}


def score_models(settings: Settings) -> dict[int, str]:
    """By reference version the model whose scores it holds."""
    records = [json.loads(m.value()) for m in read_all(settings, topics.REFERENCES)]
    return {r["version"]: r["model"] for r in records if (r["feature"], r["segment"]) == ("score", "*")}


def await_references(settings: Settings, *versions: int) -> dict[int, str]:
    """A transaction's markers may follow its commit: what is published is readable a moment later."""

    def all_there() -> dict[int, str] | None:
        found = references(settings)
        return found if set(found) == set(versions) else None

    return wait_until(all_there, 20, f"references {versions}")  # type: ignore[return-value]


@pytest.fixture
def ready(fresh_topics: Callable[..., Settings], mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(training_child, "CANDIDATES", 2)  # `test_search` is about the search
    return replace(fresh_topics("sales", 2), mlflow=mlflow_url)


def test_first_model_then_accepted_then_promoted_and_a_restart_repeats_nothing(
    ready: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard, stopped = Heard(CONTRACT), threading.Event()
    heard.listen(ready, stopped)
    try:
        # day 0: baseline -> version 1 through the gate, reference 1
        day(ready, 0, "baseline")
        controller(ready).turn([], [])
        assert decisions_of(ready) == [("train", "1", None), ("promote", "1", None)]
        assert await_references(ready, 1) == {1: to_text(START_MS + DAY_MS)}
        assert registry.pointed(ready, MODEL) == "1"

        # day 1: inputs move, the relation does not
        day(ready, 1, "harmless-shift")
        fire(ready, "e1", START_MS + DAY_MS)
        wait_until(lambda: heard.caught_up and heard.episodes(), 20, "the alert")
        controller(ready).turn(heard.episodes(), [])
        accepted = Ledger(ledger.path_of(ready)).entries(MODEL)[-1]
        assert (accepted.draft.action, accepted.draft.version, accepted.draft.episode) == ("accept", "1", "e1"), (
            accepted.draft.reason
        )
        await_references(ready, 1, 2)

        # day 2: harmful; the controller dies after the ledger entry, before the reference
        day(ready, 2, "price-shift,harmless-shift")
        fire(ready, "e2", START_MS + 2 * DAY_MS)
        wait_until(lambda: len(heard.episodes()) == 2, 20, "the second alert")
        with monkeypatch.context() as patch:
            patch.setattr(promotion, "publish_reference", _away)
            controller(ready).turn(heard.episodes(), [])
        assert decisions_of(ready)[4:] == [("train", "3", "e2"), ("promote", "3", "e2")]
        assert set(await_references(ready, 1, 2)) == {1, 2}
        step = controller(ready).turn(heard.episodes(), [])
        assert isinstance(step, Wait) and await_references(ready, 1, 2, 3)[3] == to_text(START_MS + 3 * DAY_MS)
        # each with the answers of the model that serves from then on
        assert score_models(ready) == {1: "1", 2: "1", 3: "3"}

        # restarts: nothing is decided, trained or published twice
        before = (decisions_of(ready), ledger_topic.read(ready))
        assert isinstance(controller(ready).turn(heard.episodes(), []), Wait)
        assert (decisions_of(ready), ledger_topic.read(ready)) == before
        _check_ledger(ready)
        _check_rollback(ready)
        _check_lineage(ready)
        _check_reference_of_a_run(ready, capsys)
        _check_triggers(ready)
    finally:
        stopped.set()


def _away(*_: object) -> None:
    raise Unreachable("killed here")


def _check_ledger(settings: Settings) -> None:
    book = Ledger(ledger.path_of(settings))
    assert book.verify() == len(ledger_topic.read(settings)) == 6
    lines = ledger_topic.read(settings)
    assert lines == [e.json() for e in book.entries()]
    champion: dict[str, object] = dict(ledger.champion_of(lines, MODEL) or {})
    assert champion["version"] == "3"
    artifact = champion["artifact"]
    assert isinstance(artifact, dict)
    scorer = model.load(settings.home / artifact["uri"], artifact["sha256"])
    assert 0 < scorer.score(sales_rows.labelled(sales_rows.draw(1)))[0] < 1


def _check_rollback(settings: Settings) -> None:
    with pytest.raises(CheckFailed, match="expected a former champion"):
        promotion.rollback(settings, CONTRACT, MODEL, "2", actor="test", reason="no", at=now())
    with pytest.raises(ChampionMoved, match="expected champion 1 to roll back from, it is 3"):
        promotion.rollback(settings, CONTRACT, MODEL, None, actor="test", reason="no", at=now(), of="1")
    back: Entry = promotion.rollback(settings, CONTRACT, MODEL, None, actor="test", reason="worse", at=now())
    assert (back.draft.version, back.draft.former) == ("1", "3") and back.draft.artifact
    promotion.settle(settings, CONTRACT, MODEL)
    assert registry.pointed(settings, MODEL) == "1"
    spec = {e.seq: e.draft.reference for e in Ledger(ledger.path_of(settings)).entries(MODEL) if e.draft.reference}
    # the reference again under which it was accepted
    assert [r and r["from"] for r in (spec[4], spec[back.seq])] == [to_text(START_MS + DAY_MS)] * 2
    assert (
        wait_until(lambda: score_models(settings).get(int(back.draft.reference_version or 0)), 20, "its scores") == "1"
    )


def _check_triggers(settings: Settings) -> None:
    """A person asks, then rows come: each costs one training, judged beside the champion, and no second one."""
    asked = Request("control.requests[0]@7", "retrain", None, "ada", "new season")
    rows = Controller(settings, CONTRACT, replace(POLICY, every_rows=5_000), PrometheusMeter())
    book, by_rows = Ledger(ledger.path_of(settings)), lambda: rows.turn([], [])

    def said() -> tuple[Draft, Draft]:
        trained, decided = (e.draft for e in book.entries(MODEL)[-2:])
        assert (trained.action, decided.version) == ("train", trained.version) and decided.action in (
            "promote",
            "refuse",
        )
        assert decided.data["digest"] == trained.data["digest"] and decided.metrics["champion"] == trained.former
        return trained, decided

    assert isinstance(controller(settings).turn([], [asked]), Retrain)
    trained, decided = said()
    assert trained.reason == "asked by ada: new season"
    assert (decided.actor, decided.metrics["request"]) == ("ada", asked.id)
    assert isinstance(controller(settings).turn([], [asked]), Wait) and isinstance(by_rows(), Wait)
    day(settings, 3, "price-shift,harmless-shift")
    assert isinstance(by_rows(), Retrain)
    trained, decided = said()
    assert (trained.reason, decided.actor) == ("5000 new labelled rows", "control")
    assert isinstance(by_rows(), Wait)


def _check_lineage(settings: Settings) -> None:
    """Each move of the champion is a run from a model version to the entry that moved it, each training one to a version."""
    told = [json.loads(m.value()) for m in read_all(settings, topics.LINEAGE)]
    assert all(as_the_client_writes_it(e) == e for e in told)
    ends = [e for e in told if e["eventType"] == "COMPLETE"]
    entries = Ledger(ledger.path_of(settings)).entries(MODEL)
    moved = [e for e in ends if e["job"]["name"] == f"{MODEL}.promote"]
    written = [e["outputs"][1]["facets"]["datasetVersion"]["datasetVersion"] for e in moved]
    assert written == [e.hash for e in entries if e.draft.action in ledger.CROWNS]
    gate = [e["inputs"][0]["inputFacets"].get("dataQualityAssertions", {}).get("assertions", []) for e in moved]
    assert [[a["success"] for a in checks] for checks in gate] == [[True], [True], []]  # a rollback asks no gate
    trained = [e["outputs"][0] for e in ends if e["job"]["name"] == f"{MODEL}.train"]
    assert {(d["namespace"], d["name"]) for d in trained} == {(settings.mlflow, MODEL)}
    read = [e["inputs"][0]["facets"]["datasetVersion"]["datasetVersion"] for e in moved]
    assert {*read} <= {d["facets"]["datasetVersion"]["datasetVersion"] for d in trained}


def _check_reference_of_a_run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Built from the data of the first champion's run, it is the reference that its promotion published."""
    newest = max(references(settings)) + 1
    [first, *_] = Ledger(ledger.path_of(settings)).entries(MODEL)
    uri = (first.draft.artifact or {})["uri"]
    run = json.loads((settings.home / str(uri) / model.META).read_text())["run_id"]
    told = [
        reference_verb(settings, capsys, *argv, "--json")
        for argv in (["build", "--mlflow-run", run], ["diff", "1", str(newest)])
    ]
    assert {r["version"] for r in told[0]} == {newest} and {r["feature"] for r in told[0]} >= {"price", "reject"}
    assert len(told[1]) == len(told[0]) and {r["statistic"] or 0 for r in told[1]} == {0}


def reference_verb(settings: Settings, capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser()
    reference.Reference.configure(parser)
    capsys.readouterr()
    assert reference.Reference.run(parser.parse_args(argv), settings) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_registry_that_is_away_stops_a_training_with_a_clear_error(fresh_topics: Callable[..., Settings]) -> None:
    settings = replace(fresh_topics("sales", 2), mlflow="http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"MLflow at http://127\.0\.0\.1:9"):
        registry.wait(settings, deadline_s=1)


def test_data_under_a_critical_verdict_is_held_and_nothing_is_trained(fresh_topics: Callable[..., Settings]) -> None:
    settings = replace(fresh_topics("sales", 2), mlflow="http://127.0.0.1:9")
    day(settings, 0, "baseline")
    failed = {
        "rule": "row_count",
        "severity": "critical",
        "window_start": to_text(START_MS),
        "window_end": to_text(START_MS + HOUR_MS),
    }
    extra = sales_rows.events(sales_rows.draw(100, seed=50), 2)
    lake.write_events(settings, CONTRACT, extra, worst="critical", violations=json.dumps([failed]))
    started = controller(settings)
    step = started.turn([], [])
    assert isinstance(step, Retrain) and [d[0] for d in decisions_of(settings)] == ["hold"]
    [held] = Ledger(ledger.path_of(settings)).entries(MODEL)
    assert held.draft.reason.startswith("training failed: ") and not held.episodes
    assert started._failed_at  # the child ended with 1; the next try waits for the cooldown


KILLED = """
import os, signal, sys
from batch import ledger_topic, promotion, registry
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
setattr({module}, "{name}", die)
from pipeline.cli import main
sys.exit(main(["models", "rollback", "{version}", "--direct", "--reason", "killed"]))
"""


def test_a_decision_reaches_every_place_wherever_its_process_was_killed(ready: Settings) -> None:
    """Ledger, topic, references, alias: killed before the second, the third and the fourth."""
    day(ready, 0, "baseline")
    _registered(ready, "1", "2")
    book, spec = Ledger(ledger.path_of(ready)), {"from": to_text(START_MS), "to": to_text(START_MS + DAY_MS), "effective_from": to_text(START_MS)}  # fmt: skip
    for number, former in ((1, None), (2, "1")):
        draft = Draft(now(), MODEL, "promote", str(number), artifact={"uri": "models/x", "sha256": "0"})
        book.crown(replace(draft, reference_version=number, reference=spec), former)
    controller(ready).turn([], [])
    await_references(ready, 2)
    assert registry.pointed(ready, MODEL) == "2"
    serving = "2"
    for module, name, behind in (
        ("ledger_topic", "_send", (True, True, True)),
        ("promotion", "publish_reference", (False, True, True)),
        ("registry", "point", (False, False, True)),
    ):
        code = KILLED.format(module=module, name=name, version="2" if serving == "1" else "1")
        done = subprocess.run([sys.executable, "-c", code], env=training_child.environment(ready), timeout=200)
        assert done.returncode == -signal.SIGKILL, (module, name)
        newest, serving = book.entries(MODEL)[-1], "2" if serving == "1" else "1"
        assert (newest.draft.action, newest.draft.version) == ("rollback", serving)
        wait_until(lambda: _behind(ready, newest) == behind, 20, f"{name}: {behind}")  # noqa: B023
        assert isinstance(controller(ready).turn([], []), Wait)  # just started
        wait_until(lambda: _behind(ready, newest) == (False, False, False), 20, "every place")  # noqa: B023


def _behind(settings: Settings, entry: Entry) -> tuple[bool, bool, bool]:
    return (
        ledger_topic.read(settings)[-1]["seq"] != entry.seq,
        entry.draft.reference_version not in references(settings),
        registry.pointed(settings, MODEL) != entry.draft.version,
    )


def _registered(settings: Settings, *versions: str) -> None:
    """Versions in the registry, numbered as it numbers them; without a model, for the alias alone."""
    for path, body in (
        ("registered-models/create", {"name": MODEL}),
        *(("model-versions/create", {"name": MODEL, "source": "s3://nowhere/model"}) for _ in versions),
    ):
        request = urllib.request.Request(
            f"{settings.mlflow}/api/2.0/mlflow/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.HTTPError as error:
            assert error.code == 400 and path.startswith("registered"), error.read()  # it is there already
