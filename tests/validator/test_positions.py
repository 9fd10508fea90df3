"""Where the validator goes on: the group's offset and the last block are two witnesses of one commit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import TopicPartition

from pipeline import kafka, topics
from pipeline.errors import Fatal
from pipeline.topics import Topic
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


def test_a_first_block_whose_transaction_is_not_through_is_waited_for(dataset):
    """The group's offset may be readable before the block of the same commit: without it the watermark would be lost."""
    dataset.fill(corpus.sales(400))
    dataset.to_end()
    wanted = dataset.history().blocks[0][-1][0]
    block = list(kafka.read_all(dataset.settings, topics.blocks(dataset.id)))
    block = [m for m in block if m.partition() == 0][-1]
    other = f"{dataset.id}.again"
    kafka.create_topics(dataset.settings, [Topic(topics.blocks(other), 1), Topic(topics.events(other), 1)])
    filler = kafka.producer(dataset.settings, "filler")
    for _ in range(wanted.end):
        filler.produce(topics.events(other), b"{}", partition=0)
    filler.flush(30)
    client = kafka.consumer(dataset.settings, f"{other}.group")
    client.commit(offsets=[TopicPartition(topics.events(other), 0, wanted.end)], asynchronous=False)
    producer = kafka.producer(dataset.settings, "t", transactional_id=f"{other}.slow")
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topics.blocks(other), block.value(), partition=0, headers=block.headers())
    producer.flush()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(positions.find, client, dataset.settings, other, [0], threading.Event())
        with pytest.raises(TimeoutError):
            found.result(2)
        producer.commit_transaction(20)
        position = found.result(30)[0]
    client.close()
    assert (position.next, position.watermark) == (wanted.end, positions.watermark_after(wanted))
