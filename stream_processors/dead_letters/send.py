"""EDGE. Replays: raw records and their markers in one Kafka transaction, then the wait for what the validator makes of them.

Whoever opens the dataset's transactional id fences a former replayer, and reads the markers after that. So two at once
cannot replay one coordinate twice, and a crash leaves a record and its marker both or neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline import blocks, kafka, topics
from pipeline.contract import RAW_OFFSET, REJECT
from pipeline.errors import CheckFailed, Fatal, Unreachable
from pipeline.logs import log
from pipeline.retry import until_success
from pipeline.settings import Settings
from pipeline.times import to_text
from stream_processors.dead_letters.letter import BadDeadLetter, DeadLetter, from_headers
from stream_processors.dead_letters.replay import Run, Step, marker_of

RECORDS = 500  # a transaction
SEND_S = 60.0  # for one transaction; the broker aborts it after that
Place = tuple[int, int]  # raw partition, offset


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a replayed record: `landed` in a block as a valid row, `failed` again, or not known in time."""

    step: Step
    at: str  # the replayed record's own coordinate
    result: Literal["landed", "failed", "unknown"]
    letter: DeadLetter | None = None  # of the new failure


class Replayer:
    """Owns the right to replay a dataset, from `open` until another one opens it."""

    def __init__(self, settings: Settings, dataset: str):
        self._settings, self._dataset = settings, dataset
        self._id = topics.group(dataset, "replay")
        self._producer: Producer | None = None

    def open(self) -> None:
        timeout = {"transaction.timeout.ms": int(SEND_S * 1000)}
        producer = kafka.producer(self._settings, self._id, transactional_id=self._id, **timeout)
        until_success(
            lambda: producer.init_transactions(10),
            what=f"init_transactions of {self._id}",
            errors=(KafkaException,),
            sleep=time.sleep,
            deadline_s=SEND_S,
        )
        self._producer = producer

    def send(self, run: Run, steps: Sequence[Step]) -> dict[Place, Step]:
        """Replay the steps, in transactions of 500; where each record now lies."""
        placed: dict[Place, Step] = {}
        for at in range(0, len(steps), RECORDS):
            chunk = steps[at : at + RECORDS]
            try:
                placed |= self._transaction(run, chunk)
            except KafkaException as error:
                raise _explained(error, len(placed), len(steps)) from error
            log("dead_letters_replayed", run=run.id, dataset=run.dataset, actor=run.actor, records=len(chunk), filter=dict(run.choice), repair_sha256=run.repair_sha256, first=chunk[0].letter.coordinate, last=chunk[-1].letter.coordinate)  # fmt: skip
        return placed

    def _transaction(self, run: Run, chunk: Sequence[Step]) -> dict[Place, Step]:
        # 1. begin  2. record and marker of each  3. the audit  4. commit
        # A crash before 4 is through leaves nothing of it; after it the markers keep the same records from a second time.
        assert self._producer is not None
        producer, placed, now = self._producer, dict[Place, Step](), to_text(time.time_ns() // 1_000_000)

        def delivered(planned: Step) -> Callable[[KafkaError | None, Message], None]:
            def note(error: KafkaError | None, message: Message) -> None:
                if error is None:
                    placed[int(message.partition() or 0), int(message.offset() or 0)] = planned

            return note

        producer.begin_transaction()
        for planned in chunk:
            producer.produce(
                topics.events(self._dataset),
                planned.value,
                planned.key,
                planned.letter.partition,
                headers=list(planned.headers),
                on_delivery=delivered(planned),
            )
            marker = marker_of(planned, run.id, run.actor, now)
            producer.produce(topics.REPLAYED, marker.to_bytes(), marker.coordinate.encode(), 0)
        audit = run.audit(now, len(chunk), chunk[0].letter.coordinate, chunk[-1].letter.coordinate)
        producer.produce(topics.REQUESTS, audit, self._dataset.encode())
        _commit(producer)
        return placed


def _commit(producer: Producer) -> None:
    until = time.monotonic() + SEND_S
    while True:
        try:
            return producer.commit_transaction(max(1.0, until - time.monotonic()))
        except KafkaException as error:
            if kafka.decide(error) != "retry" or time.monotonic() > until:
                raise
            time.sleep(0.1)


def _explained(error: KafkaException, done: int, of: int) -> Exception:
    said = f"{error.args[0].name()}: {error.args[0].str()}; {done} of {of} were replayed before and stand"
    if error.args[0].code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return CheckFailed(f"another replay of this dataset took over: {said}")
    return Unreachable(f"{said}. Run it again: what has a marker is skipped")


def ends(settings: Settings, dataset: str) -> dict[str, dict[int, int]]:
    """Ends of the topics in which outcomes will appear; ask before sending."""
    client = kafka.consumer(settings, f"read-{time.time_ns():x}")
    try:
        wanted = (topics.blocks(dataset), topics.dead_letters(dataset))
        return {t: {p: high for p, (_, high) in kafka.bounds(client, t).items()} for t in wanted}
    finally:
        client.close()


def outcomes(
    settings: Settings,
    dataset: str,
    placed: Mapping[Place, Step],
    since: Mapping[str, Mapping[int, int]],
    wait_s: float,
) -> list[Outcome]:
    """What the validator made of each record, from its own blocks and dead letters; waits until all is known or `wait_s`."""
    landed, failed = set[Place](), dict[Place, DeadLetter]()
    until = time.monotonic() + wait_s
    client = kafka.consumer(settings, f"read-{time.time_ns():x}", reset="error")
    try:
        numbers = {p for p, _ in placed}
        client.assign([TopicPartition(t, p, ends[p]) for t, ends in since.items() for p in sorted(numbers)])
        while placed.keys() - landed - failed.keys() and time.monotonic() < until:
            for message in _messages(client):
                if message.topic() == topics.dead_letters(dataset):
                    failed |= {place: letter for place, letter in _letter(message) if place in placed}
                else:
                    landed.update(place for place in _valid_rows(message) if place in placed)
    finally:
        client.close()
    raw = topics.events(dataset)
    return [
        Outcome(
            planned,
            f"{raw}/{place[0]}/{place[1]}",
            "landed" if place in landed else "failed" if place in failed else "unknown",
            failed.get(place),
        )
        for place, planned in placed.items()
    ]


def _messages(client: Consumer) -> Iterator[Message]:
    for message in client.consume(500, 0.2):
        error = message.error()
        if error is None:
            yield message
        elif not error.retriable():
            raise Fatal(f"reading {message.topic()}[{message.partition()}]: {error.str()}")


def _letter(message: Message) -> Iterable[tuple[Place, DeadLetter]]:
    try:
        letter = from_headers(kafka.headers_of(message))
    except BadDeadLetter:
        return []
    return [((letter.partition, letter.offset), letter)]


def _valid_rows(message: Message) -> Iterator[Place]:
    header = blocks.from_headers(kafka.headers_of(message))
    rows = blocks.decode(message.value() or b"")
    for offset, reject in zip(rows.column(RAW_OFFSET).to_pylist(), rows.column(REJECT).to_pylist(), strict=True):
        if reject is None:
            yield header.partition, offset
