"""PURE. The block codec: a record batch of decoded rows with its coordinates, as one Kafka message.

A block covers raw offsets [start, end) of one partition without a gap to its neighbours, and holds every row of that
range that could be decoded, rejected ones included (`reject` = code). A range without a decoded row is a block of no rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from pipeline.contract import REJECT
from pipeline.times import to_ms, to_text
from pipeline.topics import BLOCK_LIMIT

VALID = "valid"  # the key of the valid rows in `counts`; every other key is a reject code
_ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")
FIRST_CUT_ROWS = 8_000  # sales rows: 378 KB at most in zstd, measured


class BadBlock(ValueError):
    """A message on a blocks topic that is not a block: headers or body are broken."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    topic: str  # of the raw records
    partition: int
    start: int  # raw offsets [start, end)
    end: int
    counts: Mapping[str, int]  # by outcome: VALID and each reject code, undecodable records included
    min_event_time: int | None  # ms, over the valid rows
    max_event_time: int | None
    watermark: int | None  # ms, maximum event time over the partition's valid rows before `start`
    contract: str  # sales@1.0.0

    @property
    def coordinate(self) -> str:
        return f"{self.topic}/{self.partition}/{self.start}"


@dataclass(frozen=True, slots=True)
class Block:
    header: BlockHeader
    rows: pa.RecordBatch

    @property
    def valid(self) -> pa.RecordBatch:
        """The rows whose `reject` is null."""
        return self.rows.filter(pa.compute.is_null(self.rows.column(REJECT)))


def to_headers(header: BlockHeader) -> list[tuple[str, bytes]]:
    time = lambda ms: "" if ms is None else to_text(ms)  # noqa: E731
    pairs = {
        "source-topic": header.topic,
        "source-partition": str(header.partition),
        "start": str(header.start),
        "end": str(header.end),
        "counts": json.dumps(dict(sorted(header.counts.items())), separators=(",", ":")),
        "min-event-time": time(header.min_event_time),
        "max-event-time": time(header.max_event_time),
        "watermark": time(header.watermark),
        "contract": header.contract,
    }
    return [(f"driftline.{k}", v.encode()) for k, v in pairs.items()]


def from_headers(pairs: Iterable[tuple[str, bytes]]) -> BlockHeader:
    """The header again; BadBlock names the header that is missing or malformed."""
    found = {k.removeprefix("driftline."): v for k, v in pairs if k.startswith("driftline.")}

    def text(name: str) -> str:
        try:
            return found[name].decode()
        except (KeyError, UnicodeDecodeError) as error:
            raise BadBlock(f"block header driftline.{name}: expected UTF-8 text, got {error!r}") from error

    time = lambda name: to_ms(text(name)) if text(name) else None  # noqa: E731
    try:
        return BlockHeader(
            text("source-topic"),
            int(text("source-partition")),
            int(text("start")),
            int(text("end")),
            msgspec.json.decode(text("counts"), type=dict[str, int]),
            time("min-event-time"),
            time("max-event-time"),
            time("watermark"),
            text("contract"),
        )
    except ValueError as error:
        raise BadBlock(f"block headers {sorted(found)}: {error}") from error


def encode(rows: pa.RecordBatch) -> bytes:
    """One record batch as an Arrow IPC stream in zstd."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=_ZSTD) as writer:
        writer.write_batch(rows)
    return sink.getvalue().to_pybytes()


def decode(value: bytes | None) -> pa.RecordBatch:
    """The record batch of a block's body; BadBlock if it is not exactly one."""
    try:
        with pa.ipc.open_stream(value or b"") as reader:
            batches = list(reader)
        if len(batches) != 1:
            raise BadBlock(f"block body: expected one record batch, got {len(batches)}")
        batches[0].validate(full=True)  # 0.2 ms for 8,000 rows; without it a broken offset is read as it stands
        return batches[0]
    except (pa.ArrowException, OSError, OverflowError) as error:  # `invalid`, and also `not implemented`, `no such key`
        raise BadBlock(f"block body: expected an Arrow IPC stream, got {error}") from error


def cut(
    rows: pa.RecordBatch, limit: int = BLOCK_LIMIT, first: int = FIRST_CUT_ROWS
) -> Iterator[tuple[int, int, bytes]]:
    """(from row, to row, body) pieces that are each at most `limit` bytes, halved until they fit. A batch of no rows is one piece."""
    if rows.num_rows == 0:
        yield 0, 0, encode(rows)
        return
    stack = [(i, min(i + first, rows.num_rows)) for i in reversed(range(0, rows.num_rows, first))]
    while stack:
        lo, hi = stack.pop()
        body = encode(rows.slice(lo, hi - lo))
        if len(body) <= limit or hi - lo == 1:
            yield lo, hi, body
        else:
            middle = (lo + hi) // 2
            stack += [(middle, hi), (lo, middle)]
