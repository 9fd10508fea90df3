"""What is in a dataset's topics after the validator: read once, then asked. And the validator as a child process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Message, TopicPartition

from pipeline import blocks, kafka, topics
from pipeline.blocks import BlockHeader
from pipeline.settings import Settings
from stream_processors.dead_letters import letter as dead_letters
from stream_processors.dead_letters.letter import DeadLetter

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class History:
    """Everything by partition and in order."""

    raw: dict[int, list[Message]] = field(default_factory=lambda: defaultdict(list))
    valid: dict[int, list[Message]] = field(default_factory=lambda: defaultdict(list))
    dead: dict[int, list[tuple[DeadLetter, Message]]] = field(default_factory=lambda: defaultdict(list))
    blocks: dict[int, list[tuple[BlockHeader, Message]]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[int, TopicPartition] = field(default_factory=dict)


def read(settings: Settings, dataset: str, *, raw: bool = True) -> History:
    found = History()
    for m in kafka.read_all(settings, topics.events(dataset)) if raw else ():
        found.raw[m.partition()].append(m)
    for m in kafka.read_all(settings, topics.valid(dataset)):
        found.valid[m.partition()].append(m)
    for m in kafka.read_all(settings, topics.dead_letters(dataset)):
        found.dead[m.partition()].append((dead_letters.from_headers(kafka.headers_of(m)), m))
    for m in kafka.read_all(settings, topics.blocks(dataset)):
        found.blocks[m.partition()].append((blocks.from_headers(kafka.headers_of(m)), m))
    found.committed = committed(settings, dataset)
    return found


def committed(settings: Settings, dataset: str) -> dict[int, TopicPartition]:
    client = kafka.consumer(settings, topics.group(dataset, "validate"))
    try:
        topic = topics.events(dataset)
        return kafka.committed(client, topic, kafka.partitions(client, topic))
    finally:
        client.close()


def check(found: History) -> None:
    """Every raw record below the committed offset is once valid or once dead, in order; blocks say the same."""
    for p, raw in found.raw.items():
        end = found.committed[p].offset
        below = [m for m in raw if m.offset() < end]
        dead = [letter.offset for letter, _ in found.dead[p]]
        assert dead == sorted(set(dead)), f"partition {p}: dead letters repeated or out of order"
        gone = set(dead)
        valid = [m for m in below if m.offset() not in gone]
        assert [(m.key(), m.value()) for m in found.valid[p]] == [(m.key(), m.value()) for m in valid], (
            f"partition {p}: valid"
        )
        _check_blocks(found, p, below, gone)


def _check_blocks(found: History, p: int, below: list[Message], gone: set[int]) -> None:
    at, watermark, rows, times = 0, None, [], []
    for header, message in found.blocks[p]:
        assert (header.start, header.watermark) == (at, watermark), f"partition {p}: block at {message.offset()}"
        batch = blocks.decode(message.value())
        assert sum(header.counts.values()) == sum(1 for m in below if header.start <= m.offset() < header.end)
        rows += [
            o
            for o, reject in zip(batch["raw_offset"].to_pylist(), batch["reject"].to_pylist(), strict=True)
            if reject is None
        ]
        times += batch["append_time"].cast("int64").to_pylist()
        at = header.end
        watermark = max((t for t in (watermark, header.max_event_time) if t is not None), default=None)
    assert at == (below[-1].offset() + 1 if below else 0), f"partition {p}: blocks end at {at}"
    assert rows == [m.offset() for m in below if m.offset() not in gone], f"partition {p}: rows of the blocks"
    assert set(times) <= {m.timestamp()[1] for m in below}


class Child:
    """`driftline validate` in a process of its own."""

    def __init__(self, environment: dict[str, str], contract: Path, log: Path, *args: str):
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "--contract", str(contract), "validate", *args],
                cwd=ROOT,
                env=environment,
                stderr=out,
                stdout=out,
            )

    def wait(self, deadline_s: float = 60) -> int:
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not finished within {deadline_s} s:\n{self.text()}") from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        self.process.terminate()
        return self.wait(25)

    def text(self) -> str:
        return self.log.read_text()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            print(f"{'still running' if self.running else f'ended with {self.process.poll()}'}:\n{self.text()}")
        if self.running:
            self.kill()


def now_ms() -> int:
    return time.time_ns() // 1_000_000
