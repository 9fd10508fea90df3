"""EDGE. The logs of a dataset as the checker wants them: bounds fixed once, then streams in bounded memory.

What is read first bounds what is compared: the lake's and the validator's positions, then the ends of what was written
for them, then the replay markers, then the end of the raw log. So a running pipeline can be verified; what came later
counts as lag.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from batch import table as lake
from batch.history import BlockRange, DeadRecord, History, Marked, Markers, RawRecord, Replay
from batch.revisions import Said
from pipeline import bad_batches, kafka, topics
from pipeline.blocks import decode, from_headers
from pipeline.contract import RAW_OFFSET, RAW_PARTITION, REJECT, Contract
from pipeline.errors import CheckFailed, Fatal, Unreachable, UsageError
from pipeline.kafka import headers_of
from pipeline.lateness import late_mask
from pipeline.settings import Settings
from pipeline.times import ms
from stream_processors.dead_letters.letter import from_headers as letter_of
from stream_processors.dead_letters.replay import marker_from
from stream_processors.drift.read_verbs import read as read_json

T = TypeVar("T")
Progress = Callable[[int], None]

READ_TIMEOUT_S = 60.0  # without a record: the broker is away
MARKERS_S = 600.0
SETTLE_S = 30.0  # a commit reaches the topics it touched one after the other; the broker ends a dead one's after 20 s
LAKE_ROWS = 100_000  # raw offsets of the lake held in memory at once
# Four streams are read at once. librdkafka's own 64 MiB and 100,000 messages each, decompressed, are 0.6 GB (measured).
BUFFER = {"queued.max.messages.kbytes": 4 * 1024, "queued.min.messages": 5_000, "fetch.message.max.bytes": 512 * 1024}
RECORDS_AT_ONCE, BLOCKS_AT_ONCE = 500, 2
TELL_EVERY = 5_000  # records between two words to the progress bar
QUARANTINED = ("quarantined", "batch_undecodable")
_REPLAY_OF, _ATTEMPT = "driftline.replay-of", "driftline.attempt"


class Reader:
    """Bounds of every log, fixed at the start; streams of each partition."""

    def __init__(self, settings: Settings, contract: Contract, progress: Progress = lambda records: None):
        self._settings, self._contract, self._dataset, self._progress = settings, contract, contract.id, progress
        self._version, self.lake_end = _lake_position(settings, contract.id)
        probe = kafka.consumer(settings, topics.group(contract.id, "validate"))
        try:
            raw = topics.events(contract.id)
            self.partitions = kafka.partitions(probe, raw)
            found = kafka.committed(probe, raw, self.partitions)
            self.committed = {p: tp.offset for p, tp in found.items() if tp.offset >= 0}
            self._markers = _bounds(probe, topics.REPLAYED, missing_ok=True).get(0, (0, 0))[1]
            written = (topics.valid(contract.id), topics.dead_letters(contract.id), topics.blocks(contract.id))
            self._bounds = {t: _bounds(probe, t) for t in (*written, raw)}
        except KafkaException as error:
            raise Unreachable(f"Kafka at {settings.bootstrap}: {error}") from error
        finally:
            probe.close()

    @property
    def raw_offsets(self) -> int:
        return sum(high - low for low, high in self._bounds[topics.events(self._dataset)].values())

    def histories(self) -> Iterator[tuple[int, History]]:
        markers = self._read_markers()
        for partition in self.partitions:
            yield partition, self._history(partition, markers.get(partition, Markers()))

    def behind(self) -> str:
        """Who has not reached the end of what is there, in words; empty when nobody."""
        ends = {p: high for p, (_, high) in self._bounds[topics.events(self._dataset)].items() if high > 0}
        validator = [f"{p}: {self.committed.get(p, 0)} of {end}" for p, end in ends.items() if self._unread(p, end)]
        table = [
            f"{p}: {self.lake_end.get(p, 0)} of {end}"
            for p, end in self.committed.items()
            if self.lake_end.get(p, 0) < end
        ]
        return "; ".join(
            f"{who} at {', '.join(where)}" for who, where in (("validator", validator), ("lake", table)) if where
        )

    def said(self) -> Iterator[Said]:
        """The dataset's verdicts as published."""
        if not _there(self._settings, topics.VERDICTS):
            return
        for v in read_json(self._settings, topics.VERDICTS, self._dataset):
            digest = hashlib.sha256(repr(sorted(v.items())).encode()).digest()[:8]
            where = f"{v['window_start']}/{v['feature']}/{v['segment']}"
            yield Said(where, int(str(v["reference_version"])), str(v["contract_version"]), int(str(v["revision"])), bool(v["provisional"]), digest)  # fmt: skip

    def _history(self, partition: int, markers: Markers) -> History:
        raw, valid = topics.events(self._dataset), topics.valid(self._dataset)
        low, _ = self._bounds[raw].get(partition, (0, 0))
        whole = low == 0 and self._bounds[valid].get(partition, (0, 0))[0] == 0
        return History(
            name=f"{raw}/{partition}",
            raw=self._raw(partition),
            blocks=self._stream(topics.blocks(self._dataset), partition, self._block),
            dead=self._stream(topics.dead_letters(self._dataset), partition, _dead),
            # Valid records carry no coordinate: with the log's head gone there is nothing to count their places from.
            valid=self._stream(valid, partition, _digest) if self._contract.valid_topic and whole else None,
            lake=self._lake(partition),
            committed=self.committed.get(partition),
            lake_end=self.lake_end.get(partition),
            start=low,
            markers=markers,
        )

    def _stream(self, topic: str, partition: int, turn: Callable[[Message], T]) -> Iterator[T]:
        # A block is half a megabyte: whatever comes within a wait would be held at once.
        at_once = BLOCKS_AT_ONCE if topic == topics.blocks(self._dataset) else RECORDS_AT_ONCE
        bounds = self._bounds[topic].get(partition, (0, 0))
        return map(turn, _records(self._settings, topic, partition, bounds, at_once=at_once))

    def _raw(self, partition: int) -> Iterator[RawRecord]:
        topic = topics.events(self._dataset)
        own = f"{topic}/{partition}/"
        low, high = self._bounds[topic].get(partition, (0, 0))
        told = at = low
        for message in _records(self._settings, topic, partition, (low, high), self._unreadable):
            if isinstance(message, RawRecord):
                yield message
                continue
            at = int(message.offset() or 0)
            if at - told >= TELL_EVERY:
                self._progress(at - told)
                told = at
            yield RawRecord(at, _digest(message), _replay(message, own))
        self._progress(high - told)

    def _unreadable(self, topic: str, partition: int, at: int) -> Iterator[RawRecord] | None:
        bad = bad_batches.extent(self._settings, topic, partition, at)
        return None if bad is None else (RawRecord(o, None) for o in range(max(at, bad.start), bad.end))

    def _unread(self, partition: int, end: int) -> bool:
        """Whether a record lies between the validator's position and the end; the end of a transaction alone is none."""
        at = max(self.committed.get(partition, 0), self._bounds[topics.events(self._dataset)][partition][0])
        if at >= end:
            return False
        found = _records(self._settings, topics.events(self._dataset), partition, (at, end), lambda *_: iter([0]))
        return next(iter(found), None) is not None

    def _read_markers(self) -> dict[int, Markers]:
        """Markers of this dataset by partition; every replay below the raw log's bound has its marker among them."""
        head, found = f"{topics.events(self._dataset)}/", dict[int, Markers]()
        if not _there(self._settings, topics.REPLAYED):
            return found
        _settle(self._settings)
        for message in kafka.read_all(self._settings, topics.REPLAYED, deadline_s=MARKERS_S):
            marker = marker_from(message.key(), message.value())
            if marker is None or not marker.coordinate.startswith(head) or not marker.replay_of.startswith(head):
                continue
            (partition, offset), (_, first) = (_place(c) for c in (marker.coordinate, marker.replay_of))
            early = int(message.offset() or 0) < self._markers
            found.setdefault(partition, Markers()).add(Marked(offset, Replay(first, marker.attempt), early))
        return found

    def _block(self, message: Message) -> BlockRange:
        header = from_headers(headers_of(message))
        rows = decode(message.value())
        valid = rows.filter(pa.compute.is_null(rows.column(REJECT)))
        # Through polars: pyarrow's own way to numpy imports pandas, 1.2 s.
        times = pl.Series(valid.column(self._contract.time.field).cast(pa.int64())).to_numpy()
        late = late_mask(times, header.watermark, ms(self._contract.time.lateness)) if len(times) else np.zeros(0, bool)
        newest = int(times.max()) if len(times) else None
        offsets = tuple(valid.column(RAW_OFFSET).to_pylist())
        return BlockRange(header.start, header.end, offsets, int(late.sum()), header.watermark, newest)

    def _lake(self, partition: int) -> Iterator[int]:
        if self._version is None:
            return
        try:
            yield from self._lake_rows(self._version, partition)
        except (FileNotFoundError, pl.exceptions.ComputeError) as error:
            where = lake.location(self._settings, self._dataset)
            raise CheckFailed(f"{where}: version {self._version} names a file that cannot be read: {error}") from error

    def _lake_rows(self, version: int, partition: int) -> Iterator[int]:
        frame = (
            lake.scan(self._settings, self._dataset, version=version)
            .filter(pl.col(RAW_PARTITION) == partition)
            .select(RAW_OFFSET)
        )
        newest = frame.max().collect(engine="streaming")[RAW_OFFSET][0]
        for low in range(0, (newest if newest is not None else -1) + 1, LAKE_ROWS):
            inside = (pl.col(RAW_OFFSET) >= low) & (pl.col(RAW_OFFSET) < low + LAKE_ROWS)
            rows = frame.filter(inside).collect(engine="streaming")[RAW_OFFSET].sort().to_numpy()
            for at in range(0, len(rows), TELL_EVERY):
                yield from rows[at : at + TELL_EVERY].tolist()


def _lake_position(settings: Settings, dataset: str) -> tuple[int | None, dict[int, int]]:
    if not lake.exists(settings, dataset):
        return None, {}
    newest = lake.versions(settings, dataset, limit=1)[0].version
    return newest, {p: end for p, (_, end) in lake.positions(settings, dataset, version=newest).items()}


def _bounds(probe: Consumer, topic: str, *, missing_ok: bool = False) -> dict[int, tuple[int, int]]:
    try:
        return kafka.bounds(probe, topic)
    except (Unreachable, KeyError) as error:
        if missing_ok:
            return {}
        raise UsageError(f"topic {topic} is not there; `driftline topics create` makes it ({error})") from error


def _settle(settings: Settings) -> None:
    """Wait until what is committed now can be read: a commit reaches the topics it touched one after the other."""
    open_, settled = (
        kafka.consumer(settings, f"verify-{os.getpid()}", isolation=i) for i in ("read_uncommitted", "read_committed")
    )
    try:
        ends = _bounds(open_, topics.REPLAYED)
        until = time.monotonic() + SETTLE_S
        while _bounds(settled, topics.REPLAYED)[0][1] < ends[0][1]:
            if time.monotonic() > until:
                raise Unreachable(f"{topics.REPLAYED}: a replay's transaction is still open after {SETTLE_S:.0f} s")
            time.sleep(0.1)
    finally:
        open_.close()
        settled.close()


def _there(settings: Settings, topic: str) -> bool:
    """Whether the topic was ever made: one that cannot be read is an error, one that is not there holds nothing."""
    return topic in kafka.reach(settings, deadline_s=30).list_topics(timeout=10).topics


def _records(
    settings: Settings,
    topic: str,
    partition: int,
    bounds: tuple[int, int],
    unreadable: Callable[[str, int, int], Iterator[T] | None] | None = None,
    at_once: int = RECORDS_AT_ONCE,
) -> Iterator[Message | T]:
    """Every committed record of a partition below the bound; in place of a batch that cannot be opened what `unreadable` gives."""
    low, high = bounds
    if high <= low:
        return
    reader = kafka.consumer(
        settings,
        f"verify-{os.getpid()}",
        reset="error",
        **{"enable.partition.eof": True, "fetch.wait.max.ms": 20, **BUFFER},
    )
    try:
        reader.assign([TopicPartition(topic, partition, low)])
        heard, at = time.monotonic(), low
        while True:
            for message in reader.consume(at_once, 0.2):
                error, heard = message.error(), time.monotonic()
                if error is None:
                    if int(message.offset() or 0) >= high:
                        return
                    at = int(message.offset() or 0) + 1
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
                elif unreadable is not None and bad_batches.told(message) is not None:
                    for item in unreadable(topic, partition, at) or ():
                        at += 1
                        yield item
                    if at >= high:
                        return
                    reader.assign([TopicPartition(topic, partition, at)])
                    break
                elif not error.retriable():
                    raise Fatal(f"reading {topic}[{partition}]: {error.str()}")
            if time.monotonic() - heard > READ_TIMEOUT_S:
                raise Unreachable(
                    f"reading {topic}[{partition}]: nothing for {READ_TIMEOUT_S:.0f} s, its end {high} was not reached"
                )
    finally:
        reader.close()


def _digest(message: Message) -> bytes:
    return hashlib.sha256((message.key() or b"") + (message.value() or b"")).digest()


def _replay(message: Message, own: str) -> Replay | None:
    """Which replay the record says it is; None for what is no replay within its own partition."""
    try:
        headers = message.headers()
        if not headers:
            return None
        found = {k: v for k, v in headers if k in (_REPLAY_OF, _ATTEMPT)}
        of = (found.get(_REPLAY_OF) or b"").decode()
        return Replay(int(of.removeprefix(own)), int(found[_ATTEMPT] or b"")) if of.startswith(own) else None
    except (UnicodeDecodeError, ValueError, KeyError):
        return None  # anybody can write a header


def _dead(message: Message) -> DeadRecord:
    letter = letter_of(headers_of(message))
    said, held = bytes.fromhex(letter.sha256), _digest(message)
    whole = letter.truncated is not None or said == held  # what was cut short is known by what it says
    digest = None if letter.batch_end is not None else said if whole else b""
    return DeadRecord(letter.offset, digest, letter.rule in QUARANTINED, letter.batch_end)


def _place(coordinate: str) -> tuple[int, int]:
    _, partition, offset = coordinate.rsplit("/", 2)
    return int(partition), int(offset)
