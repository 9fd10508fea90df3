"""What people ask of the controller: answered in the ledger, once, in time, or refused with the reason."""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from batch import ledger
from batch.controller import Controller
from batch.decisions import Policy, Request, Wait
from batch.heard import Heard
from batch.ledger import Draft, Ledger
from batch.models import Models
from batch.promotion import now
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file
from pipeline.errors import CheckFailed, Unreachable
from pipeline.settings import Settings
from tests.waiting import wait_until

CONTRACT = contract_file.load("sales")
MODEL = "sales-returned"


def models(settings: Settings, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    Models.configure(parser)
    return Models.run(parser.parse_args(argv), settings)


@pytest.fixture
def settings(fresh_topics: Callable[..., Settings]) -> Settings:
    """Version 2 serves, after version 1; no registry is there."""
    found = replace(fresh_topics("sales", 1), mlflow="http://127.0.0.1:9")
    book = Ledger(ledger.path_of(found))
    for version, former in (("1", None), ("2", "1")):
        book.append(Draft(now(), MODEL, "train", version, artifact={"uri": f"models/{version}", "sha256": "aa"}))
        book.crown(
            Draft(now(), MODEL, "promote", version, artifact={"uri": f"models/{version}", "sha256": "aa"}), former
        )
    return found


@pytest.fixture
def heard(settings: Settings) -> Iterator[Heard]:
    found, stopped = Heard(CONTRACT), threading.Event()
    threads = found.listen(settings, stopped)
    wait_until(lambda: found.caught_up, 20, "the topics to be read")
    yield found
    stopped.set()
    for thread in threads:
        thread.join(10)


def answered(settings: Settings, heard: Heard, *argv: str) -> Future[int]:
    """The verb's result; the controller turns until it has one."""
    controller = Controller(settings, CONTRACT, Policy(first_rows=10**9, budget=0), PrometheusMeter())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(models, settings, *argv)

        def turned() -> bool:
            controller.turn(heard.episodes(), heard.requests())
            return asked.done()

        wait_until(turned, 60, f"an answer to {argv}")
    return asked


def test_a_request_is_answered_in_the_ledger_once(
    settings: Settings, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(settings, heard, "rollback", "--reason", "worse", "--json").result() == 0
    entry = json.loads([line for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1])
    assert (entry["action"], entry["version"], entry["former"]) == ("rollback", "1", "2")
    assert (entry["actor"], entry["reason"], entry["metrics"]["request"][:16]) == ("test", "worse", "control.requests")
    for argv, said in (
        (("rollback", "9"), "refused: rollback 9: .*expected a former champion"),
        (("promote", "9"), "refused: promote 9: .*knows no trained version 9"),
        (("retrain",), "refused: retrain: the budget of 0 trainings a day is used"),
    ):
        with pytest.raises(CheckFailed, match=said):
            answered(settings, heard, *argv, "--reason", "again").result()
    entries = Ledger(ledger.path_of(settings)).entries(MODEL)
    assert [e.draft.action for e in entries[4:]] == ["rollback", "refuse", "refuse", "refuse"]
    assert all(e.draft.policy.startswith("promotion@") for e in entries[4:])


def test_a_ledger_that_was_touched_pages_while_there_is_nothing_to_decide(settings: Settings, heard: Heard) -> None:
    meter = PrometheusMeter()
    controller = Controller(settings, CONTRACT, Policy(first_rows=10**9), meter)
    intact = 'driftline_ledger_intact{model="%s"} ' % MODEL  # noqa: UP031
    controller.turn([], [])
    controller.turn([], [])
    assert intact + "1.0" in meter.exposition().decode()
    file = ledger.path_of(settings)
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute('update entries set body = replace(body, \'"actor":"\', \'"actor":"x\') where seq = 2')
    controller.turn([], [])
    assert intact + "0.0" in meter.exposition().decode()


def test_a_ledger_whose_end_was_cut_off_decides_nothing(
    settings: Settings, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(settings, heard, "rollback", "--reason", "worse", "--json").result() == 0
    controller = Controller(settings, CONTRACT, Policy(first_rows=10**9, budget=0), PrometheusMeter())
    controller.turn([], [])
    controller.turn([], [])
    file = ledger.path_of(settings)
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute("delete from entries where seq = (select max(seq) from entries)")
    held = len(Ledger(file).entries())
    asked = Request("control.requests[0]@99", "rollback", None, "test", "again")
    step = controller.turn([], [asked])
    assert isinstance(step, Wait) and "cut or replaced" in step.reason
    assert len(Ledger(file).entries()) == held


def test_without_a_controller_the_asker_is_told_and_the_request_expires(settings: Settings, heard: Heard) -> None:
    with pytest.raises(Unreachable, match="is `driftline control` running"):
        models(settings, "rollback", "--reason", "worse", "--wait", "0.5")
    [request] = wait_until(heard.requests, 20, "the request")
    assert request.expires_s is not None
    Controller(settings, CONTRACT, Policy(first_rows=10**9), PrometheusMeter()).turn([], [request])
    last = Ledger(ledger.path_of(settings)).entries(MODEL)[-1]
    assert last.draft.action == "refuse" and "too late" in last.draft.reason
