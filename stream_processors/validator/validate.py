"""EDGE. `driftline validate`: raw records in; valid records, blocks and dead letters out, exactly once.

A blocking loop that owns its offsets. What a record is worth is decided in `validation` and `pipeline.decode`, where a
partition goes on in `positions`, what becomes of a transaction in `transaction`.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from itertools import filterfalse, groupby

import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from monitoring.metrics import PrometheusMeter
from pipeline import bad_batches, batch_bounds, contract_file, topics
from pipeline.bad_batches import BadBatch
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.logs import log
from pipeline.retry import waits
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import to_text
from stream_processors.validator import inputs, positions, read_trial, reject_breaker
from stream_processors.validator.inputs import Place
from stream_processors.validator.judging import Judging
from stream_processors.validator.measures import Measures, lineage
from stream_processors.validator.outputs import Outputs
from stream_processors.validator.reject_breaker import Limits, Stop
from stream_processors.validator.transaction import GivenUp, Hung, Transactions, giving_up
from stream_processors.validator.validation import Judged, Piece

PROCESS = "validator"
BATCH_RECORDS = 20_000  # above it the Python loop gets slower per event, below it commits dominate (measured)
BATCH_WAIT_S = 0.2
BATCH_BYTES = 64 * 1024 * 1024  # memory bound: 20,000 records of 64 KiB would be 1.3 GB
CLOSE_S = 3.0  # a librdkafka close can take longer than anybody waits; everything is committed before
COLLECT_EVERY_S = 30.0
LIMITS = Limits()


class Validate:
    summary = "Check every raw record against the contract; write valid records, blocks and dead letters exactly once."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--instance", type=int, default=0, metavar="N", help="which of several validators this is (default 0)"
        )
        parser.add_argument(
            "--exit-at-end", action="store_true", help="stop at the end that the raw topic had at start"
        )
        parser.add_argument("--max-records", type=int, metavar="N", help="stop behind N records")
        parser.add_argument(
            "--reject-ratio",
            type=float,
            default=LIMITS.ratio,
            help=f"breaker: stop a partition above this share of rejects in {LIMITS.over} records (default {LIMITS.ratio})",
        )
        parser.add_argument(
            "--reject-run",
            type=int,
            default=LIMITS.run,
            help=f"breaker: or at this many rejects in a row (default {LIMITS.run})",
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        if not 0 < args.reject_ratio <= 1 or args.reject_run < 1 or args.instance < 0:
            raise UsageError("--reject-ratio is a share in (0, 1], --reject-run at least 1, --instance at least 0")
        contract = contract_file.load(settings.contract)
        meter = PrometheusMeter()
        meter.set("driftline_process_info", 1, process=PROCESS, contract=contract.name)
        code = 0
        with Service(PROCESS, settings, meter.exposition) as service:
            loop = Validator(
                contract, settings, service, meter, args.instance, Limits(args.reject_ratio, run=args.reject_run)
            )
            try:
                loop.run(exit_at_end=args.exit_at_end, max_records=args.max_records)
            except Unreachable:
                if not service.stopped.is_set():
                    raise
            except Hung as error:  # the thread that hangs would keep the process: nobody would start it again
                print(f"driftline validate: {error}", file=sys.stderr, flush=True)
                code = error.exit_code
            finally:
                closed = loop.close()
        if code or not closed:
            os._exit(code)
        return 0


class Validator:
    def __init__(
        self,
        contract: Contract,
        settings: Settings,
        service: Service,
        meter: PrometheusMeter,
        instance: int,
        limits: Limits,
    ):
        self._contract, self._settings, self._limits = contract, settings, limits
        self._service, self._meter = service, meter
        self._topic = topics.events(contract.id)
        self._outputs = Outputs(contract)
        self._stopped = service.stopped
        name = f"{topics.group(contract.id, 'validate')}.{instance}"
        self._consumer = inputs.member(settings, topics.group(contract.id, "validate"), name, contract.partitions)
        self._transactions = Transactions(settings, name, PROCESS, meter, service.stopped, service.beat)
        self._judging = Judging(contract, settings, name, limits, service.beat)
        self._bad: dict[int, int] = {}  # partition -> first offset of a batch that could not be opened
        self._assigned: list[int] = []
        self._partitions = 0  # of the topic; known once it is there
        self._unplaced = False  # the assignment or the committed state changed: ask for positions before going on
        self._places: dict[int, Place] = {}
        self._stops: dict[int, Stop] = {}
        self._resumed: set[tuple[int, int]] = set()
        self._in_flight: list[tuple[Judged, list[Piece]]] = []  # what the helper thread is committing
        self._written = self._committed = 0  # records
        self._record_bytes = 0.0  # mean of the last batch
        self._collected_at = 0.0
        self._measures = Measures(contract, PROCESS, meter, lineage(settings, contract, meter))

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self, *, exit_at_end: bool = False, max_records: int | None = None) -> None:
        self._judging.warm_up()
        self._partitions = inputs.wait_for_topics(self._consumer, [self._topic, *self._outputs.topics], self._service)
        ends = inputs.ends(self._consumer, self._topic, self._stopped) if exit_at_end else None
        inputs.follow_resumes(self._settings, self._contract.id, self._stopped, self._resumed)
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        _quiet_collector()
        delays = waits(random.Random())
        while True:
            self._service.beat()
            try:
                if self._stopped.is_set() or self._done(ends, max_records):
                    self._join()
                    self._judging.attempts.ended()
                    break
                if self._turn(max_records):
                    delays = waits(random.Random())
            except (GivenUp, KafkaException) as error:
                if self._stopped.is_set():
                    break  # what is open is aborted by the next validator's first act
                self._reread(error, next(delays))
        log("validated", **self._measures.summary())
        if (ends is not None or max_records is not None) and not self._stopped.is_set():
            self._transactions.wait_until_readable()
        if ends is not None and self._stops:
            raise CheckFailed(
                f"the reject breaker stopped partitions {sorted(self._stops)} of {self._topic}; see `driftline breaker list`"
            )

    def _turn(self, max_records: int | None) -> bool:
        """One batch; True if it made progress."""
        # 1. read  2. judge, cut  3. join the former commit  4. begin  5. produce valid, blocks, dead letters
        # 6. in the helper thread: send offsets, commit
        # A crash before 6 is through aborts all of it and the records are read again; after it nothing is repeated.
        clock = time.perf_counter
        began = clock()
        messages = self._consumer.consume(self._batch_records(max_records), BATCH_WAIT_S)
        if self._unplaced or self._let_go_on():
            inputs.end_if_fenced(messages)
            self._place()  # what was read belongs to the former assignment
            return False
        runs = self._runs(messages)
        if runs:
            self._measures.began()
        began = self._measures.spent("consume", began)
        judged = self._judging.judge(runs, self._places)
        began = self._measures.spent("decode", began)
        pieces = self._judging.cut(judged)
        began = self._measures.spent("blocks", began)
        self._join()
        began = self._measures.spent("commit", began)
        self._measures.lag(self._consumer, self._places)
        if judged:
            self._write(judged, pieces, runs)
            self._measures.spent("produce", began)
        elif self._bad:
            self._step_over()
        else:
            self._rest()
            return False
        return True

    def close(self) -> bool:
        """Leave within a few seconds; False if librdkafka took longer and the process had better end itself."""
        self._transactions.close()
        self._measures.close()
        closing = threading.Thread(target=self._consumer.close, name="close", daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        return not closing.is_alive()

    # -- 1. read ---------------------------------------------------------------------------------------------------

    def _batch_records(self, max_records: int | None) -> int:
        most = self._judging.attempts.limit(min(BATCH_RECORDS, int(BATCH_BYTES / max(self._record_bytes, 1.0))))
        return most if max_records is None else max(1, min(most, max_records - self._written))

    def _runs(self, messages: Sequence[Message]) -> dict[int, list[Message]]:
        """The records by partition; drops what is not ours or was read before."""
        if told := list(filter(Message.error, messages)):
            messages = list(filterfalse(Message.error, messages))
            for message in told:
                self._heed(message)
        runs: dict[int, list[Message]] = {}
        for partition, found in groupby(messages, Message.partition):  # in C: a loop here costs 0.2 us a record more
            if partition in self._places:
                runs.setdefault(partition, []).extend(found)
        for partition, run in runs.items():
            if run[0].offset() < (start := self._places[partition].next):
                runs[partition] = [m for m in run if m.offset() >= start]
        for partition, bad in self._bad.items():
            runs[partition] = [m for m in runs.get(partition, []) if m.offset() < bad]
        return {partition: run for partition, run in runs.items() if run}

    def _heed(self, message: Message) -> None:
        if (bad := bad_batches.told(message)) is not None and message.partition() in self._places:
            self._bad.setdefault(message.partition(), bad)
        elif message.partition() in self._bad:
            pass  # librdkafka has lost its way behind the bad batch; `_step_over` puts it right
        elif (end := inputs.end_of_partition(message)) is None:
            self._meter.inc("driftline_kafka_errors_total", process=PROCESS, code=inputs.told(message))
        elif (place := self._places.get(message.partition())) is not None:
            place.seen = max(place.seen, end)

    # -- 4, 5, 6. write --------------------------------------------------------------------------------------------

    def _write(self, judged: list[Judged], pieces: list[list[Piece]], runs: dict[int, list[Message]]) -> None:
        now = time.time_ns() // 1_000_000
        producer = self._transactions.begin()
        with giving_up("produce"):
            for j, blocks_of_it in zip(judged, pieces, strict=True):
                self._outputs.produce(producer, j, blocks_of_it, runs[j.consumed.partition], now)
        stops = {j.consumed.partition: _stop(j, now) for j in judged if j.opened is not None}
        offsets = [
            TopicPartition(
                self._topic, j.consumed.partition, j.consumed.end, _metadata(stops.get(j.consumed.partition))
            )
            for j in judged
        ]
        self._transactions.commit(offsets, self._consumer.consumer_group_metadata())
        self._in_flight = list(zip(judged, pieces, strict=True))
        self._advance(judged, stops)

    def _advance(self, judged: list[Judged], stops: dict[int, Stop]) -> None:
        """Go on behind the batch without waiting for its commit; if that fails, `_place` asks anew."""
        for j in judged:
            run, place = j.consumed, self._places[j.consumed.partition]
            place.next, place.watermark, place.recent = run.end, j.watermark_after, j.recent
            place.seen, place.append_ms = max(place.seen, run.end), int(run.append_ms[-1])
            self._written += len(run.values)
        sizes = [len(v or b"") for j in judged for v in j.consumed.values[:: max(1, len(j.consumed.values) // 50)]]
        self._record_bytes = sum(sizes) / max(1, len(sizes))
        for partition, stop in stops.items():
            self._stop(partition, stop)

    # -- 3. join ---------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Wait for the former batch's commit, then count it."""
        self._transactions.join()
        for judged, pieces in self._in_flight:
            self._measures.committed(judged, pieces)
        self._in_flight = []
        self._committed = self._written

    def _reread(self, error: Exception, wait: float) -> None:
        """After a transaction that was given up: nothing in hand counts, go on from what is committed."""
        log("read_again", "warning", error=error, retry_in_s=f"{wait:.1f}")
        self._meter.inc("driftline_transactions_total", process=PROCESS, result="aborted")
        self._transactions.give_up()
        self._in_flight, self._written, self._unplaced = [], self._committed, True
        self._bad.clear()
        self._stopped.wait(wait)

    # -- a batch that cannot be opened --------------------------------------------------------------------------------

    def _step_over(self) -> None:
        """Account for each bad batch as a range, in a transaction of its own; then read on behind it."""
        for p, first in list(self._bad.items()):
            place = self._places[p]
            at = max(first, place.next)
            try:
                bad = bad_batches.extent(self._settings, self._topic, p, at, self._service.beat)
            except Unreachable as error:
                raise GivenUp(str(error)) from error
            if bad is None:
                log("batch_read_again", "warning", partition=p, offset=at, reason="it can be opened now")
            else:
                self._write_unread(bad, place)
                log("batch_undecodable", "error", partition=p, offset=at, end=bad.end, cause=bad.cause)
            self._bad.pop(p, None)
        self._consumer.assign([TopicPartition(self._topic, p, place.next) for p, place in self._places.items()])

    def _read_in_trial(self, p: int, place: Place) -> None:
        """Processes died before a record from here on was decoded: read one batch's worth in a child, step over what ends it."""
        try:
            found = read_trial.read(
                self._topic, p, place.next, self._batch_records(None), BATCH_BYTES, self._service.beat
            )
            log(
                "read_in_trial",
                "warning",
                partition=p,
                offset=place.next,
                records=len(found.messages),
                ended=found.ended,
            )
            if found.messages:
                runs = {p: found.messages}
                judged = self._judging.judge(runs, self._places)
                self._write(judged, self._judging.cut(judged), runs)
                self._join()
            if found.ended and p in self._places:  # else the breaker has stopped it
                first, end = batch_bounds.bounds(self._settings, self._topic, p, place.next)
                bad = BadBatch(self._topic, p, max(first, place.next), end, "memory", found.ended)
                self._write_unread(bad, place)
                log("batch_undecodable", "error", partition=p, offset=bad.start, end=bad.end, cause=bad.cause)
        except Unreachable as error:
            raise GivenUp(str(error)) from error

    def _write_unread(self, bad: BadBatch, place: Place) -> None:
        now = time.time_ns() // 1_000_000
        piece = self._judging.unread(bad, place)
        place.recent, opened = reject_breaker.admit(place.recent, np.ones(1, dtype=bool), self._limits)  # one letter
        stop = opened and Stop(bad.end, opened.cause, opened.rejected, opened.of, to_text(now))
        producer = self._transactions.begin()
        with giving_up("produce"):
            self._outputs.produce_unread(producer, bad, piece, now)
        offset = TopicPartition(self._topic, bad.partition, bad.end, _metadata(stop))
        self._transactions.commit([offset], self._consumer.consumer_group_metadata())
        self._transactions.join()
        self._measures.unread(len(bad))
        place.next, place.seen = bad.end, max(place.seen, bad.end)
        if stop:
            self._stop(bad.partition, stop)

    # -- which partitions, and from where --------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Only notes it: finding positions can wait for a former owner's transaction, and that is no work for a callback."""
        self._assigned, self._unplaced = [tp.partition for tp in partitions], True
        self._measures.owns(len(partitions), self._partitions)
        consumer.assign([])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Finish the open batch while we are still the owner (the join is bounded); a lost assignment fails its commit."""
        try:
            self._join()
        except GivenUp as error:
            self._reread(error, 0)
        self._assigned, self._places, self._unplaced = [], {}, True
        for stopped in self._stops:  # whoever gets it says so; two who say it would need two who take it back
            self._show_breaker(stopped, False)
        self._stops = {}

    def _place(self) -> None:
        """Set every assigned partition to what is committed for it."""
        self._join()
        self._bad.clear()
        self._judging.attempts.forget(set(self._assigned))
        if not self._assigned:
            self._unplaced = False
            return
        if self._transactions.broken:
            self._transactions.start()
        found = positions.find(self._consumer, self._settings, self._contract.id, self._assigned, self._stopped)
        self._stops = {p: at.stop for p, at in found.items() if at.stop and (p, at.stop.offset) not in self._resumed}
        self._places = {p: Place(at) for p, at in found.items() if p not in self._stops}
        for p in self._judging.attempts.placed({p: place.next for p, place in self._places.items()}):
            self._read_in_trial(p, self._places[p])
        self._consumer.assign([TopicPartition(self._topic, p, place.next) for p, place in self._places.items()])
        self._unplaced = False
        for p in found:
            self._show_breaker(p, p in self._stops)
        log(
            "placed",
            partitions=",".join(f"{p}@{place.next}" for p, place in self._places.items()),
            stopped=sorted(self._stops),
        )
        self._service.ready()

    def _stop(self, partition: int, stop: Stop) -> None:
        self._consumer.pause([TopicPartition(self._topic, partition)])
        del self._places[partition]
        self._bad.pop(partition, None)
        self._stops[partition] = stop
        self._show_breaker(partition, True)
        log(
            "reject_breaker_opened",
            "error",
            partition=partition,
            offset=stop.offset,
            cause=stop.cause,
            rejected=stop.rejected,
            of=stop.of,
        )

    def _show_breaker(self, partition: int, open_: bool) -> None:
        self._meter.set(
            "driftline_reject_breaker_open", int(open_), dataset=self._contract.id, partition=str(partition)
        )

    def _let_go_on(self) -> bool:
        """Whether somebody asked for a stopped partition of ours to go on."""
        found = [p for p, stop in self._stops.items() if (p, stop.offset) in self._resumed]
        for p in found:
            log("reject_breaker_closed", partition=p, offset=self._stops[p].offset)
        return bool(found)

    # -- start, end, rest ------------------------------------------------------------------------------------------

    def _done(self, ends: dict[int, int] | None, max_records: int | None) -> bool:
        if max_records is not None and self._written >= max_records:
            return True
        placed = bool(self._places or self._stops) and not self._unplaced
        return ends is not None and placed and all(place.seen >= ends[p] for p, place in self._places.items())

    def _rest(self) -> None:
        """Nothing to do: collect garbage now and then, since the automatic collector is off."""
        if time.monotonic() - self._collected_at > COLLECT_EVERY_S:
            self._collected_at = time.monotonic()
            gc.collect()


def _quiet_collector() -> None:
    """The cyclic collector costs a fifth of the throughput walking lists of messages that hold no cycle (measured)."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _stop(judged: Judged, now: int) -> Stop:
    opened = judged.opened
    assert opened is not None
    return Stop(judged.consumed.end, opened.cause, opened.rejected, opened.of, to_text(now))


def _metadata(stop: Stop | None) -> str:
    return "" if stop is None else reject_breaker.to_metadata(stop)
