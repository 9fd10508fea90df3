"""The compactor on a real broker: every row once, whatever dies when."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import TopicPartition

from batch import table as lake
from batch.compact import Compact
from batch.compaction import Gap, RetentionLoss, TopicRecreated
from batch.verify import verify
from pipeline import contract_file, kafka, topics
from pipeline.blocks import encode, from_headers, to_headers
from tests.contracts import contract_file_named
from tests.lake.log_writer import START, LogWriter, order
from tests.waiting import wait_until


@pytest.fixture
def shop(settings_for, tmp_path, request):
    """(settings, contract, writer) of a dataset of this test's own, two partitions."""
    name = f"lake_{random.getrandbits(40):x}"
    file = contract_file_named(tmp_path, "sales", name)
    settings = settings_for(DRIFTLINE_CONTRACT=str(file))
    contract = contract_file.load(str(file))
    kafka.create_topics(settings, topics.all_topics(name, 2))
    return settings, contract, LogWriter(settings, contract)


def compact(settings, *more: str) -> int:
    parser = argparse.ArgumentParser()
    Compact.configure(parser)
    return Compact.run(parser.parse_args(["--once", *more]), settings)


def child(settings, *more: str, **popen) -> subprocess.Popen:
    env = {**os.environ, "DRIFTLINE_HOME": str(settings.home), "DRIFTLINE_BOOTSTRAP": settings.bootstrap}
    env["DRIFTLINE_METRICS_PORT"] = ""
    del env["DRIFTLINE_METRICS_PORT"]
    command = [sys.executable, "-m", "pipeline.cli", "--contract", settings.contract, "compact", *more]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], **popen)


def coordinates(settings, contract) -> list[tuple[int, int]]:
    rows = lake.scan(settings, contract.id).select("raw_partition", "raw_offset").collect().rows()
    return sorted(rows)


def quality(settings, contract) -> dict[str, dict]:
    return {m.key().decode(): json.loads(m.value()) for m in kafka.read_all(settings, topics.quality(contract.id))}


def test_every_valid_row_is_in_the_lake_once_and_every_dead_letter_in_its_table(shop):
    settings, contract, writer = shop
    writer.write(0, [order(i) for i in range(100)])
    writer.write(1, [order(i, quantity=-1) if i % 10 == 0 else order(i) for i in range(100, 150)], abort=True)
    writer.write(0, [b"no json"])
    assert compact(settings) == 0
    writer.write(0, [order(i) for i in range(150, 170)])
    assert compact(settings) == 0
    assert compact(settings) == 0
    assert coordinates(settings, contract) == sorted(
        [(0, i) for i in range(100)] + [(0, i) for i in range(101, 121)] + [(1, i) for i in range(50) if i % 10]
    )
    letters = lake.scan(settings, contract.id, lake.DEAD_LETTERS).collect()
    assert sorted(letters.select("raw_partition", "raw_offset", "reason").rows()) == [(0, 100, "syntax")] + [
        (1, i, "range") for i in range(0, 50, 10)
    ]
    assert letters.filter(pl.col("reason") == "syntax")["value"].to_list() == [b"no json"]
    report = verify(settings, contract)
    assert report["ok"] and report["drained"], report["first"]
    assert (report["produced"], report["valid"], report["dead"], report["lake"], report["open_dead"]) == (
        171,
        165,
        6,
        165,
        6,
    )
    name = lake.identity(settings, contract.id)
    assert (name.ranges, name.rows, name.contract) == ({0: (0, 121), 1: (0, 50)}, 165, contract.name)


def test_values_and_times_come_through_unchanged(shop):
    settings, contract, writer = shop
    writer.write(0, [order(7, price=12.34)])
    compact(settings)
    row = lake.scan(settings, contract.id).collect().row(0, named=True)
    sent = json.loads(order(7, price=12.34))
    assert {k: row[k] for k in ("order_id", "price", "quantity")} == {
        k: sent[k] for k in ("order_id", "price", "quantity")
    }
    assert row["event_time"].isoformat(timespec="milliseconds").replace("+00:00", "Z") == sent["event_time"]
    assert row["order_date"].isoformat() == row["event_date"].isoformat() == sent["order_date"]


def test_outcomes_land_and_what_is_none_is_counted(shop):
    settings, contract, writer = shop
    out = topics.outcomes(contract.id)
    when = json.loads(order(1))["event_time"]
    for value in (
        {"order_id": "o1", "returned": True, "event_time": when},
        {"order_id": "o2", "returned": "yes", "event_time": when},
        [],
        7,
    ):
        writer.raw.produce(out, json.dumps(value).encode(), b"o1", 0)
    writer.raw.produce(out, None, b"o3", 1)
    writer.raw.flush(10)
    compact(settings)
    compact(settings)
    assert lake.scan(settings, contract.id, lake.OUTCOMES).select("order_id", "returned").collect().rows() == [
        ("o1", True)
    ]
    assert lake.versions(settings, contract.id, lake.OUTCOMES)[0].metadata["invalid"] == "4"


def test_a_duplicate_degrades_the_window_and_the_commit_says_so(shop):
    settings, contract, writer = shop
    writer.write(0, [order(1), order(1), order(2, quantity=-5), order(3)])
    compact(settings)
    found = {v["rule"]: v for v in quality(settings, contract).values()}
    assert (found["unique_order_id"]["violations"], found["unique_order_id"]["status"]) == (2, "degraded")
    assert (found["row_count"]["value"], found["row_count"]["passed"]) == (4.0, True)
    name = lake.identity(settings, contract.id)
    assert name.status == "degraded"
    assert [v["rule"] for v in name.violations] == ["unique_order_id"]


def test_windows_that_were_open_at_a_restart_are_judged_over_all_their_rows(shop):
    settings, contract, writer = shop
    #  hour 0: order 1 .. crash .. order 1 again, hour 1 closes it
    writer.write(0, [order(1), order(2, quantity=-5)])
    compact(settings)
    writer.write(0, [order(1)])
    writer.write(0, [order(3 * 3600)])
    compact(settings)
    first = min(v["window_start"] for v in quality(settings, contract).values() if v["rule"] == "row_count")
    v = quality(settings, contract)[f"{contract.name}/{first}/unique_order_id"]
    assert (v["rows"], v["violations"]) == (3, 2)


def test_a_topic_made_anew_is_refused_and_the_table_left_as_it_is(shop):
    settings, contract, writer = shop
    writer.write(0, [order(i) for i in range(10)])
    compact(settings)
    before = lake.identity(settings, contract.id)
    admin = kafka.admin(settings)
    for future in admin.delete_topics([topics.blocks(contract.id)]).values():
        future.result(10)
    wait_until(
        lambda: topics.blocks(contract.id) not in admin.list_topics(timeout=5).topics, 20, "the topic to be gone"
    )
    kafka.create_topics(settings, topics.all_topics(contract.id, 2))
    with pytest.raises(TopicRecreated, match=f"topic-id.{topics.blocks(contract.id)} was"):
        compact(settings)
    assert lake.identity(settings, contract.id) == before


def test_blocks_lost_to_retention_are_refused(shop):
    settings, contract, writer = shop
    writer.write(0, [order(1)])
    compact(settings)
    writer.write(0, [order(4 * 3600)])
    compact(settings)
    writer.write(0, [order(8 * 3600)])
    writer.write(0, [order(8 * 3600 + 1)])
    delete_below(settings, topics.blocks(contract.id), 0, 6)
    with pytest.raises(RetentionLoss, match="oldest one left is 6"):
        compact(settings)


def test_offsets_of_the_group_that_somebody_reset_change_nothing(shop):
    settings, contract, writer = shop
    writer.write(0, [order(i) for i in range(10)])
    compact(settings)
    version = lake.versions(settings, contract.id)[0].version
    member = kafka.consumer(settings, topics.group(contract.id, "compact"))
    member.commit(offsets=[TopicPartition(topics.blocks(contract.id), 0, 0)], asynchronous=False)
    member.close()
    compact(settings)
    assert lake.versions(settings, contract.id)[0].version == version
    writer.write(0, [order(10)])
    compact(settings)
    assert coordinates(settings, contract) == [(0, i) for i in range(11)]


def test_a_gap_in_the_blocks_is_refused_and_nothing_of_the_batch_lands(shop):
    settings, contract, writer = shop
    writer.write(0, [order(i) for i in range(10)])
    compact(settings)
    block = next(iter(kafka.read_all(settings, topics.blocks(contract.id))))
    header = from_headers(kafka.headers_of(block))
    rows = writer.decoder.decode_batch([order(99)], [12], [START + 10**9]).batch
    shifted = type(header)(
        header.topic, 0, 12, 13, {"valid": 1}, header.min_event_time, header.max_event_time, None, header.contract
    )
    writer.raw.produce(topics.blocks(contract.id), encode(rows), None, 0, headers=to_headers(shifted))
    writer.raw.flush(10)
    with pytest.raises(Gap, match="starts at 10, the table's end, got 12"):
        compact(settings)
    assert len(coordinates(settings, contract)) == 10


def test_killed_again_and_again_it_loses_and_repeats_nothing(shop):
    settings, contract, writer = shop
    rng = random.Random(5)
    number, kills = 0, 0
    for _ in range(4):
        process = child(settings, "--interval", "0.01")
        assert process.stderr is not None
        for line in process.stderr:
            if " ready " in line:
                break
        version = lake.versions(settings, contract.id, limit=1)[0].version
        for _ in range(rng.randint(3, 8)):
            writer.write(rng.randint(0, 1), [order(number + i) for i in range(200)])
            number += 200
        wait_until(
            lambda v=version: lake.versions(settings, contract.id, limit=1)[0].version > v,
            30,
            "a commit",
            every_s=0.001,
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    compact(settings)
    report = verify(settings, contract)
    assert report["ok"] and report["drained"], report["first"]
    assert (kills, report["lake"], report["missing_total"], report["duplicated_total"]) == (4, number, 0, 0)


def test_two_at_once_and_a_paused_one_that_wakes_after_the_other_took_over(shop):
    settings, contract, writer = shop
    first, second = child(settings, "--interval", "0.05"), child(settings, "--interval", "0.05")
    try:
        for process in (first, second):
            assert process.stderr is not None
            assert any(" ready " in line for line in process.stderr)
        for k in range(10):
            writer.write(k % 2, [order(k * 50 + i) for i in range(50)])
        wait_until(lambda: len(coordinates(settings, contract)) == 500, 30, "500 rows")
        first.send_signal(signal.SIGSTOP)
        for k in range(10, 16):
            writer.write(k % 2, [order(k * 50 + i) for i in range(50)])
        wait_until(lambda: len(coordinates(settings, contract)) == 800, 30, "800 rows by the second")
        first.send_signal(signal.SIGCONT)
        writer.write(0, [order(900)])
        wait_until(lambda: len(coordinates(settings, contract)) == 801, 30, "the last row")
        assert (first.poll(), second.poll()) == (None, None)
    finally:
        for process in (first, second):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert [first.returncode, second.returncode] == [0, 0]
    report = verify(settings, contract)
    assert report["ok"] and (report["lake"], report["duplicated_total"]) == (801, 0), report["first"]


def delete_below(settings, topic: str, partition: int, offset: int) -> None:
    client = kafka.admin(settings)
    for future in client.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result(10)
