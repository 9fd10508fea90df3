"""EDGE. `driftline verify`: walks raw, blocks, valid topic, dead letters and lake, partition by partition, through the checker.

What is read first bounds what is compared: the lake's and the validator's positions, then the ends of what was written
for them, then the end of the raw log. So a running pipeline can be verified; what came later counts as lag.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from batch import table as lake
from batch.checker import (
    BlockRange,
    CounterExample,
    DeadRecord,
    History,
    RawRecord,
    Verdict,
    check,
    check_commits,
    total,
)
from pipeline import contract_file, kafka, topics
from pipeline.blocks import decode, from_headers
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT, Contract
from pipeline.errors import Fatal, Unreachable, UsageError
from pipeline.kafka import headers_of
from pipeline.lateness import late_mask
from pipeline.settings import Settings
from pipeline.times import ms
from stream_processors.dead_letters import from_headers as letter_of

T = TypeVar("T")

READ_TIMEOUT_S = 60.0  # without a record: the broker is away
LAKE_ROWS = 2_000_000  # raw offsets of the lake held in memory at once
POLL_S = 0.25


class Verify:
    summary = (
        "Prove raw = valid + dead and valid = lake from the records themselves; exit 1 with the first counter-example."
    )

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object")
        parser.add_argument(
            "--wait",
            type=float,
            default=0.0,
            metavar="S",
            help="wait so long until everything is consumed and in the lake; fail if it is not",
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        kafka.reach(settings, deadline_s=30)
        undrained = _wait(settings, contract, args.wait) if args.wait else ""
        report = verify(settings, contract)
        report["ok"] = bool(report["ok"]) and (not args.wait or bool(report["drained"]))
        print(json.dumps(report) if args.json else _text(report, undrained))
        return 0 if report["ok"] else 1


def verify(settings: Settings, contract: Contract) -> dict[str, object]:
    """The report of `verify --json`: counts, coordinates, `ok`, one entry a partition."""
    reader = _Reader(settings, contract)
    verdicts = {p: check(reader.history(p)) for p in reader.partitions}
    whole = total(verdicts.values())
    for example in _commit_faults(settings, contract):
        whole.report(example)
    markers = _replayed(settings, topics.events(contract.id))
    drained = whole.lag == 0 and all(reader.lake_end.get(p, 0) >= reader.committed.get(p, 0) for p in reader.partitions)
    return {
        **{
            k: getattr(whole, k)
            for k in ("produced", "replayed", "consumed", "valid", "dead", "quarantined", "late", "lake")
        },
        "open_dead": max(0, whole.dead - len(markers)),
        "missing": whole.missing,
        "duplicated": whole.duplicated,
        "missing_total": whole.missing_total,
        "duplicated_total": whole.duplicated_total,
        "ok": whole.ok,
        "lag": whole.lag,
        "drained": drained,
        "first": whole.found[0].message if whole.found else None,
        "found": [asdict(e) for e in whole.found],
        "partitions": {str(p): _partition(v, reader.lake_end.get(p, 0)) for p, v in sorted(verdicts.items())},
    }


class _Reader:
    """Bounds of every log, fixed once; streams of each partition, in bounded memory."""

    def __init__(self, settings: Settings, contract: Contract):
        self._settings, self._contract, self._dataset = settings, contract, contract.id
        self._version, self.lake_end = _lake_position(settings, contract.id)
        probe = kafka.consumer(settings, topics.group(contract.id, "validate"))
        try:
            raw = topics.events(contract.id)
            self.partitions = kafka.partitions(probe, raw)
            found = kafka.committed(probe, raw, self.partitions)
            self.committed = {p: tp.offset for p, tp in found.items() if tp.offset >= 0}
            self._bounds = {
                t: _bounds(probe, t)
                for t in (topics.valid(contract.id), topics.dead_letters(contract.id), topics.blocks(contract.id), raw)
            }
        except KafkaException as error:
            raise Unreachable(f"Kafka at {settings.bootstrap}: {error}") from error
        finally:
            probe.close()

    def history(self, partition: int) -> History:
        raw, valid = topics.events(self._dataset), topics.valid(self._dataset)
        low, _ = self._bounds[raw].get(partition, (0, 0))
        whole = low == 0 and self._bounds[valid].get(partition, (0, 0))[0] == 0
        return History(
            name=f"{raw}/{partition}",
            raw=self._stream(raw, partition, _raw),
            blocks=self._stream(topics.blocks(self._dataset), partition, self._block),
            dead=self._stream(topics.dead_letters(self._dataset), partition, _dead),
            # Valid records carry no coordinate: with the log's head gone there is nothing to count their places from.
            valid=self._stream(valid, partition, _digest) if self._contract.valid_topic and whole else None,
            lake=self._lake(partition),
            committed=self.committed.get(partition),
            lake_end=self.lake_end.get(partition),
            start=low,
        )

    def behind(self) -> str:
        """Who has not reached the end of what is there, in words; empty when nobody."""
        ends = {p: high for p, (_, high) in self._bounds[topics.events(self._dataset)].items() if high > 0}
        validator = [
            f"{p}: {self.committed.get(p, 0)} of {end}" for p, end in ends.items() if self.committed.get(p, 0) < end
        ]
        table = [f"{p}: {self.lake_end.get(p, 0)} of {end}" for p, end in ends.items() if self.lake_end.get(p, 0) < end]
        return "; ".join(
            f"{who} at {', '.join(where)}" for who, where in (("validator", validator), ("lake", table)) if where
        )

    def _stream(self, topic: str, partition: int, turn: Callable[[Message], T]) -> Iterator[T]:
        return map(turn, _records(self._settings, topic, partition, self._bounds[topic].get(partition, (0, 0))))

    def _block(self, message: Message) -> BlockRange:
        header = from_headers(headers_of(message))
        rows = decode(message.value())
        valid = rows.filter(pa.compute.is_null(rows.column(REJECT)))
        times = valid.column(self._contract.time.field).cast(pa.int64()).to_numpy(zero_copy_only=False)
        late = late_mask(times, header.watermark, ms(self._contract.time.lateness)) if len(times) else np.zeros(0, bool)
        return BlockRange(header.start, header.end, tuple(valid.column(RAW_OFFSET).to_pylist()), int(late.sum()))

    def _lake(self, partition: int) -> Iterator[int]:
        if self._version is None:
            return
        frame = (
            lake.scan(self._settings, self._dataset, version=self._version)
            .filter(pl.col(RAW_PARTITION) == partition)
            .select(RAW_OFFSET)
        )
        newest = frame.max().collect()[RAW_OFFSET][0]
        for low in range(0, (newest if newest is not None else -1) + 1, LAKE_ROWS):
            inside = (pl.col(RAW_OFFSET) >= low) & (pl.col(RAW_OFFSET) < low + LAKE_ROWS)
            yield from frame.filter(inside).sort(RAW_OFFSET).collect()[RAW_OFFSET].to_list()


def _lake_position(settings: Settings, dataset: str) -> tuple[int | None, dict[int, int]]:
    if not lake.exists(settings, dataset):
        return None, {}
    newest = lake.versions(settings, dataset, limit=1)[0].version
    return newest, {p: end for p, (_, end) in lake.positions(settings, dataset, version=newest).items()}


def _bounds(probe: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    try:
        return kafka.bounds(probe, topic)
    except (Unreachable, KeyError) as error:
        raise UsageError(f"topic {topic} is not there; `driftline topics create` makes it ({error})") from error


def _records(settings: Settings, topic: str, partition: int, bounds: tuple[int, int]) -> Iterator[Message]:
    """Every committed record of a partition below the bound."""
    low, high = bounds
    if high <= low:
        return
    reader = kafka.consumer(
        settings,
        f"verify-{os.getpid()}",
        **{"enable.partition.eof": True, "queued.max.messages.kbytes": 16 * 1024, "fetch.wait.max.ms": 20},
    )
    try:
        reader.assign([TopicPartition(topic, partition, low)])
        heard = time.monotonic()
        while True:
            for message in reader.consume(2000, 0.2):
                error, heard = message.error(), time.monotonic()
                if error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                    raise Fatal(f"reading {topic}[{partition}]: {error.str()}")
                if int(message.offset() or 0) >= high or (
                    error is not None and error.code() == KafkaError._PARTITION_EOF
                ):
                    return
                if error is None:
                    yield message
            if time.monotonic() - heard > READ_TIMEOUT_S:
                raise Unreachable(
                    f"reading {topic}[{partition}]: nothing for {READ_TIMEOUT_S:.0f} s, its end {high} was not reached"
                )
    finally:
        reader.close()


def _digest(message: Message) -> bytes:
    return hashlib.sha256((message.key() or b"") + (message.value() or b"")).digest()


def _raw(message: Message) -> RawRecord:
    headers = message.headers()
    return RawRecord(
        int(message.offset() or 0),
        _digest(message),
        bool(headers) and any(k == "driftline.replay-of" for k, _ in headers),
    )


def _dead(message: Message) -> DeadRecord:
    letter = letter_of(headers_of(message))
    return DeadRecord(letter.offset, bytes.fromhex(letter.sha256), letter.rule == "quarantined")


def _replayed(settings: Settings, raw: str) -> set[str]:
    """Coordinates of dead letters of this dataset that were replayed."""
    try:
        return {
            k.decode()
            for m in kafka.read_all(settings, topics.REPLAYED)
            if (k := m.key()) and k.startswith(f"{raw}/".encode())
        }
    except (Unreachable, KeyError):
        return set()


def _commit_faults(settings: Settings, contract: Contract) -> list[CounterExample]:
    if not lake.exists(settings, contract.id):
        return []
    commits = [
        json.loads(v.metadata["ranges"])
        for v in reversed(lake.versions(settings, contract.id))
        if "ranges" in v.metadata and v.operation == "WRITE"
    ]
    return check_commits(topics.events(contract.id), commits)


def _wait(settings: Settings, contract: Contract, seconds: float) -> str:
    """Wait until the validator is at the end and the lake where the validator is; what is behind past the deadline."""
    until = time.monotonic() + seconds
    while True:
        reader = _Reader(settings, contract)
        behind = reader.behind()
        if not behind or time.monotonic() > until:
            return behind
        time.sleep(POLL_S)


def _partition(v: Verdict, lake_end: int) -> dict[str, int | bool]:
    counts = {
        k: getattr(v, k)
        for k in ("produced", "replayed", "consumed", "valid", "dead", "quarantined", "late", "lake", "lag")
    }
    return {
        "start": v.start,
        "end": v.end,
        "lake_end": lake_end,
        **counts,
        "missing": v.missing_total,
        "duplicated": v.duplicated_total,
        "ok": v.ok,
    }


def _text(report: dict[str, object], undrained: str) -> str:
    lines = [
        "{consumed} consumed = {valid} valid + {dead} dead   lake {lake}   missing {missing_total}   duplicated {duplicated_total}   late {late}   lag {lag}".format(
            **report
        )
    ]
    if undrained and not report["drained"]:
        lines.append(f"not drained: {undrained}")
    if report["first"]:
        lines.append(f"first counter-example: {report['first']}")
    return "\n".join([*lines, "ok" if report["ok"] else "NOT OK"])
