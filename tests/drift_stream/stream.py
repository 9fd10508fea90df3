"""A dataset on a real broker for the drift tests: a contract file, blocks written in transactions, the drift process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from confluent_kafka import Producer

from pipeline import blocks, contract_file, topics
from pipeline.blocks import Block
from pipeline.contract import Contract
from pipeline.kafka import producer
from pipeline.settings import Settings
from stream_processors.drift.read_verbs import Json, latest, read
from tests.waiting import wait_until

TINY = """
apiVersion: v3.1.0
kind: DataContract
id: tiny
version: 1.0.0
status: active
schema:
  - name: events
    logicalType: object
    properties:
      - {name: order, logicalType: string, required: true}
      - {name: price, logicalType: number, required: true}
      - {name: region, logicalType: string, required: true}
      - {name: at, logicalType: timestamp, required: true}
customProperties:
  - {property: key, value: order}
  - property: eventTime
    value: {field: at, lateness: 10 min, idle: 5 s, reviseWithin: 2 d}
  - {property: partitions, value: 2}
  - property: drift
    value:
      window: 1 h
      pane: 5 min
      pageBudget: 1 per 30 d
      rule: bank
      alpha: 0.05
      features:
        - {name: price, kind: numeric, tolerance: 0.02, weight: 1}
        - {name: region, kind: categorical, tolerance: 0.02, weight: 1}
      segments:
        - [region]
"""


def contract_in(folder: Path, more: str = "") -> tuple[Path, Contract]:
    path = folder / "tiny.yaml"
    path.write_text(TINY + more)
    return path, contract_file.load(str(path))


def writer(settings: Settings, name: str = "test-blocks") -> Producer:
    made = producer(settings, name, transactional_id=name)
    made.init_transactions(30)
    return made


def write(made: Producer, found: Sequence[Block], *, abort: bool = False, topic: str = topics.blocks("tiny")) -> None:
    """Blocks in one transaction, as the validator does it."""
    made.begin_transaction()
    for block in found:
        made.produce(
            topic,
            blocks.encode(block.rows),
            headers=blocks.to_headers(block.header),
            partition=block.header.partition,
        )
    made.flush(30)
    if abort:
        made.abort_transaction(30)
    else:
        made.commit_transaction(30)


def verdicts(settings: Settings) -> list[Json]:
    return latest(read(settings, topics.VERDICTS, "tiny"))


def final_windows(settings: Settings) -> set[str]:
    return {str(v["window_start"]) for v in verdicts(settings) if not v["provisional"]}


def alerts(settings: Settings) -> list[Json]:
    return list(read(settings, topics.ALERTS))


class Worker:
    """One `driftline drift` child process."""

    def __init__(self, environment: Mapping[str, str], contract: Path, log: Path):
        self.log = log
        self._out = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "--contract", str(contract), "drift"],
            env={**environment, "DRIFTLINE_CONTRACT": str(contract)},
            stdout=self._out,
            stderr=self._out,
        )

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def said(self, text: str) -> bool:
        assert self.code in (None, 0), self.log.read_text()[-3000:]
        return text in self.log.read_text()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.terminate()
        return self._process.wait(25)

    def close(self) -> None:
        """In order: the group's next member would wait for the end of a killed one's session."""
        if self.code is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        self._out.close()


@contextlib.contextmanager
def drift(environment: Mapping[str, str], contract: Path, log: Path) -> Iterator[Worker]:
    """A drift process that owns its partitions; ended at the end."""
    worker = Worker({**os.environ, **environment}, contract, log)
    try:
        wait_until(lambda: worker.said(" assigned "), 120, "the drift process to get its partitions")
        yield worker
    finally:
        worker.close()
