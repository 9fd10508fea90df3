"""Leaders of three brokers killed one after another under load, each healed before the next; then everything is counted.

A producer, a validator and a compactor run throughout. What the producer was told is written is its own list, kept apart
from the brokers; the rest is `driftline verify`'s to say.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from pipeline import kafka, topics
from pipeline.broker_cluster import Cluster
from pipeline.errors import Fatal, Unreachable
from pipeline.settings import Settings
from tests.contracts import contract_file_named
from tests.validator import corpus
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
RATE, UNIQUE, BAD = 2_000, 20_000, 0.01
NUMBER = "n"  # header: which of the producer's records it is
DRAINED_S = 120.0
JUDGED_S = 400.0  # a commit that hangs is given 45 s, twice if the next one meets the same; then starts on busy cores


@dataclass(frozen=True, slots=True)
class Outcome:
    kills: int
    led: tuple[str, ...]  # what the killed one led, in order
    acknowledged: int
    lost: int  # acknowledged, and not in the log
    repeated: int  # more than once in the log
    verified: dict  # `driftline verify --json`
    recovered_s: tuple[float, ...]  # from each kill until a record sent after it was judged
    whole_s: tuple[float, ...]  # from each start until every copy was whole again
    started_again: int  # processes that gave up on a lost coordinator and were started anew


def run(folder: Path, kills: int, report: Callable[[str], None] = lambda text: None) -> Outcome:
    """A cluster of its own under `folder`; some 8 s a kill."""
    contract = contract_file_named(folder, id="loss")
    with Cluster(folder / "brokers") as cluster:
        settings = cluster.settings(DRIFTLINE_HOME=str(folder / "home"), DRIFTLINE_ACTOR="test")
        kafka.create_topics(settings, topics.all_topics("loss", 2))
        recovered, whole, led = [], [], []
        with (
            _verb(settings, contract, folder, "validate") as validator,
            _verb(settings, contract, folder, "compact") as compactor,
        ):
            with _load(settings) as told:
                _judged_beyond(settings, 0, "the first records")
                for n in range(kills):
                    topic, partition = _leads(n)
                    broker = cluster.leader(topic, partition)
                    broker.kill()
                    began, sent = time.monotonic(), len(told)
                    led.append(f"{topic}/{partition}")
                    _judged_beyond(settings, sent + RATE // 10, f"records sent after {led[-1]} lost its leader")
                    recovered.append(round(time.monotonic() - began, 2))
                    broker.start()
                    whole.append(round(cluster.wait_in_sync(), 2))
                    report(
                        f"{n + 1} of {kills}: leader of {led[-1]} killed, {recovered[-1]} s; whole after {whole[-1]} s"
                    )
            found = _verify(settings, contract)
        seen = Counter(int(dict(m.headers())[NUMBER]) for m in kafka.read_all(settings, topics.events("loss")))
        return Outcome(
            kills=len(recovered),
            led=tuple(led),
            acknowledged=len(told),
            lost=len(set(told) - set(seen)),
            repeated=sum(n > 1 for n in seen.values()),
            verified=found,
            recovered_s=tuple(recovered),
            whole_s=tuple(whole),
            started_again=len(validator) + len(compactor),
        )


def _leads(n: int) -> tuple[str, int]:
    """What the broker to be killed leads: raw records, blocks, transactions, the group's offsets in turn."""
    wanted = (topics.events("loss"), topics.blocks("loss"), "__transaction_state", "__consumer_offsets")
    return wanted[n % len(wanted)], n // len(wanted) % 2


@contextmanager
def _load(settings: Settings) -> Iterator[list[int]]:
    """Send numbered records at a steady rate; yields the numbers that were acknowledged, complete once it is left."""
    told, stop = list[int](), threading.Event()
    records = corpus.sales(UNIQUE, bad=BAD)

    def send() -> None:
        producer = kafka.producer(settings, "load")
        for number in itertools.count():
            key, value = records[number % UNIQUE]
            producer.produce(
                topics.events("loss"),
                value,
                key,
                number % 2,
                headers=[(NUMBER, str(number).encode())],
                on_delivery=lambda error, _, n=number: told.append(n) if error is None else None,
            )
            if number % (RATE // 20) == 0:
                producer.poll(0)
                if stop.wait(0.05):
                    break
        producer.flush(60)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join()


@contextmanager
def _verb(settings: Settings, contract: Path, folder: Path, verb: str) -> Iterator[list[int]]:
    """The verb, started again when it says so, as the stack's supervisor does; yields the codes that it ended with."""
    codes, stopped, log = list[int](), threading.Event(), folder / f"{verb}.log"
    live = [_start(settings, contract, log, verb)]

    def keep() -> None:
        while not stopped.wait(0.2):
            if (code := live[-1].poll()) is not None:
                codes.append(code)
                live.append(_start(settings, contract, log, verb))

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield codes
        assert set(codes) <= {Fatal.exit_code}, f"{verb} ended with {codes}: {log.read_text()}"
    finally:
        stopped.set()
        thread.join()
        live[-1].kill()
        live[-1].wait()


def _start(settings: Settings, contract: Path, log: Path, verb: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as words:
        command = _command(contract, verb)
        return subprocess.Popen(command, cwd=ROOT, env=_environment(settings), stdout=words, stderr=words)


def _verify(settings: Settings, contract: Path) -> dict:
    command = _command(contract, "verify", "--json", "--wait", str(DRAINED_S))
    done = subprocess.run(command, cwd=ROOT, env=_environment(settings), capture_output=True, text=True)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _command(contract: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", "--contract", str(contract), *words]


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, "DRIFTLINE_HOME": str(settings.home), "DRIFTLINE_BOOTSTRAP": settings.bootstrap}


def _judged_beyond(settings: Settings, records: int, what: str) -> None:
    """Wait until the validator has committed more than so many records."""

    def beyond() -> bool:
        client = kafka.consumer(
            settings, topics.group("loss", "validate")
        )  # one that knew the dead coordinator asks it for long
        try:
            found = kafka.committed(client, topics.events("loss"), [0, 1], deadline_s=15)
        except (KafkaException, Unreachable):
            return False
        finally:
            client.close()
        return sum(max(0, tp.offset) for tp in found.values()) > records

    wait_until(beyond, JUDGED_S, what, every_s=0.5)
