"""EDGE. An independent look at what a campaign left: plain clients, the table's log and files read by hand, no code of the checker.

Three claims, by partition: every raw record is valid or dead, once and in its order, and the lake has exactly the valid ones;
every dead letter is of the record that it names; what stands in the raw topic is what the producers' seeds say, of each
producer's run a beginning, nothing twice and nothing missing within.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

T = TypeVar("T")
READ_S = 60.0


@dataclass
class Found:
    raw: int = 0
    valid: int = 0
    dead: int = 0
    lake: int = 0
    lost: int = 0
    duplicated: int = 0
    altered: int = 0  # dead letters of another record than they name, valid records out of their order
    examples: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(text)


def look(bootstrap: str, dataset: str, table: Path) -> tuple[Found, dict[int, list[bytes]]]:
    """Read everything once; also the digests of the raw records, by partition. Memory is 0.2 KB a record."""
    found, lake = Found(), coordinates(table)
    raw = _by_partition(bootstrap, f"{dataset}.events", lambda m: (int(m.offset() or 0), digest(m)))
    valid = _by_partition(bootstrap, f"{dataset}.valid", digest)
    dead = _by_partition(bootstrap, f"{dataset}.dead-letters", _dead)
    for p in sorted({*raw, *valid, *dead, *lake}):
        compare(found, p, raw.get(p, []), valid.get(p, []), dead.get(p, []), lake.get(p, np.empty(0, np.int64)))
    return found, {p: [one for _, one in records] for p, records in raw.items()}


def compare(
    found: Found,
    partition: int,
    raw: Sequence[tuple[int, bytes]],
    valid: Sequence[bytes],
    dead: Sequence[tuple[int, bytes]],
    lake: np.ndarray,
) -> None:
    """One partition's records into the counts."""
    by_offset, gone = dict(raw), Counter(offset for offset, _ in dead)
    wanted = [(offset, one) for offset, one in raw if offset not in gone]
    found.raw, found.valid = found.raw + len(raw), found.valid + len(valid)
    found.dead, found.lake = found.dead + len(dead), found.lake + len(lake)
    for offset, one in dead:
        if by_offset.get(offset) != one:
            found.altered += 1
            found.say(f"{partition}/{offset}: the dead letter is of other bytes than the raw record")
    _twice(found, gone, f"{partition}: dead letters")
    if [one for _, one in wanted] != list(valid):
        missing, surplus = Counter(one for _, one in wanted), Counter(valid)
        lost, twice = missing - surplus, surplus - missing
        found.lost, found.duplicated = found.lost + lost.total(), found.duplicated + twice.total()
        found.altered += not lost and not twice
        first = next((o for (o, one), have in zip(wanted, valid, strict=False) if one != have), "the end")
        found.say(f"{partition}/{first}: the valid topic and the raw records part; {lost.total()} lost, {twice.total()} too many")  # fmt: skip
    here = Counter(lake.tolist())
    _twice(found, here, f"{partition}: lake rows")
    lost_rows, strangers = {o for o, _ in wanted} - here.keys(), here.keys() - {o for o, _ in wanted}
    found.lost, found.duplicated = found.lost + len(lost_rows), found.duplicated + len(strangers)
    if lost_rows or strangers:
        found.say(f"{partition}: {len(lost_rows)} valid records are not in the lake, first {min(lost_rows, default=None)}; {len(strangers)} rows too many, first {min(strangers, default=None)}")  # fmt: skip


def _twice(found: Found, seen: Counter[int], what: str) -> None:
    surplus = seen.total() - len(seen)
    if surplus:
        found.duplicated += surplus
        found.say(f"{what}: {surplus} too many, first at {min(o for o, n in seen.items() if n > 1)}")


def unlike_sent(
    raw: Mapping[int, Sequence[bytes]], runs: Sequence[Iterable[tuple[bytes, bytes | None]]], of: int
) -> list[str]:
    """Partitions of the raw topic that are not a beginning of each producer's run, one run behind the other, in words."""
    at = dict.fromkeys(range(of), 0)
    for run in runs:
        open_ = set(at)
        for key, value in run:
            p = partition_of(key, of)
            if p not in open_:
                continue
            if at[p] < len(raw.get(p, ())) and raw[p][at[p]] == hashlib.sha256(key + (value or b"")).digest():
                at[p] += 1
                continue
            open_.discard(p)  # this run got so far in this partition, and no further
            if not open_:
                break
    return [f"partition {p}: record {at[p]} of {len(raw.get(p, ()))} is none that a producer was to send there next" for p in at if at[p] < len(raw.get(p, ()))]  # fmt: skip


def _by_partition(bootstrap: str, topic: str, turn: Callable[[Message], T]) -> dict[int, list[T]]:
    """What each committed record of a topic gives, up to the ends that its partitions have now."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "plain-look",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        numbers = list(client.list_topics(topic, timeout=10).topics[topic].partitions)
        client.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in numbers])
        found: dict[int, list[T]] = {p: [] for p in numbers}
        open_, until = set(numbers), time.monotonic() + READ_S
        while open_:
            for message in client.consume(5000, 0.2):
                until = time.monotonic() + READ_S
                if message.error() is None:
                    found[int(message.partition() or 0)].append(turn(message))
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_.discard(message.partition())
                else:
                    raise AssertionError(f"{topic}: {message.error()}")
            assert time.monotonic() < until, f"{topic}: nothing for {READ_S:.0f} s"
        return found
    finally:
        client.close()


def coordinates(table: Path) -> dict[int, np.ndarray]:
    """Raw offsets of the table's rows by partition: the files that its log's entries leave, read one by one."""
    live: dict[str, None] = {}
    for entry in sorted((table / "_delta_log").glob("*.json")):
        for line in entry.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                live[unquote(action["add"]["path"])] = None
            elif "remove" in action:
                live.pop(unquote(action["remove"]["path"]), None)
    rows = [pq.ParquetFile(table / path).read(["raw_partition", "raw_offset"]) for path in live]
    where = np.concatenate([r["raw_partition"].to_numpy() for r in rows]) if rows else np.empty(0, np.int32)
    offsets = np.concatenate([r["raw_offset"].to_numpy() for r in rows]) if rows else np.empty(0, np.int64)
    return {int(p): offsets[where == p] for p in np.unique(where)}


def digest(message: Message) -> bytes:
    return hashlib.sha256((message.key() or b"") + (message.value() or b"")).digest()


def _dead(message: Message) -> tuple[int, bytes]:
    """The coordinate that the letter names, and the digest of what it holds; a letter that was cut says it in a header."""
    headers = {k: v or b"" for k, v in message.headers() or []}
    whole = (
        digest(message) if "driftline.truncated" not in headers else bytes.fromhex(headers["driftline.sha256"].decode())
    )
    return int(headers["__connect.errors.offset"]), whole


@cache
def partition_of(key: bytes, of: int) -> int:
    """Where Kafka's own partitioner puts the key: murmur2, the sign bit cleared, modulo the number of partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % of


def murmur2(data: bytes) -> int:
    """As Kafka's Java clients compute it (org.apache.kafka.common.utils.Utils).

    >>> murmur2(b"21") - 2**32, murmur2(b"foobar") - 2**32, murmur2(b"a-little-bit-long-string") - 2**32
    (-973932308, -790332482, -985981536)
    """
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = ((k ^ (k >> 24)) * m) & mask
        h = (h * m & mask) ^ k
    if rest := data[whole:]:
        h = ((h ^ int.from_bytes(rest, "little")) * m) & mask
    h = ((h ^ (h >> 13)) * m) & mask
    return h ^ (h >> 15)
