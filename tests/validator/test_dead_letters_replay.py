"""Dead letters that come back, on a real broker with the validator at work."""

from __future__ import annotations

import json
import os
import pwd
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException, TopicPartition

from batch.verify import verify
from pipeline import contract_file, kafka, topics
from pipeline.errors import CheckFailed
from pipeline.record import examiner
from stream_processors.dead_letters import send as dead_letters_send
from stream_processors.dead_letters.choice import Choice
from stream_processors.dead_letters.read import Originals, audits, chosen, markers
from stream_processors.dead_letters.repair import compile_repair
from stream_processors.dead_letters.replay import Run, step
from stream_processors.dead_letters.send import Replayer
from stream_processors.drift.read_verbs import Json, latest
from stream_processors.drift.read_verbs import read as read_json
from tests.drift_stream.stream import drift
from tests.lake.log_writer import LogWriter, order
from tests.validator.test_validate import record
from tests.waiting import wait_until

MEND = ("--repair", "quantity = abs(quantity)")


@pytest.fixture
def driftline(run_verb):
    """`driftline(...)`: (exit code, last line of stdout as JSON if it is, stderr)."""

    def run(*args: str):
        code, out, err = run_verb(*args)
        lines = out.strip().splitlines()
        return code, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else out, err

    return run


@pytest.fixture
def broken(dataset):
    """Three records of quantity below 0 that a repair mends, one that it does not, between good ones; judged."""
    writer = LogWriter(dataset.settings, contract_file.load(str(dataset.contract)))
    bad = [record(order_id=f"bad-{i}", quantity=-i) for i in (1, 2, 3)]
    writer.write(0, [record(), *bad, record(quantity=-4, price=-1), b"{"])
    return dataset


def raw_ends(dataset) -> dict[int, tuple[int, int]]:
    client = kafka.consumer(dataset.settings, "ends")
    try:
        return {**kafka.bounds(client, topics.events(dataset.id)), **kafka.bounds(client, topics.REPLAYED)}
    finally:
        client.close()


def raw_records(dataset) -> int:
    return sum(1 for _ in kafka.read_all(dataset.settings, topics.events(dataset.id)))


def test_the_round_trip_lands_once_and_the_second_replay_changes_nothing(broken, driftline):
    chosen_by = ("--rule", "range", "--field", "quantity")
    before = raw_ends(broken)
    code, dry, _ = driftline("dead-letters", "replay", *chosen_by, *MEND, "--json")
    assert (code, dry["would_replay"], dry["foreseen_valid"], dry["changed"]) == (0, 4, 3, 4)
    assert [s["foreseen"] for s in dry["steps"]] == ["valid"] * 3 + ["range"]
    assert raw_ends(broken) == before, "a dry run wrote something"
    with broken.validate():
        code, done, said = driftline("dead-letters", "replay", *chosen_by, *MEND, "--apply", "--note", "CR-7", "--json")
        assert (code, done["replayed"], done["landed"], done["failed_again"]) == (1, 4, 3, 1)
        [again] = done["failed"]
        assert (again["attempt"], again["rule"], again["first_rule"]) == (2, "range", "range")
        assert again["coordinate"] in said
        after = raw_ends(broken)
        code, nothing, _ = driftline("dead-letters", "replay", *chosen_by, *MEND, "--apply", "--json")
        assert (code, nothing["replayed"], nothing["skipped"], raw_ends(broken)) == (0, 0, 4, after)
        # The new letter of the fourth is its second attempt: the third is asked for by name.
        code, refused, said = driftline("dead-letters", "replay", "--attempt", "2", "--apply", "--json")
        assert (code, refused["replayed"], refused["refused"]) == (1, 0, 1)
        assert "attempt 3 needs --force" in said
        mend = ("--repair", "price = abs(price)", "--force", "--apply", "--json")
        code, forced, _ = driftline("dead-letters", "replay", "--attempt", "2", *mend)
        assert (code, forced["landed"]) == (0, 1)
    found = broken.history()
    rows = [json.loads(m.value()) for of in found.valid.values() for m in of]
    assert sorted(r["quantity"] for r in rows) == [1, 1, 2, 3, 4]
    replays = [dict(m.headers()) for of in found.raw.values() for m in of if m.headers()]
    assert [h["driftline.attempt"] for h in replays] == [b"1", b"1", b"1", b"1", b"2"]
    assert replays[-1]["driftline.replay-of"] == replays[-2]["driftline.replay-of"]
    [first, last] = list(audits(broken.settings, broken.id))
    assert (first["actor"], first["reason"], first["records"], first["filter"]["rule"]) == ("test", "CR-7", 4, "range")
    assert (first["repair"], len(first["repair_sha256"]), last["force"]) == (MEND[1], 64, True)
    _, proof, _ = driftline("verify", "--json")
    counted = ("produced", "replayed", "consumed", "valid", "dead", "open_dead", "unmarked")
    assert ([proof[k] for k in counted], proof["ok"]) == ([6, 5, 11, 5, 6, 1, 0], True)
    _, counts, _ = driftline("dead-letters", "list", "--counts", "--json", "--state", "open")
    assert counts == {"rule": "syntax", "field": "", "count": 1, "open": 1}


def test_filters_masks_and_the_field_in_question(broken, driftline, monkeypatch):
    code, newest, _ = driftline("dead-letters", "list", "--json", "--rule", "range", "--limit", "1")
    assert (code, newest["field"], newest["key"], newest["replayed"]) == (0, "quantity", "***", None)
    where = newest["coordinate"]
    _, shown, said = driftline("dead-letters", "show", where, "--json")
    assert "C000123" not in json.dumps(shown) and "-4" in shown["value"]
    _, whole, said = driftline("dead-letters", "show", where, "--unmasked")
    assert "C000123" in whole and "dead_letters_unmasked actor=test" in said.replace(" warning", "").replace("  ", " ")
    monkeypatch.delenv("DRIFTLINE_ACTOR")
    monkeypatch.delenv("USER", raising=False)
    _, _, said = driftline("dead-letters", "show", where, "--unmasked")
    assert f"actor={pwd.getpwuid(os.getuid()).pw_name}" in said
    monkeypatch.setenv("DRIFTLINE_ACTOR", "test")
    _, marked, _ = driftline("dead-letters", "show", where)
    [line] = [x for x in marked.splitlines() if x.strip().startswith(">")]
    assert "'quantity'" in line and "expected" in line
    for nobody in (
        ("--since", "2199-01-01T00:00:00Z"),
        ("--contract-version", "9.9.9"),
        ("--event-until", "1990-01-01T00:00:00Z"),
    ):
        assert driftline("dead-letters", "list", "--json", *nobody)[1] == ""
    _, counted, _ = driftline("dead-letters", "list", "--counts", "--json", "--event-since", "2020-01-01T00:00:00Z")
    assert counted["count"] == 4  # all but the one without a readable event time
    assert driftline("dead-letters", "list", "--since", "yesterday")[0] == 2


def test_without_a_validator_the_outcome_is_not_known_and_said_so(broken, driftline):
    code, done, said = driftline("dead-letters", "replay", "0/1-3", *MEND, "--apply", "--wait", "0.5", "--json")
    assert (code, done["unknown"], done["replayed"]) == (3, 3, 3)
    assert "does the validator run?" in said
    assert len(markers(broken.settings, broken.id)) == 3


def test_a_cut_letter_is_fetched_by_its_coordinate_or_refused(dataset, driftline):
    client = kafka.producer(dataset.settings, "test", **{"message.max.bytes": 8_000_000, "compression.type": "zstd"})
    for partition in (0, 1):
        client.produce(topics.events(dataset.id), b" " * 2_000_000, b"k", partition, headers=[("trace", b"1")])
    assert client.flush(30) == 0
    dataset.to_end()
    gone = {TopicPartition(topics.events(dataset.id), 1, 1)}
    admin = kafka.admin(dataset.settings)  # held: a collected client answers nothing
    [deleted] = admin.delete_records(list(gone)).values()
    deleted.result(30)
    mend = dataset.folder / "mend.py"
    mend.write_text(f"def repair_bytes(value):\n    assert len(value) == 2_000_000\n    return {record()!r}\n")
    with dataset.validate():
        code, done, said = driftline("dead-letters", "replay", "--repair-file", str(mend), "--apply", "--json")
    assert (code, done["landed"], done["refused"]) == (1, 1, 1)
    assert "is not there any more" in said
    assert [m.headers()[0] for m in dataset.history().raw[0] if m.offset() > 0] == [("trace", b"1")]


def prepared(dataset):
    """A replayer that holds the right to replay, and a plan of everything that is open."""
    contract, replayer, originals = (
        contract_file.load(str(dataset.contract)),
        Replayer(dataset.settings, dataset.id),
        Originals(dataset.settings),
    )
    replayer.open()
    repair, examine = compile_repair(MEND[1], contract), examiner(contract)
    found = list(chosen(dataset.settings, contract, Choice(rule="range", state="open")))
    steps = [
        step(f.letter, originals.of(f), f.marker, repair, examine, int(time.time() * 1000), force=False) for f in found
    ]
    return replayer, steps


RUN = Run("r1", "", "test", "", {}, "", "", 1000, False)


def test_a_second_replayer_fences_the_first(broken):
    first, steps = prepared(broken)
    second, same = prepared(broken)
    assert len(second.send(RUN, same)) == 4
    with pytest.raises(CheckFailed, match="another replay of this dataset took over"):
        first.send(RUN, steps)
    assert len(markers(broken.settings, broken.id)) == 4


def test_killed_before_the_commit_it_leaves_neither_record_nor_marker(broken, monkeypatch):
    replayer, steps = prepared(broken)
    before = raw_records(broken)

    def die(producer):
        assert producer.flush(10) == 0  # everything is on the broker but the commit
        raise KeyboardInterrupt

    monkeypatch.setattr(dead_letters_send, "_commit", die)
    with pytest.raises(KeyboardInterrupt):
        replayer.send(RUN, steps)
    monkeypatch.undo()
    assert markers(broken.settings, broken.id) == {}
    again, same = prepared(broken)  # opening aborts what the dead one had open
    assert len(same) == 4 and len(again.send(RUN, same)) == 4
    assert raw_records(broken) == before + 4


def test_killed_at_random_moments_it_replays_everything_once(dataset, driftline):
    writer, rng, number = (
        LogWriter(dataset.settings, contract_file.load(str(dataset.contract))),
        random.Random(3),
        4_000,
    )
    writer.write(0, [record(order_id=f"bad-{i}", quantity=-1) for i in range(number)])
    everything = (
        "dead-letters",
        "replay",
        "--rule",
        "range",
        *MEND,
        "--apply",
        "--limit",
        str(number),
        "--wait",
        "0",
        "--json",
    )
    uncommitted = kafka.consumer(dataset.settings, "watching", **{"isolation.level": "read_uncommitted"})

    def written() -> int:
        return sum(high for _, high in kafka.bounds(uncommitted, topics.events(dataset.id)).values())

    held = [0]
    for _ in range(3):
        before = written()
        with (dataset.folder / "replay.log").open("w") as log:
            command = [sys.executable, "-m", "pipeline.cli", "--contract", str(dataset.contract), *everything]
            replaying = subprocess.Popen(command, env=dataset.environment, stdout=log, stderr=log)
        wait_until(lambda b=before: written() > b, 60, "records of a transaction", every_s=0.002)
        until = time.monotonic() + rng.uniform(0, 0.1)
        wait_until(lambda u=until: time.monotonic() > u, 5, "a random moment", every_s=0.001)
        replaying.kill()
        assert replaying.wait(10) == -signal.SIGKILL
        held.append(len(markers(dataset.settings, dataset.id)))
    uncommitted.close()
    assert held == sorted(held) and held[-1] < number, held  # each was killed at work
    with dataset.validate():
        _, last, _ = driftline(*everything[:-3], "--wait", "60", "--json")
    assert (last["replayed"], last["skipped"], last["landed"]) == (number - held[-1], held[-1], number - held[-1])
    rows = [json.loads(m.value())["order_id"] for of in dataset.history().valid.values() for m in of]
    assert sorted(rows) == sorted(f"bad-{i}" for i in range(number))
    report = verify(dataset.settings, contract_file.load(str(dataset.contract)))
    assert (report["ok"], report["replayed"], report["unmarked"]) == (True, number, 0), report["first"]


def test_a_transaction_that_cannot_be_committed_says_that_it_may_be_run_again(broken, monkeypatch):
    replayer, steps = prepared(broken)

    def refuse(producer):
        from confluent_kafka import KafkaError

        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(dead_letters_send, "_commit", refuse)
    with pytest.raises(Exception, match="Run it again: what has a marker is skipped"):
        replayer.send(RUN, steps)


def test_a_late_replay_revises_its_window(dataset, driftline):
    """
    #  event hours   0 . x . 1 . . . 2 . . .    x is replayed when hours 0 and 1 are closed
    """
    contract = contract_file.load(str(dataset.contract))
    kafka.create_topics(dataset.settings, topics.all_topics(dataset.id, 2))  # drift's, too
    writer = LogWriter(dataset.settings, contract)
    for p in (0, 1):
        writer.write(p, [order(t, quantity=-1 if t == 1200 and not p else 1) for t in range(p, 10_000, 40)])

    def verdicts(state: Callable[[Json], bool]) -> list[Json]:
        found = latest(read_json(dataset.settings, topics.VERDICTS, dataset.id))
        return [v for v in found if v["segment"] == "*" and v["feature"] == "price" and state(v)]

    with dataset.validate(), drift(dataset.environment, dataset.contract, dataset.folder / "drift.log"):
        before = wait_until(lambda: verdicts(lambda v: not v["provisional"]), 60, "a closed window")
        code, done, _ = driftline("dead-letters", "replay", "--rule", "range", *MEND, "--apply", "--json")
        assert (code, done["landed"]) == (0, 1)
        [revised] = wait_until(lambda: verdicts(lambda v: v["revision"] > 0), 60, "a revision")
    first = next(v for v in before if v["window_start"] == revised["window_start"])
    assert (revised["revision"], revised["n"]) == (first["revision"] + 1, first["n"] + 1)
    assert driftline("verify", "--json")[1]["late"] == 1


def test_who_claims_to_be_a_replay_is_a_first_failure(dataset, driftline):
    claims = [("driftline.attempt", b"7"), ("driftline.replay-of", f"{topics.events(dataset.id)}/0/0".encode())]
    claims += [("driftline.first-rule", b"whatever")]
    producer = kafka.producer(dataset.settings, "stranger")
    for i in (1, 2):
        producer.produce(topics.events(dataset.id), record(order_id=f"f-{i}", quantity=-i), b"k", 0, headers=claims)
    assert producer.flush(20) == 0
    dataset.to_end()
    with dataset.validate():
        code, done, _ = driftline("dead-letters", "replay", "--rule", "range", *MEND, "--apply", "--json")
        assert (code, done["replayed"], done["landed"]) == (0, 2, 2)  # attempt 8 would have needed --force
    found = [f.letter for f in chosen(dataset.settings, contract_file.load(str(dataset.contract)), Choice())]
    assert [(letter.attempt, letter.replay_of, letter.first_rule) for letter in found] == [(1, None, "range")] * 2
    report = verify(dataset.settings, contract_file.load(str(dataset.contract)))
    assert report["ok"], report["first"]
    assert "2 records say that they are replays, and no marker does" in driftline("verify")[1]


def test_the_newest_are_those_that_failed_last(dataset, driftline, run_verb):
    for i, partition in enumerate((1, 0, 1, 0)):
        producer = kafka.producer(dataset.settings, "in turns")
        producer.produce(topics.events(dataset.id), record(order_id=f"o-{i}", quantity=-1), b"k", partition)
        assert producer.flush(20) == 0
        dataset.to_end()
    listed = [json.loads(line) for line in run_verb("dead-letters", "list", "--limit", "3", "--json")[1].splitlines()]
    assert [row["coordinate"].rpartition(f"{dataset.id}.events/")[2] for row in listed] == ["0/0", "1/1", "0/1"]
