"""EDGE. `driftline drift`: a Faust app over blocks; counts in, verdicts and alerts out.

An agent a stream of blocks (rows, and the model's scores where the contract watches them) turns each into partials,
another feeds the partials to the judges; a ticker lets them speak. Faust owns no position and commits nothing: the newest partial of a partition says where counting goes on,
the judge's state record says where judging goes on. Whatever cannot be handled ends the process with 70.

    sales.blocks, sales.scores --agents--> count --> drift.partials --agent--> judge --one transaction--> verdicts, alerts, state
"""

from __future__ import annotations

import argparse
import asyncio
import os
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import faust
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException
from faust.types import TP

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.errors import DriftlineError, Fatal, Unreachable
from pipeline.logs import log
from pipeline.retry import until_success
from pipeline.service import Service
from pipeline.settings import Settings
from stream_processors.drift import faust_app
from stream_processors.drift.block_counter import BlockCounter
from stream_processors.drift.judge_owner import JudgeOwner
from stream_processors.drift.quality_heard import QualityHeard
from stream_processors.drift.source import SHARD, sources_of
from stream_processors.judging.panes import clock_of
from stream_processors.reference.store import ReferenceStore

T = TypeVar("T")
TICK_S = 0.1  # how often the judge may speak: a tenth of what "seconds from a window's end to its verdict" allows
PROGRESS_EVERY = 10  # ticks between commits for lag and lag gauges
STOP_S = 10.0


class Drift:
    summary = "Judge the stream's windows against the reference: verdicts, alerts, gauges."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        faust_app.quiet_libraries()
        with Service("drift", settings, meter.exposition) as service:
            try:
                numbers = _wait_for_topics(settings, contract, service)
            except Unreachable:
                return 0  # stopped while waiting
            code = asyncio.run(_Process(settings, contract, numbers, meter, service).run())
        if code:
            os._exit(code)  # a library thread that hangs must not keep a process that gave up
        return code


def _wait_for_topics(settings: Settings, contract: Contract, service: Service) -> list[int]:
    """Partition numbers of the blocks topic, once the broker answers and every topic is there."""
    needed = [
        topics.PARTIALS,
        topics.STATE,
        topics.REFERENCES,
        topics.VERDICTS,
        topics.ALERTS,
        *(source.topic for source in reversed(sources_of(contract))),
    ]
    client = kafka.reach(settings, deadline_s=None, stopped=service.stopped)

    def wait(seconds: float) -> None:
        service.beat()
        service.stopped.wait(min(seconds, 2.0))

    return until_success(
        lambda: [kafka.partitions(client, t) for t in needed][-1],
        what="the drift topics",
        errors=(KafkaException, Unreachable, KeyError),
        sleep=wait,
        stopped=service.stopped.is_set,
        on_failure=lambda error, _: log("waiting_for_topics", "warning", error=error),
    )


class _Process:
    """The wiring: each of the two workers has one thread of its own, so that the loop stays free for Kafka."""

    def __init__(
        self, settings: Settings, contract: Contract, partitions: list[int], meter: PrometheusMeter, service: Service
    ):
        self._contract, self._partitions, self._meter, self._service = contract, partitions, meter, service
        clock = clock_of(contract)
        self._store = ReferenceStore(contract.id)
        self._counters = {
            source.topic: (source, BlockCounter(settings, source, clock, self._store, meter, service.stopped))
            for source in sources_of(contract)
        }
        self._quality = QualityHeard(contract.id)
        self._owner = JudgeOwner(
            settings, contract, clock, self._store, meter, service.stopped, service.beat, self._quality.recent
        )
        self._settings = settings
        self._counting, self._judging = (ThreadPoolExecutor(1, thread_name_prefix=n) for n in ("count", "judge"))
        self._owned: set[TP] = set()
        self._assigning = asyncio.Lock()
        self._failed = asyncio.Event()
        self._error: BaseException | None = None
        self._app: faust_app.App | None = None

    async def run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._store.follow(self._settings, self._service.stopped)
        self._quality.follow(self._settings, self._service.stopped)
        app = self._app = faust_app.build(self._settings, self._contract.id, self.own_positions)
        raw = {"value_type": bytes, "value_serializer": "raw", "key_serializer": "raw", "acks": False}
        for topic in self._counters:
            app.agent(app.topic(topic, **raw), concurrency=1, name=f"count-{topic}")(self._count)
        app.agent(app.topic(topics.PARTIALS, **raw), concurrency=1, name="judge")(self._judge)
        app.in_worker = True
        app.finalize()
        try:
            await app.start()
        except KafkaError as error:  # the broker went away between our question and Faust's
            log("kafka_unreachable", "error", bootstrap=self._settings.bootstrap, error=error)
            return Unreachable.exit_code
        tasks = [asyncio.create_task(t) for t in (self._tick(), self._failed.wait(), app.wait_until_stopped())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await self._end(tasks)

    async def _end(self, tasks: list[asyncio.Task[object]]) -> int:
        error = self._error or next((t.exception() for t in tasks if t.done() and t.exception()), None)
        asked = self._service.stopped.is_set()
        self._service.stopped.set()  # whoever waits for the broker in a thread stops waiting
        if error is not None:
            log("failed", "error", error=error)
            if not isinstance(error, DriftlineError):  # a defect: where it is
                traceback.print_exception(error)
        code = error.exit_code if isinstance(error, DriftlineError) else 70 if error or not asked else 0
        try:
            assert self._app is not None
            await asyncio.wait_for(self._app.stop(), STOP_S)
            for _, counter in self._counters.values():
                await asyncio.get_running_loop().run_in_executor(self._counting, counter.flush)
        except TimeoutError:
            log("stop_timed_out", "warning", after_s=STOP_S)
            os._exit(code)
        for task in tasks:
            task.cancel()
        return code

    # -- agents: everything is caught, for Faust would go on after an exception as if nothing had been

    async def _count(self, stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            m, (_, counter) = event.message, self._counters[event.message.topic]
            await self._in(
                self._counting, lambda m=m, c=counter: c.count(m.partition, m.offset, m.headers or [], m.value)
            )

    async def _judge(self, stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            m = event.message
            await self._in(self._judging, lambda m=m: self._owner.feed(m.offset, m.key, m.value))

    async def _tick(self) -> None:
        ticks = 0
        assert self._app is not None
        while not self._service.stopped.is_set():
            if self._app.crashed or self._app.consumer.crashed:  # Faust logs it and would stay up without reading
                raise Fatal(f"Faust's consumer ended: {self._app.crash_reason or self._app.consumer.crash_reason!r}")
            await self._in(self._judging, self._owner.turn)
            await self._in(self._counting, self._recount)
            if ticks % PROGRESS_EVERY == 0:
                await self._show_progress()
            self._service.beat()
            ticks += 1
            await asyncio.sleep(TICK_S)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T | None:
        """Run in a worker's thread; the first failure ends the process."""
        if self._failed.is_set():
            await asyncio.Event().wait()  # never another message after a failure
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self._service.stopped.is_set():
                self._error = self._error or error
            self._failed.set()
            return None

    def _recount(self) -> None:
        for _, counter in self._counters.values():
            for partition in list(counter.positions):
                counter.recount(partition)

    # -- positions

    async def own_positions(self, assigned: set[TP]) -> Mapping[TP, int]:
        """Where to read each partition from. Called on the consumer's thread; it must answer for all of them."""
        loop = asyncio.get_running_loop()
        async with self._assigning:  # rebalances may overlap; what is owned already is not taken again
            gained, lost = assigned - self._owned, self._owned - assigned
            try:
                await loop.run_in_executor(self._judging, self._change_judge, gained, lost)
                await loop.run_in_executor(self._counting, self._change_blocks, gained, lost)
            except Exception as error:
                self._error = self._error or error
                self._loop.call_soon_threadsafe(self._failed.set)
                raise
            self._owned = assigned
        log("assigned", partitions=sorted(f"{t.topic}[{t.partition}]" for t in assigned))
        self._service.ready()
        return {tp: self._position(tp) for tp in assigned}

    def _change_judge(self, gained: set[TP], lost: set[TP]) -> None:
        if any(tp.topic == topics.PARTIALS and tp.partition == SHARD for tp in lost):
            self._owner.release()
        while not self._store.caught_up.wait(0.2):  # an older reference would only have to be corrected
            self._service.beat()
            if self._service.stopped.is_set():
                raise Unreachable("stopping while references are read")
        if any(tp.topic == topics.PARTIALS and tp.partition == SHARD for tp in gained):
            self._owner.acquire(self._partitions)

    def _change_blocks(self, gained: set[TP], lost: set[TP]) -> None:
        for topic, (source, counter) in self._counters.items():
            counter.release(tp.partition for tp in lost if tp.topic == topic)
            new = [tp.partition for tp in gained if tp.topic == topic]
            if new:
                counter.load(*self._owner.positions(source), new)
        for found in self._store.timeline.sets[-1:]:
            found.load()  # before the stream flows, not within its first block

    def _position(self, tp: TP) -> int:
        if tp.topic in self._counters:
            return self._counters[tp.topic][1].positions[tp.partition].block
        return self._owner.position if tp.partition == SHARD else 0

    async def _show_progress(self) -> None:
        assert self._app is not None
        offsets = {tp: self._position(tp) for tp in self._owned}
        for tp, offset in offsets.items():
            high = self._app.consumer.highwater(tp) if self._app.consumer.assignment() else None
            if high is not None:
                self._meter.set("driftline_consumer_lag_records", float(max(0, high - offset)), process="drift", topic=tp.topic, partition=str(tp.partition))  # fmt: skip
        await self._app.show_progress(offsets)
