"""Where the validator goes on: the group's offset and the last block are two witnesses of one commit."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import TopicPartition

from pipeline import kafka, topics
from pipeline.errors import Fatal
from stream_processors.validator import positions
from tests.validator import corpus


@pytest.fixture
def ask(dataset):
    """`ask(offset)`: the positions that a group finds that committed this offset for partition 0, or nothing."""
    dataset.fill(corpus.sales(400))
    dataset.to_end()
    groups = iter(range(9))

    def find(offset: int | None) -> dict[int, positions.Position]:
        client = kafka.consumer(dataset.settings, f"{dataset.id}.other.{next(groups)}")
        try:
            if offset is not None:
                client.commit(offsets=[TopicPartition(topics.events(dataset.id), 0, offset)], asynchronous=False)
            return positions.find(client, dataset.settings, dataset.id, [0, 1], threading.Event())
        finally:
            client.close()

    return find


def test_the_last_block_alone_is_enough_for_offset_and_watermark_and_a_reset_offset_is_fatal(dataset, ask):
    found = dataset.history()
    for p, position in ask(None).items():
        header = found.blocks[p][-1][0]
        assert (position.next, position.watermark) == (header.end, positions.watermark_after(header))
        assert position.next == len(found.raw[p])
    with pytest.raises(Fatal, match="committed offset is 3, the last block ends at"):
        ask(3)


def test_no_witness_means_the_beginning_of_the_log(dataset):
    client = kafka.consumer(dataset.settings, "nobody")
    found = positions.find(client, dataset.settings, dataset.id, [0, 1], threading.Event())
    client.close()
    assert found == {0: positions.Position(0, None, None), 1: positions.Position(0, None, None)}


@pytest.mark.parametrize("offset, bounds", [(5, (9, 20)), (21, (9, 20))])
def test_a_position_that_the_log_does_not_have_is_fatal(offset, bounds):
    committed = TopicPartition("t", 0, offset)
    with pytest.raises(Fatal, match="retention overtook"):
        positions._agreed("t", 0, committed, None, bounds)


def test_an_aborted_block_is_no_witness_and_the_search_goes_behind_it(dataset):
    dataset.fill(corpus.sales(400))
    dataset.to_end()
    before = positions.last_blocks(dataset.settings, topics.blocks(dataset.id), [0])
    producer = kafka.producer(dataset.settings, "t", transactional_id=f"{dataset.id}.aborts")
    producer.init_transactions(20)
    for _ in range(3 * positions.TAIL):
        producer.begin_transaction()
        producer.produce(topics.blocks(dataset.id), b"junk", partition=0)
        producer.flush()
        producer.abort_transaction()
    assert positions.last_blocks(dataset.settings, topics.blocks(dataset.id), [0]) == before
