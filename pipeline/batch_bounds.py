"""EDGE. Where the batch that holds an offset begins and ends, read from its header: nothing of it is decompressed.

librdkafka opens every batch before it tells anything of it, so this one question is asked through aiokafka, which the
drift process brings along. The answer of a broker to a fetch of one byte is the whole batch that holds the offset.
"""

from __future__ import annotations

import asyncio
import ssl
import struct

from pipeline import kafka
from pipeline.errors import Unreachable
from pipeline.settings import Settings

ANSWER_WITHIN_S = 20.0
BASE_AT, LAST_DELTA_AT, HEADER = (
    0,
    23,
    61,
)  # bytes of a v2 batch: base offset, last offset less that, where records begin
READ_COMMITTED = 1


def bounds(settings: Settings, topic: str, partition: int, at: int) -> tuple[int, int]:
    """[first, end) of the batch at this offset; Unreachable if the broker does not serve it in time."""
    try:
        head = asyncio.run(asyncio.wait_for(_fetched(settings, topic, partition, at), ANSWER_WITHIN_S))
    except Exception as error:  # aiokafka's own, a time-out, a broken connection: all mean that nobody answered
        raise Unreachable(f"{topic}/{partition}@{at}: the batch's header was not served: {error!r}") from error
    return from_header(head)


def from_header(head: bytes) -> tuple[int, int]:
    """
    >>> from_header(struct.pack(">qi", 700, 49) + bytes(11) + struct.pack(">i", 99) + bytes(34))
    (700, 800)
    """
    (first,) = struct.unpack_from(">q", head, BASE_AT)
    (last,) = struct.unpack_from(">i", head, LAST_DELTA_AT)
    return first, first + last + 1


async def _fetched(settings: Settings, topic: str, partition: int, at: int) -> bytes:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.protocol.fetch import FetchRequest
    from aiokafka.structs import TopicPartition

    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap, client_id="batch-bounds", **_security(settings))
    try:
        await client.bootstrap()
        await client.set_topics([topic])
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        # 1. wait up to 500 ms  2. for a byte  3. give one byte, that is one batch
        request = FetchRequest(500, 1, 1, READ_COMMITTED, [(topic, [(partition, at, 1)])])
        answer = await client.send(leader, request)
        _, partitions = answer.topics[0]
        code, records = partitions[0][1], partitions[0][-1]
        if code or len(records) < HEADER:
            raise Unreachable(f"error code {code}, {len(records)} bytes")
        return bytes(records[:HEADER])
    finally:
        await client.close()


def _security(settings: Settings) -> dict[str, object]:
    if settings.security.profile == "plain":
        return {}
    return {
        "security_protocol": "SASL_SSL",
        "ssl_context": ssl.create_default_context(cafile=settings.security.ca_file),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": settings.security.username,
        "sasl_plain_password": kafka.password(settings),
    }
