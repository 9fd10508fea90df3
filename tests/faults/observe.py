"""EDGE. Where every process stands, sampled several times a second from outside: log ends, group offsets, the table's log.

Knows nothing of kills. From the samples follow how fast records are validated, how old the oldest unread one is, and since
when everything that was in a log at some moment has been dealt with.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline import kafka, topics
from pipeline.settings import Settings

EVERY_S = 0.1
ASK_S = 2.0
Offsets = Mapping[int, int]
STAGES = ("validator", "compactor", "drift")


@dataclass(frozen=True, slots=True)
class Sample:
    """Ends of raw topic and blocks, and how far each stage has come; in raw offsets, drift's in offsets of the blocks."""

    at: float  # monotonic
    raw: Offsets
    blocks: Offsets
    done: Mapping[str, Offsets]

    @property
    def produced(self) -> int:
        return sum(self.raw.values())

    @property
    def validated(self) -> int:
        return sum(self.done["validator"].values())

    def goal(self, stage: str) -> Offsets:
        """What the stage has to reach to have dealt with everything that is in its input now."""
        return {"validator": self.raw, "compactor": self.done["validator"], "drift": self.blocks}[stage]

    def reached(self, stage: str, goal: Offsets) -> bool:
        return all(self.done[stage].get(p, 0) >= end for p, end in goal.items())


class Observer:
    """A thread that samples; asks nothing of a broker that is away but whether it is back."""

    def __init__(self, settings: Settings, dataset: str, table: Path):
        self._dataset, self._table = dataset, table
        self._groups = {
            stage: _client(settings, topics.group(dataset, verb))
            for stage, verb in (("validator", "validate"), ("drift", "drift"))
        }
        self._lake: dict[int, int] = {}
        self._version = -1
        self._partitions = kafka.partitions(self._groups["drift"], topics.events(dataset))
        self._fresh = threading.Condition()
        self._stopped = threading.Event()
        self.samples: list[Sample] = []
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        self.after(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(3 * ASK_S)

    @property
    def last(self) -> Sample:
        return self.samples[-1]

    def after(self, at: float, deadline_s: float = 120.0) -> Sample:
        """The first sample that was begun after `at`; AssertionError if there is none for so long."""
        until = time.monotonic() + deadline_s
        with self._fresh:
            while not self.samples or self.last.at <= at:
                assert time.monotonic() < until, f"no answer from the broker for {deadline_s:.0f} s"
                self._fresh.wait(1.0)
            return self.last

    def await_goal(self, stage: str, goal: Offsets, deadline_s: float) -> float | None:
        """When the stage was first seen to have reached it (monotonic); None past the deadline."""
        until = time.monotonic() + deadline_s
        with self._fresh:
            while not self.samples or not self.last.reached(stage, goal):
                if time.monotonic() > until:
                    return None
                self._fresh.wait(0.5)
            return self.last.at

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            try:
                found = self._sample()
            except KafkaException:
                continue  # the broker is away: the gap in the samples shows it
            with self._fresh:
                self.samples.append(found)
                self._fresh.notify_all()

    def _sample(self) -> Sample:
        at, raw, blocks = time.monotonic(), topics.events(self._dataset), topics.blocks(self._dataset)
        # Positions before ends: a stage is never seen ahead of its input.
        done = {
            "compactor": dict(self._table_position()),
            "drift": self._committed("drift", blocks),
            "validator": self._committed("validator", raw),
        }
        return Sample(at, self._ends(raw), self._ends(blocks), done)

    def _committed(self, stage: str, topic: str) -> Offsets:
        wanted = [TopicPartition(topic, p) for p in self._partitions]
        found = self._groups[stage].committed(wanted, timeout=ASK_S)
        if any(tp.error for tp in found):
            raise KafkaException(next(tp.error for tp in found if tp.error))
        before = self.samples[-1].done[stage] if self.samples else {}
        if any(tp.offset < 0 < before.get(tp.partition, 0) for tp in found):
            raise KafkaException(KafkaError(KafkaError._NO_OFFSET))  # seen once, of a broker that had just come back
        return {tp.partition: max(0, tp.offset) for tp in found}

    def _ends(self, topic: str) -> Offsets:
        client = self._groups["validator"]
        return {p: client.get_watermark_offsets(TopicPartition(topic, p), timeout=ASK_S)[1] for p in self._partitions}

    def _table_position(self) -> Offsets:
        """The next raw offset of each partition, from log entries that were not read before."""
        log = self._table / "_delta_log"
        while (file := log / f"{self._version + 1:020}.json").exists():
            for line in file.read_text().splitlines():
                entry = json.loads(line).get("txn")
                if entry and entry["appId"].startswith(f"{self._dataset}/"):
                    self._lake[int(entry["appId"].rpartition("/")[2])] = int(entry["version"])
            self._version += 1
        return self._lake


def _client(settings: Settings, group: str) -> Consumer:
    """It never joins the group; uncommitted, so that an open transaction does not make its question wait."""
    return kafka.consumer(settings, group, isolation="read_uncommitted")


def ages(samples: list[Sample], stage: str) -> list[float]:
    """For each sample the age in seconds of the oldest record that the stage has not dealt with; as fine as the samples are.

    A record at offset o came between the last sample whose end is <= o and the next one: the latter's time is taken.
    """
    found = []
    times = [s.at for s in samples]
    ends: dict[int, list[int]] = {p: [s.goal(stage).get(p, 0) for s in samples] for p in samples[-1].goal(stage)}
    for i, sample in enumerate(samples):
        oldest = sample.at
        for p, own in ends.items():
            done = sample.done[stage].get(p, 0)
            if done < own[i]:
                oldest = min(oldest, times[bisect_right(own, done, 0, i + 1)])
        found.append(sample.at - oldest)
    return found
