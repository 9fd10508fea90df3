"""What a command committed can be read by the next one: on a real broker, whose markers come behind the commit's answer."""

from __future__ import annotations

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec

from pipeline import kafka
from pipeline.settings import Settings
from pipeline.topics import Topic

WIDE = Topic(
    "wide", 200
)  # markers for so many partitions are still on their way when the commit answers: seen every time


def hidden(settings: Settings) -> list[int]:
    """The partitions with records behind their last stable offset."""
    client = kafka.admin(settings)
    asked = {TopicPartition(WIDE.name, p): OffsetSpec.latest() for p in range(WIDE.partitions)}

    def ends(isolation: IsolationLevel) -> dict[int, int]:
        answers = client.list_offsets(asked, isolation_level=isolation, request_timeout=10)
        return {place.partition: answer.result(10).offset for place, answer in answers.items()}

    stable, written = ends(IsolationLevel.READ_COMMITTED), ends(IsolationLevel.READ_UNCOMMITTED)
    return [p for p in stable if stable[p] < written[p]]


def test_after_the_wait_every_partition_of_the_last_transaction_can_be_read(fresh_topics):
    settings = fresh_topics(wanted=[WIDE])
    producer = kafka.producer(settings, "wide", transactional_id="wide")
    producer.init_transactions(30)
    producer.begin_transaction()
    for p in range(WIDE.partitions):
        producer.produce(WIDE.name, b"record", partition=p)
    producer.commit_transaction(30)
    kafka.wait_until_readable(settings, "wide")
    assert hidden(settings) == []
    assert len(list(kafka.read_all(settings, WIDE.name))) == WIDE.partitions
