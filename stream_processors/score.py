"""EDGE. `driftline score`: sends every block to the prediction service, so that the model is used on the stream.

Rows before the first champion are counted as unscored. Scoring is at-least-once; a repeated prediction carries the same
raw coordinate and model version, and `evaluate` keeps the first.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition

from monitoring.metrics import PrometheusMeter
from pipeline import blocks, contract_file, topics
from pipeline.blocks import VALID, BadBlock
from pipeline.contract import RAW_OFFSET, Contract
from pipeline.errors import Fatal, Unreachable
from pipeline.kafka import consumer, headers_of, reach
from pipeline.logs import log
from pipeline.retry import CircuitBreaker, CircuitOpen, until_success
from pipeline.service import Service
from pipeline.settings import Settings

ROWS_A_REQUEST = 500
REQUESTS_AT_ONCE = 4
NO_MODEL = 503


class ServiceAway(Exception):
    """The service did not answer, or answered with a server error."""


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
            try:
                with (
                    httpx.Client(base_url=settings.serving, timeout=30) as http,
                    ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool,
                ):
                    _loop(service, source, _Scorer(contract, http, pool, meter, service, args.rows), contract, meter)
            finally:
                source.close()
        return 0


def _loop(service: Service, source: Consumer, scorer: _Scorer, contract: Contract, meter: PrometheusMeter) -> None:
    # 1. read blocks  2. score their valid rows, all of them  3. commit the offsets
    # A crash before 3 scores the blocks again: at-least-once, recognisable by coordinate.
    topic = topics.blocks(contract.id)
    service.ready()
    while not service.stopped.is_set():
        for message in source.consume(16, 0.5):
            if message.error():
                if not message.error().retriable() and message.error().fatal():
                    raise Fatal(f"reading {topic}: {message.error().str()}")
                continue
            try:
                header, body = blocks.from_headers(headers_of(message)), message.value()
                scored = scorer.score(header, body)
            except BadBlock as error:
                raise Fatal(f"{topic}[{message.partition()}]@{message.offset()}: {error}") from error
            except Unreachable:
                return  # stopping: the block is read again at the next start
            meter.inc(
                "driftline_scored_rows_total" if scored else "driftline_unscored_rows_total",
                float(header.counts.get(VALID, 0)),
                dataset=contract.id,
            )
            _commit(source, TopicPartition(topic, message.partition(), message.offset() + 1))
            service.beat()
        _report_lag(source, topic, meter)
        service.beat()


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
        self._columns = [f.name for f in contract.fields]
        self._http, self._pool, self._meter, self._service, self._rows = http, pool, meter, service, rows
        self._breaker = CircuitBreaker("serving", failures=5, rest=5.0)
        self._had_model = False

    def score(self, header: blocks.BlockHeader, body: bytes | None) -> bool:
        """True if the block's valid rows were scored, False if there is no model yet."""
        valid = blocks.Block(header, blocks.decode(body)).valid
        if valid.num_rows == 0:
            return self._had_model
        answered = list(self._pool.map(self._post_until_done, requests(header, valid, self._columns, self._rows)))
        self._had_model = self._had_model or all(answered)
        return self._had_model

    def _post_until_done(self, body: bytes) -> bool:
        return until_success(
            lambda: self._breaker.call(lambda: self._post(body)),
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

    def _post(self, body: bytes) -> bool:
        """False if the service is up and has no champion yet; ServiceAway if it is worth another try."""
        try:
            answer = self._http.post("/predict_batch", content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            raise ServiceAway(str(error)) from error
        if answer.status_code == NO_MODEL and not self._had_model:
            return False
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ServiceAway(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code != 200:  # the same contract let the row in: this is a defect, not a reason to go on
            raise Fatal(f"/predict_batch refused a valid row: {answer.status_code} {answer.text[:500]}")
        self._meter.set("driftline_circuit_open", 0.0, process="score", target="serving")
        return True


def requests(header: blocks.BlockHeader, valid: pa.RecordBatch, columns: list[str], rows: int) -> Iterator[bytes]:
    """Bodies of /predict_batch, each with the raw coordinates of its rows; nulls are left out, as on the stream."""
    for start in range(0, valid.num_rows, rows):
        piece = valid.slice(start, rows)
        records = [{k: v for k, v in r.items() if v is not None} for r in piece.select(columns).to_pylist()]
        raw = {"topic": header.topic, "partition": header.partition, "offsets": piece.column(RAW_OFFSET).to_pylist()}
        yield msgspec.json.encode({"rows": records, "raw": raw})


def _commit(source: Consumer, position: TopicPartition) -> None:
    try:
        source.commit(offsets=[position], asynchronous=True)
    except KafkaException as error:
        log("commit_failed", "warning", topic=position.topic, error=error)


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
