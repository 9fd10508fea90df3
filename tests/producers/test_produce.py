"""`driftline produce` against a real broker: counts, keys, partitions, late labels, stopping, a broker that is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline import topics
from pipeline.broker import Broker
from pipeline.kafka import bounds, consumer, read_all
from pipeline.settings import from_environment
from tests.contracts import contract_file_named
from tests.waiting import wait_until

Environment = dict[str, str]


def command(contract: Path, *argv: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", "--contract", str(contract), "produce", *argv]


def produce(environment: Environment, contract: Path, *argv: str) -> dict[str, object]:
    done = subprocess.run(
        command(contract, *argv, "--json"), env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_events_are_counted_keyed_and_a_key_has_one_partition(environment: Environment, tmp_path: Path) -> None:
    contract = contract_file_named(tmp_path, id="sales_counted")
    start = ["--start", "2026-09-21T00:00:00Z", "--flat-out", "--rate", "1"]
    totals = produce(environment, contract, "--events", "20000", *start, "--seed", "5")
    settings = from_environment(environment)
    messages = list(read_all(settings, topics.events("sales_counted")))
    assert totals["events"] == len(messages) == 20_000 and totals["failed"] == 0
    partitions_of = defaultdict(set)
    for message in messages:
        assert message.key().decode() == json.loads(message.value())["customer_id"]
        partitions_of[message.key()].add(message.partition())
    assert {len(p) for p in partitions_of.values()} == {1}
    assert {m.partition() for m in messages} == {0, 1, 2, 3}
    assert {m.timestamp()[0] for m in messages} == {2}  # log append time
    # twenty thousand orders at 1/s span several hours: labels that event time has passed are there, the others are not
    outcomes = [json.loads(m.value()) for m in read_all(settings, topics.outcomes("sales_counted"))]
    assert len(outcomes) == totals["outcomes"] and totals["outcomes"] + totals["outcomes_pending"] == 20_000
    assert 0 < len(outcomes) < 20_000
    assert max(o["event_time"] for o in outcomes) <= totals["last_event_time"]
    ordered = {json.loads(m.value())["order_id"]: json.loads(m.value())["event_time"] for m in messages}
    assert all(ordered[o["order_id"]] < o["event_time"] for o in outcomes)


def test_drained_outcomes_are_one_for_each_order(environment: Environment, tmp_path: Path) -> None:
    contract = contract_file_named(tmp_path, id="sales_drained")
    totals = produce(environment, contract, "--events", "3000", "--flat-out", "--drain-outcomes")
    keys = [m.key().decode() for m in read_all(from_environment(environment), topics.outcomes("sales_drained"))]
    assert totals["outcomes"] == 3_000 and totals["outcomes_pending"] == 0
    assert len(keys) == len(set(keys)) == 3_000


def test_a_paced_producer_keeps_its_rate_and_stops_cleanly_when_told(environment: Environment, tmp_path: Path) -> None:
    contract = contract_file_named(tmp_path, id="sales_paced")
    argv = command(contract, "--rate", "500", "--speed", "1440", "--start", "2d ago", "--json")
    child = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    client = consumer(from_environment(environment), "paced")
    try:

        def arrived() -> int:
            try:
                return sum(hi - lo for lo, hi in bounds(client, topics.events("sales_paced")).values())
            except Exception:  # the topic is not there yet
                return 0

        wait_until(lambda: arrived() > 1_000, 30, "a thousand events")
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=25)
        totals = json.loads(out.splitlines()[-1])
        assert child.returncode == 0, err
        assert totals["events"] == arrived() and totals["failed"] == 0
        assert totals["events"] / totals["seconds"] < 2_500  # the busiest hour has three times the mean
    finally:
        client.close()
        if child.poll() is None:
            child.kill()


def test_it_waits_for_a_broker_that_goes_away_and_loses_nothing(own_broker: Broker, tmp_path: Path) -> None:
    contract = contract_file_named(tmp_path, id="sales_away")
    env = {**os.environ, "DRIFTLINE_HOME": str(tmp_path), "DRIFTLINE_BOOTSTRAP": own_broker.bootstrap}
    argv = command(contract, "--events", "4000", "--rate", "1000", "--start", "2026-09-21T12:00:00Z", "--json")
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        wait_until(lambda: " ready " in (tmp_path / "log").read_text(), 30, "the producer to be ready")
        own_broker.kill()
        own_broker.start()
        out, _ = child.communicate(timeout=90)
        assert child.returncode == 0, (tmp_path / "log").read_text()
        assert json.loads(out.splitlines()[-1])["events"] == 4_000
        messages = list(read_all(from_environment(env), topics.events("sales_away")))
        assert len({m.value() for m in messages}) == len(messages) == 4_000
    finally:
        if child.poll() is None:
            child.kill()


def test_records_that_kafka_never_takes_end_the_command_with_exit_3(own_broker: Broker, tmp_path: Path) -> None:
    contract = contract_file_named(tmp_path, id="sales_lost")
    env = {**os.environ, "DRIFTLINE_HOME": str(tmp_path), "DRIFTLINE_BOOTSTRAP": own_broker.bootstrap}
    argv = command(
        contract, "--events", "2000", "--rate", "1000", "--start", "2026-09-21T12:00:00Z", "--give-up-after", "2"
    )
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        wait_until(lambda: " ready " in (tmp_path / "log").read_text(), 30, "the producer to be ready")
        own_broker.kill()
        child.communicate(timeout=60)
        assert child.returncode == 3
        assert "were not taken by Kafka" in (tmp_path / "log").read_text()
    finally:
        if child.poll() is None:
            child.kill()


@pytest.mark.parametrize("flags, code", [(["--rate", "nought"], 2), (["--scenario", "nothing"], 2)])
def test_usage_errors_exit_2_before_anything_is_waited_for(
    environment: Environment, tmp_path: Path, flags: list[str], code: int
) -> None:
    done = subprocess.run(
        command(contract_file_named(tmp_path), *flags), env=environment, capture_output=True, timeout=30
    )
    assert done.returncode == code
