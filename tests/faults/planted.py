"""Known bugs, planted one at a time into the real processes on a real broker: the checkers must catch each, and none where there is none.

    run(seed, report) -> [Planted(name, caught, by)]     the first one is the control: no bug, nothing found

`by` is the first counter-example's kind (of `driftline verify`), or who else refused. A checker that was never seen to
fail proves nothing.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import TopicPartition

from batch.verify import verify
from pipeline import blocks, contract_file, decode, kafka, topics
from pipeline.blocks import BlockHeader
from pipeline.broker import Broker
from pipeline.broker_cluster import Cluster
from pipeline.settings import from_environment
from tests.contracts import contract_file_named
from tests.faults import planted_judge
from tests.lake.log_writer import START, order

ROOT = Path(__file__).resolve().parents[2]
CONTROL = "no bug"
ENDS_S = 90
BAD_EVERY, LATE_EVERY, AGAIN_EVERY = 20, 33, 41


@dataclass(frozen=True, slots=True)
class Planted:
    name: str
    caught: bool
    by: str


class Stage:
    """A dataset of its own, two partitions, and processes with bugs."""

    def __init__(self, child: subprocess.Popen[str], folder: Path, bootstrap: str, name: str, seed: int):
        self._child, self._folder, self._log = child, folder, folder / f"{name}.log"
        self.file = contract_file_named(folder, "sales", name)
        self._env = {"DRIFTLINE_HOME": str(folder / name), "DRIFTLINE_BOOTSTRAP": bootstrap, "DRIFTLINE_ACTOR": "test"}
        self.settings, self.contract = from_environment(self._env, str(self.file)), contract_file.load(str(self.file))
        self._rng, self._number = random.Random(seed), 0
        self._raw = kafka.producer(self.settings, "raw")
        kafka.create_topics(self.settings, topics.all_topics(name, 2))

    def feed(self, n: int = 700, make: Callable[[int], bytes] | None = None) -> None:
        """Raw records into both partitions; partition 1 is an hour ahead. Some bad, some late, some with an id that was there."""
        for i in range(self._number, self._number + n):
            partition = self._rng.randrange(2)
            self._raw.produce(
                topics.events(self.contract.id), (make or self._order)(i + 3600 * partition), b"k", partition
            )
        self._number += n
        assert self._raw.flush(30) == 0

    def _order(self, i: int) -> bytes:
        if i % BAD_EVERY == 7:
            return order(i, quantity=-1)
        if i % LATE_EVERY == 9:
            return order(i - 3000)
        return order(i, order_id="o1") if i % AGAIN_EVERY == 11 else order(i)

    def aborted(self, topic: str, value: bytes, partition: int, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """A record of a transaction that was aborted."""
        out = kafka.producer(self.settings, "aborted", transactional_id=f"aborted-{self.contract.id}")
        out.init_transactions(30)
        out.begin_transaction()
        out.produce(topic, value, b"k", partition, headers=list(headers))
        assert out.flush(30) == 0
        out.abort_transaction(30)

    def run(self, verb: str, *args: str, bugs: Sequence[str] = ()) -> int:
        argv = ["--contract", str(self.file), verb, *args]
        job = {"bugs": list(bugs), "argv": argv, "env": self._env, "log": str(self._log)}
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(job) + "\n")
        self._child.stdin.flush()
        assert select.select([self._child.stdout], [], [], ENDS_S)[0], f"{verb} did not end: {self.log()}"
        return int(self._child.stdout.readline().split()[2])

    def validate(self, *bugs: str, args: Sequence[str] = ()) -> int:
        return self.run("validate", "--exit-at-end", *args, bugs=bugs)

    def compact(self, *bugs: str) -> int:
        return self.run("compact", "--once", bugs=bugs)

    def log(self) -> str:
        return self._log.read_text()[-2000:]

    def verdict(self) -> str:
        """What `verify` says: the first kind of counter-example; empty if it finds nothing."""
        try:
            report = verify(self.settings, self.contract)
        except Exception as error:  # a table that nobody can read is a finding too
            return f"unreadable: {type(error).__name__}"
        found = report["found"]
        assert isinstance(found, list)
        if found:
            return f"verify: {found[0]['kind']}"
        return f"verify: {report['unmarked']} unmarked" if report["unmarked"] else ""


Scene = Callable[[Stage, str], None]


def validated(stage: Stage, bug: str) -> None:
    stage.feed()
    stage.validate(bug)


def ended_by_broken_ones(stage: Stage, bug: str) -> None:
    """However the records fall into batches, the last batch has dead letters."""
    stage.feed()
    stage.feed(40, make=lambda i: order(i, quantity=-1))
    stage.validate(bug)


def validated_and_compacted(stage: Stage, bug: str) -> None:
    validated(stage, bug)
    stage.compact()


def restarted(stage: Stage, bug: str) -> None:
    stage.feed()
    stage.validate()
    stage.feed()
    stage.validate(bug)


def stopped_by_the_breaker(stage: Stage, bug: str) -> None:
    stage.feed(150)
    stage.feed(200, make=lambda i: order(i, quantity=-1))
    stage.validate(bug, args=("--reject-run", "30"))


def with_an_aborted_replay(stage: Stage, bug: str) -> None:
    stage.feed(100)
    stage.aborted(topics.events(stage.contract.id), order(5), 0)
    stage.feed(100)
    stage.validate(bug)


def with_an_aborted_block(stage: Stage, bug: str) -> None:
    """A validator died in its transaction: its block is in the log, and the records of it are still to be read."""
    stage.feed(100)
    stage.validate()
    probe = kafka.consumer(stage.settings, "probe")
    first = kafka.bounds(probe, topics.events(stage.contract.id))[0][1]
    probe.close()
    stage.feed(50)
    offsets = np.arange(first, first + 5)
    values = [order(i) for i in range(5)]
    rows = decode.compile(stage.contract).decode_batch(values, offsets, np.full(5, START + 10**9)).batch
    header = BlockHeader(topics.events(stage.contract.id), 0, first, first + 5, {"valid": 5}, START, START, START, stage.contract.name)  # fmt: skip
    stage.aborted(topics.blocks(stage.contract.id), blocks.encode(rows), 0, blocks.to_headers(header))
    stage.compact(bug)


def killed_and_redone(stage: Stage, bug: str) -> None:
    stage.feed()
    stage.validate(bug)
    stage.validate("trusts the groups offset")


def overtaken_by_retention(stage: Stage, bug: str) -> None:
    stage.feed(200)
    stage.validate()
    stage.feed(200)
    probe, client, raw = (
        kafka.consumer(stage.settings, "probe"),
        kafka.admin(stage.settings),
        topics.events(stage.contract.id),
    )
    gone = [TopicPartition(raw, p, high - 20) for p, (_, high) in kafka.bounds(probe, raw).items()]
    probe.close()
    for future in client.delete_records(gone).values():
        future.result(10)
    stage.validate(bug)


def replayed(stage: Stage, bug: str) -> None:
    stage.feed(200)
    stage.validate()
    repair = ("--repair", "quantity = abs(quantity)")
    stage.run("dead-letters", "replay", "--rule", "range", *repair, "--apply", "--wait", "0", bugs=[bug])


def compacted(stage: Stage, bug: str) -> None:
    stage.feed()
    stage.validate()
    stage.compact(bug)


def compacted_twice(stage: Stage, bug: str) -> None:
    compacted(stage, bug)
    stage.compact(bug)


ON_THE_BROKER: dict[str, Scene] = {
    "commit before produce": validated,
    "position as offset": stopped_by_the_breaker,
    "read uncommitted": with_an_aborted_replay,
    "read uncommitted (compactor)": with_an_aborted_block,
    "offsets outside the transaction": killed_and_redone,
    "commit before flush": ended_by_broken_ones,
    "off by one start": restarted,
    "off by one end": validated,
    "duplicate on retry after an abort": validated,
    "swallow a failed commit": validated,
    "jump over lost records": overtaken_by_retention,
    "drop the last record of a batch": validated,
    "block range one short": validated,
    "watermark of another partition": validated,
    "wrong partition": validated,
    "truncated dead letter": validated,
    "order lost in a batch": validated,
    "marker without record": replayed,
    "record without marker": replayed,
    "no fence": compacted_twice,
    "skip the tables version check": compacted,
    "commit of the table before its files": compacted,
    "lake commit without offsets": compacted_twice,
    "last one wins": compacted,
    "drop late events": compacted,
}
QUICK = ("truncated dead letter", "watermark of another partition", "off by one end", "no fence", "read uncommitted")


def run(seed: int, report: Callable[[str], None], only: Sequence[str] | None = None) -> list[Planted]:
    """Every bug (or `only` some), on one broker; the control first."""
    found: list[Planted] = []

    def told(planted: Planted) -> None:
        found.append(planted)
        report(f"{'caught' if planted.caught else 'MISSED'}  {planted.name}: {planted.by}")

    chosen = ON_THE_BROKER if only is None else {name: ON_THE_BROKER[name] for name in only}
    with tempfile.TemporaryDirectory() as temporary, Broker(Path(temporary) / "broker") as broker:
        folder = Path(temporary)
        with child() as process:

            def stage(name: str) -> Stage:
                return Stage(process, folder, broker.bootstrap, f"p{seed}_{name}", seed)

            told(_control(stage("control")))
            for number, (name, scene) in enumerate(chosen.items()):
                there = stage(str(number))
                scene(there, name.partition(" (")[0])
                by = there.verdict()
                told(Planted(name, bool(by), by or f"nobody; the processes said: {there.log()[-300:]}"))
    if only is None:
        told(acknowledged_by_the_leader_alone())
        for name, by in planted_judge.run(seed):
            told(Planted(name, bool(by), by or "nobody"))
    return found


def _control(stage: Stage) -> Planted:
    """All scenes' events without a bug: nothing may be found. `caught` says that the checkers kept silent."""
    stage.feed()
    stage.aborted(topics.events(stage.contract.id), order(5), 0)
    codes = [stage.validate(), stage.compact()]
    stage.feed()
    codes += [stage.validate(), stage.compact()]
    repair = ("--repair", "quantity = abs(quantity)")
    codes.append(stage.run("dead-letters", "replay", "--rule", "range", *repair, "--apply", "--wait", "0"))
    codes += [stage.validate(), stage.compact()]
    by = stage.verdict()
    quiet = by == "" and set(codes) <= {0, 1} and not planted_judge.disturbed()
    return Planted(CONTROL, quiet, "nothing found" if quiet else f"{by} {codes} {stage.log()}")


def acknowledged_by_the_leader_alone() -> Planted:
    """Three brokers; the leader dies while the other two hang. What it acknowledged for acks=1 is in no log any more.

    The product's own producer sends beside it: of what that one counts as sent, nothing may be missing.
    """
    with tempfile.TemporaryDirectory() as temporary, Cluster(Path(temporary)) as cluster:
        settings, topic = cluster.settings(DRIFTLINE_HOME=temporary), topics.events("acks")
        kafka.create_topics(settings, topics.all_topics("acks", 1))
        senders = {
            b"1": kafka.producer(settings, "bad", **{"enable.idempotence": False, "acks": 1}),
            b"all": kafka.producer(settings, "ours"),
        }
        acknowledged = Counter[bytes]()

        def send() -> None:
            for acks, sender in senders.items():
                told = lambda error, _, acks=acks: acknowledged.update([acks] if error is None else [])  # noqa: E731
                for i in range(50):
                    sender.produce(topic, order(i), b"k", 0, headers=[("acks", acks)], on_delivery=told)

        send()
        assert [sender.flush(30) for sender in senders.values()] == [0, 0]
        leader = cluster.leader(topic, 0)
        others = [broker for broker in cluster.brokers if broker is not leader]
        for broker in others:
            broker.pause()
        send()
        assert senders[b"1"].flush(10) == 0, "the leader did not acknowledge alone"
        leader.kill()
        for broker in others:
            broker.resume()
        assert senders[b"all"].flush(60) == 0
        held = Counter(dict(m.headers())["acks"] for m in kafka.read_all(settings, topic))
    lost, ours = (acknowledged[acks] - held[acks] for acks in senders)
    return Planted("acks=1", lost > 0 and ours == 0, f"of 100 acknowledged {lost} are gone; with acks=all {ours}")


@contextmanager
def child() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("planted_child.py"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
