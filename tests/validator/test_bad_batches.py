"""Batches that no client can open are accounted for as ranges; a log that was cut behind the reader stops it."""

from __future__ import annotations

import re

from confluent_kafka import TopicPartition

from batch.verify import verify
from pipeline import bad_batches, contract_file, kafka, topics
from pipeline.bad_batches import BadBatch
from pipeline.broker import Broker
from stream_processors.validator.validation import UNREAD
from tests.validator import corpus, segments
from tests.validator.conftest import Dataset, MakeDataset, of_the_validator
from tests.waiting import wait_until

BATCH = 100


def made(own_broker: Broker, make_dataset: MakeDataset, batches: int) -> Dataset:
    """Two partitions of `batches` batches of a hundred valid records each."""
    dataset = make_dataset(own_broker.bootstrap)
    kafka.create_topics(dataset.settings, of_the_validator(dataset))
    append(dataset, batches)
    return dataset


def append(dataset: Dataset, batches: int) -> None:
    producer = kafka.producer(dataset.settings, "batches", **{"compression.type": "zstd", "linger.ms": 1000})
    records = iter(corpus.sales(2 * batches * BATCH, bad=0.0))
    for p in range(2):
        for _ in range(batches):
            for _ in range(BATCH):
                key, value = next(records)
                producer.produce(topics.events(dataset.id), value, key, p)
            assert producer.flush(30) == 0


def spoiled(own_broker: Broker, dataset: Dataset, wanted: dict[tuple[int, int], bool]) -> None:
    """Break batches on the stopped broker's disk: (partition, number) -> by checksum, not by compression."""
    own_broker.stop()
    for (p, n), checksum in wanted.items():
        segments.spoil(segments.batches(own_broker, topics.events(dataset.id), p)[n], checksum=checksum)
    own_broker.start()


def test_a_batch_that_cannot_be_opened_is_one_dead_letter_for_its_range_and_costs_no_other_record(
    own_broker: Broker, make_dataset: MakeDataset
):
    #  partition 0   good | compression | compression | good        partition 1   good | checksum | good | compression
    dataset = made(own_broker, make_dataset, 4)
    spoiled(own_broker, dataset, {(0, 1): False, (0, 2): False, (1, 1): True, (1, 3): False})
    dataset.to_end()
    append(dataset, 1)  # it goes on afterwards, from what it committed
    dataset.to_end()

    dead, blocks, valid, committed = {}, {}, {}, {}
    found = dataset.history_of_outputs()
    for p in range(2):
        dead[p] = [(letter.offset, letter.batch_end, letter.rule, m.key(), m.value()) for letter, m in found.dead[p]]
        blocks[p] = [(h.start, h.end, h.counts.get(UNREAD, 0)) for h, _ in found.blocks[p]]
        valid[p] = len(found.valid[p])
        committed[p] = found.committed[p].offset
    assert dead == {
        0: [(100, 200, UNREAD, None, None), (200, 300, UNREAD, None, None)],
        1: [(100, 200, UNREAD, None, None), (300, 400, UNREAD, None, None)],
    }
    for p in range(2):
        assert [start for start, _, _ in blocks[p]] == [0, *(end for _, end, _ in blocks[p][:-1])], "a gap"
        assert sum(n for _, _, n in blocks[p]) == 200
        assert blocks[p][-1][1] == committed[p] == 500
    assert valid == {0: 300, 1: 300}
    assert all(letter.message.startswith("100 offsets from ") for of in found.dead.values() for letter, _ in of)
    log = (dataset.folder / "validate.log").read_text()
    assert log.count("batch_undecodable") == 4 and "cause=checksum" in log and "cause=compression" in log

    report = verify(dataset.settings, contract_file.load(str(dataset.contract)))
    counts = [report[k] for k in ("ok", "quarantined", "dead", "consumed", "valid")]
    assert counts == [True, 400, 400, 1000, 600]

    # how far one reaches, asked from any offset in it; a batch that can be read is none
    topic = topics.events(dataset.id)
    middle = bad_batches.extent(dataset.settings, topic, 0, 150)
    assert isinstance(middle, BadBatch) and (middle.start, middle.end, middle.cause) == (150, 200, "compression")
    assert bad_batches.extent(dataset.settings, topic, 1, 250) is None


def test_retention_that_overtakes_the_reader_stops_it_with_the_reason_and_never_jumps(dataset: Dataset):
    append(dataset, 1)
    with dataset.validate(name="overtaken") as child:
        wait_until(lambda: dataset.committed() == 200, 90, "the first records")
        child.pause()  # too slow for its topic's retention
        append(dataset, 2)
        cut(dataset, 250)
        child.go_on()
        assert child.wait() == 70
        assert "Fatal" in child.text() and "retention overtook the validator" in child.text()
    # 100, or 200 where a fetch that was under way still brought the next batch: what it read, and not one offset more
    reached = dataset.history_of_outputs()
    assert all(
        tp.offset in (100, 200) and reached.blocks[p][-1][0].end == tp.offset for p, tp in reached.committed.items()
    )
    again = dataset.validate("--exit-at-end")  # nor does a new process, which reads its position from what is committed
    assert again.wait() == 70
    assert re.search(
        r"position [12]00 is not within the log's 250\.\.300: retention overtook the validator", again.text()
    )
    after = dataset.history_of_outputs().committed
    assert {p: tp.offset for p, tp in after.items()} == {p: tp.offset for p, tp in reached.committed.items()}


def cut(dataset: Dataset, offset: int) -> None:
    client = kafka.admin(dataset.settings)
    done = client.delete_records([TopicPartition(topics.events(dataset.id), p, offset) for p in range(2)])
    assert [future.result(20).low_watermark for future in done.values()] == [offset, offset]
