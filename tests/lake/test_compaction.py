"""The fence: what may be committed after what."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.compaction import (
    FenceError,
    Gap,
    Overlap,
    RetentionLoss,
    SchemaMismatch,
    TopicRecreated,
    check_counts,
    check_retention,
    check_schema,
    check_source,
    fit,
    plan,
)
from batch.table import lake_schema
from tests.lake.lake_samples import batch, header, pending
from tests.lake.lake_samples import contract as a_contract


def test_a_block_that_starts_at_the_tables_end_fits():
    assert [b.header.start for b in fit([pending(100, 140), pending(140, 160)], {0: 100})] == [100, 140]


def test_a_repeat_below_the_tables_end_is_skipped():
    assert [b.header.start for b in fit([pending(60, 100), pending(100, 140)], {0: 100})] == [100]


def test_a_gap_stops_with_the_rows_that_are_missing():
    with pytest.raises(Gap, match=r"expected a block that starts at 100, the table's end, got 110"):
        fit([pending(110, 140)], {0: 100})


def test_a_gap_between_two_blocks_of_one_batch_stops():
    with pytest.raises(Gap):
        fit([pending(100, 120), pending(121, 140)], {0: 100})


def test_a_block_across_the_tables_end_stops():
    with pytest.raises(Overlap, match=r"\[90,110\) straddles"):
        fit([pending(90, 110)], {0: 100})


def test_a_partition_never_seen_begins_at_its_first_block():
    ready = plan("shop", fit([pending(7, 9, partition=3)], {3: None}), {3: None})
    assert ready.advance == {"blocks/3": 8, "shop/3": 9, "begin/3": 7}
    assert ready.expected == {"shop/3": None}


def test_a_block_without_rows_moves_the_end():
    empty = pending(5, 5)
    moved = type(empty)(header(5, 9, batch(5, [])), 4, batch(5, []))
    assert plan("shop", fit([moved], {0: 5}), {0: 5}).advance["shop/0"] == 9


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.data())
def test_whatever_was_committed_before_the_rest_fits_exactly_once(sizes, data):
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    blocks = [pending(a, b) for a, b in itertools.pairwise(edges)]
    end = data.draw(st.sampled_from(edges))
    kept = fit(blocks, {0: end})
    assert [(b.header.start, b.header.end) for b in kept] == [(a, b) for a, b in itertools.pairwise(edges) if a >= end]


def test_a_topic_made_anew_is_refused_by_name():
    with pytest.raises(TopicRecreated, match=r"topic-id\.x was a when the table was made and is b now"):
        check_source({"topic-id.x": "a"}, {"topic-id.x": "b"}, "lake/x")


def test_records_lost_by_retention_are_refused():
    with pytest.raises(RetentionLoss, match="needs offset 10, the oldest one left is 12"):
        check_retention("x.blocks", 0, 10, low=12, high=20)
    with pytest.raises(RetentionLoss, match="--begin-at-oldest"):
        check_retention("x.blocks", 0, None, low=12, high=20)
    check_retention("x.blocks", 0, None, low=12, high=20, begin_at_oldest=True)
    check_retention("x.blocks", 0, 12, low=12, high=12)


def test_a_truncated_topic_is_refused():
    with pytest.raises(TopicRecreated, match="stands at offset 30, the topic ends at 20"):
        check_retention("x.blocks", 0, 30, low=0, high=20)


def test_a_block_whose_body_is_not_what_its_header_says_is_refused():
    rows = batch(5, [("a", 1.0, 1, None), ("b", 2.0, 2, "range")])
    check_counts(header(5, 7, rows), rows)
    with pytest.raises(FenceError, match="header says 1 valid rows"):
        check_counts(header(5, 7, rows), rows.slice(1))
    with pytest.raises(FenceError, match=r"offsets 5..6"):
        check_counts(header(6, 8, rows), rows)


def test_a_changed_contract_is_refused_with_its_first_difference():
    schema = lake_schema(a_contract())
    with pytest.raises(SchemaMismatch, match="column amount: the contract says double, the table has no such column"):
        check_schema(schema.remove(schema.get_field_index("amount")), schema, "t")
