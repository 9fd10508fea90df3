"""Decisions and verdicts as OpenLineage runs: the client's own form, and each check by its name."""

from __future__ import annotations

import pytest

from batch import lineage_runs
from batch.ledger import Draft, Entry
from batch.rules import QualityVerdict
from pipeline.lineage import Dataset, Run, completed
from tests.shared.lineage_oracle import as_the_client_writes_it


def entry(action: str, **metrics: object) -> Entry:
    sha = {"uri": "models/sales-returned/3", "sha256": "5b1d"}
    draft = Draft("2026-03-02T00:00:00.000Z", "sales-returned", action, "3", "2", "ann", "why", "p@1", metrics, {}, sha)  # type: ignore[arg-type]
    return Entry(9, draft, "0" * 64, "f" * 64)


@pytest.mark.parametrize(
    ("denied", "checks"),
    [
        ([], [("gate", True)]),
        (["slice a=b", "replay"], [("gate", False), ("gate_check", False), ("gate_check", False)]),
    ],
)
def test_a_promotion_tells_what_the_gate_said_of_the_version(denied: list[str], checks: list[tuple[str, bool]]) -> None:
    event = completed(lineage_runs.crowning("a:9092", "http://m:5000", entry("promote", denied=denied)), 0)
    assert as_the_client_writes_it(event) == event
    [read] = event["inputs"]  # type: ignore[misc]
    told = read["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [(a["assertion"], a["success"]) for a in told] == checks
    assert [a["name"] for a in told[1:]] == denied
    assert [d["name"] for d in event["outputs"]] == ["sales-returned@champion", "models.ledger"]  # type: ignore[attr-defined]


def test_the_same_entry_is_the_same_run() -> None:
    first, again = (lineage_runs.crowning("a:1", "m", entry("rollback")) for _ in range(2))
    assert first.id == again.id and first.inputs[0].assertions == ()


@pytest.mark.parametrize(("severity", "expected"), [("critical", "error"), ("degraded", "warn"), ("info", "warn")])
def test_a_dataset_rule_is_an_assertion_by_its_name_and_window(severity: str, expected: str) -> None:
    v = QualityVerdict("s@1", "t0", "t1", "mean_price", "mean", 3.2, "10 to 1000", 40, 1, severity, False, "critical")  # type: ignore[arg-type]
    a = lineage_runs.verdict(v)
    assert (a.assertion, a.name, a.success, a.severity) == ("mean", "mean_price", False, expected)
    event = completed(Run("j", "k", (Dataset("n", "t", assertions=(a,)),)), 0)
    assert as_the_client_writes_it(event) == event
