"""Faults around the drift process on a real broker: whatever happens, the verdicts are those of an undisturbed judge."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from batch import reference
from pipeline import blocks, kafka, topics
from pipeline.times import to_ms, to_text
from stream_processors.dead_letters import letter
from stream_processors.drift.block_counter import PARTIALS_PRODUCER
from stream_processors.drift.source import sources_of
from stream_processors.judging.panes import clock_of
from stream_processors.judging.partial import to_bytes
from stream_processors.judging.summarise import summarise
from stream_processors.reference.store import read_store
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import DAY0, HOUR, block, blocks_of, draw, reference_rows
from tests.drift_stream.stream import contract_in, drift, final_windows, verdicts, write, writer
from tests.drift_stream.test_drift_broker import cut, hours_of
from tests.validator.history import Child
from tests.waiting import wait_until

WEEK = 168 * HOUR


@pytest.fixture
def tiny(fresh_topics, settings, environment, tmp_path):
    path, contract = contract_in(tmp_path)
    path.write_text(path.read_text().replace("idle: 5 s", "idle: 1 s"))
    contract = replace(contract, time=replace(contract.time, idle=contract.time.idle / 5))
    fresh_topics("tiny", 2)
    reference.publish(settings, contract, pl.from_arrow(reference_rows(9, 12_000)), version=None, effective_from=DAY0)
    return settings, contract, path, environment, tmp_path


def of_partition(found, partition: int):
    return [b for b in found if b.header.partition == partition]


def told(settings) -> set[str]:
    return {json.dumps(v) for v in verdicts(settings) if not v["provisional"]}


def undisturbed(settings, contract, found) -> set[str]:
    """The final verdicts of these blocks by a judge in memory."""
    plain = Harness(2, read_store(settings, "tiny").timeline, contract)
    for p in range(2):
        for partials in counted(of_partition(found, p), plain.timeline, (), contract):
            plain.write(*partials)
    plain.turn()
    return {json.dumps(json.loads(v.to_bytes())) for v in plain.verdicts if not v.provisional}


def test_aborted_blocks_never_count_and_a_process_without_its_local_state_goes_on(tiny):
    settings, contract, path, environment, folder = tiny
    parts = [blocks_of(p, rows, cut(len(rows), 100)) for p in range(2) for rows in [hours_of(p, 0, 6)]]
    stream = [b for pair in zip(*parts, strict=True) for b in pair]
    made, half = writer(settings), len(stream) // 2

    def disturb(after: int) -> None:
        """A transaction that is given up: dearer rows from later hours, which would close windows and alarm."""
        start = stream[after].header.end
        later = draw(np.random.default_rng(after), [DAY0 + 20 * HOUR] * 500, factor=10.0)
        write(made, [block(p, start, later, stream[after].header.max_event_time) for p in range(2)], abort=True)

    with drift(environment, path, folder / "first.log") as worker:
        for at in range(0, half, 15):
            write(made, stream[at : min(half, at + 15)])
            disturb(min(half, at + 15) - 1)
        wait_until(lambda: len(final_windows(settings)) >= 1, 120, "a window")
        worker.kill()
    write(made, stream[half:])
    disturb(len(stream) - 1)
    elsewhere = {
        **environment,
        "DRIFTLINE_HOME": str(folder / "another-home"),
    }  # the references' files stay where they are
    with drift(elsewhere, path, folder / "second.log"):
        wait_until(lambda: len(final_windows(settings)) >= 5, 120, "five windows")
    assert told(settings) == undisturbed(settings, contract, stream)


def test_an_idle_partition_holds_nobody_back_and_its_return_settles_what_was_provisional(tiny):
    settings, contract, path, environment, folder = tiny
    rows = [hours_of(0, 0, 5), hours_of(1, 0, 5)]
    parts = [blocks_of(p, rows[p], cut(len(rows[p]), 250)) for p in range(2)]
    early = [b for b in parts[1] if b.header.max_event_time < DAY0 + 2 * HOUR]
    made = writer(settings)
    with drift(environment, path, folder / "drift.log") as worker:
        write(made, [*parts[0], *early])

        def provisional() -> set[str]:
            return {str(v["window_start"]) for v in verdicts(settings) if v["provisional"]}

        wait_until(
            lambda: len(provisional() - final_windows(settings)) >= 2, 120, "windows closed without the idle one"
        )
        assert to_text(DAY0 + 3 * HOUR) not in final_windows(settings)
        write(made, parts[1][len(early) :])
        wait_until(lambda: len(final_windows(settings)) >= 4, 120, "the final verdicts")
        assert worker.stop() == 0
    assert told(settings) == undisturbed(settings, contract, [*parts[0], *parts[1]])


def test_a_producer_whose_clock_is_a_week_ahead_closes_no_window(tiny):
    #  raw: five hours up to now, in the middle of them thirty records that claim to be from next week
    settings, _, path, environment, folder = tiny
    began = (round(time.time() * 1000) // HOUR - 5) * HOUR
    raw, sent = kafka.producer(settings, "test-events"), Counter()

    def send(times, partition: int) -> None:
        for at, price, region in draw(np.random.default_rng([partition, int(times[0] % 1e6)]), times):
            value = {"order": f"o{sum(sent.values())}", "price": price, "region": region, "at": to_text(at)}
            raw.produce(topics.events("tiny"), json.dumps(value).encode(), value["order"].encode(), partition)
            sent["ahead" if at > began + 5 * HOUR + HOUR else "good"] += 1
            raw.poll(0)

    for p in range(2):
        send([began + i * HOUR // 200 for i in range(400)], p)
        send([began + 2 * HOUR + WEEK + i for i in range(15)], p)
        send([began + 2 * HOUR + i * HOUR // 200 for i in range(600)], p)
    raw.flush(20)
    env = {**environment, "DRIFTLINE_CONTRACT": str(path)}
    assert (validator := Child(env, path, folder / "validate.log", "--exit-at-end")).wait(90) == 0, validator.text()
    letters = [letter.from_headers(kafka.headers_of(m)) for m in kafka.read_all(settings, topics.dead_letters("tiny"))]
    assert [x.rule for x in letters] == ["time_future"] * sent["ahead"]
    newest = [
        blocks.from_headers(kafka.headers_of(m)).max_event_time for m in kafka.read_all(settings, topics.blocks("tiny"))
    ]
    assert max(newest) < began + 5 * HOUR
    with drift(environment, path, folder / "drift.log") as worker:
        closed = wait_until(lambda: f if len(f := final_windows(settings)) >= 4 else None, 120, "four windows")
        assert worker.stop() == 0
    assert closed == {to_text(began + h * HOUR) for h in range(4)}
    found = [v for v in verdicts(settings) if (v["feature"], v["segment"]) == ("price", "*") and not v["provisional"]]
    assert {to_ms(str(v["window_start"])): v["n"] for v in found} == dict.fromkeys(
        (began + h * HOUR for h in range(4)), 400
    )


def test_partials_that_never_reached_the_judge_are_counted_again_from_their_blocks(tiny):
    settings, contract, path, environment, folder = tiny
    parts = [blocks_of(p, rows, cut(len(rows), 100)) for p in range(2) for rows in [hours_of(p, 0, 6)]]
    write(writer(settings), [b for pair in zip(*parts, strict=True) for b in pair])
    timeline, made = (
        read_store(settings, "tiny").timeline,
        kafka.producer(settings, "test-partials", **PARTIALS_PRODUCER),
    )
    lost = range(4, 9)  # of partition 1, as if the one that counted them had been killed and Kafka had lost them
    for partition, own in enumerate(parts):
        offsets = [m.offset() for m in kafka.read_all(settings, topics.blocks("tiny")) if m.partition() == partition]
        for at, (offset, one) in enumerate(zip(offsets, own, strict=True)):
            for partial in summarise(one, offset, contract.of_rows, clock_of(contract), timeline):
                if at < len(own) - 3 and not (partition == 1 and at in lost):
                    made.produce(topics.PARTIALS, to_bytes(partial), sources_of(contract)[0].key, partition=0)
    made.flush(30)
    with drift(environment, path, folder / "drift.log") as worker:
        wait_until(lambda: len(final_windows(settings)) >= 5, 120, "five windows")
        assert worker.stop() == 0
    assert "partials_missing" in (folder / "drift.log").read_text()
    assert told(settings) == undisturbed(settings, contract, [b for pair in zip(*parts, strict=True) for b in pair])
