"""EDGE. `driftline score`: sends every block to the prediction service, so that the model is used on the stream.

The answers to each block are written to `<dataset>.scores` as a block of the same coordinates, for the drift process. Rows
before the first champion are counted as unscored. Scoring is at-least-once; a repeated prediction carries the same
raw coordinate, and both `evaluate` and `drift` keep the first.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from monitoring.metrics import PrometheusMeter
from pipeline import blocks, contract_file, topics
from pipeline.blocks import VALID, BadBlock, Block
from pipeline.contract import RAW_OFFSET, Contract
from pipeline.errors import Fatal, Unreachable
from pipeline.kafka import consumer, headers_of, producer, reach
from pipeline.logs import log
from pipeline.retry import CircuitBreaker, CircuitOpen, until_success
from pipeline.service import Service
from pipeline.settings import Settings
from stream_processors.live.score_blocks import Answers, score_block

ROWS_A_REQUEST = 500
REQUESTS_AT_ONCE = 4
BLOCKS_A_TURN = 64
NO_MODEL = 503


class ServiceAway(Exception):
    """The service did not answer, or answered with a server error."""


class _Answered(msgspec.Struct):
    version: str
    scores: list[float]
    history: dict[str, list[float | None]] | None = None


class Score:
    summary = "Send the stream's valid rows to the prediction service, block by block."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=ROWS_A_REQUEST, help="rows a request (default 500)")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        with Service("score", settings, meter.exposition) as service:
            reach(settings, deadline_s=None, stopped=service.stopped)
            source = consumer(settings, topics.group(contract.id, "score"))
            source.subscribe([topics.blocks(contract.id)])
            out = _Writer(settings, contract, service) if contract.drift.scores else None
            try:
                with (
                    httpx.Client(base_url=settings.serving, timeout=30) as http,
                    ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool,
                ):
                    scorer = _Scorer(contract, http, pool, meter, service, args.rows)
                    _loop(service, source, scorer, out, contract, meter)
            finally:
                source.close()
        return 0


def _loop(
    service: Service,
    source: Consumer,
    scorer: _Scorer,
    out: _Writer | None,
    contract: Contract,
    meter: PrometheusMeter,
) -> None:
    # 1. read blocks  2. score their valid rows, all of them  3. write the blocks of scores  4. commit the offsets
    # A crash before 4 scores the blocks again: at-least-once, recognisable by coordinate.
    topic = topics.blocks(contract.id)
    service.ready()
    while not service.stopped.is_set():
        read = [m for m in source.consume(BLOCKS_A_TURN, 0.5) if _usable(m, topic)]
        rows = [_block(m, topic) for m in read]
        try:
            answers = scorer.score(rows)
            if out is not None:
                out.write([score_block(b, contract, a) for b, a in zip(rows, answers, strict=True)])
        except Unreachable:
            return  # stopping: the blocks are read again at the next start
        name = "driftline_unscored_rows_total" if None in answers else "driftline_scored_rows_total"
        meter.inc(name, float(sum(block.header.counts.get(VALID, 0) for block in rows)), dataset=contract.id)
        _commit(source, topic, {m.partition(): m.offset() + 1 for m in read})
        _report_lag(source, topic, meter)
        service.beat()


def _usable(message: Message, topic: str) -> bool:
    error = message.error()
    if error is not None and error.fatal():
        raise Fatal(f"reading {topic}: {error.str()}")
    return error is None


def _block(message: Message, topic: str) -> Block:
    try:
        return Block(blocks.from_headers(headers_of(message)), blocks.decode(message.value()))
    except BadBlock as error:
        raise Fatal(f"{topic}[{message.partition()}]@{message.offset()}: {error}") from error


class _Scorer:
    def __init__(
        self,
        contract: Contract,
        http: httpx.Client,
        pool: ThreadPoolExecutor,
        meter: PrometheusMeter,
        service: Service,
        rows: int,
    ):
        self._columns, self._history = [f.name for f in contract.fields], bool(contract.watched_history)
        self._http, self._pool, self._meter, self._service, self._rows = http, pool, meter, service, rows
        self._breaker = CircuitBreaker("serving", failures=5, rest=5.0)
        self._had_model = False

    def score(self, read: Sequence[Block]) -> list[Answers | None]:
        """The answers to each block's valid rows, all of them; None for every block if there is no model yet."""
        if read and not self._had_model:
            self._had_model = self._post_until_done("/model", b"{}") is not None
        if not self._had_model:
            return [None] * len(read)
        bodies = list(self._bodies(read))
        told = self._pool.map(lambda body: self._post_until_done("/predict_batch", body), [b for _, b in bodies])
        waiting: dict[int, Answers] = {}  # by partition, in the order of its rows
        for (partition, _), answer in zip(bodies, told, strict=True):
            waiting[partition] = waiting.get(partition, Answers()) + _answers(answer)
        made: list[Answers | None] = []
        for block in read:
            partition, rows = block.header.partition, block.valid.num_rows
            own = waiting.get(partition, Answers())
            made.append(own[:rows])
            waiting[partition] = own[rows:]
        return made

    def _bodies(self, read: Sequence[Block]) -> Iterator[tuple[int, bytes]]:
        """Small blocks of one partition share requests: a round trip costs more than a hundred rows."""
        by_partition: dict[tuple[str, int], list[pa.RecordBatch]] = {}
        for block in read:
            by_partition.setdefault((block.header.topic, block.header.partition), []).append(block.valid)
        for (topic, partition), batches in by_partition.items():
            table = pa.Table.from_batches(batches)
            for body in requests(topic, partition, table, self._columns, self._rows, self._history):
                yield partition, body

    def _post_until_done(self, path: str, body: bytes) -> bytes | None:
        return until_success(
            lambda: self._breaker.call(lambda: self._post(path, body)),
            what="the prediction service",
            errors=(ServiceAway, CircuitOpen),
            sleep=self._wait,
            stopped=self._service.stopped.is_set,
            on_failure=lambda error, wait: self._meter.inc(
                "driftline_retries_total", process="score", target="serving"
            ),
            rng=random.Random(),
        )

    def _wait(self, seconds: float) -> None:
        """Waiting for a dependency is progress: the watchdog must not restart this process for it."""
        self._meter.set(
            "driftline_circuit_open", float(self._breaker.state != "closed"), process="score", target="serving"
        )
        self._service.beat()
        self._service.stopped.wait(seconds)

    def _post(self, path: str, body: bytes) -> bytes | None:
        """The answer; None if the service is up and has no champion yet; ServiceAway if it is worth another try."""
        try:
            answer = self._http.post(path, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            raise ServiceAway(str(error)) from error
        if answer.status_code == NO_MODEL and not self._had_model:
            return None
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ServiceAway(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code != 200:  # the same contract let the row in: this is a defect, not a reason to go on
            raise Fatal(f"{path} refused a valid row: {answer.status_code} {answer.text[:500]}")
        self._meter.set("driftline_circuit_open", 0.0, process="score", target="serving")
        return answer.content


def _answers(body: bytes | None) -> Answers:
    answered = msgspec.json.decode(body or b"", type=_Answered)
    return Answers(answered.scores, [answered.version] * len(answered.scores), answered.history or {})


class _Writer:
    """Blocks of scores to their topic, durable before their source's offsets are committed."""

    def __init__(self, settings: Settings, contract: Contract, service: Service):
        self._topic, self._service = topics.scores(contract.id), service
        self._producer = producer(settings, topics.group(contract.id, "score"), **{"message.timeout.ms": 0})
        self._failure: str | None = None

    def write(self, made: Sequence[Block]) -> None:
        for block in made:
            value, headers = blocks.encode(block.rows), blocks.to_headers(block.header)
            self._producer.produce(
                self._topic, value, headers=headers, partition=block.header.partition, on_delivery=self._delivered
            )
        while self._producer.flush(0.5):  # it waits for as long as the broker is away
            self._service.beat()
            if self._service.stopped.is_set():
                raise Unreachable(f"stopping while {self._topic} takes no more")
        if self._failure:
            raise Fatal(f"writing {self._topic}: {self._failure}")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = error.str()


def requests(
    topic: str, partition: int, valid: pa.Table, columns: list[str], rows: int, history: bool = False
) -> Iterator[bytes]:
    """Bodies of /predict_batch, each with the raw coordinates of its rows; `history` asks for what the model knew, too."""
    more = b',"history":true' if history else b""
    for start in range(0, valid.num_rows, rows):
        piece = valid.slice(start, rows)
        records = pl.DataFrame(pl.from_arrow(piece.select(columns))).write_ndjson().strip().replace("\n", ",")
        raw = {"topic": topic, "partition": partition, "offsets": piece.column(RAW_OFFSET).to_pylist()}
        yield b'{"rows":[%b],"raw":%b%b}' % (records.encode(), msgspec.json.encode(raw), more)


def _commit(source: Consumer, topic: str, positions: dict[int, int]) -> None:
    try:
        if positions:
            source.commit(offsets=[TopicPartition(topic, p, o) for p, o in positions.items()], asynchronous=True)
    except KafkaException as error:
        log("commit_failed", "warning", topic=topic, error=error)


def _report_lag(source: Consumer, topic: str, meter: PrometheusMeter) -> None:
    for position in source.position(source.assignment()):
        _, high = source.get_watermark_offsets(position, cached=True)
        if high >= 0 and position.offset >= 0:
            meter.set(
                "driftline_consumer_lag_records",
                float(max(0, high - position.offset)),
                process="score",
                topic=topic,
                partition=str(position.partition),
            )
