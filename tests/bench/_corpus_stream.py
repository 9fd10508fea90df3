"""The corpus through a real validator on a real broker: each record, and what only a broker's log can hold."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.compute as pc
from confluent_kafka import KafkaException, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from pipeline import kafka, probe, topics
from pipeline.blocks import VALID, decode, from_headers
from pipeline.broker import Broker, free_port
from pipeline.contract import RAW_OFFSET, REJECT
from pipeline.record import CODES
from stream_processors.dead_letters import letter as dead_letters
from stream_processors.validator import validation
from tests.bench._hops import ROOT, Hops
from tests.bench.report import progress
from tests.corpus.cases import Record, good
from tests.validator import segments
from tests.waiting import wait_until

MANY = 100_000  # in one batch; of more, each with its own offset, no codec makes the topic's 1 MiB
PARTITION = 0
_ANY = {
    "message.max.bytes": 1_000_000_000,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 2_000_000,
}


@dataclass
class Streamed:
    """What was sent, and what came of it."""

    expected: dict[int, tuple[str, bytes | None]] = field(default_factory=dict)  # dead raw offset -> rule, value
    names: dict[int, str] = field(default_factory=dict)
    valid: int = 0  # expected
    wrong: list[str] = field(default_factory=list)
    deaths: int = 0
    peak_mb: float = 0.0
    longest_stall_s: float = 0.0
    partial_rows: int = 0
    metric_faults: list[str] = field(default_factory=list)
    series: int = 0


def run(hops: Hops, broker: Broker, records: list[Record]) -> Streamed:
    found = Streamed()
    with _validator(hops, found) as child:
        with _stalls(hops, found):
            _send_records(hops, found, records)
            _settled(hops, found, child, "the records of the corpus")
        _send_transport(hops, found)
        _settled(hops, found, child, "what only a log can hold")
        _spoil(hops, broker, found)
        _settled(hops, found, child, "the broken batches")
        page = probe.text(f"http://127.0.0.1:{hops.environment['DRIFTLINE_METRICS_PORT']}/metrics")
        found.series, found.metric_faults = look_at_metrics(page)
    _compare(hops, found)
    return found


@contextmanager
def _validator(hops: Hops, found: Streamed) -> Iterator[psutil.Process]:
    """The process, without a breaker: nearly everything here is bad on purpose."""
    hops.environment["DRIFTLINE_METRICS_PORT"] = str(free_port())
    with (hops.home / "validate.log").open("w") as log:
        command = hops.command("validate", "--reject-ratio", "1", "--reject-run", "1000000")
        child = subprocess.Popen(command, env=hops.environment, cwd=ROOT, stdout=log, stderr=log)
    process = psutil.Process(child.pid)
    try:
        wait_until(lambda: "ready process" in (hops.home / "validate.log").read_text(), 60, "the validator to be ready")
        yield process
    finally:
        if child.poll() is not None:
            found.deaths += 1
            found.wrong.append(f"the validator ended with {child.returncode}")
        child.terminate()
        child.wait(30)


def _sender(hops: Hops, **more: object):
    return kafka.producer(hops.settings, "corpus", **{"compression.type": "zstd", **_ANY, **more})


def _send_records(hops: Hops, found: Streamed, records: list[Record]) -> None:
    producer = _sender(hops)
    for r in records:
        _send(hops, producer, found, r.value, r.stream, f"{r.number} {r.name}")
        _send(hops, producer, found, good(), VALID, "good neighbour")
    assert producer.flush(60) == 0


def _send(hops: Hops, producer, found: Streamed, value, rule: str, name: str, **more) -> None:
    def delivered(error, message) -> None:
        assert error is None, error
        if rule != VALID:
            found.expected[message.offset()] = (rule, value)
            found.names[message.offset()] = name

    found.valid += rule == VALID
    producer.produce(
        topics.events(hops.contract.id), value, **{"key": b"k", "partition": PARTITION, **more}, on_delivery=delivered
    )
    if len(value or b"") > 100_000:
        producer.flush()  # a batch of its own: the topic takes 1 MiB of compressed bytes
    producer.poll(0)


def _send_transport(hops: Hops, found: Streamed) -> None:
    producer = _sender(hops)
    headers = [("x", b"\xff\xfe"), ("x", None), ("driftline.rule", b"forged"), *((f"h{i}", b"v") for i in range(1000))]
    _send(hops, producer, found, good(), VALID, "24 headers", headers=headers)
    _send(hops, producer, found, b"{", "syntax", "24 headers on a bad record", headers=headers)
    _send(hops, producer, found, good(), VALID, "25 null key", key=None)
    _send(hops, producer, found, good(), "size", "25 a key of 1 MiB", key=b"k" * 1024 * 1024)
    _send(hops, producer, found, good(), "size", "25 a key over the record limit", key=b"k" * 65_537)
    producer.flush()
    for size, codec, rule in ((64, "zstd", "size"), (64, "gzip", "size"), (128, "zstd", "batch_undecodable")):
        bomb = _sender(hops, **{"compression.type": codec})
        _send(hops, bomb, found, bytes(size << 20), rule, f"90 bomb of {size} MiB in {codec}")
        assert bomb.flush(60) == 0
    many = _sender(
        hops,
        **{
            "batch.num.messages": 1_000_000,
            "batch.size": 2_000_000_000,
            "linger.ms": 20_000,
        },
    )
    value = good()
    for _ in range(MANY):
        many.produce(topics.events(hops.contract.id), value, b"k", PARTITION, on_delivery=_taken)
    assert many.flush(60) == 0
    found.valid += MANY
    aborted = kafka.producer(hops.settings, "corpus-aborted", transactional_id="corpus-aborted")
    aborted.init_transactions(20)
    aborted.begin_transaction()
    aborted.produce(topics.events(hops.contract.id), b"aborted: nobody may see it", b"k", PARTITION)
    aborted.flush()
    aborted.abort_transaction()  # 93: control batches
    _send(hops, producer, found, good(), VALID, "after all of it")
    assert producer.flush(30) == 0


def _taken(error, message) -> None:
    assert error is None, error


def _spoil(hops: Hops, broker: Broker, found: Streamed) -> None:
    """94: wrong checksum; 90: broken compression. Both in the log, behind everything that was read."""
    topic = topics.events(hops.contract.id)
    producer = _sender(hops)
    process = next(p for p in psutil.process_iter(["cmdline"]) if _is_validator(p, hops))
    process.suspend()  # it must not read them while they are whole; the first answers the fetch that it has asked for already
    first = sum(b.end - b.first for b in segments.batches(broker, topic, PARTITION))
    for _ in range(4):
        for _ in range(200):
            producer.produce(topic, good(), b"k", PARTITION)
        assert producer.flush(30) == 0
    broker.stop()
    behind = [b for b in segments.batches(broker, topic, PARTITION) if b.first >= first][1:]
    segments.spoil(behind[0], checksum=True)
    segments.spoil(behind[1], checksum=False)
    broker.start()
    process.resume()
    for b, name in zip(behind, ("94 checksum", "90 compression"), strict=False):
        found.expected[b.first] = ("batch_undecodable", None)
        found.names[b.first] = name
    found.valid += 400


def _is_validator(process: psutil.Process, hops: Hops) -> bool:
    words = process.info["cmdline"] or []
    return "validate" in words and process.ppid() == psutil.Process().pid and process.status() != psutil.STATUS_ZOMBIE


@contextmanager
def _stalls(hops: Hops, found: Streamed) -> Iterator[None]:
    """Note the longest time in which there was something to read and the validator committed nothing."""
    topic, stop = topics.events(hops.contract.id), threading.Event()

    def watch() -> None:
        client = kafka.consumer(hops.settings, topics.group(hops.contract.id, "validate"))
        moved, last = time.monotonic(), -1
        while not stop.wait(0.02):
            _, high = client.get_watermark_offsets(TopicPartition(topic, PARTITION), timeout=20)
            at, now = max(0, kafka.committed(client, topic, [PARTITION])[PARTITION].offset), time.monotonic()
            if at == last and at < high:
                found.longest_stall_s = max(found.longest_stall_s, now - moved)
            else:
                moved, last = now, at
        client.close()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def look_at_metrics(text: str) -> tuple[int, list[str]]:
    """(series, those whose value is none or whose reason a record chose)."""
    reasons, series, faults = {VALID, *CODES, *validation.PAGED}, 0, list[str]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series += 1
            if not math.isfinite(sample.value):
                faults.append(f"{sample.name} is {sample.value}")
            if sample.labels.get("reason", VALID) not in reasons:
                faults.append(f"{sample.name} has reason {sample.labels['reason']!r}")
    return series, faults


def _settled(hops: Hops, found: Streamed, child: psutil.Process, what: str) -> None:
    """Wait until the validator has committed everything; watch its memory meanwhile."""
    topic, began = topics.events(hops.contract.id), time.monotonic()
    client = kafka.consumer(hops.settings, topics.group(hops.contract.id, "validate"))

    def through() -> bool:
        found.peak_mb = max(found.peak_mb, peak_mb(child.pid))
        try:
            _, high = client.get_watermark_offsets(TopicPartition(topic, PARTITION), timeout=20)
        except KafkaException:  # the broker has just come back
            return False
        committed = kafka.committed(client, topic, [PARTITION])[PARTITION].offset
        return committed >= high - 1  # the abort marker may be the last

    try:
        wait_until(through, 180, f"the validator to be through: {what}")
    finally:
        client.close()
    progress(f"{time.monotonic() - began:6.1f} s  {what}; validator at {found.peak_mb:.0f} MB at most")


def peak_mb(pid: int) -> float:
    """The largest resident size that the process ever had."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def _compare(hops: Hops, found: Streamed) -> None:
    letters: dict[int, tuple[str, bytes | None]] = {}
    for m in kafka.read_all(hops.settings, topics.dead_letters(hops.contract.id)):
        letter = dead_letters.from_headers(kafka.headers_of(m))
        if letter.offset in letters:
            found.wrong.append(f"two dead letters for {letter.offset}")
        letters[letter.offset] = (letter.rule, m.value())
    for offset, (rule, value) in found.expected.items():
        got = letters.pop(offset, None)
        if got is None or got[0] != rule:
            found.wrong.append(f"{found.names[offset]}: expected {rule}, got {got and got[0]}")
        elif _whole(value, rule, found.names[offset]) and got[1] != value:
            found.wrong.append(f"{found.names[offset]}: the dead letter has other bytes")
    found.wrong += [f"offset {offset}: expected no dead letter, got {rule}" for offset, (rule, _) in letters.items()]
    valid, at = 0, 0
    for m in kafka.read_all(hops.settings, topics.blocks(hops.contract.id)):
        header = from_headers(kafka.headers_of(m))
        found.partial_rows += _partial(hops, m.value(), found.expected)
        if header.start != at and header.start > at:
            found.wrong.append(f"a gap between the blocks at {at}")
        at, valid = header.end, valid + header.counts[VALID]
    if valid != found.valid:
        found.wrong.append(f"expected {found.valid} valid records, got {valid}")


def _partial(hops: Hops, body: bytes, dead: Mapping[int, object]) -> int:
    """Rows of a block that count as valid and lack a required field, or whose record was to be rejected."""
    rows = decode(body)
    valid = rows.filter(pc.is_null(rows.column(REJECT)))
    lacking = sum(valid.column(f.name).null_count for f in hops.contract.fields if f.required)
    return lacking + sum(offset in dead for offset in valid.column(RAW_OFFSET).to_pylist())


def _whole(value: bytes | None, rule: str, name: str) -> bool:
    """Whether the letter keeps every byte of the value: up to 1 MiB with its key, of which a long one takes the room."""
    return len(value or b"") <= 1024 * 1024 - 2 and rule != "batch_undecodable" and "key" not in name
