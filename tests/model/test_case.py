"""The case by name: a table, and the way from an alert's JSON to it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from batch import ledger
from batch.attribution_live import AttributionWatch, Looked
from batch.case import Case, Seen, case_of, seen
from batch.controller import Controller
from batch.decisions import Episode, Policy
from batch.heard import Heard
from batch.ledger import Draft, Ledger
from batch.promotion import now
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, topics
from pipeline.cli import main
from pipeline.kafka import producer
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.drift.read_verbs import named
from tests.model import lake, sales_rows
from tests.model.sales_rows import HOUR_MS
from tests.waiting import wait_until

TABLE: list[tuple[Case, Seen]] = [
    ("harmless shift", Seen(frozenset({"region"}), loss="within")),
    ("harmless shift", Seen(frozenset({"region", "score"}), frozenset({"mix_change"}), "within", 0.02)),
    ("harmful shift", Seen(frozenset({"price", "score"}), frozenset({"level_move"}), "beyond")),
    ("harmful shift", Seen(frozenset({"price"}), loss="unclear", estimate=0.2)),  # before labels: the estimate
    ("harmful shift", Seen(frozenset({"price"}), loss="within", estimate=0.2)),  # harder orders, honest scores
    ("concept drift", Seen(loss="beyond")),
    ("concept drift", Seen(frozenset({"score", "confidence"}), frozenset({"level_move"}), "beyond")),
    ("data fault", Seen(frozenset({"reject"}), loss="within")),
    ("data fault", Seen(frozenset({"price", "reject"}), frozenset({"level_move"}), "beyond")),
    ("data fault", Seen(frozenset({"price"}), frozenset({"unit_change"}), "beyond")),
    ("data fault", Seen(frozenset({"region"}), frozenset({"dropped_segment"}), "within")),
    ("data fault", Seen(frozenset({"price"}), loss="beyond", rules=frozenset({"mean_price"}))),
    ("undecided", Seen(frozenset({"price"}))),
    ("undecided", Seen(frozenset({"price"}), loss="unclear", estimate=0.02)),
    ("undecided", Seen(frozenset({"score"}), loss="within")),
    ("undecided", Seen(estimate=0.5)),
    ("undecided", Seen(estimate=float("nan"))),
]


@pytest.mark.parametrize(("case", "found"), TABLE)
def test_the_case_is_named(case: Case, found: Seen) -> None:
    assert case_of(found) == case


def episode(source: str = "data", **more: object) -> Episode:
    return Episode("e", source, "firing", 0, 0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("harm", "promised", "expected"),
    [("none", 0.39, "harmless shift"), ("harmful", 0.39, "harmful shift"), ("unclear", 0.39, "undecided"),
     ("unclear", 0.50, "harmful shift"), (None, None, "undecided")],
)  # fmt: skip
def test_the_gate_says_what_the_loss_did(harm: object, promised: object, expected: Case) -> None:
    gate = {"harm": harm, "live": {"promised": promised}}
    assert case_of(seen([episode(moved=frozenset({"price"}))], gate, 0.38)) == expected


def test_before_a_training_a_firing_loss_speaks_for_the_labels() -> None:
    assert case_of(seen([episode("loss")])) == "concept drift"
    assert case_of(seen([episode("loss"), episode(moved=frozenset({"price"}))])) == "harmful shift"


def test_what_the_model_knows_of_the_past_is_no_input() -> None:
    moved = episode(moved=frozenset({"customer_rate_1d", "score"}))
    assert case_of(seen([episode("loss"), moved], history=["customer_rate_1d"])) == "concept drift"
    assert case_of(seen([episode("loss"), moved])) == "harmful shift"


def alert(state: str, features: list[dict[str, object]], causes: list[str]) -> object:
    body = {"episode": "e", "dataset": "sales", "source": "data", "state": state, "onset": "2026-01-01T00:00:00.000Z",
            "features": [{"segment": "*", **f} for f in features], "causes": [{"kind": kind, "place": "", "score": 0.5, "evidence": ""} for kind in causes]}  # fmt: skip
    return type("Message", (), {"value": staticmethod(lambda: json.dumps(body).encode())})()


def test_what_moved_is_kept_from_all_alerts_of_the_episode_and_a_warning_moved_nothing() -> None:
    heard = Heard(contract_file.load("sales"))
    price, region = {"feature": "price", "e_value": 14.0, "threshold": 12.0}, {"feature": "region", "p_value": 0.001}
    heard.alert(alert("firing", [price, {"feature": "quantity", "e_value": 3.0, "threshold": 12.0}], ["level_move", "unit_change"]))  # type: ignore[arg-type] # fmt: skip
    heard.alert(alert("resolved", [region], []))  # type: ignore[arg-type]
    (found,) = heard.episodes()
    assert found.moved == {"price", "region"} and found.causes == {"level_move"}


def failed(rule: str, hour: int, severity: str = "degraded") -> dict[str, str]:
    start, end = (to_text(h * HOUR_MS) for h in (hour, hour + 1))
    return {"rule": rule, "severity": severity, "window_start": start, "window_end": end}


@pytest.mark.parametrize(
    ("violations", "expected"),
    [
        ([failed("mean_price", 10)], {"mean_price"}),  # in the window of the onset
        ([failed("mean_price", 9), failed("mean_price", 12)], {"mean_price"}),  # the onset is an estimate
        ([failed("mean_price", 3)], set()),  # long before, and over
        ([failed("unique_order_id", 3), failed("unique_order_id", 12)], set()),  # fails in windows of every kind
        ([failed("row_count", 3, "critical"), failed("row_count", 12, "critical")], {"row_count"}),
        ([{**failed("freshness", 12), "window_start": "run", "window_end": "run"}], set()),  # of no window
    ],
)
def test_a_dataset_rule_that_the_episodes_windows_broke_makes_it_a_data_fault(
    violations: list[dict[str, str]], expected: set[str]
) -> None:
    moved = Episode("e", "data", "firing", 10 * HOUR_MS + 1, 0, moved=frozenset({"price"}))
    found = seen([moved], violations=violations)
    assert found.rules == expected
    assert (case_of(found) == "data fault") == bool(expected)


def test_an_episode_has_the_case_of_its_newest_decision() -> None:
    ledger = [
        {"episode": "e", "also": [], "metrics": {"case": "undecided"}},
        {"episode": "e", "also": ["l"], "metrics": {"case": "harmful shift"}},
        {"episode": None, "also": [], "metrics": {"watch": 2}},
    ]
    assert named(ledger) == {"e": "harmful shift", "l": "harmful shift"}


def test_a_hold_names_the_case_and_the_alert_of_the_episode_shows_it(
    fresh_topics: Callable[..., Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
) -> None:  # fmt: skip
    settings, contract = fresh_topics("sales", 1), contract_file.load("sales")
    book = Ledger(ledger.path_of(settings))
    book.append(Draft(now(), "sales-returned", "train", "1", metrics={"log_loss": 0.38}))
    book.crown(Draft(now(), "sales-returned", "promote", "1"), None)
    heard, client = Heard(contract), producer(settings, "test")
    said = alert("firing", [{"feature": "price", "e_value": 14.0, "threshold": 12.0}], ["level_move"])
    onset = to_ms("2026-01-01T00:00:00Z")
    rows, broken = sales_rows.events(sales_rows.draw(100)), failed("mean_price", onset // HOUR_MS)
    lake.write_events(settings, contract, rows, worst="degraded", violations=json.dumps([broken]))
    heard.alert(said)  # type: ignore[arg-type]
    body = {**json.loads(said.value()), "event_time": "2026-01-01T00:00:00.000Z", "reference_version": 1}  # type: ignore[attr-defined]
    client.produce(topics.ALERTS, key=b"e", value=json.dumps(body).encode())
    assert client.flush(10) == 0

    meter = PrometheusMeter()
    attribution = AttributionWatch(settings, contract, meter, Looked("1", onset, onset + 1, "price moved by 0.400"))
    Controller(settings, contract, Policy(), meter, attribution=attribution).turn(heard.episodes(), [])
    newest = book.entries("sales-returned")[-1].draft
    told = {"from": to_text(onset), "to": to_text(onset + 1), "said": "price moved by 0.400"}
    assert (newest.action, newest.episode) == ("hold", "e")
    assert newest.metrics == {"case": "data fault", "rules": ["mean_price"], "attribution": told}

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()

    def told_of_alerts() -> str | None:
        said = capsys.readouterr().out if main(["alerts"]) == 0 else ""
        return said if "data fault" in said else None

    said = wait_until(told_of_alerts, 20, "the case in the alert")
    assert "case      data fault: mean_price broken" in said
    assert "answers   price moved by 0.400 (" in said
    assert main(["models", "history"]) == 0
    assert "data" in capsys.readouterr().out
