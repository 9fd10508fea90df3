"""Scores on a real broker: a scorer that repeats itself, stops and comes back; a drift process that is killed."""

from __future__ import annotations

import json
import threading

import pytest
from confluent_kafka import TopicPartition

from batch import reference
from pipeline import topics
from pipeline.kafka import consumer, producer, read_all
from pipeline.meter import Silent
from stream_processors.drift.judge_owner import JudgeOwner
from stream_processors.judging.panes import clock_of
from stream_processors.judging.partial import from_bytes, to_bytes
from stream_processors.judging.timeline import Timeline
from stream_processors.reference.store import read_store
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import DAY0, HOUR, MINUTE, blocks_of
from tests.drift_stream.scores import NAMES, answered, scored_set
from tests.drift_stream.stream import contract_in, drift, verdicts, write, writer
from tests.drift_stream.test_drift_broker import cut, hours_of
from tests.waiting import wait_until

LABEL = "  - {property: label, value: {name: kept, key: order, delay: 1 h}}\n"
SCORES = topics.scores("tiny")
REFERENCES = scored_set(1, DAY0)


@pytest.fixture
def tiny(fresh_topics, settings, environment, tmp_path):
    path, contract = contract_in(tmp_path, LABEL)
    fresh_topics("tiny", 2)
    reference.send(settings, contract, reference.written(settings, contract, REFERENCES.load()))
    return settings, contract, path, environment, tmp_path / "drift.log"


def told_early(settings, feature: str) -> list[dict]:
    """Provisional verdicts."""
    found = [v for v in verdicts(settings) if v["feature"] == feature and v["segment"] == "*" and v["provisional"]]
    return sorted(found, key=lambda v: v["window_start"])


def final(settings, feature: str) -> list[dict]:
    found = [v for v in verdicts(settings) if v["feature"] == feature and v["segment"] == "*" and not v["provisional"]]
    return sorted(found, key=lambda v: v["window_start"])


def told_finally(settings) -> set[str]:
    """Every final verdict about scores, of all features and segments."""
    return {json.dumps(v) for v in verdicts(settings) if v["feature"] in NAMES and not v["provisional"]}


def undisturbed(contract, scores: list[list]) -> set[str]:
    """The final verdicts of one judge that reads each partition's blocks of scores once."""
    plain = Harness(2, Timeline((REFERENCES,)), contract.of_scores)
    for own in scores:
        for partials in counted(own, plain.timeline, (), contract.of_scores):
            plain.write(*partials)
    plain.turn()
    return {json.dumps(json.loads(v.to_bytes())) for v in plain.verdicts if not v.provisional}


def test_repeated_scores_count_once_whoever_is_killed_and_a_stopped_scorer_holds_nobody_back(tiny):
    settings, contract, path, environment, log = tiny
    swap = lambda time: "2" if time >= DAY0 + 4 * HOUR + 13 * MINUTE else "1"  # noqa: E731
    parts = [blocks_of(p, rows, cut(len(rows), 100)) for p in range(2) for rows in [hours_of(p, 0, 6)]]
    stream = [b for pair in zip(*parts, strict=True) for b in pair]
    scores, half = answered(stream, swap), len(stream) // 2
    again = answered(stream, lambda time: "2")  # what a scorer that begins anew would say under another model
    with drift(environment, path, log) as worker:
        rows_in, scores_in = writer(settings), writer(settings, "test-scores")
        write(rows_in, stream[:half])
        write(scores_in, [*scores[:half], *again[half // 2 : half]], topic=SCORES)
        wait_until(lambda: len(final(settings, "score")) >= 2, 30, "two windows of scores")
        worker.kill()
    with drift(environment, path, log) as worker:
        write(rows_in, stream[half:])
        wait_until(lambda: len(final(settings, "price")) >= 5, 30, "five windows of rows")
        assert len(final(settings, "score")) < 4  # the scorer is away
        write(scores_in, [*again[:half], *scores[half:]], topic=SCORES)
        told = wait_until(lambda: found if len(found := final(settings, "score")) >= 5 else None, 30, "five of scores")
        assert worker.stop() == 0

    partials = [from_bytes(m.value()) for m in read_all(settings, topics.PARTIALS) if m.key() == b"tiny/scores/0"]
    assert len({p.coordinate for p in partials}) == len(partials) == len(scores)  # no repeat was counted
    assert told_finally(settings) == undisturbed(
        contract, [[b for b in scores if b.header.partition == p] for p in range(2)]
    )
    assert [v["n"] + v["other_model"] for v in told] == [v["n"] for v in final(settings, "price")]
    assert [v["other_model"] > 0 for v in told] == [False] * 4 + [True]


def test_windows_close_where_no_score_can_come_and_a_restart_or_a_late_scorer_changes_nothing_final(tiny):
    """Scores are switched on after blocks were judged: partition 1 has rows, and its scorer is past all of them."""
    settings, contract, path, environment, log = tiny
    both = [blocks_of(p, rows, cut(len(rows), 100)) for p in range(2) for rows in [hours_of(p, 0, 8)]]
    unscored = both[1][:5]
    early, later = both[0], both[1][5:]
    scores = [answered(early[3:]), answered(later)]
    expected = undisturbed(contract, scores)

    def until_six() -> list[dict] | None:
        found = told_early(settings, "score")
        return found if found and "T06" in found[-1]["window_start"] else None

    with drift(environment, path, log) as worker:
        rows_in, scores_in = writer(settings), writer(settings, "test-scores")
        write(rows_in, [*early, *unscored])
        write(scores_in, scores[0], topic=SCORES)
        wait_until(lambda: told_early(settings, "price"), 40, "windows of rows that an idle partition holds open")
        assert not told_early(settings, "score")  # for all that is known its scores are on their way
        scorer = consumer(settings, topics.group("tiny", "score"))
        scorer.commit(offsets=[TopicPartition(topics.blocks("tiny"), 1, len(unscored))], asynchronous=False)
        scorer.close()
        told = wait_until(until_six, 40, "windows of scores without partition 1")
        worker.kill()
    with drift(environment, path, log) as worker:
        assert told_early(settings, "score") == told
        write(rows_in, later)
        write(scores_in, scores[1], topic=SCORES)
        wait_until(lambda: len(told_finally(settings)) >= len(expected), 40, "every final window of scores")
        assert worker.stop() == 0
    assert told_finally(settings) == expected


def test_where_nobody_scores_a_restart_reads_the_open_panes_and_not_the_whole_log(tiny):
    settings, contract, *_ = tiny
    store, never, clock = read_store(settings, "tiny"), threading.Event(), clock_of(contract)
    blocks = blocks_of(0, rows := hours_of(0, 0, 4), cut(len(rows), 100))
    log = [to_bytes(p) for partials in counted(blocks, store.timeline, (), contract) for p in partials]
    made = producer(settings, "partials")
    for value in log:
        made.produce(topics.PARTIALS, value, b"tiny/0", partition=0)
    made.flush(10)
    owner = JudgeOwner(settings, contract, clock, store, Silent(), never, lambda: None)
    owner.acquire([0])
    for offset, value in enumerate(log):
        owner.feed(offset, b"tiny/0", value)
    assert owner.turn() > 0
    successor = JudgeOwner(settings, contract, clock, store, Silent(), never, lambda: None)
    assert len(log) / 2 < successor.acquire([0]) < len(log)
