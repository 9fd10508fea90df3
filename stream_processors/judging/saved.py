"""PURE. The judge's state as it stands in `drift.state`: one record for the run, one for each closed window.

The run's record may be larger than a message should be, so it is compressed and cut into parts; all parts of one state
are written in one transaction and carry its sequence number.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from pipeline.topics import BLOCK_LIMIT
from stream_processors.judging.closed import Finding, Record

FORM = "b"  # of these records; another form has other keys, so a process that knows it not judges the partials again


class SavedSlice(msgspec.Struct, frozen=True, array_like=True):
    start: int
    walked: tuple[tuple[int, int], ...]
    peaks: tuple[tuple[str, str, Finding], ...]


class SavedProgress(msgspec.Struct, frozen=True, array_like=True):
    """As `judge.Progress`."""

    partition: int
    generation: int
    next: int
    block: int
    maximum: int | None
    late_before: int | None


class Saved(msgspec.Struct, frozen=True, array_like=True):
    sequence: int  # counts the transactions of this shard's judge
    generation: int
    applied: int  # partials before this offset are in it
    resume: int  # the first partial that an open pane needs
    partitions: tuple[SavedProgress, ...]
    at: int | None
    stepped: tuple[int, ...]
    watched: bytes
    closed: int | None
    slices: tuple[SavedSlice, ...]
    episode: bytes
    history: bytes = b""  # onset.History.to_bytes


class Part(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    number: int
    of: int
    body: bytes


_encode = msgspec.msgpack.Encoder().encode


def run_key(dataset: str, shard: int, part: int) -> str:
    return f"{dataset}/{shard}/{FORM}/{part}"


def window_key(dataset: str, shard: int, window: int) -> str:
    return f"{dataset}/{shard}/{FORM}/window/{window}"


def to_messages(
    dataset: str, shard: int, saved: Saved, records: Mapping[int, Record | None], limit: int = BLOCK_LIMIT
) -> list[tuple[str, bytes | None]]:
    """(key, value) of every record to write; None deletes."""
    body = zlib.compress(_encode(saved), 1)
    pieces = [body[i : i + limit] for i in range(0, len(body), limit)]
    run = [
        (run_key(dataset, shard, i), _encode(Part(saved.sequence, i, len(pieces), piece)))
        for i, piece in enumerate(pieces)
    ]
    windows = [
        (window_key(dataset, shard, w), None if r is None else zlib.compress(_encode(r), 1))
        for w, r in sorted(records.items())
    ]
    return [*run, *windows]


def from_messages(dataset: str, shard: int, latest: Mapping[str, bytes | None]) -> tuple[Saved | None, list[Record]]:
    """The newest value of every key -> the state, None if there is none; ValueError if parts do not fit together."""
    prefix = window_key(dataset, shard, 0)[:-1]
    records = [
        msgspec.msgpack.decode(zlib.decompress(v), type=Record)
        for k, v in sorted(latest.items())
        if k.startswith(prefix) and v is not None
    ]
    first = latest.get(run_key(dataset, shard, 0))
    if first is None:
        return None, records
    count = msgspec.msgpack.decode(first, type=Part).of
    values = [latest.get(run_key(dataset, shard, i)) for i in range(count)]
    parts = [msgspec.msgpack.decode(v, type=Part) for v in values if v is not None]
    if len(parts) != count or len({p.sequence for p in parts}) != 1:
        raise ValueError(
            f"state of {dataset}/{shard}: expected {count} parts of one sequence, got {[(p.number, p.sequence) for p in parts]}"
        )
    return msgspec.msgpack.decode(zlib.decompress(b"".join(p.body for p in parts)), type=Saved), records
