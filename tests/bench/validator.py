"""The validator's speed on this machine, beside a bare consume-and-produce loop and a Faust validator, in one run.

    python tests/bench/validator.py --json [--full]

Everything runs on a broker of its own, on the generator's sales events with 1 % broken ones. A rate is records from the
first batch to the last commit; CPU seconds are those of the whole process in that time, without its start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline import contract_file, kafka, topics  # noqa: E402
from pipeline.broker import Broker  # noqa: E402
from pipeline.settings import Settings, from_environment  # noqa: E402
from tests.bench.report import bar, finish, progress  # noqa: E402
from tests.contracts import renamed  # noqa: E402
from tests.validator import corpus  # noqa: E402
from tests.validator.history import committed  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

PARTITIONS, BAD_SHARE = 4, 0.01
UNIQUE, FAUST_EVENTS = 200_000, 30_000
WARM_UP = 200_000  # a broker's first transactions run in a cold JVM, whoever makes them


@dataclass(frozen=True, slots=True)
class Run:
    """What one process did between its first batch and its last commit."""

    records: int
    seconds: float
    cpu: float
    phases: dict[str, float]

    @property
    def rate(self) -> float:
        return self.records / self.seconds


class Bench:
    def __init__(self, broker: Broker, folder: Path, events: int):
        self.settings, self.folder, self.events = broker.settings(), folder, events
        self.environment = {
            **os.environ,
            "DRIFTLINE_HOME": str(folder / "home"),
            "DRIFTLINE_BOOTSTRAP": broker.bootstrap,
        }
        self.records = corpus.sales(min(events, UNIQUE), bad=BAD_SHARE)
        self._n = 0

    def dataset(self, *, valid_topic: bool = True) -> tuple[str, Path]:
        """A fresh dataset: its id and its contract."""
        self._n += 1
        id = f"bench{self._n}"
        text = renamed(contract_file.shipped_text("sales"), id)
        if not valid_topic:
            text = re.sub(r"(property: validTopic\s+value:) true", r"\1 false", text)
        file = self.folder / f"{id}.yaml"
        file.write_text(text)
        assert contract_file.load(str(file)).valid_topic == valid_topic
        kafka.create_topics(self.settings, topics.all_topics(id, PARTITIONS))
        return id, file

    def fill(self, id: str, n: int, **more: object) -> None:
        corpus.fill(self.settings, topics.events(id), corpus.cycle(self.records, n), PARTITIONS, **more)

    def fill_at_once(self, id: str, n: int) -> None:
        """In one transaction: whoever waits for the records gets all of them in one moment."""
        producer = kafka.producer(
            self.settings, "fill", transactional_id=f"fill.{id}", **{"transaction.timeout.ms": 300_000}
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        for i, (key, value) in enumerate(corpus.cycle(self.records, n)):
            while True:
                try:
                    producer.produce(topics.events(id), value, key, i % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.commit_transaction(120)

    def start(self, contract: Path, *args: str, name: str = "validate") -> tuple[subprocess.Popen[bytes], Path]:
        log = self.folder / f"{contract.stem}-{name}.log"
        command = [sys.executable, "-m", "pipeline.cli", "--contract", str(contract), "validate", *args]
        with log.open("wb") as out:
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=out, stderr=out), log

    def one(self, *, valid_topic: bool = True) -> Run:
        id, contract = self.dataset(valid_topic=valid_topic)
        self.fill(id, self.events)
        process, log = self.start(contract, "--exit-at-end")
        try:
            code = process.wait(300)
        finally:
            process.kill()
            progress(log.read_text() if process.wait() else "")
        assert code == 0
        return measured(log)

    def two(self) -> list[Run]:
        """Both have their partitions before the first record is there."""
        id, contract = self.dataset()
        started = [self.start(contract, "--instance", str(i), name=f"v{i}") for i in (0, 1)]
        shares = lambda log: [p.count("@") for p in re.findall(r"placed partitions=(\S*)", log.read_text())][-1:]  # noqa: E731
        try:
            wait_until(
                lambda: all(shares(log) == [PARTITIONS // 2] for _, log in started), 60, "both to have their half"
            )
            self.fill_at_once(id, self.events)
            wait_until(lambda: self._done(id) >= self.events, 300, "all to be committed", every_s=0.5)
            for process, log in started:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0, log.read_text()
        finally:
            for process, _ in started:
                process.kill()
                process.wait()
        return [measured(log) for _, log in started]

    def _done(self, id: str) -> int:
        return sum(max(0, tp.offset) for tp in committed(self.settings, id).values())

    def child(self, what: str, id: str, n: int) -> Run:
        """This script again, as the bare loop or as Faust, in a process of its own."""
        command = [sys.executable, __file__, "--child", what, "--dataset", id, "--events", str(n)]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        return Run(found["records"], found["seconds"], found["cpu"], found["phases"])


def measured(log: Path) -> Run:
    found = re.findall(r"validated records=(\d+) seconds=(\S+) cpu_seconds=(\S+) phases=(\S*)", log.read_text())
    records, seconds, cpu, phases = found[-1]
    by_phase = {k: float(v) for k, v in (pair.split(":") for pair in phases.split(",") if pair)}
    return Run(int(records), float(seconds), float(cpu), by_phase)


# -- what it is compared with -----------------------------------------------------------------------------------------


def bare(settings: Settings, dataset: str, n: int) -> Run:
    """Consume, produce, commit, with the validator's client settings and batch size, and nothing between."""
    import gc

    reader = kafka.consumer(settings, f"bare.{dataset}", **{"queued.min.messages": 100_000})
    writer = kafka.producer(
        settings, "bare", transactional_id=f"bare.{dataset}", **{"queue.buffering.max.messages": 500_000}
    )
    writer.init_transactions(30)
    reader.subscribe([topics.events(dataset)])
    out = topics.valid(dataset)
    gc.freeze()
    gc.disable()
    done, first, cpu, phases = 0, 0.0, 0.0, {"consume": 0.0, "produce": 0.0, "commit": 0.0}
    while done < n:
        t0 = time.perf_counter()
        messages = [m for m in reader.consume(20_000, 0.2) if m.error() is None]
        if not messages:
            continue
        if not first:
            first, cpu = time.perf_counter(), time.process_time()
            t0 = first
        t1 = time.perf_counter()
        writer.begin_transaction()
        ends: dict[int, int] = {}
        for m in messages:
            writer.produce(out, m.value(), m.key(), m.partition())
            ends[m.partition()] = m.offset() + 1
        t2 = time.perf_counter()
        offsets = [kafka.TopicPartition(topics.events(dataset), p, end) for p, end in ends.items()]
        writer.send_offsets_to_transaction(offsets, reader.consumer_group_metadata())
        writer.commit_transaction()
        done += len(messages)
        t3 = time.perf_counter()
        for name, seconds in (("consume", t1 - t0), ("produce", t2 - t1), ("commit", t3 - t2)):
            phases[name] += seconds
    return Run(done, time.perf_counter() - first, time.process_time() - cpu, phases)


def faust_validator(settings: Settings, dataset: str, n: int) -> Run:
    """The usual Faust validator: an agent over events, one send for each to the valid or the dead-letter topic."""
    import faust
    import msgspec

    class Sale(msgspec.Struct, gc=False):
        order_id: str
        customer_id: str
        product_id: str
        category: str
        region: str
        channel: str
        quantity: int
        price: float
        discount: float
        order_date: str
        event_time: str

    parse = msgspec.json.Decoder(Sale).decode
    app = faust.App(
        f"faust-{dataset}",
        broker=f"kafka://{settings.bootstrap}",
        value_serializer="raw",
        key_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        store="memory://",
        consumer_auto_offset_reset="earliest",
    )
    raw, valid, dead = (
        app.topic(f(dataset), value_type=bytes) for f in (topics.events, topics.valid, topics.dead_letters)
    )
    state = {"done": 0, "first": 0.0, "cpu": 0.0}
    finished = asyncio.Event()

    @app.agent(raw)
    async def validate(stream):
        async for event in stream.events():
            if not state["first"]:
                state["first"], state["cpu"] = time.perf_counter(), time.process_time()
            try:
                sale = parse(event.message.value or b"")
                ok = 0 <= sale.quantity <= 1000 and sale.price >= 0 and 0 <= sale.discount <= 1
            except (msgspec.MsgspecError, UnicodeDecodeError):
                ok = False
            await (valid if ok else dead).send(key=event.message.key, value=event.message.value)
            state["done"] += 1
            if state["done"] == n:
                finished.set()

    async def main() -> Run:
        app.in_worker = True
        app.finalize()
        await app.start()
        await asyncio.wait_for(finished.wait(), 240)
        run = Run(n, time.perf_counter() - state["first"], time.process_time() - state["cpu"], {})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(app.stop(), 20)
        return run

    return asyncio.run(main())


# -- the report -------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="as always: one JSON object on the last line")
    parser.add_argument("--full", action="store_true", help="4 million events a run, three rounds")
    parser.add_argument("--events", type=int, help="events a run (default 600,000)")
    parser.add_argument("--child", choices=["bare", "faust"], help=argparse.SUPPRESS)
    parser.add_argument("--dataset", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        settings = from_environment(os.environ)
        run = {"bare": bare, "faust": faust_validator}[args.child](settings, args.dataset, args.events)
        print(
            json.dumps({"records": run.records, "seconds": run.seconds, "cpu": run.cpu, "phases": run.phases}),
            flush=True,
        )
        os._exit(0)  # everything is measured; a Faust loop may not end by itself
    events, rounds = args.events or (4_000_000 if args.full else 1_500_000), 3
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, Broker(Path(folder) / "broker") as broker:
        return report(Bench(broker, Path(folder), events), rounds, began)


def report(bench: Bench, rounds: int, began: float) -> int:
    ones, offs, bares, twos, fausts = [], [], [], [], []
    id, _ = bench.dataset()
    bench.fill(id, WARM_UP)
    said("to warm the broker, not counted", bench.child("bare", id, WARM_UP))
    for n in range(rounds):
        progress(f"round {n + 1} of {rounds}: {bench.events} events a run, 1 % broken; load {os.getloadavg()[0]:.1f}")
        ones.append(said("one process, everything on", bench.one()))
        id, _ = bench.dataset()
        bench.fill(id, bench.events)
        bares.append(said("bare consume-and-produce loop", bench.child("bare", id, bench.events)))
        offs.append(said("one process, valid topic off", bench.one(valid_topic=False)))
        pair = bench.two()
        longest = max(r.seconds for r in pair)
        both = Run(sum(r.records for r in pair), longest, sum(r.cpu for r in pair), {})
        twos.append(said("two processes", both))
    id, _ = bench.dataset()
    bench.fill(id, FAUST_EVENTS, **{"compression.type": "none"})  # aiokafka has no lz4
    fausts.append(said("Faust, one event at a time", bench.child("faust", id, FAUST_EVENTS)))
    one, off, loop, two, faust = (statistics.median(r.rate for r in runs) for runs in (ones, offs, bares, twos, fausts))
    cpu_one, cpu_two = (statistics.median(r.cpu / r.records for r in runs) for runs in (ones, twos))
    total = sum(sum(r.phases.values()) for r in ones)
    bars = [
        bar("events_per_second", round(one), ">=", 200_000, required=False),
        bar("times_faust_per_event", round(one / faust, 1), ">=", 20),
        bar("share_of_bare_loop", round(one / loop, 3), ">=", 0.4),
        bar("cpu_per_event_two_to_one", round(cpu_two / cpu_one, 3), "<=", 1.15),
    ]
    figures = {
        "events": bench.events,
        "valid_topic_off_per_second": round(off),
        "bare_loop_per_second": round(loop),
        "two_processes_per_second": round(two),
        "faust_per_second": round(faust),
        "cpu_us_per_event": {"one": round(cpu_one * 1e6, 2), "two": round(cpu_two * 1e6, 2)},
        "share_of_time": {k: round(sum(r.phases[k] for r in ones) / total, 3) for k in ones[0].phases},
        "load_at_end": round(os.getloadavg()[0], 1),
    }
    return finish("validator", began, bars, figures)


def said(what: str, run: Run) -> Run:
    phases = " ".join(f"{k} {v / run.records * 1e6:.2f}" for k, v in run.phases.items())
    progress(
        f"{what}: {run.rate:,.0f}/s, {run.cpu / run.records * 1e6:.2f} us CPU an event; us by phase: {phases or '-'}"
    )
    return run


if __name__ == "__main__":
    sys.exit(main())
