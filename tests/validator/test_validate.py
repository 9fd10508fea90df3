"""The validator as a process on a real broker."""

from __future__ import annotations

import json
import zlib

import pytest

from pipeline import kafka, topics
from pipeline.times import to_text
from tests.validator import corpus, history
from tests.validator.conftest import page
from tests.validator.history import check
from tests.waiting import wait_until


def record(**changes: object) -> bytes:
    fields = {
        "order_id": "o-1",
        "customer_id": "C000123",
        "product_id": "P1",
        "category": "home",
        "region": "east",
        "channel": "web",
        "quantity": 1,
        "price": 9.5,
        "discount": 0.0,
        "order_date": "2026-11-21",
        "event_time": to_text(history.now_ms() - 60_000),
    }
    return json.dumps({**fields, **changes}).encode()


BAD = {
    "tombstone": None,
    "empty": b"",
    "size": b'{"order_id":"' + b"x" * 70_000 + b'"}',
    "encoding": b"\xff\xfe{}",
    "depth": b"[" * 100,
    "syntax": b'{"order_id":',
    "trailing": record() + record(),
    "not_object": b"[1]",
    "duplicate_key": record()[:-1] + b',"quantity":1}',
    "unknown_field": record(coupon="SPRING"),
    "missing": record()[:-1].replace(b'"product_id": "P1", ', b"") + b"}",
    "not_null": record(product_id=None),
    "type": record(quantity="1"),
    "control_char": record(customer_id="C\u0000"),
    "charset": record(customer_id="C\u200b1"),
    "length": record(customer_id=""),
    "allowed": record(category="garden"),
    "format": record(order_date="2026-02-30"),
    "range": record(quantity=-3),
    "time_range": record(event_time="1969-12-31T00:00:00.000Z"),
    "time_future": record(event_time="2199-01-01T00:00:00.000Z"),
}


def test_every_reason_lands_as_a_dead_letter_with_its_bytes_and_costs_no_good_record(dataset):
    good = [(b"k%d" % i, record(order_id=f"o-{i}")) for i in range(len(BAD))]
    pairs = zip(good, BAD.items(), strict=True)
    dataset.fill([r for g, (code, value) in pairs for r in (g, (code.encode(), value))])
    dataset.to_end()
    found = dataset.history()
    check(found)
    letters = {m.key().decode(): (letter, m) for of in found.dead.values() for letter, m in of}
    raw = {(m.partition(), m.offset()): m for of in found.raw.values() for m in of}
    assert {code: letter.rule for code, (letter, _) in letters.items()} == {code: code for code in BAD}
    for code, (letter, m) in letters.items():
        source = raw[letter.partition, letter.offset]
        assert (m.key(), m.value(), m.partition()) == (source.key(), BAD[code], source.partition())
        assert letter.timestamp == source.timestamp()[1]
        assert letter.last_failed_at == m.timestamp()[1] >= source.timestamp()[1]
        assert letter.contract == f"{dataset.id}@1.0.0"
    assert all(m.headers() is None for of in found.valid.values() for m in of)


def test_original_headers_stay_and_ours_follow(dataset):
    producer = kafka.producer(dataset.settings, "test")
    original = [("trace", b"abc"), ("odd", None), ("driftline.rule", b"forged"), ("trace", b"\xff\x00")]
    producer.produce(topics.events(dataset.id), b"{", b"k", 0, headers=original)
    assert producer.flush(10) == 0
    dataset.to_end()
    ((letter, message),) = dataset.history().dead[0]
    assert message.headers()[:3] == [("trace", b"abc"), ("odd", None), ("trace", b"\xff\x00")]
    assert [v for k, v in message.headers() if k == "driftline.rule"] == [b"syntax"]
    assert letter.sha256 and letter.attempt == 1


def test_the_largest_of_each_passes(dataset):
    """A compressed raw record may be far larger than its topic's limit."""
    producer = kafka.producer(dataset.settings, "test", **{"message.max.bytes": 8_000_000, "compression.type": "zstd"})
    whole, over = b" " * (1024 * 1024 - 1), b" " * 3_000_000
    widest = [record(order_id=f"{i:064}", customer_id="C" * 64, product_id="P" * 64) for i in range(9_000)]
    just = record()[:-1] + b" " * (64 * 1024 - len(record())) + b"}"
    for value, key in (
        (whole, b"k"),
        (over, b"k"),
        (record(), b"x" * 1_500_000),
        (just, b"k"),
        *((v, b"k") for v in widest),
    ):
        producer.produce(topics.events(dataset.id), value, key, 0)
        producer.poll(0)
    assert producer.flush(30) == 0
    dataset.to_end()
    found = dataset.history()
    check(found)
    letters = [(letter.rule, letter.truncated, len(m.value()), len(m.key())) for letter, m in found.dead[0]]
    assert letters == [
        ("size", None, len(whole), 1),
        ("size", 3_000_001, 64 * 1024 - 1, 1),
        ("size", 1_500_000 + len(record()), 0, 64 * 1024),
    ]
    assert max(len(m.value()) for _, m in found.blocks[0]) <= 512 * 1024
    assert found.valid[0][0].value() == just


def test_a_restart_goes_on_behind_the_last_block_with_its_watermark(dataset):
    records = corpus.sales(6_000, bad=0.05)
    dataset.fill(records[:3_000])
    dataset.to_end()
    dataset.fill(records[3_000:])
    dataset.to_end()
    found = dataset.history()
    check(found)
    assert sum(len(of) for of in found.valid.values()) + sum(len(of) for of in found.dead.values()) == 6_000
    assert all(found.blocks[p][-1][0].watermark is not None for p in found.raw)


@pytest.fixture
def driftline(run_verb):
    """`driftline(...)`: what it said on stdout, or on stderr where another code is expected."""

    def run(*args: str, code: int = 0) -> str:
        ended, out, err = run_verb(*args)
        assert ended == code, out + err
        return out if code == 0 else err

    return run


def test_a_wrong_feed_stops_its_partition_until_somebody_says_go_on(dataset, driftline):
    keys = [next(k for k in (b"%d" % i for i in range(99)) if zlib.crc32(k) % 2 == p) for p in (0, 1)]
    dataset.fill([(keys[0], b"{")] * 2_500 + [(keys[1], record())] * 500)
    child = dataset.validate("--exit-at-end")
    assert child.wait() == 1, child.text()
    found = dataset.history()
    check(found)
    assert (len(found.dead[0]), len(found.valid[1])) == (1_000, 500)  # the other partition went on

    assert dataset.validate("--exit-at-end").wait() == 1  # a restart keeps it stopped
    assert found.committed[0].offset == 1_000
    (stop,) = [json.loads(line) for line in driftline("breaker", "list", "--json").splitlines()]
    assert (stop["partition"], stop["offset"], stop["cause"]) == (0, 1_000, "run")

    with dataset.validate(name="running") as running:
        wait_until(lambda: "placed" in running.text(), 30, "the validator to start")
        driftline("breaker", "resume", "--partition", "0")
        wait_until(lambda: dataset.committed() == 2_500, 30, "the next thousand and the next stop")
        assert running.stop() == 0
    check(dataset.history())
    assert "partition 1 of" in driftline("breaker", "resume", "--partition", "1", code=1)


def test_only_the_owner_of_a_stopped_partition_says_that_it_is_stopped(dataset, driftline, unused_port):
    keys = [next(k for k in (b"%d" % i for i in range(99)) if zlib.crc32(k) % 2 == p) for p in (0, 1)]
    dataset.fill([(key, b"{") for key in keys for _ in range(1_500)])
    assert dataset.validate("--exit-at-end").wait() == 1

    def open_() -> list[str]:
        lines = [line for line in page(unused_port, "/metrics").splitlines() if "reject_breaker_open{" in line]
        return [line.split('partition="')[1][0] for line in lines if line.endswith(" 1.0")]

    environment = {**dataset.environment, "DRIFTLINE_METRICS_PORT": str(unused_port)}
    with history.Child(environment, dataset.contract, dataset.folder / "first.log", "--instance", "0") as first:
        wait_until(lambda: "placed" in first.text(), 30, "the first validator to have both")
        wait_until(lambda: open_() == ["0", "1"], 10, "both to be told as stopped")
        with dataset.validate("--instance", "1", name="second") as second:
            wait_until(lambda: "placed" in second.text(), 60, "the second validator to have one")
            wait_until(lambda: len(open_()) == 1, 30, "the first one to tell of its own only")
            for p in "01":
                driftline("breaker", "resume", "--partition", p)
            wait_until(lambda: dataset.committed() == 3_000, 30, "both partitions to be worked off")
            wait_until(lambda: open_() == [], 10, "nobody to tell of a stop")
            assert second.stop() == 0
        assert first.stop() == 0


def test_dead_letters_are_listed_counted_and_shown(dataset, driftline):
    dataset.fill([(b"a", b"{"), (b"a", record(quantity=-3)), (b"a", record(quantity=-4)), (b"a", record())])
    dataset.to_end()
    listed = [json.loads(line) for line in driftline("dead-letters", "list", "--json").splitlines()]
    assert [(row["rule"], row["field"]) for row in listed] == [
        ("syntax", ""),
        ("range", "quantity"),
        ("range", "quantity"),
    ]
    counts = [json.loads(line) for line in driftline("dead-letters", "list", "--counts", "--json").splitlines()]
    assert counts[0] == {"rule": "range", "field": "quantity", "count": 2, "open": 2}
    assert len(driftline("dead-letters", "list", "--rule", "range", "--limit", "1").splitlines()) == 1
    assert driftline("dead-letters", "show", listed[0]["coordinate"], "--raw") == "{"
    assert "expected" in driftline("dead-letters", "show", listed[1]["coordinate"].split("/", 1)[1])
    driftline("dead-letters", "show", "0/99999", code=1)
    driftline("dead-letters", "show", "nonsense", code=2)


def test_it_tells_its_numbers_and_is_ready_once_it_has_its_partitions(dataset, unused_port):
    dataset.environment["DRIFTLINE_METRICS_PORT"] = str(unused_port)
    dataset.fill([(b"k", record()), (b"k", b"{"), (b"k", record(quantity=-1))])
    with dataset.validate() as child:
        wait_until(lambda: dataset.committed() == 3, 30, "three records to be committed")
        assert page(unused_port, "/readyz") == "ready\n"
        assert page(unused_port, "/healthz") == "ok\n"
        wait_until(lambda: 'reason="syntax"} 1.0' in page(unused_port, "/metrics"), 10, "the counts")
        text = page(unused_port, "/metrics")
        assert child.stop() == 0
    for line in (
        f'driftline_records_validated_total{{dataset="{dataset.id}",outcome="valid"}} 1.0',
        f'driftline_records_validated_total{{dataset="{dataset.id}",outcome="dead"}} 2.0',
        f'driftline_rejects_total{{dataset="{dataset.id}",reason="syntax"}} 1.0',
        f'driftline_rejects_total{{dataset="{dataset.id}",reason="range"}} 1.0',
        f'driftline_blocks_total{{dataset="{dataset.id}"}} 1.0',
        f'driftline_rejects_total{{dataset="{dataset.id}",reason="batch_undecodable"}} 0.0',  # its rise can be seen then
        'driftline_transactions_total{process="validator",result="committed"} 1.0',
    ):
        assert line in text
    for name in ("phase_seconds", "consumer_lag_records", "oldest_unread_age", "event_time_seconds", "late_rows"):
        assert name in text


def test_without_the_valid_topic_the_blocks_still_carry_every_row(dataset):
    text = dataset.contract.read_text()
    assert "validTopic" in text
    dataset.contract.write_text(text.replace("value: true", "value: false"))
    dataset.fill(corpus.sales(500))
    dataset.to_end()
    found = dataset.history()
    assert not any(found.valid.values())
    assert (
        sum(h.counts["valid"] for of in found.blocks.values() for h, _ in of) + sum(map(len, found.dead.values()))
        == 500
    )
