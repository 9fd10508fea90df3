import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import blocks, contract_file, decode
from pipeline.blocks import VALID
from pipeline.lateness import late_mask
from pipeline.times import to_ms, to_text
from stream_processors.validator import validation
from stream_processors.validator.reject_breaker import Limits, Recent
from stream_processors.validator.validation import Consumed

CONTRACT = contract_file.load("sales")
DECODER = decode.compile(CONTRACT)
NOW = to_ms("2026-11-21T04:00:00.000Z")
GOOD = b"good"
BAD = {"range": b'"quantity":-3', "type": b'"quantity":"1"', "not_null": b'"quantity":null'}


def record(event_ms=NOW, quantity=b'"quantity":1'):
    return (
        b'{"order_id":"o-1","customer_id":"C000123","product_id":"P1","category":"home","region":"east","channel":"web",'
        + quantity
        + b',"price":9.5,"discount":0.0,"order_date":"2026-11-21","event_time":"'
        + to_text(event_ms).encode()
        + b'"}'
    )


def run(values, *, start=0, offsets=None, keys=None):
    offsets = np.arange(start, start + len(values)) if offsets is None else np.array(offsets)
    return Consumed(3, start, offsets, np.full(len(values), NOW), keys or [b"k"] * len(values), values)


def judge(consumed, watermark=None, limits=None):
    return validation.judge(consumed, DECODER, watermark, Recent.empty(), limits or Limits())


def outcome(value):
    return {VALID: record(), "range": record(quantity=BAD["range"]), "syntax": b"{oops", "tombstone": None}[value]


outcomes = st.lists(st.sampled_from([VALID, VALID, VALID, "range", "syntax", "tombstone"]), min_size=1, max_size=40)


@given(outcomes, st.integers(0, 1000), st.lists(st.integers(1, 3), max_size=40), st.integers(700, 6000))
def test_blocks_cover_the_run_without_a_gap_whatever_is_rejected_and_however_small_they_are(kinds, start, holes, limit):
    offsets = start + np.cumsum((holes + [1] * len(kinds))[: len(kinds)]) - 1
    judged = judge(run([outcome(k) for k in kinds], start=start, offsets=offsets))
    pieces = validation.cut(judged, "sales.events", CONTRACT, limit)
    assert pieces[0].header.start == start
    assert pieces[-1].header.end == offsets[-1] + 1
    assert all(a.header.end == b.header.start for a, b in itertools.pairwise(pieces))
    for piece in pieces:
        inside = [k for k, o in zip(kinds, offsets, strict=True) if piece.header.start <= o < piece.header.end]
        assert {k: n for k, n in piece.header.counts.items() if n} == {k: inside.count(k) for k in set(inside)}
        rows = blocks.decode(piece.body)
        assert rows.num_rows == piece.rows == sum(k in (VALID, "range") for k in inside)
        assert all(piece.header.start <= o < piece.header.end for o in rows["raw_offset"].to_pylist())


@given(
    st.lists(st.integers(-5000, 0), min_size=1, max_size=30), st.none() | st.integers(-5000, 0), st.integers(700, 6000)
)
def test_the_watermark_of_each_block_is_the_maximum_before_it(seconds, before, limit):
    times = [NOW + 1000 * s for s in seconds]
    watermark = None if before is None else NOW + 1000 * before
    judged = judge(run([record(t) for t in times]), watermark)
    pieces = validation.cut(judged, "t", CONTRACT, limit)
    for piece in pieces:
        earlier = [t for t in [watermark, *times[: piece.header.start]] if t is not None]
        assert piece.header.watermark == max(earlier, default=None)
        inside = times[piece.header.start : piece.header.end]
        assert (piece.header.min_event_time, piece.header.max_event_time) == (min(inside), max(inside))
    assert judged.watermark_after == max([*times, *([watermark] if watermark is not None else [])])
    assert validation.late(judged, CONTRACT) == late_mask(np.array(times), watermark, 600_000).sum()


def test_a_run_without_one_decodable_record_is_a_block_of_no_rows():
    judged = judge(run([None, b"{", b""], start=7), watermark=NOW)
    (piece,) = validation.cut(judged, "t", CONTRACT)
    assert (piece.header.start, piece.header.end, piece.rows) == (7, 10, 0)
    assert (piece.header.min_event_time, piece.header.max_event_time, piece.header.watermark) == (None, None, NOW)
    assert judged.watermark_after == NOW


def test_a_rejected_rows_time_does_not_move_the_watermark():
    ahead = record(NOW + 60_000, BAD["range"])
    assert judge(run([record(NOW), ahead])).watermark_after == NOW


def test_a_record_ahead_of_its_append_time_is_time_future():
    far = record(NOW + 2 * 3_600_000)
    judged = judge(run([record(), far]))
    assert {i: r.code for i, r in judged.rejects.items()} == {1: "time_future"}
    assert judged.watermark_after == NOW


def test_a_key_over_64_kib_is_size_like_a_value():
    over = b"x" * (64 * 1024 + 1)
    judged = judge(run([record(), record(), over], keys=[b"k", over, b"k"]))
    assert {i: r.code for i, r in judged.rejects.items()} == {1: "size", 2: "size"}


def test_where_the_breaker_opens_the_run_ends():
    values = [record()] * 5 + [b"{"] * 20
    judged = judge(run(values, start=100), limits=Limits(run=10))
    assert judged.opened is not None and judged.opened.cause == "run"
    assert judged.consumed.end == 115
    assert len(judged.rejects) == 10
    assert validation.cut(judged, "t", CONTRACT)[-1].header.end == 115


@given(st.lists(st.integers(0, 5), max_size=60), st.booleans())
def test_append_times_are_found_with_few_questions(times, as_batches):
    times = sorted(times) if as_batches else times
    asked = []

    def time_at(i):
        asked.append(i)
        return times[i]

    found = validation.times_of(len(times), time_at).tolist()
    if as_batches:
        assert found == times
        assert len(asked) <= 2 + 2 * 6 * max(1, len(set(times)))


@given(st.lists(st.integers(), max_size=30), st.sets(st.integers(0, 29)))
def test_without_leaves_the_valid_ones_in_order(items, out):
    rejects = {i: None for i in sorted(out) if i < len(items)}
    assert list(validation.without(items, rejects)) == [x for i, x in enumerate(items) if i not in out]


def test_the_whole_run_may_be_one_reject():
    assert validation.without([1], {0: None}) == []


@pytest.mark.parametrize("valid_topic", [True, False])
def test_judging_knows_no_topic_switch(valid_topic):
    contract = replace(CONTRACT, valid_topic=valid_topic)
    assert validation.cut(judge(run([record()])), "t", contract)[0].rows == 1
