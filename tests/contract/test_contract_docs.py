"""The contract's page and its verb."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from pipeline import contract_docs, contract_file
from pipeline.contract_verbs import PAGE, ContractVerb, shipped_in_order
from pipeline.errors import CheckFailed, UsageError
from pipeline.record import CODES
from pipeline.settings import from_environment
from tests.contracts import contract_file_named

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: str, contract: str = "sales") -> int:
    parser = argparse.ArgumentParser()
    ContractVerb.configure(parser)
    return ContractVerb.run(parser.parse_args(argv), from_environment({}, contract))


def test_the_committed_page_is_the_generated_one() -> None:
    assert (ROOT / PAGE).read_text() == contract_docs.page([contract_file.load(n) for n in shipped_in_order()]), (
        "run `driftline contract docs`"
    )


def test_the_page_names_every_field_rule_and_reject_code() -> None:
    page = (ROOT / PAGE).read_text()
    for name in shipped_in_order():
        contract = contract_file.load(name)
        named = [f.name for f in contract.fields] + [r.name for r in (*contract.rules, *contract.dataset_rules)]
        assert [n for n in (*named, *CODES) if f"`{n}`" not in page] == []


def test_check_passes_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", *shipped_in_order()) == 0
    assert "sales@1.0.0 ok: 11 fields" in capsys.readouterr().out


def test_check_fails_with_line_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = contract_file_named(tmp_path)
    path.write_text(path.read_text().replace("severity: info", "severity: low"))
    with pytest.raises(CheckFailed, match="1 of 2"):
        run("check", "sales", str(path), "--json")
    good, bad = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (good["ok"], bad["ok"]) == (True, False)
    assert "schema[0].quality[3].severity: expected one of" in bad["errors"][0]


def test_check_of_a_file_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="expected a contract file"):
        run("check", "no/such.yaml")


def test_docs_writes_the_page_and_its_check_notices_an_old_one(tmp_path: Path) -> None:
    out = str(tmp_path / "docs" / "contract.md")
    assert run("docs", "--out", out) == 0
    assert run("docs", "--out", out, "--check") == 0
    Path(out).write_text("old")
    with pytest.raises(CheckFailed, match="driftline contract docs"):
        run("docs", "--out", out, "--check")
