"""All three kinds of windows on a real broker: what is late, idle, delivered twice or judged by a killed process changes no verdict."""

from __future__ import annotations

import argparse
import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from confluent_kafka import KafkaException

from batch import reference
from batch.compact import Compact
from pipeline import cli, contract_file, kafka, topics
from pipeline.blocks import Block
from pipeline.broker import free_port
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.settings import Settings, from_environment
from pipeline.times import to_text
from stream_processors.drift.block_counter import PARTIALS_PRODUCER
from stream_processors.judging.partial import from_bytes
from stream_processors.reference.store import read_store
from tests.conftest import delete_topics, environment_for
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import DAY0, HOUR, MINUTE, block, draw, reference_rows
from tests.drift_stream.stream import TINY, Worker, write, writer
from tests.waiting import wait_until

WINDOWS = {"tumbling": "window: 1 h", "sliding": "window: 1 h\n      slide: 30 min", "by_rows": "window: 400 rows"}
HOURS, ROWS_AN_HOUR, BLOCK_ROWS = 14, 120, 90
QUIET = 2  # the partition that is idle from hour 4 on, until the process that judged is dead
BEYOND = 3  # rows of each partition later than `reviseWithin`
Place = tuple[str, str, str]

#  event hour      0...........4.......8..........14
#  partition 0, 1  ............|.......|...........     a tenth of the rows lag by minutes, some by hours, three by half a day
#  partition 2     ............|       |...........     idle: the others' windows close provisionally, and then again
#                            turns   SIGKILL, a block and partials delivered again, a successor


def rows_of(partition: int) -> list[tuple[int, float, str]]:
    """In the order of the log. Late are rows more than 10 min behind, beyond are those more than 8 h 10 min behind."""
    rng, n = np.random.default_rng([7, partition]), HOURS * ROWS_AN_HOUR
    times = np.sort(rng.integers(DAY0, DAY0 + HOURS * HOUR, n))
    lag = np.where(rng.random(n) < 0.1, rng.integers(0, 9 * MINUTE, n), 0)
    lag[rng.choice(np.arange(n // 4, n), 30, replace=False)] = rng.integers(20 * MINUTE, 3 * HOUR, 30)
    lag[[-40, -30, -20]] = 12 * HOUR
    return draw(rng, (times - lag).tolist())


def cuts_of(partition: int, dataset: str) -> list[Block]:
    made, before, rows = [], None, rows_of(partition)
    for start in range(0, len(rows), BLOCK_ROWS):
        own = rows[start : start + BLOCK_ROWS]
        found = block(partition, start, own, before)
        header = replace(found.header, topic=topics.events(dataset), contract=f"{dataset}@1.0.0")
        made.append(replace(found, header=header))
        before = max(t for t, _, _ in rows[: start + BLOCK_ROWS])
    return made


def upto(blocks: list[Block], hour: int) -> int:
    """How many blocks end before an event hour is reached."""
    return next(i for i, b in enumerate(blocks) if (b.header.max_event_time or 0) >= DAY0 + hour * HOUR)


@dataclass
class Run:
    """One dataset: its contract, its blocks, the process that judges it."""

    settings: Settings
    contract: Contract
    blocks: list[list[Block]]  # by partition
    worker: Worker
    provisional: bool = False  # some verdict was, before the process was killed
    metrics: str = ""

    def start(self, environment: Mapping[str, str], name: str) -> None:
        port = str(free_port())
        self.metrics = f"http://127.0.0.1:{port}/metrics"
        log = self.settings.home / f"{self.contract.id}-{name}.log"
        self.worker = Worker({**environment, "DRIFTLINE_METRICS_PORT": port}, Path(self.settings.contract), log)

    def told(self) -> dict[Place, bytes]:
        """The newest bytes of each window, feature and segment; none while a busy broker does not answer."""
        found: dict[Place, bytes] = {}
        try:
            messages = list(kafka.read_all(self.settings, topics.VERDICTS))
        except (KafkaException, Unreachable):
            return {}
        for message in messages:
            if (message.key() or b"").startswith(f"{self.contract.id}/".encode()):
                verdict = json.loads(message.value())
                found[verdict["window_start"], verdict["feature"], verdict["segment"]] = message.value()
        return found

    def expected(self) -> dict[Place, bytes]:
        """What a judge in memory says of the same rows, block by block and undisturbed."""
        plain = Harness(3, read_store(self.settings, self.contract.id).timeline, self.contract)
        for own in self.blocks:
            for partials in counted(own, plain.timeline, contract=self.contract):
                plain.write(*partials)
        plain.drain()
        return plain.latest

    def agrees(self, expected: Mapping[Place, bytes]) -> bool:
        """Whether the topic's newest verdicts are the expected ones; false while they are still to come."""
        assert self.worker.code is None, self.worker.log.read_text()[-3000:]
        told = self.told()
        assert told.keys() <= expected.keys(), sorted(told.keys() - expected.keys())
        return told == expected

    def metric(self, name: str) -> float:
        """The sum of a metric's samples, as Prometheus would scrape it."""
        with urllib.request.urlopen(self.metrics, timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def dataset(settings: Settings, folder: Path, name: str) -> Run:
    text = TINY.replace("id: tiny", f"id: {name}").replace("window: 1 h", WINDOWS[name])
    text = text.replace("reviseWithin: 2 d", "reviseWithin: 8 h").replace("value: 2}", "value: 3}")
    path = folder / f"{name}.yaml"
    path.write_text(text)
    contract, own = contract_file.load(str(path)), replace(settings, contract=str(path))
    kafka.create_topics(own, topics.all_topics(name, 3))
    reference.publish(own, contract, pl.from_arrow(reference_rows(9, 12_000)), version=None, effective_from=DAY0)
    return Run(own, contract, [cuts_of(p, name) for p in range(3)], None)  # type: ignore[arg-type]


def send(runs: Mapping[str, Run], made, parts: list[tuple[int, int, int]]) -> None:
    """Blocks [low, high) of each partition named, one of each in turn."""
    for name, run in runs.items():
        queues = [run.blocks[p][low:high] for p, low, high in parts]
        mixed = [q[i] for i in range(max(map(len, queues))) for q in queues if i < len(q)]
        write(made, mixed, topic=topics.blocks(name))


def deliver_again(run: Run, made) -> None:
    """The newest block of partition 0 and the last ten partials, a second time."""
    name = run.contract.id
    write(made, run.blocks[0][upto(run.blocks[0], 8) - 1 :][:1], topic=topics.blocks(name))
    own = [m for m in kafka.read_all(run.settings, topics.PARTIALS) if (m.key() or b"").startswith(f"{name}/".encode())]
    again = kafka.producer(run.settings, "again", **PARTIALS_PRODUCER)
    for message in own[-10:]:
        again.produce(topics.PARTIALS, message.value(), message.key(), partition=0)
    assert again.flush(10) == 0


@pytest.fixture(scope="module")
def runs(broker, tmp_path_factory) -> Iterator[dict[str, Run]]:
    """The whole history, judged to its end; the processes that judged it still run."""
    folder = tmp_path_factory.mktemp("windows")
    environment = {**os.environ, **environment_for(broker, folder)}
    settings = from_environment(environment)
    settings.home.mkdir()
    delete_topics(settings)
    made = writer(settings, "windows")
    found = {name: dataset(settings, folder, name) for name in WINDOWS}
    first = found["tumbling"].blocks
    four, eight = [upto(b, 4) for b in first], [upto(b, 8) for b in first]
    try:
        for run in found.values():
            run.start(environment, "first")
        send(found, made, [(p, 0, four[p]) for p in range(3)])
        send(found, made, [(p, four[p], eight[p]) for p in range(3) if p != QUIET])
        for run in found.values():  # past hour 4 by two partitions alone
            wait_until(
                lambda run=run: b'"provisional":true' in b"".join(run.told().values()), 60, "a provisional close"
            )
            run.provisional = True
        for run in found.values():
            run.worker.kill()
            run.worker.close()
            deliver_again(run, made)
        for run in found.values():
            run.start(environment, "successor")
        send(found, made, [(p, four[p] if p == QUIET else eight[p], len(first[p])) for p in range(3)])
        for run in found.values():
            expected = run.expected()
            wait_until(lambda run=run, e=expected: run.agrees(e), 60, "the verdicts of the judge in memory")
        yield found
    finally:
        for run in found.values():
            run.worker.close()


@pytest.mark.parametrize("name", WINDOWS)
def test_the_latest_verdicts_are_those_of_the_pure_judge_byte_for_byte(runs, name):
    run = runs[name]
    told, expected = run.told(), run.expected()
    assert told == expected and len({window for window, _, _ in told}) >= HOURS - 3
    assert run.provisional and run.worker.code is None


@pytest.mark.parametrize("name", WINDOWS)
def test_late_rows_revise_and_those_beyond_are_counted(runs, name):
    run = runs[name]
    newest = [json.loads(v) for v in run.told().values()]
    assert sum(v["revision"] for v in newest if (v["feature"], v["segment"]) == ("price", "*")) > 30
    assert run.metric("driftline_late_beyond_rows_total{") == 3 * BEYOND
    held = {from_bytes(m.value()).coordinate: from_bytes(m.value()) for m in kafka.read_all(run.settings, topics.PARTIALS) if m.key() == f"{name}/0".encode()}  # fmt: skip
    assert sum(p.late_beyond for p in held.values()) == 3 * BEYOND


@pytest.mark.parametrize("name", WINDOWS)
def test_a_backtest_of_the_lake_says_the_same_and_names_a_verdict_that_was_tampered_with(
    runs, name, capsys, monkeypatch
):
    run = runs[name]
    parser = argparse.ArgumentParser()
    Compact.configure(parser)
    assert Compact.run(parser.parse_args(["--once"]), run.settings) == 0
    for key, value in environment_of(run.settings).items():
        monkeypatch.setenv(key, value)
    code, out, _ = checked(run, capsys)
    assert code == 0
    compared = json.loads(out)["compared"]
    told = [json.loads(v) for v in run.told().values()]
    begin = to_text(
        DAY0
    )  # a backtest tells windows that begin under a reference; live, one that slides may begin before it
    finals = [v for v in told if not v["provisional"] and v["window_start"] >= begin]
    assert compared["different"] == [] and compared["same"] == len(finals) >= 5 * (HOURS - 3)
    changed = {**finals[0], "n": finals[0]["n"] + 1}
    made = kafka.producer(run.settings, "tamper")
    made.produce(topics.VERDICTS, json.dumps(changed, separators=(",", ":")).encode(), f"{name}/tampered".encode())
    assert made.flush(10) == 0
    code, _, said = checked(run, capsys)
    assert code == 1
    place = " ".join(finals[0][field] for field in ("window_start", "feature", "segment"))
    assert "1 verdicts differ" in said and f"{place}: n" in said


def checked(run: Run, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The verb's exit code and what it said; a broker that is too busy to answer (3) is asked again."""

    def answer() -> tuple[int, str, str] | None:
        code, said = (
            cli.main(["--contract", run.settings.contract, "backtest", "--check", "--json"]),
            capsys.readouterr(),
        )
        return None if code == Unreachable.exit_code else (code, said.out, said.err)

    return wait_until(answer, 60, "the broker to answer")  # type: ignore[return-value]


def environment_of(settings: Settings) -> dict[str, str]:
    return {"DRIFTLINE_HOME": str(settings.home), "DRIFTLINE_BOOTSTRAP": settings.bootstrap}
