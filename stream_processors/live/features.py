"""EDGE. `driftline features`: folds valid events and outcomes into what models know of each entity's past.

    # 1. read blocks and outcomes  2. fold them, with their positions, in one commit of the state
    # 3. publish what changed and the as-of record, in one Kafka transaction  4. note in the state what was published
    # Killed after 2: published at the next start. Killed between 3 and 4: published again, the same sums.

One process a dataset: SQLite's lock keeps a second one on this machine out, the transactional id one elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import threading
import time
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from monitoring.metrics import PrometheusMeter
from pipeline import blocks, contract_file, topics
from pipeline.blocks import BadBlock, Block
from pipeline.contract import APPEND_TIME, Contract, OutcomeLabel
from pipeline.errors import Fatal, Unreachable, UsageError
from pipeline.kafka import consumer, headers_of, partitions, producer, reach, read_all, wait_until_readable
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.retry import until_success
from pipeline.service import Service
from pipeline.settings import Settings
from stream_processors.live import feature_plan, feature_records
from stream_processors.live.feature_plan import NOTHING, SUMS, History
from stream_processors.live.feature_records import AS_OF, PREFIX, AsOf, Outcome
from stream_processors.live.feature_state import Position, State, Where

BLOCKS_A_TURN, OUTCOMES_A_TURN = 16, 20_000
WAIT_S = 0.1
PUBLISH_EVERY_S = 0.5  # an entity that changes all the time is published so often
SAY_AGAIN_S = 2.0  # the as-of record moves on though nothing happens
TRANSACTION_TIMEOUT_MS = 20_000
_GONE = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}


class Features:
    summary = "Fold events and outcomes into history features, for training and for every serving worker."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="fold what is there, publish it, and leave")
        parser.add_argument("--show", metavar="ENTITY:ID", help="print what models know of one entity now, and leave")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        history = feature_plan.compiled(contract)
        if history is None:
            raise UsageError(f"contract {contract.name}: expected a history to fold, it declares none")
        if args.show:
            print(json.dumps(shown(settings, contract, history, args.show)))
            return 0
        with Service("features", settings, meter.exposition) as service:
            reach(settings, deadline_s=30 if args.once else None, stopped=service.stopped)
            try:
                fold(settings, contract, history, meter, service, once=args.once)
                if args.once:
                    wait_until_readable(settings, publisher_id(contract))
            except Unreachable:
                if not service.stopped.is_set():
                    raise
        return 0


def fold(
    settings: Settings, contract: Contract, history: History, meter: Meter, service: Service, *, once: bool = False
) -> None:
    path = settings.home / "features" / f"{contract.id}-{history.definition}.sqlite"
    try:
        state = State(path, history, contract)
    except sqlite3.OperationalError as error:
        raise Fatal(f"{path}: {error}; is another `driftline features` running?") from error
    log("state_opened", path=path, definition=history.definition, **state.held)
    sources = _Sources(settings, contract, history, state.positions(), service)
    publisher = _Publisher(settings, contract, history, service)
    published, told = 0.0, None
    try:
        while not service.stopped.is_set():
            turn = sources.read()
            if turn is not None:
                state.fold(*turn, sources.positions)
            now, as_of = time.monotonic(), sources.as_of()
            due = now - published >= (PUBLISH_EVERY_S if state.pending() else SAY_AGAIN_S)
            if as_of is not None and (due or (once and sources.at_end())):
                publisher.publish(state.changed(), as_of)
                state.published()
                published, told = now, as_of
            _measure(meter, contract, state, sources, told)
            service.beat()
            if sources.at_end():
                service.ready()
                if once and not state.pending():
                    return
    finally:
        sources.close()
        state.close()


def publisher_id(contract: Contract) -> str:
    return topics.group(contract.id, "features")


class _Sources:
    """Both topics, every partition, from where the state stands."""

    def __init__(
        self, settings: Settings, contract: Contract, history: History, known: dict[Where, Position], service: Service
    ):
        self._contract, self._definition, self._outcomes = contract, history.definition, topics.outcomes(contract.id)
        self._blocks = topics.blocks(contract.id)
        self._columns = feature_plan.event_columns(history, contract)
        self._schema = {n: t for n, t in pl.DataFrame(contract.block_schema.empty_table()).schema.items() if n in self._columns}  # fmt: skip
        names = [self._blocks, *([self._outcomes] if isinstance(contract.label, OutcomeLabel) else [])]
        self.positions = dict(known)
        self._ended: dict[
            Where, int | None
        ] = {}  # wall time (ms) at which a partition's end was last seen; None = behind
        self._clients = {n: self._client(settings, n, service) for n in names}

    def _client(self, settings: Settings, name: str, service: Service) -> Consumer:
        client = consumer(
            settings,
            topics.group(self._contract.id, "features"),
            reset="error",
            **{"enable.partition.eof": True, "queued.max.messages.kbytes": 16_384},
        )
        numbers = until_success(
            lambda: partitions(client, name),
            what=f"topic {name}",
            errors=(KafkaException, Unreachable, KeyError),
            sleep=service.stopped.wait,
            stopped=service.stopped.is_set,
            on_failure=lambda error, wait: service.beat(),
        )
        places = []
        for number in numbers:
            low, high = client.get_watermark_offsets(TopicPartition(name, number), timeout=10)
            at = self.positions[name, number].next if (name, number) in self.positions else low
            if not low <= at <= high:
                raise Fatal(
                    f"{name}[{number}]: expected position {at} within the log's {low}..{high}: retention overtook this process, "
                    "or the topic was made anew; remove the state file under the home's `features` to fold what is left"
                )
            self._ended[name, number] = None
            places.append(TopicPartition(name, number, at))
        client.assign(places)
        return client

    def read(self) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """The next events and outcomes, with `positions` after them; None if nothing came."""
        now = int(time.time() * 1000)
        found = [self._usable(m) for m in self._clients[self._blocks].consume(BLOCKS_A_TURN, WAIT_S)]
        read = [self._block(m) for m in found if m is not None]
        said = []
        if self._outcomes in self._clients:
            wait = 0.0 if read else WAIT_S
            heard = [self._usable(m) for m in self._clients[self._outcomes].consume(OUTCOMES_A_TURN, wait)]
            said = [self._outcome(m) for m in heard if m is not None]
        for where, ended in self._ended.items():
            if ended is not None:
                self._ended[where] = now
        if not read and not said:
            return None
        return self._events([b for b in read if b is not None]), self._outcome_rows([o for o in said if o is not None])

    def at_end(self) -> bool:
        return all(ended is not None for ended in self._ended.values())

    def as_of(self) -> AsOf | None:
        """None until every partition has shown a record or its end."""
        times = [
            ended if ended is not None else self.positions[w].arrived if w in self.positions else None
            for w, ended in self._ended.items()
        ]
        if None in times:
            return None
        raw = {topic: {str(p): at.raw for (t, p), at in sorted(self.positions.items()) if t == topic} for topic in (self._blocks, self._outcomes)}  # fmt: skip
        return AsOf(min(t for t in times if t is not None), self._definition, raw[self._blocks], raw[self._outcomes])

    def lags(self) -> list[tuple[str, int, int]]:
        found = []
        for name, client in self._clients.items():
            for where in [w for w in self._ended if w[0] == name]:
                _, high = client.get_watermark_offsets(TopicPartition(*where), cached=True)
                at = self.positions[where].next if where in self.positions else 0
                behind = self._ended[where] is None  # the last offset is a transaction's marker, which no message has
                found.append((*where, max(0, high - at) if behind else 0))
        return found

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _usable(self, message: Message) -> Message | None:
        error, where = message.error(), (str(message.topic()), int(message.partition() or 0))
        if error is None:
            self._ended[where] = None
            return message
        if error.code() == KafkaError._PARTITION_EOF:
            self._ended[where] = int(time.time() * 1000)
        elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise Fatal(f"{where[0]}[{where[1]}]: {error.str()}")
        return None

    def _block(self, message: Message) -> pl.DataFrame | None:
        where = (self._blocks, int(message.partition() or 0))
        try:
            header = blocks.from_headers(headers_of(message))
            valid = Block(header, blocks.decode(message.value())).valid
        except BadBlock as error:
            raise Fatal(f"{where[0]}[{where[1]}]@{message.offset()}: {error}") from error
        before = self.positions.get(where)
        if before is not None and header.start != before.raw:
            raise Fatal(
                f"{where[0]}[{where[1]}]@{message.offset()}: expected a block from raw offset {before.raw}, got {header.start}; "
                "remove the state file under the home's `features` to fold the log anew"
            )
        rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([valid]).select(list(self._schema))))
        newest = rows[APPEND_TIME].dt.epoch("ms").max() if rows.height else None
        arrived = int(str(newest)) if newest is not None else before.arrived if before else 0
        self.positions[where] = Position(int(message.offset() or 0) + 1, header.end, arrived)
        return rows

    def _outcome(self, message: Message) -> Outcome | None:
        label, offset = self._contract.label, int(message.offset() or 0)
        assert isinstance(label, OutcomeLabel)
        where = (self._outcomes, int(message.partition() or 0))
        self.positions[where] = Position(offset + 1, offset + 1, int(message.timestamp()[1]))
        return feature_records.outcome_from(message.value(), self._contract, label)

    def _events(self, read: Sequence[pl.DataFrame]) -> pl.DataFrame:
        return pl.concat([pl.DataFrame(schema=self._schema), *read])

    def _outcome_rows(self, said: Sequence[Outcome]) -> pl.DataFrame:
        label = self._contract.label
        if not isinstance(label, OutcomeLabel):
            return pl.DataFrame()
        times = pl.Series(np.array([o.ms for o in said], np.int64)).cast(pl.Datetime("ms", "UTC"))
        return pl.DataFrame(
            {label.key: [o.key for o in said], label.name: [o.value for o in said], self._contract.time.field: times},
            schema_overrides={label.key: self._schema[label.key], label.name: pl.Boolean},
        )


class _Publisher:
    """Says it until it is said: sums are absolute, so saying them twice changes nothing."""

    def __init__(self, settings: Settings, contract: Contract, history: History, service: Service):
        self._settings, self._service, self._definition = settings, service, history.definition
        self._topic, self._id = topics.features(contract.id), publisher_id(contract)
        self._producer: Producer | None = None

    def publish(self, changed: Sequence[tuple[str, bytes | None]], as_of: AsOf) -> None:
        records = [(k.encode(), feature_records.entity_bytes(self._definition, sums)) for k, sums in changed]
        records.append((AS_OF, feature_records.as_of_bytes(as_of)))
        until_success(
            lambda: self._transaction(records),
            what=self._topic,
            errors=(KafkaException, BufferError),
            sleep=self._service.stopped.wait,
            stopped=self._service.stopped.is_set,
            on_failure=lambda error, wait: (
                self._service.beat(),
                log("publishing_failed", "warning", topic=self._topic, error=error, retry_in_s=f"{wait:.1f}"),
            ),
        )

    def _transaction(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        try:
            writer = self._producer or self._open()
            writer.begin_transaction()
            for key, value in records:
                _produce(writer, self._topic, key, value, self._service.stopped)
            writer.commit_transaction(TRANSACTION_TIMEOUT_MS / 1000)
        except KafkaException as error:
            self._producer = None  # the next one's init settles what is open
            if error.args[0].code() in _GONE:
                raise Fatal(f"{self._topic}: another process publishes it now ({error.args[0].str()})") from error
            raise

    def _open(self) -> Producer:
        self._producer = producer(
            self._settings, self._id, transactional_id=self._id, **{"transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}
        )
        self._producer.init_transactions(5)
        return self._producer


def _produce(writer: Producer, topic: str, key: bytes, value: bytes | None, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            return writer.produce(topic, value, key, partition=0)
        except BufferError:
            writer.poll(0.1)
    raise Unreachable("stopping while a publication was open; the next start makes it again")


def _measure(meter: Meter, contract: Contract, state: State, sources: _Sources, told: AsOf | None) -> None:
    for topic, partition, lag in sources.lags():
        meter.set("driftline_consumer_lag_records", lag, process="features", topic=topic, partition=str(partition))
    if told is not None:
        age = max(0.0, time.time() - told.ms / 1000)
        meter.set("driftline_feature_staleness_seconds", age, process="features", dataset=contract.id)
    meter.set("driftline_feature_entities", state.held["entity"], process="features", dataset=contract.id)
    meter.set("driftline_feature_bytes", state.size(), process="features", dataset=contract.id)
    for what, count in state.take_forgotten().items():
        meter.inc("driftline_feature_forgotten_total", count, dataset=contract.id, what=what)


def shown(settings: Settings, contract: Contract, history: History, name: str) -> dict[str, object]:
    """One entity's values for a row at its newest step, by the topic's newest record; UsageError for an unknown kind."""
    from stream_processors.live import feature_windows

    kind = name.partition(":")[0]
    entity = next((e for e in history.entities if e.name == kind), None)
    if entity is None:
        raise UsageError(f"--show {name}: expected ENTITY:ID with one of {', '.join(e.name for e in history.entities)}")
    sums, as_of, definition = NOTHING, None, history.definition.encode()
    for message in read_all(settings, topics.features(contract.id)):
        value = message.value()
        if message.key() == AS_OF and value is not None:
            as_of = feature_records.as_of_from(value)
        elif message.key() == name.encode():
            sums = value[PREFIX:] if value is not None and value[:PREFIX] == definition else NOTHING
    out = np.full((1, len(history.names)), np.nan)
    newest = np.frombuffer(sums, SUMS)["step"].max(initial=0)
    feature_windows.looked_up(history, entity, [sums], np.array([int(newest) * history.step_ms]), out)
    values = {history.names[c]: float(out[0, c]) for c in entity.columns.tolist()}
    return {"entity": name, "known": bool(sums), "values": values, "as_of": as_of.json() if as_of else None}
