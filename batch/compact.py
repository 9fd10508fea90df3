"""EDGE. `driftline compact`: blocks, dead letters and outcomes from Kafka into the lake, each row exactly once.

The offsets are inside the table's commits; the group's committed offsets are for lag tools only and never read back.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import pyarrow as pa
from confluent_kafka import (
    OFFSET_BEGINNING,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from deltalake.exceptions import DeltaError

from batch import lineage_runs
from batch import table as lake
from batch.compaction import FenceError, RetentionLoss, check_retention, check_source
from batch.landed_rows import DEAD_LETTER_SCHEMA, FAILED_DATE, OUTCOME_DATE, dead_letter, outcome, outcome_schema
from batch.landing import Commit, EventsLanding, Landing, RecordsLanding, open_table
from batch.rules import QualityVerdict
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract, OutcomeLabel
from pipeline.errors import Fatal, Unreachable
from pipeline.lineage import Dataset, kafka_namespace
from pipeline.lineage_send import Lineage, Minutes
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.retry import until_success
from pipeline.service import Service
from pipeline.settings import Settings

READ_AT_ONCE = 16  # messages; blocks are at most 512 KiB compressed, some 5,000 rows when there is a backlog
MERGE_ABOVE = 8  # small files of one date
MAINTAIN_S = 60.0  # merges and identity checks; vacuum once an hour
VACUUM_S = 3600.0
ASKED_S, ANSWERED_S = 10, 30  # the client's own time-out, an error of Kafka, comes first
T = TypeVar("T")
FAILURES = (OSError, DeltaError)  # a full or slow disk: the same commit is tried again, nothing is skipped


class Compact:
    summary = "Write blocks, dead letters and outcomes to the lake's tables, exactly once."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="take what is there now, then exit")
        parser.add_argument(
            "--interval",
            type=float,
            default=5.0,
            metavar="S",
            help="at most so many seconds of data a commit (default 5)",
        )
        parser.add_argument(
            "--rows", type=int, default=400_000, help="at most about so many rows a commit (default 400000)"
        )
        parser.add_argument(
            "--keep-hours",
            type=int,
            default=24,
            help="files that only older versions need are deleted after this (default 24)",
        )
        parser.add_argument(
            "--begin-at-oldest",
            action="store_true",
            help="a new table may begin where the topic's oldest records are gone",
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        meter = PrometheusMeter()
        meter.set("driftline_process_info", 1, process="compactor", contract=contract.name)
        with Service("compactor", settings, meter.exposition) as service:
            try:
                return _Compactor(args, settings, contract, meter, service).run()
            except FenceError as error:
                log("fence", "error", kind=type(error).__name__, error=error)
                raise


class _Compactor:
    def __init__(
        self, args: argparse.Namespace, settings: Settings, contract: Contract, meter: Meter, service: Service
    ):
        self._args, self._settings, self._contract, self._meter, self._service = (
            args,
            settings,
            contract,
            meter,
            service,
        )
        self._producer = kafka.producer(settings, topics.group(contract.id, "compact"))
        self._consumer = kafka.consumer(
            settings,
            topics.group(contract.id, "compact"),
            reset="error",
            **{"enable.partition.eof": True, "queued.max.messages.kbytes": 64 * 1024},
        )
        self._landings: dict[str, Landing] = {}
        self._lineage = Lineage(settings, meter)
        self._minutes: dict[str, Minutes] = {}  # by topic
        self._behind: dict[
            tuple[str, int], int
        ] = {}  # partitions whose end was not reached -> time of the last record read, ms
        self._admin: AdminClient | None = None

    def run(self) -> int:
        stopped = self._service.stopped
        try:
            self._admin = kafka.reach(self._settings, deadline_s=60 if self._args.once else None, stopped=stopped)
            waiting = self._until_answered("where to go on", self._begin)
            self._service.ready()
            self._loop(waiting)
            return 0
        except Unreachable:
            if stopped.is_set():
                return 0
            raise
        finally:
            self._consumer.close()
            self._producer.flush(5)
            for minutes in self._minutes.values():
                minutes.end()
            self._lineage.close()

    def _loop(self, waiting: set[tuple[str, int]]) -> None:
        # 1. read  2. add  3. when due: commit rows with offsets  4. group offsets, for lag.
        # A crash before the end of 3 reads the same messages again from the table's positions; after it nothing is repeated.
        due = maintained = vacuumed = time.monotonic()
        due += self._args.interval
        while not self._service.stopped.is_set():
            for message in self._consumer.consume(READ_AT_ONCE, min(0.2, self._args.interval)):
                self._take(message, waiting)
            done = self._args.once and not waiting
            now = time.monotonic()
            if done or now >= due or sum(m.held for m in self._landings.values()) >= self._args.rows:
                self._flush(final=done)
                due = time.monotonic() + self._args.interval
            self._service.beat()
            if done:
                return
            if not self._args.once and now - maintained > MAINTAIN_S:
                maintained = now
                vacuumed = self._maintain(now, vacuumed)
        self._flush(final=False)

    def _take(self, message: Message, waiting: set[tuple[str, int]]) -> None:
        error, where = message.error(), (str(message.topic()), int(message.partition() or 0))
        if error is None:
            self._behind[where] = int(message.timestamp()[1])
            self._landings[where[0]].add(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            waiting.discard(where)
            self._behind.pop(where, None)
            self._landings[where[0]].caught_up(where[1])
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._check_ids()
            raise RetentionLoss(f"{where[0]}[{where[1]}]: the record that the table needs next is gone: {error.str()}")
        elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            log("topic_unknown", "warning", topic=where[0], error=error.str())
        elif error.fatal():
            raise Fatal(f"{where[0]}[{where[1]}]: {error.str()}")

    def _flush(self, final: bool) -> None:
        for landing in self._landings.values():
            until_success(
                lambda landing=landing: landing.flush(final),
                what=f"committing {landing.table.path}",
                errors=FAILURES,
                sleep=self._service.stopped.wait,
                deadline_s=30 if final else None,
                stopped=self._service.stopped.is_set,
                on_failure=lambda error, wait: log(
                    "lake_commit_failed", "error", error=error, retry_in_s=f"{wait:.1f}"
                ),
            )
        self._show_positions()
        for minutes in self._minutes.values():
            minutes.turn()

    def _show_positions(self) -> None:
        """Committed offsets and lag, for people and tools."""
        shown, lags = [], []
        for topic, landing in self._landings.items():
            for tp in [t for t in self._consumer.assignment() if t.topic == topic]:
                name = (
                    f"blocks/{tp.partition}"
                    if isinstance(landing, EventsLanding)
                    else f"{landing.table.path.name}/{tp.partition}"
                )
                at = landing.table.position(name)
                if at is not None:
                    shown.append(TopicPartition(topic, tp.partition, at))
                    _, high = self._consumer.get_watermark_offsets(tp, cached=True)
                    lags.append(
                        (topic, str(tp.partition), max(0, high - at - 1))
                    )  # the last offset is a transaction's marker
        for topic in self._landings:
            oldest = min((at for (t, _), at in self._behind.items() if t == topic), default=None)
            age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
            self._meter.set("driftline_oldest_unread_age_seconds", age, process="compactor", topic=topic)
        for topic, partition, lag in lags:
            self._meter.set(
                "driftline_consumer_lag_records", lag, process="compactor", topic=topic, partition=partition
            )
        if shown:
            try:
                self._consumer.commit(offsets=shown, asynchronous=True)
            except KafkaException as error:
                log("lag_commit_failed", "warning", error=error)

    def _maintain(self, now: float, vacuumed: float) -> float:
        self._check_ids()
        for landing in self._landings.values():
            try:
                gone = landing.table.merge(MERGE_ABOVE)
                if gone:
                    log("lake_merged", table=landing.table.path.name, files=gone)
                if now - vacuumed > VACUUM_S:
                    log(
                        "lake_vacuumed",
                        table=landing.table.path.name,
                        files=landing.table.vacuum(self._args.keep_hours),
                    )
            except (lake.Conflict, *FAILURES) as error:
                log("lake_maintenance_put_off", "warning", table=landing.table.path.name, error=error)
            landing.table.reload()
        return now if now - vacuumed > VACUUM_S else vacuumed

    def _begin(self) -> set[tuple[str, int]]:
        self._open()
        return self._assign()

    def _open(self) -> None:
        """One table a topic; the topics are waited for."""
        c, dataset = self._contract, self._contract.id
        numbers = {
            t: self._until_answered(f"topic {t}", lambda t=t: kafka.partitions(self._consumer, t)) for t in _topics(c)
        }
        blocks = topics.blocks(dataset)
        table = self._table(
            lake.EVENTS, lake.lake_schema(c), lake.EVENT_DATE, c.time.field, [blocks, topics.events(dataset)]
        )
        self._landings[blocks] = EventsLanding(
            table, c, blocks, numbers[blocks], self._meter, self._publish, landed=self._landed
        )
        letters = topics.dead_letters(dataset)
        table = self._table(lake.DEAD_LETTERS, DEAD_LETTER_SCHEMA, FAILED_DATE, "letter_offset", [letters])
        self._landings[letters] = RecordsLanding(
            lake.DEAD_LETTERS, letters, table, dead_letter, self._meter, self._landed
        )
        if isinstance(c.label, OutcomeLabel):
            label, late = c.label, topics.outcomes(dataset)
            table = self._table(lake.OUTCOMES, outcome_schema(c, label), OUTCOME_DATE, c.time.field, [late])
            self._landings[late] = RecordsLanding(
                lake.OUTCOMES, late, table, lambda m: outcome(m, c, label), self._meter, self._landed
            )

        place = kafka_namespace(self._settings.bootstrap)
        for topic, landing in self._landings.items():
            path = landing.table.path
            read, written = Dataset(place, topic, kind="TOPIC"), lineage_runs.table(path)
            self._minutes[topic] = Minutes(self._lineage, f"{dataset}.compact.{path.name}", [read], [written])

    def _landed(self, commit: Commit) -> None:
        """A few additions a commit; a run is made of them once a minute."""
        tally = self._minutes[commit.topic].tally
        for partition, (start, end) in commit.ranges.items():
            tally.take(commit.topic, partition, start, end)
        tally.count(commit.topic, commit.rows)
        tally.count(str(commit.path), commit.rows, str(commit.version))

    def _table(self, name: str, schema: pa.Schema, by: str, sort: str, source: Sequence[str]) -> lake.Table:
        return open_table(lake.location(self._settings, self._contract.id, name), schema, by, sort, self._ids(source))

    def _until_answered(self, what: str, ask: Callable[[], T]) -> T:
        """A broker may go away between any two questions."""
        return until_success(
            ask,
            what=what,
            errors=(KafkaException, Unreachable, KeyError),
            sleep=self._service.stopped.wait,
            deadline_s=30 if self._args.once else None,
            stopped=self._service.stopped.is_set,
            on_failure=lambda error, wait: (
                self._service.beat(),
                log("kafka_unanswered", "warning", asked=what, error=error),
            ),
        )

    def _ids(self, names: Sequence[str]) -> dict[str, str]:
        """Cluster id and topic ids: a topic made anew has the same name and other records."""
        admin = self._admin or kafka.admin(self._settings)
        described = admin.describe_topics(TopicCollection(list(names)), request_timeout=ASKED_S)
        found = {f"topic-id.{n}": str(f.result(ANSWERED_S).topic_id) for n, f in described.items()}
        return {"cluster-id": str(admin.list_topics(timeout=ASKED_S).cluster_id), **found}

    def _check_ids(self) -> None:
        for landing in self._landings.values():
            wanted = [k.removeprefix("topic-id.") for k in landing.table.properties if k.startswith("topic-id.")]
            try:
                found = self._ids(wanted)
            except KafkaException as error:
                log("identity_not_checked", "warning", error=error)
            else:
                check_source(landing.table.properties, found, str(landing.table.path))

    def _assign(self) -> set[tuple[str, int]]:
        """Read from the tables' positions; returns the partitions that have something to read."""
        places, waiting = [], set()
        for topic, landing in self._landings.items():
            for partition, (low, high) in kafka.bounds(self._consumer, topic).items():
                at = landing.position(partition)
                check_retention(topic, partition, at, low, high, self._args.begin_at_oldest)
                places.append(TopicPartition(topic, partition, OFFSET_BEGINNING if at is None else at))
                if high > (low if at is None else at):
                    waiting.add((topic, partition))
                else:
                    landing.caught_up(partition)
        self._consumer.assign(places)
        return waiting

    def _publish(self, verdicts: list[QualityVerdict]) -> None:
        topic, failed = topics.quality(self._contract.id), []
        self._minutes[topics.blocks(self._contract.id)].tally.verdicts += map(lineage_runs.verdict, verdicts)
        for v in verdicts:
            self._producer.produce(
                topic,
                json.dumps(asdict(v)).encode(),
                v.key.encode(),
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            result = "passed" if v.passed else "unknown" if v.status == "unknown" else "violated"
            self._meter.inc("driftline_quality_verdicts_total", dataset=self._contract.id, rule=v.rule, result=result)
            if v.status != "ok":
                log(
                    "quality",
                    "warning",
                    rule=v.rule,
                    window=v.window_start,
                    value=v.value,
                    expected=v.expected,
                    status=v.status,
                )
        left = self._producer.flush(30)
        if left or failed:
            raise OSError(f"{left + len(failed)} quality verdicts were not written to {topic}")


def _topics(contract: Contract) -> list[str]:
    d = contract.id
    late = [topics.outcomes(d)] if isinstance(contract.label, OutcomeLabel) else []
    return [topics.blocks(d), topics.events(d), topics.dead_letters(d), *late]
