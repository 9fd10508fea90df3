"""EDGE. Three brokers on this machine as one: started, asked who leads, killed one by one, stopped.

For tests and fault campaigns; the local stack runs the same brokers under its supervisor.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException

from pipeline import kafka
from pipeline.broker import READY_DEADLINE_S, Broker, free_port
from pipeline.broker_config import Node
from pipeline.errors import Unreachable
from pipeline.settings import Settings

BROKERS = 3
HEAP_MB = 384  # of each; half of it is used at 100,000 records a second
ASK_S = 5.0


class Cluster:
    """`with Cluster(folder) as cluster:` starts all, waits until they answer, stops them. Topics get three copies.

    A broker is killed and started again by its own methods; `in_sync` says when its copies are whole again.
    """

    def __init__(self, directory: Path, *, heap_mb: int = HEAP_MB):
        nodes = tuple(Node(free_port(), free_port()) for _ in range(BROKERS))
        folders = [directory / ("kafka" if n == 1 else f"kafka-{n}") for n in range(1, BROKERS + 1)]
        self.brokers = tuple(
            Broker(folder, nodes=nodes, number=n, heap_mb=heap_mb) for n, folder in enumerate(folders, 1)
        )

    @property
    def bootstrap(self) -> str:
        return ",".join(b.bootstrap for b in self.brokers)

    def settings(self, **env: str) -> Settings:
        return self.brokers[0].settings(**{"DRIFTLINE_BOOTSTRAP": self.bootstrap, **env})

    def start(self) -> Cluster:
        for broker in self.brokers:
            broker.start(wait=False)  # none answers before two of them have found each other
        for broker in self.brokers:
            broker.wait_ready()
        return self

    def leader(self, topic: str, partition: int) -> Broker:
        """The broker that leads a partition, as the living ones say; Unreachable while it has none."""
        led = self._described(topic)[partition].leader
        if not 1 <= led <= len(self.brokers):
            raise Unreachable(f"{topic}/{partition} has no leader now")
        return self.brokers[led - 1]

    def in_sync(self) -> bool:
        """Whether every copy of every partition is whole, the broker's own topics included."""
        try:
            found = kafka.admin(self.settings()).list_topics(timeout=ASK_S)
        except KafkaException:
            return False
        return len(found.brokers) == len(self.brokers) and all(
            len(p.isrs) == len(p.replicas) and p.leader > 0
            for t in found.topics.values()
            for p in t.partitions.values()
        )

    def wait_in_sync(self, deadline_s: float = READY_DEADLINE_S) -> float:
        """Wait until every copy is whole; the seconds it took."""
        began = time.monotonic()
        while not self.in_sync():
            if time.monotonic() - began > deadline_s:
                raise Unreachable(f"copies are still behind after {deadline_s:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - began

    def _described(self, topic: str) -> dict:
        return kafka.admin(self.settings()).list_topics(topic, timeout=ASK_S).topics[topic].partitions

    def stop(self) -> None:
        for broker in self.brokers:
            broker.signal(signal.SIGTERM)  # all at once: the last of them alone has no quorum to say goodbye to
        for broker in self.brokers:
            broker.stop()

    def __enter__(self) -> Cluster:
        try:
            return self.start()
        except BaseException:
            for broker in self.brokers:
                broker.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for broker in self.brokers:
            broker.resume()
        self.stop()
