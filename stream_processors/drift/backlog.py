"""EDGE. What the blocks topic holds beyond what the judge has heard: idle is not behind, and unused is neither.

The end offset alone does not say it: behind a partition's last block stand transaction markers, and blocks that were given
up. So where the end lies beyond the next block a fetch asks whether a committed block is there, and the answer is kept
for as long as neither moves. A block of an open transaction does not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline import kafka, topics
from pipeline.errors import Unreachable
from pipeline.logs import log
from pipeline.settings import Settings

ANSWER_S = 2.0  # how long the broker may take
SCORER_S = 5.0  # between looks at how far the scorer is
ON_THE_WAY_S = 60.0  # a block of scores that is heard of no later is a repeat, of which the judge is told nothing
_ONE_BLOCK = {
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 10,
    "fetch.message.max.bytes": 1024,  # a first batch comes whole, whatever its size
    "queued.min.messages": 1,
}


class Backlog:
    """Of one dataset's blocks topic, or the one given. All calls come from one thread."""

    def __init__(self, settings: Settings, dataset: str, topic: str | None = None):
        self._settings, self._topic = settings, topic or topics.blocks(dataset)
        self._name = f"{topics.group(dataset, 'drift')}.backlog"
        self._client: Consumer | None = None
        self._waiting: dict[int, int] = {}  # offset of a block that was seen there
        self._empty: dict[int, tuple[int, int]] = {}  # [from, to) in which there is none

    def behind(self, heard: Mapping[int, int]) -> frozenset[int]:
        """Of the partitions those with a committed block at or after the offset; all of them if the broker does not say.

        Cost: one round trip a partition, a fetch where its end has moved.
        """
        try:
            asked = {p: offset for p, offset in heard.items() if self._waiting.get(p, -1) < offset}
            ends = {p: self._end(p) for p in asked}
            self._fetch({p: offset for p, offset in asked.items() if not self._is_empty(p, offset, ends[p])}, ends)
        except (KafkaException, Unreachable) as error:
            log("backlog_unknown", "warning", topic=self._topic, error=error)
            self.close()
            return frozenset(heard)
        return frozenset(p for p, offset in heard.items() if self._waiting.get(p, -1) >= offset)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _end(self, partition: int) -> int:
        if self._client is None:
            self._client = kafka.consumer(self._settings, self._name, **_ONE_BLOCK)
        return self._client.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=ANSWER_S)[1]

    def _is_empty(self, partition: int, offset: int, end: int) -> bool:
        low, high = self._empty.get(partition, (0, 0))
        return offset >= end or (low <= offset and end <= high)

    def _fetch(self, open_: dict[int, int], ends: Mapping[int, int]) -> None:
        """Learn of each partition the first block from its offset on, or that there is none."""
        if not open_:
            return
        assert self._client is not None
        self._client.assign([TopicPartition(self._topic, p, offset) for p, offset in open_.items()])
        until = time.monotonic() + ANSWER_S
        try:
            while open_:
                if time.monotonic() > until:
                    raise Unreachable(f"{self._topic}: no answer from partitions {sorted(open_)} in {ANSWER_S:.0f} s")
                for message in self._client.consume(len(open_), 0.1):
                    partition, error = message.partition(), message.error()
                    if error is None and partition in open_:
                        self._waiting[partition] = message.offset()
                        del open_[partition]
                    elif error is not None and error.code() == KafkaError._PARTITION_EOF and partition in open_:
                        self._empty[partition] = open_.pop(partition), ends[partition]
        finally:
            self._client.unassign()


class ScorerReach:
    """Up to where in the blocks topic no score can come any more. All calls come from one thread.

    The scorer commits a block's offset after its scores are durable. So where its committed offset, or the oldest block
    still held, lies past a block, and the scores topic holds nothing that was not heard, no score of that block will come.
    Both only grow: an answer holds for good. Unknown partitions are reached up to 0.
    """

    def __init__(self, settings: Settings, dataset: str):
        self._settings, self._dataset = settings, dataset
        self._scores = Backlog(settings, dataset, topics.scores(dataset))
        self._client: Consumer | None = None
        self._reached: dict[int, int] = {}
        self._waits: dict[int, tuple[tuple[int, int], float]] = {}  # heard and committed, and since when no more
        self._asked = float("-inf")

    def of(self, heard: Mapping[int, int], now: float) -> Mapping[int, int]:
        """By partition; `heard` are the next offsets in the scores topic. Asked at most every few seconds."""
        if heard and now - self._asked > SCORER_S:
            self._asked = now
            try:
                passed = self._passed(heard)  # first: what was committed by then stands in the scores topic
            except KafkaException as error:
                log("scorer_unknown", "warning", dataset=self._dataset, error=error)
                self.close()
            else:
                on_the_way = self._scores.behind(heard)
                for p, offset in passed.items():
                    known, since = self._waits.get(p, ((-1, -1), now))
                    self._waits[p] = (heard[p], offset), now if known != (heard[p], offset) else since
                    if p not in on_the_way or now - self._waits[p][1] > ON_THE_WAY_S:
                        self._reached[p] = offset
        return self._reached

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._scores.close()

    def _passed(self, partitions: Iterable[int]) -> dict[int, int]:
        if self._client is None:  # it never joins the scorer's group
            self._client = kafka.consumer(self._settings, topics.group(self._dataset, "score"))
        wanted = [TopicPartition(topics.blocks(self._dataset), p) for p in partitions]
        lows = {tp.partition: self._client.get_watermark_offsets(tp, timeout=ANSWER_S)[0] for tp in wanted}
        return {tp.partition: max(tp.offset, lows[tp.partition]) for tp in self._client.committed(wanted, ANSWER_S)}


def unused(settings: Settings, dataset: str) -> frozenset[int] | None:
    """Partitions in which neither a record nor a block has ever stood; None if the broker does not say."""
    client = kafka.consumer(settings, f"{topics.group(dataset, 'drift')}.unused")
    try:
        held = [
            kafka.bounds(client, topic, timeout=ANSWER_S) for topic in (topics.events(dataset), topics.blocks(dataset))
        ]
        return frozenset(p for p in held[1] if all(own.get(p, (0, 0))[1] == 0 for own in held))
    except (KafkaException, Unreachable):
        return None  # it is asked again
    finally:
        client.close()
