"""Bugs to plant into a process of ours before it begins: each is a function that changes the code as a careless change would.

Switched on by `planted_child` in a process of the tests, and nowhere else: nothing in the product knows of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow.compute as pc
from confluent_kafka import TopicPartition

from batch import compaction, landing, table, table_log
from pipeline import kafka, topics
from stream_processors.dead_letters import send
from stream_processors.validator import inputs, outputs, positions, transaction, validate, validation
from stream_processors.validator.positions import Position

DIES_IN = 3  # the batch in which a bug ends its process
Anything = Callable[..., Any]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Count:
    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> int:
        self.n += 1
        return self.n


class Sender:
    """A producer whose `produce` is another."""

    def __init__(self, inner: Any, produce: Anything):
        self._inner, self.produce = inner, produce

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# -- the validator -----------------------------------------------------------------------------------------------------


def commit_before_produce() -> None:
    write, batch = validate.Validator._write, Count()

    def bad(self: Any, judged: Any, *rest: Any) -> None:
        ends = [TopicPartition(self._topic, j.consumed.partition, j.consumed.end) for j in judged]
        self._consumer.commit(offsets=ends, asynchronous=False)
        if batch() == DIES_IN:
            die()
        write(self, judged, *rest)

    validate.Validator._write = bad  # type: ignore[method-assign]


def position_as_offset() -> None:
    run = validate.Validator.run

    def bad(self: Any, **more: Any) -> None:
        commit = self._transactions.commit

        def wrong(offsets: Any, group: Any) -> None:
            for tp, at in zip(offsets, self._consumer.position(offsets), strict=True):
                tp.offset = at.offset
            commit(offsets, group)

        self._transactions.commit = wrong
        run(self, **more)

    validate.Validator.run = bad  # type: ignore[method-assign]


def read_uncommitted() -> None:
    consumer = kafka.consumer
    kafka.consumer = lambda *a, **m: consumer(*a, **{**m, "isolation": "read_uncommitted"})  # type: ignore[assignment]


def offsets_outside_the_transaction() -> None:
    def finish(producer: Any, offsets: Any, group: Any) -> float:
        producer.commit_transaction(20)
        return 0.0

    join, batch = validate.Validator._join, Count()

    def bad(self: Any) -> None:
        done = [TopicPartition(self._topic, j.consumed.partition, j.consumed.end) for j, _ in self._in_flight]
        join(self)
        if done and batch() == DIES_IN:
            die()
        if done:
            self._consumer.commit(offsets=done, asynchronous=False)

    transaction._finish = finish
    validate.Validator._join = bad  # type: ignore[method-assign]


def trusts_the_groups_offset() -> None:
    """What makes the former one worse: the second witness is not asked."""
    positions.last_blocks = lambda *a: {}


def commit_before_flush() -> None:
    produce_dead = outputs.Outputs._produce_dead
    produce = outputs.Outputs.produce
    later: list[Any] = []

    def bad(self: Any, producer: Any, *rest: Any) -> None:
        for held in later:
            produce_dead(self, producer, *held)
        later.clear()
        produce(self, producer, *rest)

    outputs.Outputs._produce_dead = lambda self, producer, *rest: later.append(rest)  # type: ignore[assignment,method-assign]
    outputs.Outputs.produce = bad  # type: ignore[method-assign]


def off_by_one_start() -> None:
    find = positions.find

    def bad(*args: Any) -> dict[int, Position]:
        return {p: replace(at, next=at.next + 1) for p, at in find(*args).items()}

    positions.find = bad


def off_by_one_end() -> None:
    validation.Consumed.end = property(lambda self: int(self.offsets[-1]))  # type: ignore[assignment,method-assign]


def duplicate_on_retry_after_an_abort() -> None:
    finish, batch = transaction._finish, Count()
    write, find, last = validate.Validator._write, positions.find, dict[int, Position]()

    def failing(*args: Any) -> float:
        seconds = finish(*args)
        if batch() == DIES_IN:
            raise transaction.GivenUp("planted: the answer to the commit was lost")
        return seconds

    def remembering(self: Any, judged: Any, *rest: Any) -> None:
        last.update({j.consumed.partition: Position(j.consumed.start, j.watermark, None) for j in judged})
        write(self, judged, *rest)

    transaction._finish = failing
    validate.Validator._write = remembering  # type: ignore[method-assign]
    positions.find = lambda *args: dict(last) or find(*args)


def swallow_a_failed_commit() -> None:
    finish, batch = transaction._finish, Count()

    def bad(producer: Any, offsets: Any, group: Any) -> float:
        if batch() != DIES_IN:
            return finish(producer, offsets, group)
        producer.flush(20)  # an abort before the first acknowledgement is an error that the validator would hear of
        producer.abort_transaction(20)
        return 0.0  # the error is logged by nobody

    transaction._finish = bad


def jump_over_lost_records() -> None:
    positions._agreed = lambda topic, p, tp, block, bounds: Position(max(bounds[0], tp.offset), None, None)  # type: ignore[assignment]


def drop_the_last_record_of_a_batch() -> None:
    consumed = inputs.consumed
    inputs.consumed = lambda p, start, run: consumed(p, start, run[:-1] if len(run) > 1 else run)


def block_range_one_short() -> None:
    cut = validation.cut

    def bad(*args: Any) -> Any:
        pieces = cut(*args)
        last = pieces[-1]
        return [*pieces[:-1], replace(last, header=replace(last.header, end=last.header.end - 1))]

    validation.cut = bad


def watermark_of_another_partition() -> None:
    advance = validate.Validator._advance

    def bad(self: Any, *args: Any) -> None:
        advance(self, *args)
        reached = max(p.watermark or 0 for p in self._places.values())
        for place in self._places.values():
            place.watermark = reached

    validate.Validator._advance = bad  # type: ignore[method-assign]


def _producing(change: Callable[[str, Anything], Anything]) -> None:
    """`change(dataset, produce)` is what the validator's outputs call instead of `produce`."""
    produce = outputs.Outputs.produce

    def bad(self: Any, producer: Any, *rest: Any) -> None:
        produce(self, Sender(producer, change(self._contract.id, producer.produce)), *rest)

    outputs.Outputs.produce = bad  # type: ignore[method-assign]


def wrong_partition() -> None:
    def change(dataset: str, produce: Anything) -> Anything:
        def bad(topic: str, value: Any, key: Any, partition: int, **more: Any) -> None:
            produce(topic, value, key, 1 - partition if topic == topics.valid(dataset) else partition, **more)

        return bad

    _producing(change)


def truncated_dead_letter() -> None:
    def change(dataset: str, produce: Anything) -> Anything:
        def bad(topic: str, value: Any, *rest: Any, **more: Any) -> None:
            produce(topic, value[:-1] if topic == topics.dead_letters(dataset) else value, *rest, **more)

        return bad

    _producing(change)


def order_lost_in_a_batch() -> None:
    without = validation.without
    validation.without = lambda items, rejects: list(reversed(list(without(items, rejects))))


# -- replay of dead letters --------------------------------------------------------------------------------------------


def _replaying(leave_out: Callable[[str], bool]) -> None:
    transact = send.Replayer._transaction

    def bad(self: Any, *args: Any) -> Any:
        inner = self._producer

        def produce(topic: str, *rest: Any, **more: Any) -> None:
            if not leave_out(topic):
                inner.produce(topic, *rest, **more)

        self._producer = Sender(inner, produce)
        return transact(self, *args)

    send.Replayer._transaction = bad  # type: ignore[method-assign]


def marker_without_record() -> None:
    _replaying(lambda topic: topic.endswith(".events"))


def record_without_marker() -> None:
    _replaying(lambda topic: topic == topics.REPLAYED)


# -- the compactor -----------------------------------------------------------------------------------------------------


def no_fence() -> None:
    """Redelivered blocks are appended, wherever the table stands."""
    commit = table.Table.commit

    def add(self: Any, message: Any) -> None:
        header = landing.from_headers(landing.headers_of(message))
        rows = landing.Block(header, landing.decode(message.value())).valid
        self._pending.append(compaction.Pending(header, int(message.offset()), rows))

    landing.fit = lambda pending, ends: list(pending)
    landing.EventsLanding.position = lambda self, partition: None  # type: ignore[assignment,method-assign]
    landing.EventsLanding.add = add  # type: ignore[method-assign]
    table.Table.commit = lambda self, rows, expected, *rest: commit(self, rows, {}, *rest)  # type: ignore[method-assign]


def skip_the_tables_version_check() -> None:
    """Another compactor is faster, and the commit goes in behind it all the same."""
    enter, once = table_log.enter, Count()

    def bad(path: Any, version: int, actions: Any) -> None:
        if version == 0:  # the table is made as it should be
            return enter(path, version, actions)
        if once() == 1:
            subprocess.run([sys.executable, "-m", "pipeline.cli", *sys.argv[1:]], check=True)
        while True:
            try:
                return enter(path, version, actions)
            except FileExistsError:
                version += 1

    table_log.enter = bad


def commit_of_the_table_before_its_files() -> None:
    def bad(self: Any, rows: Any, expected: Any, advance: Any, metadata: Any) -> int:
        added = self._write(rows)
        for action in added:
            (self.path / action["add"]["path"]).unlink()
        self._enter(added, [], advance, metadata)
        die()
        return 0

    table.Table.commit = bad  # type: ignore[method-assign]


def lake_commit_without_offsets() -> None:
    commit = table.Table.commit
    table.Table.commit = lambda self, rows, expected, advance, meta: commit(self, rows, expected, {}, meta)  # type: ignore[method-assign]


def last_one_wins() -> None:
    rows = landing.lake_rows

    def bad(*args: Any) -> Any:
        whole = rows(*args)
        kept = pl.from_arrow(whole).unique("order_id", keep="last", maintain_order=True)
        return kept.to_arrow().cast(whole.schema)

    landing.lake_rows = bad


def drop_late_events() -> None:
    rows = landing.lake_rows

    def on_time(pending: Any, time: str) -> Any:
        header = pending.header
        if header.watermark is None:
            return pending
        times = pc.cast(pending.rows.column(time), "int64")
        return replace(pending, rows=pending.rows.filter(pc.greater_equal(times, header.watermark - LATENESS_MS)))

    landing.lake_rows = lambda pending, schema, time, by: rows([on_time(p, time) for p in pending], schema, time, by)


LATENESS_MS = 600_000  # of the sales contract
BUGS: dict[str, Callable[[], None]] = {
    f.__name__.replace("_", " "): f
    for f in (
        commit_before_produce, position_as_offset, read_uncommitted, offsets_outside_the_transaction,
        trusts_the_groups_offset, commit_before_flush, off_by_one_start, off_by_one_end,
        duplicate_on_retry_after_an_abort, swallow_a_failed_commit, jump_over_lost_records,
        drop_the_last_record_of_a_batch, block_range_one_short, watermark_of_another_partition, wrong_partition,
        truncated_dead_letter, order_lost_in_a_batch, marker_without_record, record_without_marker, no_fence,
        skip_the_tables_version_check, commit_of_the_table_before_its_files, lake_commit_without_offsets, last_one_wins,
        drop_late_events,
    )
}  # fmt: skip
