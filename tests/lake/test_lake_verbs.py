"""quality, report, export and verify over one lake, and a compactor whose broker goes away."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import polars as pl
import pytest

from batch import table as lake
from batch.quality import assess
from batch.report import batch_report
from batch.verify import verify
from pipeline import contract_file, kafka, topics
from pipeline.broker import free_port
from pipeline.cli import main
from pipeline.settings import from_environment
from tests.contracts import contract_file_named
from tests.lake.log_writer import START, LogWriter, order
from tests.waiting import wait_until

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def run(broker, tmp_path_factory):
    """A lake of two hours with a duplicate, two dead letters that decode and one that does not."""
    tmp_path = tmp_path_factory.mktemp("verbs")
    file = contract_file_named(tmp_path, "sales", f"verbs_{random.getrandbits(40):x}")
    env = {"DRIFTLINE_HOME": str(tmp_path / "home"), "DRIFTLINE_BOOTSTRAP": broker.bootstrap}
    settings, contract = from_environment(env, str(file)), contract_file.load(str(file))
    kafka.create_topics(settings, topics.all_topics(contract.id, 2))
    writer = LogWriter(settings, contract)
    writer.write(0, [order(1), order(1), order(2, quantity=-1), b"{"])
    writer.write(1, [order(2099), order(2004, price=-2), order(5503)])
    old = dict(os.environ)
    os.environ.update(env)
    try:
        assert main(["--contract", str(file), "compact", "--once"]) == 0
        yield settings, contract, writer, str(file)
    finally:
        os.environ.clear()
        os.environ.update(old)


def test_quality_from_the_lake_is_quality_from_the_stream(run, capsys):
    settings, contract, _, file = run
    live = {m.key().decode(): json.loads(m.value()) for m in kafka.read_all(settings, topics.quality(contract.id))}
    assert main(["--contract", file, "quality", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {f"{v['contract']}/{v['window_start']}/{v['rule']}": v for v in again["verdicts"]} == live
    assert (again["status"], again["rows"]) == ("degraded", 6)


def test_quality_of_a_range_sees_only_the_range(run):
    settings, contract, _, _ = run
    second_hour = assess(settings, contract, since=START // HOUR_MS * HOUR_MS + HOUR_MS)
    assert (second_hour.status, second_hour.rows) == ("ok", 1)
    assert "unique_order_id" in [v.rule for v in assess(settings, contract).failed]


def test_quality_fails_by_name_when_a_critical_rule_is_broken(run, tmp_path, capsys):
    _, _, _, file = run
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        Path(file)
        .read_text()
        .replace(
            "metric: duplicateValues\n        arguments: {properties: [order_id]}\n        mustBe: 0\n        severity: degraded",
            "metric: duplicateValues\n        arguments: {properties: [order_id]}\n        mustBe: 0\n        severity: critical",
        )
    )
    assert main(["--contract", str(strict), "quality"]) == 1
    assert "critical: unique_order_id in 2026-09-21" in capsys.readouterr().err


def test_the_report_counts_each_rule_over_all_records(run, tmp_path, capsys):
    settings, contract, _, file = run
    assert main(["--contract", file, "report", "--out", str(tmp_path / "r")]) == 0
    found = batch_report(settings, contract)
    assert (found.records, found.valid, found.dead, found.status) == (7, 4, 3, "degraded")
    assert {f.rule: f.violations for f in found.violated} == {
        "quantity": 1,
        "price": 1,
        "record": 1,
        "unique_order_id": 2,
        "unique_customer_day": 2,
    }
    assert {p.name for p in (tmp_path / "r").iterdir()} == {"report.html", "report.json", "violations.png"}


def test_an_export_is_plain_parquet_that_its_manifest_proves(run, tmp_path, capsys):
    settings, contract, _, file = run
    out = tmp_path / "out"
    assert main(["--contract", file, "export", "--out", str(out), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    rows = pl.read_parquet(out / "**/*.parquet", hive_partitioning=True)
    assert rows.height == manifest["rows"] == 4
    assert sorted(rows["order_id"]) == sorted(lake.scan(settings, contract.id).collect()["order_id"])
    for f in manifest["files"]:
        assert hashlib.sha256((out / f["path"]).read_bytes()).hexdigest() == f["sha256"]
    assert main(["--contract", file, "export", "--out", str(out)]) == 2


def test_the_documented_triage_query_counts_the_dead_letters_of_the_lake(run):
    settings, contract, _, _ = run
    text = (Path(__file__).parents[2] / "docs" / "dead-letters.md").read_text()
    query = text.partition("```python")[2].partition("```")[0]
    table = str(lake.location(settings, contract.id, lake.DEAD_LETTERS))
    assert ".driftline/lake/sales/dead_letters" in query
    code = query.replace(".driftline/lake/sales/dead_letters", table)
    found = subprocess.run([sys.executable, "-c", f"{code}\nprint(by_cause.rows())"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert [word in found.stdout for word in ("'quantity'", "'price'", "'syntax'")] == [True] * 3


def test_verify_names_every_field_and_passes(run, capsys):
    _, _, _, file = run
    assert main(["--contract", file, "verify", "--json", "--wait", "5"]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = {
        "produced": 7,
        "replayed": 0,
        "consumed": 7,
        "valid": 4,
        "dead": 3,
        "quarantined": 0,
        "lake": 4,
        "open_dead": 3,
        "lag": 0,
    }
    assert {k: report[k] for k in expected} == expected
    assert (report["missing"], report["duplicated"], report["ok"]) == ([], [], True)
    assert (report["partitions"]["0"]["start"], report["partitions"]["0"]["end"]) == (0, 4)


def test_verify_fails_with_the_first_counter_example_when_a_record_is_added_behind_its_back(run, capsys):
    _, contract, writer, file = run
    writer.raw.produce(topics.valid(contract.id), order(77), b"k", 1)
    writer.raw.flush(10)
    assert main(["--contract", file, "verify"]) == 1
    assert "the valid topic has a record that is no valid row of the blocks" in capsys.readouterr().out


def test_verify_counts_what_nobody_consumed_as_lag_and_waits_for_nothing_for_ever(run, capsys):
    settings, contract, writer, file = run
    writer.raw.produce(topics.events(contract.id), order(78), b"k", 0)
    writer.raw.flush(10)
    report = verify(settings, contract)
    assert (report["lag"], report["drained"], report["consumed"]) == (1, False, 7)
    for wait in ([], ["--wait", "0.5"]):
        assert main(["--contract", file, "verify", *wait]) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith("NOT DRAINED: 1 records unread; validator at 0: 4 of 5.")


def test_verify_says_ok_of_what_was_consumed_and_unread_first(tmp_path, settings_for, capsys, monkeypatch):
    file = contract_file_named(tmp_path, "sales", f"unread_{random.getrandbits(40):x}")
    settings, contract = settings_for(DRIFTLINE_CONTRACT=str(file)), contract_file.load(str(file))
    monkeypatch.setenv("DRIFTLINE_HOME", str(settings.home))
    monkeypatch.setenv("DRIFTLINE_BOOTSTRAP", settings.bootstrap)
    kafka.create_topics(settings, topics.all_topics(contract.id, 2))
    writer = LogWriter(settings, contract)
    writer.write(0, [order(1), order(2, quantity=-1)])
    assert main(["--contract", str(file), "verify"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("NOT DRAINED: lake at 0: 0 of 2.") and last == "ok (of what was consumed)"
    assert main(["--contract", str(file), "compact", "--once"]) == 0
    assert main(["--contract", str(file), "verify"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("drained:") and last == "ok"
    # The end marker of an aborted transaction is no unread record.
    writer._out.begin_transaction()
    writer._out.produce(topics.events(contract.id), b"{", b"k", 0)
    writer._out.flush(10)
    writer._out.abort_transaction(10)
    assert verify(settings, contract)["drained"] is True


def test_a_compactor_whose_broker_dies_waits_and_goes_on(own_broker, tmp_path):
    file = contract_file_named(tmp_path, "sales", "away")
    env = {"DRIFTLINE_HOME": str(tmp_path / "home"), "DRIFTLINE_BOOTSTRAP": own_broker.bootstrap}
    settings, contract = from_environment(env, str(file)), contract_file.load(str(file))
    kafka.create_topics(settings, topics.all_topics(contract.id, 2))
    writer = LogWriter(settings, contract)
    own_broker.kill()
    port = str(free_port())
    command = [sys.executable, "-m", "pipeline.cli", "--contract", str(file), "compact", "--interval", "0.1"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **env, "DRIFTLINE_METRICS_PORT": port},
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert any("kafka_unreachable" in line for line in process.stderr)
        assert status(port, "readyz") == 503
        own_broker.start()
        wait_until(lambda: status(port, "readyz") == 200, 60, "the compactor to be ready")
        writer.write(0, [order(i) for i in range(10)])
        wait_until(lambda: rows(settings, contract) == 10, 30, "ten rows")
        own_broker.kill()
        own_broker.start()
        writer = LogWriter(settings, contract)
        writer.ends = {0: 10}
        writer.write(0, [order(i) for i in range(10, 20)])
        wait_until(lambda: rows(settings, contract) == 20, 60, "ten rows more")
        wait_until(
            lambda: 'driftline_lake_rows_total{table="events"} 20.0' in metrics(port), 10, "the metric to say twenty"
        )
        assert status(port, "healthz") == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def rows(settings, contract) -> int:
    return lake.count(settings, contract.id) if lake.exists(settings, contract.id) else 0


def metrics(port: str) -> str:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()


def status(port: str, path: str) -> int:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
