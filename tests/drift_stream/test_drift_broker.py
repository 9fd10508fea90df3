"""The drift process on a real broker: same verdicts as scipy, episodes, restarts."""

from __future__ import annotations

import argparse
import json
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from batch import reference
from pipeline import topics
from pipeline.kafka import bounds, consumer, producer
from pipeline.meter import Silent
from pipeline.times import to_ms
from stream_processors.drift.backlog import Backlog, unused
from stream_processors.drift.judge_owner import JudgeOwner
from stream_processors.drift.read_verbs import Alerts, Verdicts
from stream_processors.judging.panes import clock_of
from stream_processors.judging.partial import to_bytes
from stream_processors.reference.store import read_store
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import DAY0, HOUR, blocks_of, draw, reference_rows
from tests.drift_stream.stream import Worker, alerts, contract_in, drift, final_windows, verdicts, write, writer
from tests.waiting import wait_until

ROWS_AN_HOUR = 1000
SEED = 9
REFERENCE_ROWS = 12_000


def hours_of(partition: int, first: int, last: int, factor: float = 1.0) -> list[tuple[int, float, str]]:
    """In-order rows of event hours [first, last), half of them on each of two partitions."""
    rng = np.random.default_rng([partition, first, last])
    times = DAY0 + first * HOUR + np.sort(rng.integers(0, (last - first) * HOUR, (last - first) * ROWS_AN_HOUR // 2))
    return draw(rng, times.tolist(), factor)


def cut(count: int, size: int = 400) -> list[int]:
    return list(range(size, count, size))


@pytest.fixture
def tiny(fresh_topics, settings, environment, tmp_path):
    path, contract = contract_in(tmp_path)
    fresh_topics("tiny", 2)
    rows = pl.from_arrow(reference_rows(SEED, REFERENCE_ROWS))
    reference.publish(settings, contract, rows, version=None, effective_from=DAY0)
    return settings, contract, path, environment, tmp_path / "drift.log"


def test_verdicts_equal_scipys_on_the_same_rows(tiny):
    settings, _, path, environment, log = tiny
    rows = [hours_of(p, 0, 3) for p in range(2)]
    with drift(environment, path, log) as worker:
        write(writer(settings), [b for p in range(2) for b in blocks_of(p, rows[p], cut(len(rows[p])))])
        wait_until(lambda: len(final_windows(settings)) >= 2, 30, "two final windows")
        assert worker.stop() == 0
    known = reference_rows(SEED, REFERENCE_ROWS).column("price").to_numpy()
    found = [v for v in verdicts(settings) if v["feature"] == "price" and v["segment"] == "*" and not v["provisional"]]
    for verdict in found[:2]:
        start = to_ms(str(verdict["window_start"]))
        own = [price for part in rows for t, price, _ in part if start <= t < start + HOUR]
        expected = stats.ks_2samp(known, own)
        assert verdict["n"] == len(own)
        assert verdict["statistic"] == pytest.approx(expected.statistic, abs=1e-12)
        assert verdict["p_value"] == pytest.approx(expected.pvalue, abs=0.01)
        assert verdict["state"] == "ok"


def test_a_price_shift_fires_within_two_windows_and_a_new_reference_ends_it(tiny):
    settings, contract, path, environment, log = tiny
    made = writer(settings)
    parts = [hours_of(p, 0, 4) + hours_of(p, 4, 8, 1.35) for p in range(2)]
    with drift(environment, path, log):
        write(made, [b for p in range(2) for b in blocks_of(p, parts[p], cut(len(parts[p])))])
        [fired] = wait_until(lambda: [a for a in alerts(settings) if a["state"] == "firing"], 30, "a firing episode")
        assert DAY0 + 4 * HOUR <= to_ms(str(fired["event_time"])) <= DAY0 + 6 * HOUR
        assert fired["features"][0]["feature"] == "price"
        wait_until(lambda: len(final_windows(settings)) >= 7, 30, "seven windows")
        # The blocks of hours 6 and 7 were counted against version 1; now they are counted again against version 2.
        new = pl.from_arrow(reference_rows(SEED + 1, REFERENCE_ROWS, factor=1.35))
        reference.publish(settings, contract, new, version=None, effective_from=DAY0 + 6 * HOUR)
        resolved = wait_until(
            lambda: [a for a in alerts(settings) if a["state"] == "resolved"], 30, "the episode's end"
        )
    assert [(a["episode"], a["resolution"]) for a in resolved] == [(fired["episode"], "rebased")]
    by_hour = {v["window_start"]: v["reference_version"] for v in verdicts(settings) if not v["provisional"]}
    assert [by_hour[h] for h in sorted(by_hour)] == [1] * 6 + [2]


def test_a_killed_process_leaves_the_same_verdicts(tiny):
    settings, contract, path, environment, log = tiny
    made, rows = writer(settings), [hours_of(p, 0, 6, 1.1) for p in range(2)]
    cuts = [blocks_of(p, rows[p], cut(len(rows[p]), 100)) for p in range(2)]
    alternating = [b for pair in zip(*cuts, strict=True) for b in pair]
    half = len(alternating) // 2
    with drift(environment, path, log) as worker:
        write(made, alternating[:half])
        wait_until(lambda: len(final_windows(settings)) >= 1, 30, "the first window")
        worker.kill()
    write(made, alternating[half:])
    with drift(environment, path, log):
        wait_until(lambda: len(final_windows(settings)) >= 5, 30, "five windows")
    killed = {json.dumps(v) for v in verdicts(settings) if not v["provisional"]}
    assert killed == judged_in_one_go(settings, contract, alternating)


def judged_in_one_go(settings, contract, found):
    """The final verdicts of the same blocks by a judge in memory that nobody kills."""
    timeline = read_store(settings, "tiny").timeline
    plain = Harness(2, timeline, contract)
    for p in range(2):
        for partials in counted([b for b in found if b.header.partition == p], timeline):
            plain.write(*partials)
    plain.turn()
    return {json.dumps(json.loads(v.to_bytes())) for v in plain.verdicts if not v.provisional}


def test_a_judge_that_is_handed_a_later_partial_reads_those_before_it_first(tiny):
    settings, contract, *_ = tiny
    store, never = read_store(settings, "tiny"), threading.Event()
    found = counted(blocks_of(0, hours_of(0, 0, 4), cut(2000)), store.timeline, (), contract)
    partials = [to_bytes(p) for ps in found for p in ps]
    made = producer(settings, "partials")
    for value in partials:
        made.produce(topics.PARTIALS, value, b"tiny/0", partition=0)
    made.flush(10)
    owner = JudgeOwner(settings, contract, clock_of(contract), store, Silent(), never, lambda: None)
    owner.acquire([0])
    owner.feed(len(partials) - 1, b"tiny/0", partials[-1])
    assert owner.judge is not None
    assert (owner.position, owner.judge.applied) == (len(partials), len(partials))
    assert sum(t.rows for t in owner.judge.panes.values()) == 2000


def test_a_partition_is_unused_while_neither_a_record_nor_a_block_ever_stood_in_it(tiny):
    settings, *_ = tiny
    assert unused(settings, "tiny") == {0, 1}
    write(writer(settings), blocks_of(0, hours_of(0, 0, 1), []))
    assert unused(settings, "tiny") == {1}
    made = producer(settings, "raw")
    made.produce(topics.events("tiny"), b"{}", partition=1)
    made.flush(10)
    assert unused(settings, "tiny") == set()


def test_a_partition_is_behind_while_a_committed_block_in_it_was_not_heard_of(tiny):
    settings, *_ = tiny
    made, backlog = writer(settings), Backlog(settings, "tiny")
    assert backlog.behind({0: 0, 1: 0}) == set()
    cuts = blocks_of(0, hours_of(0, 0, 1), [100])
    write(made, cuts)
    wait_until(
        lambda: backlog.behind({0: 1, 1: 0}) == {0}, 10, "the second block"
    )  # the broker marks a commit in a while
    assert backlog.behind({0: 0, 1: 0}) == {0}
    assert backlog.behind({0: 2, 1: 0}) == set()  # what stands behind the last block is the mark of its transaction
    write(made, cuts, abort=True)
    assert backlog.behind({0: 2, 1: 0}) == set()
    write(made, cuts[:1])
    wait_until(lambda: backlog.behind({0: 2, 1: 0}) == {0}, 10, "the block behind those that were given up")
    assert backlog.behind({0: bounds_of(settings)[0][1], 1: 0}) == set()
    backlog.close()
    nowhere = Backlog(replace(settings, bootstrap="127.0.0.1:1"), "tiny")
    assert nowhere.behind({0: 2}) == {0}  # nobody says that it is at its end
    nowhere.close()


def bounds_of(settings):
    client = consumer(settings, "test-bounds")
    try:
        return bounds(client, topics.blocks("tiny"))
    finally:
        client.close()


def test_the_process_waits_for_its_topics_and_stops_on_request(settings, environment, tmp_path, fresh_topics):
    path, _ = contract_in(tmp_path)
    fresh_topics("tiny", 2, wanted=[])
    worker = Worker(environment, path, tmp_path / "drift.log")
    try:
        wait_until(lambda: worker.said("waiting_for_topics"), 20, "the process to say what it waits for")
        assert worker.stop() == 0
    finally:
        worker.close()


def test_the_verbs_tell_what_was_published(tiny, capsys):
    settings, contract, path, _, _ = tiny
    found = replace(settings, contract=str(path))
    plain = Harness(1, read_store(settings, "tiny").timeline, contract)
    rows = hours_of(0, 0, 2) + hours_of(0, 2, 4, 1.5)
    for partials in counted(blocks_of(0, rows, []), plain.timeline):
        plain.write(*partials)
    plain.turn()
    made = producer(settings, "verbs")
    for verdict in plain.verdicts:
        made.produce(topics.VERDICTS, verdict.to_bytes(), verdict.key)
    for alert in plain.alerts:
        made.produce(topics.ALERTS, alert.to_bytes(), alert.episode)
    made.flush(10)
    for verb, argv in ((Verdicts, ["--state", "alarm"]), (Alerts, []), (reference.Reference, ["show"])):
        for more in ([], ["--json"]):
            parser = argparse.ArgumentParser()
            verb.configure(parser)
            assert verb.run(parser.parse_args([*argv, *more]), found) == 0
            out = capsys.readouterr().out
            assert "price" in out
            if more:
                assert all(isinstance(json.loads(line), dict) for line in out.splitlines())


def test_a_reference_from_a_file_is_in_force_from_the_window_after_its_last_row(
    fresh_topics, settings, tmp_path, capsys
):
    path, _ = contract_in(tmp_path)
    fresh_topics("tiny", 1)
    rows = pl.from_arrow(reference_rows(SEED, 3000)).with_columns(at=pl.col("at") + pl.duration(minutes=90))
    rows.write_parquet(tmp_path / "rows.parquet")
    parser = argparse.ArgumentParser()
    reference.Reference.configure(parser)
    args = parser.parse_args(["build", "--file", str(tmp_path / "rows.parquet"), "--json"])
    assert reference.Reference.run(args, replace(settings, contract=str(path))) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {to_ms(r["effective_from"]) for r in told} == {DAY0 + 2 * HOUR}
    [found] = read_store(settings, "tiny").timeline.sets
    assert {key: r.rows for key, r in found.load().items()} == {(r["feature"], r["segment"]): r["rows"] for r in told}
    args = parser.parse_args(["diff", "1", str(tmp_path / "rows.parquet"), "--json"])
    assert reference.Reference.run(args, replace(settings, contract=str(path))) == 0
    same = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(same) == len(told) and {r["statistic"] for r in same if r["feature"] == "price"} == {0.0}
