"""A batch that unpacks beyond the process's memory: it costs some deaths, then it is a range with a dead letter, and the stream goes on."""

from __future__ import annotations

import threading

import pytest

from batch.verify import verify
from pipeline import batch_bounds, contract_file, kafka, topics
from pipeline.errors import Unreachable
from stream_processors.validator.attempts import SUSPICIOUS, Attempts
from stream_processors.validator.validation import UNREAD
from tests.validator import corpus
from tests.validator.conftest import Dataset
from tests.waiting import wait_until

CAP_MB = 250  # of which the kernel gives twice as much writable memory
BOMB = 2_500  # records of 100 KiB each, 250 KB in the log: 250 MB unpacked by librdkafka, and once more as values of Python's
GOOD = 1_000


def send(dataset: Dataset, records: corpus.Records, partition: int = 0, **more: object) -> None:
    producer = kafka.producer(dataset.settings, "bombs", **{"linger.ms": 1000, **more})
    for key, value in records:
        producer.produce(topics.events(dataset.id), value, key, partition)
    assert producer.flush(60) == 0


def died_unmoved(dataset: Dataset, n: int) -> None:
    """What so many processes leave that died before they had a record."""
    for _ in range(n):
        path = dataset.settings.home / "validator" / f"driftline.{dataset.id}.validate.0.attempt"
        Attempts(path).placed({0: 0, 1: 0})


def test_a_batch_beyond_the_memory_cap_becomes_a_range_and_the_stream_goes_on(dataset: Dataset):
    #  partition 0   good | bomb | good        partition 1   good
    good = corpus.sales(3 * GOOD, bad=0.0)
    send(dataset, good[:GOOD])
    size = {
        "message.max.bytes": 1_000_000_000,
        "batch.size": 1_000_000_000,
        "linger.ms": 20_000,
        "compression.type": "gzip",
    }
    send(dataset, [(b"k", bytes(100 << 10))] * BOMB, **size)
    send(dataset, good[GOOD : 2 * GOOD])
    send(dataset, good[2 * GOOD :], 1)
    assert batch_bounds.bounds(dataset.settings, topics.events(dataset.id), 0, GOOD + 1) == (GOOD, GOOD + BOMB)

    dataset.environment["DRIFTLINE_MEMORY_MB"] = str(CAP_MB)
    died_unmoved(dataset, SUSPICIOUS - 1)
    assert dataset.validate("--exit-at-end").wait(60) != 0, "the bomb has to be one"
    dataset.to_end()

    found = dataset.history_of_outputs()
    assert [(x.offset, x.batch_end, x.rule) for x, _ in found.dead[0]] == [(GOOD, GOOD + BOMB, UNREAD)]
    assert "the reader ended at it" in found.dead[0][0][0].message
    assert (len(found.valid[0]), len(found.valid[1]), len(found.dead[1])) == (2 * GOOD, GOOD, 0)
    ends_of = [(h.start, h.end) for h, _ in found.blocks[0]]
    assert [a for a, _ in ends_of] == [0, *(b for _, b in ends_of[:-1])], "a gap"
    assert found.committed[0].offset == ends_of[-1][1] == 2 * GOOD + BOMB
    report = verify(dataset.settings, contract_file.load(str(dataset.contract)))
    assert report["ok"], report["first"]
    assert (report["consumed"], report["valid"], report["dead"]) == (3 * GOOD + BOMB, 3 * GOOD, BOMB)


def test_processes_that_are_merely_killed_bring_no_batch_into_suspicion(dataset: Dataset):
    records = corpus.sales(500, bad=0.1)
    send(dataset, records)
    died_unmoved(dataset, SUSPICIOUS)
    child = dataset.to_end()
    assert "read_in_trial" in child.text() and "ended=None" in child.text()
    found = dataset.history()
    assert len(found.valid[0]) + len(found.dead[0]) == 500
    assert all(letter.rule != UNREAD for letter, _ in found.dead[0])


def test_a_trial_ends_where_the_log_ended_when_it_began(dataset: Dataset):
    producer, enough = kafka.producer(dataset.settings, "stream", **{"linger.ms": 0}), threading.Event()
    records, delivered = iter(corpus.sales(5_000, bad=0.0)), []

    def trickle() -> None:
        while not enough.wait(0.02):  # never a pause that would be told as an end, and no full batch within the test
            key, value = next(records)
            producer.produce(topics.events(dataset.id), value, key, 0, on_delivery=lambda *_: delivered.append(1))
            producer.poll(0)

    feeding = threading.Thread(target=trickle)
    feeding.start()
    try:
        wait_until(lambda: len(delivered) > 10, 20, "the stream to flow")
        died_unmoved(dataset, SUSPICIOUS)
        with dataset.validate() as child:
            wait_until(lambda: "placed" in child.text(), 25, "the validator to read on")
            assert "read_in_trial" in child.text()
            at = dataset.committed()
            wait_until(lambda: dataset.committed() > at, 10, "it to keep up")
            assert child.stop() == 0
    finally:
        enough.set()
        feeding.join()


def test_a_partition_that_moves_or_a_process_that_ends_in_order_is_never_tried(tmp_path):
    path = tmp_path / "0.attempt"
    for n in range(10):  # every one died, and each had moved
        assert Attempts(path).placed({0: n}) == set()
    for _ in range(10):  # none moved, and each ended in order
        attempts = Attempts(path)
        assert attempts.placed({0: 9}) == set()
        attempts.ended()
    for _ in range(10):  # died decoding: another mark's business
        attempts = Attempts(path)
        assert attempts.placed({0: 9}) == set()
        attempts.begin({0: (9, 12)})
    died = [Attempts(path).placed({0: 20, 1: 7 + n}) for n in range(SUSPICIOUS + 1)]
    assert died == [*[set()] * SUSPICIOUS, {0}]
    attempts = Attempts(path)
    assert attempts.placed({0: 20}) == {0} and attempts.placed({0: 20}) == {0}  # placed again: no death more
    assert attempts.placed({0: 21}) == set()


def test_the_bounds_of_a_batch_that_is_not_there_are_not_guessed(dataset: Dataset):
    with pytest.raises(Unreachable, match="header was not served"):
        batch_bounds.bounds(dataset.settings, topics.events(dataset.id), 0, 5)
