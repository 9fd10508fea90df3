from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch import reference_build
from pipeline.blocks import Block
from pipeline.contract import Field
from stream_processors.judging import summarise
from stream_processors.judging.partial import Partial, from_bytes, to_bytes
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.reference import cells
from stream_processors.reference.counts import EMPTY, Counts
from tests.drift_stream.samples import (
    CLOCK,
    CONTRACT,
    DAY0,
    HOUR,
    MINUTE,
    batch,
    block,
    blocks_of,
    draw,
    partials_of,
    reference_set,
    with_plan,
)

SET = reference_set(1, DAY0)
TIMELINE = Timeline((SET,))


def test_a_row_counts_in_the_pane_of_its_event_time():
    [partial] = partials_of(
        [block(0, 7, [(DAY0 + 4 * MINUTE, 20.0, "north"), (DAY0 + 5 * MINUTE, 21.0, "south")], None)], TIMELINE
    )
    assert [(p.pane, p.on_time, p.late, p.first, p.last) for p in partial.panes] == [
        (DAY0, 1, 0, 7, 8),
        (DAY0 + 5 * MINUTE, 1, 0, 8, 9),
    ]


def test_a_late_row_is_counted_apart_by_its_own_partitions_watermark():
    #  minutes  0....|....10...|....20...|  maximum before the block: 20, lateness 10
    #                 9    15                9 < 20 - 10 is late, 15 is on time
    rows = [(DAY0 + 9 * MINUTE, 20.0, "north"), (DAY0 + 15 * MINUTE, 20.0, "north")]
    [partial] = partials_of([block(0, 0, rows, DAY0 + 20 * MINUTE)], TIMELINE)
    assert [(p.on_time, p.late) for p in partial.panes] == [(0, 1), (1, 0)]
    late, on_time = (p.counts[0] for p in partial.panes)
    assert late.on_time == b"" and Counts.from_bytes(late.late).rows == 1
    assert on_time.late == b"" and Counts.from_bytes(on_time.on_time).rows == 1


def test_a_row_later_than_revise_within_revises_nothing():
    now = DAY0 + 72 * HOUR  # lateness 10 min, revise_within 2 d
    rows = [(now - 48 * HOUR - 11 * MINUTE, 20.0, "north"), (now - 48 * HOUR - 10 * MINUTE, 20.0, "north")]
    [partial] = partials_of([block(0, 0, rows, now)], TIMELINE)
    assert partial.late_beyond == 1
    assert [(p.pane, p.late) for p in partial.panes] == [(CLOCK.pane_of(rows[1][0]), 1)]


def test_a_rejected_row_is_ignored():
    rows = [(DAY0 + MINUTE, 20.0, "north"), (DAY0 + MINUTE, -5.0, "north")]
    whole = block(0, 0, rows, None)
    [partial] = partials_of([Block(whole.header, batch(rows, 0, rejects=[1]))], TIMELINE)
    assert partial.panes[0].on_time == 1


def test_a_block_without_rows_still_moves_the_position():
    [partial] = partials_of([block(1, 5, [], DAY0)], TIMELINE)
    assert (partial.coordinate, partial.end, partial.maximum, partial.panes) == ((1, 5), 5, DAY0, ())


def test_without_a_reference_rows_are_counted():
    [partial] = partials_of([block(0, 0, [(DAY0, 20.0, "north")], None)], Timeline())
    assert [(p.version, p.on_time, p.counts) for p in partial.panes] == [(0, 1, ())]


def test_counts_of_the_segments_add_up_to_those_of_the_whole_by_category():
    rows = draw(np.random.default_rng(1), [DAY0 + MINUTE] * 500)
    [partial] = partials_of([block(0, 0, rows, None)], TIMELINE)
    found = {c.key: Counts.from_bytes(c.on_time).rows for c in partial.panes[0].counts}
    assert found["price", "*"] == 500
    assert found["price", "region=north"] + found["price", "region=south"] == 500


def with_pool(version: int, effective_from: int) -> ReferenceSet:
    """A set that holds `north` and a pool of the other regions."""
    found = reference_set(version, effective_from)
    members = {(f, "region=*" if s == "region=south" else s): r for (f, s), r in found.load().items()}
    return replace(found, load=lambda: members)


def test_values_without_a_segment_of_their_own_count_in_the_pool_of_their_grouping():
    rows = [(DAY0, 20.0, r) for r in ("north", "south", "moon", None)]
    [partial] = partials_of([block(0, 0, rows, None)], Timeline((with_pool(1, DAY0),)))  # type: ignore[list-item]
    found = {c.segment: Counts.from_bytes(c.on_time).rows for c in partial.panes[0].counts if c.feature == "price"}
    assert found == {"*": 4, "region=*": 2, "region=north": 1}


def test_a_value_that_is_charted_only_counts_in_the_pool_too():
    found = with_pool(1, DAY0)
    few = reference_set(1, DAY0, rows=2_000).load()  # `north` has half of them
    members = {key: few[key] if key[1] == "region=north" else r for key, r in found.load().items()}
    rows = [(DAY0 + pane * 5 * MINUTE, 20.0, r) for pane in (0, 1) for r in ("north", "south", "north", "moon", None)]
    timeline = Timeline((replace(found, load=lambda: members),))
    [partial] = partials_of([block(0, 0, rows, None)], timeline)  # type: ignore[list-item]
    for pane in partial.panes:
        counts = {c.segment: Counts.from_bytes(c.on_time).rows for c in pane.counts if c.feature == "price"}
        assert counts == {"*": 5, "region=*": 4, "region=north": 2}


def test_a_segment_is_what_the_reference_of_its_pane_says():
    rows = [(DAY0, 20.0, "south"), (DAY0 + 5 * MINUTE, 20.0, "south")]
    [partial] = partials_of([block(0, 0, rows, None)], Timeline((SET, with_pool(2, DAY0 + 5 * MINUTE))))
    assert [{c.segment for c in p.counts} for p in partial.panes] == [{"*", "region=south"}, {"*", "region=*"}]


def test_a_pair_of_columns_makes_segments_of_its_own():
    pair = ("region", "order")
    contract = with_plan(segments=(pair,))
    found = reference_set(1, DAY0)
    members = {("price", s): found.load()["price", "*"] for s in ("*", "region=north,order=o1", "region=*,order=*")}
    timeline = Timeline((replace(found, load=lambda: members),))
    [partial] = partials_of([block(0, 0, [(DAY0, 20.0, "north")] * 3, None)], timeline, contract)
    counts = {c.segment: Counts.from_bytes(c.on_time).rows for c in partial.panes[0].counts}
    assert counts == {"*": 3, "region=north,order=o1": 1, "region=*,order=*": 2}


def test_whole_numbers_and_booleans_make_the_segments_that_the_reference_has():
    more = (Field("store", "integer"), Field("vip", "boolean"))
    contract = with_plan(features=CONTRACT.drift.features[:1], segments=(("store",), ("vip", "store")))
    contract = replace(contract, fields=(*contract.fields, *more))
    drawn = draw(np.random.default_rng(3), [DAY0] * 9_000)
    stores, vips = np.resize([1, 2, 3, 3], 9_000), np.resize([True, False, None], 9_000).tolist()

    def with_them(rows: pa.RecordBatch) -> pa.RecordBatch:
        columns = {"store": pa.array(stores[: len(rows)]), "vip": pa.array(vips[: len(rows)], pa.bool_())}
        whole = pa.table([*rows.columns, *columns.values()], names=[*rows.schema.names, *columns])
        return whole.select(contract.block_schema.names).cast(contract.block_schema).combine_chunks().to_batches()[0]

    members = reference_build.build(contract, CLOCK, pa.Table.from_batches([with_them(batch(drawn, 0))]), 1, DAY0)
    whole = block(0, 0, drawn[:12], None)
    found = ReferenceSet(1, DAY0, lambda: members)
    [partial] = partials_of([Block(whole.header, with_them(whole.rows))], Timeline((found,)), contract)
    counts = {c.segment: Counts.from_bytes(c.on_time).rows for c in partial.panes[0].counts}
    assert counts == {
        "*": 12, "store=1": 3, "store=2": 3, "store=3": 6,
        "vip=true,store=1": 1, "vip=true,store=2": 1, "vip=true,store=3": 2,
        "vip=false,store=1": 1, "vip=false,store=2": 1, "vip=false,store=3": 2, "vip=*,store=*": 8,
    }  # fmt: skip


def test_a_value_without_a_segment_of_its_own_counts_in_the_whole_only():
    [partial] = partials_of([block(0, 0, [(DAY0, 20.0, "moon")], None)], TIMELINE)
    assert {c.key for c in partial.panes[0].counts} == {("price", "*"), ("region", "*")}


@settings(max_examples=60)
@given(st.integers(0, 1000), st.sampled_from([1, 5, 60, 2000]), st.booleans())
def test_counts_of_a_pane_are_those_of_its_rows(seed, rows, sparse):
    rng = np.random.default_rng(seed)
    drawn = draw(rng, (DAY0 + np.sort(rng.integers(0, 15 * MINUTE, rows))).tolist())
    drawn = [
        (t, None if sparse and i % 3 == 0 else p, None if sparse and i % 4 == 0 else r)
        for i, (t, p, r) in enumerate(drawn)
    ]
    [partial] = partials_of([block(0, 0, drawn, None)], TIMELINE)  # type: ignore[list-item]
    for part in partial.panes:
        for one in part.counts:
            own = [row for row in drawn if CLOCK.pane_of(row[0]) == part.pane]
            own = [row for row in own if one.segment in ("*", f"region={row[2]}")]
            values = pa.array([p for _, p, _ in own], pa.float64())
            column = values if one.feature == "price" else pa.array([r for _, _, r in own], pa.string())
            assert one.on_time == cells.count(SET.load()[one.key], column).to_bytes()


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sets(st.integers(1, 199), max_size=6))
def test_any_cut_into_blocks_gives_the_same_counts(seed, cuts):
    rng = np.random.default_rng(seed)
    times = (DAY0 + np.sort(rng.integers(0, 2 * HOUR, 200)) - rng.integers(0, 25 * MINUTE, 200)).tolist()
    rows = draw(rng, times)
    assert summed(partials_of(blocks_of(0, rows, sorted(cuts)), TIMELINE)) == summed(
        partials_of(blocks_of(0, rows, []), TIMELINE)
    )


def test_a_block_with_many_rows_is_cut_by_rows_without_a_gap(monkeypatch):
    rows = draw(np.random.default_rng(2), [DAY0 + i * 1000 for i in range(100)])
    whole = partials_of([block(0, 10, rows, None)], TIMELINE)
    monkeypatch.setattr(summarise, "COUNTED_VALUES", 180)  # 2 features x (whole, segment, pool): 30 rows a partial
    pieces = partials_of([block(0, 10, rows, None)], TIMELINE)
    assert [(p.start, p.end, p.last) for p in pieces] == [
        (10, 40, False),
        (40, 70, False),
        (70, 100, False),
        (100, 110, True),
    ]
    assert [p.maximum_before for p in pieces] == [None, *[p.maximum for p in pieces[:-1]]]
    assert summed(pieces) == summed(whole)


def test_a_null_is_counted_as_null():
    [partial] = partials_of([block(0, 0, [(DAY0, None, "north"), (DAY0, 3.0, "north")], None)], TIMELINE)  # type: ignore[list-item]
    counts = Counts.from_bytes(partial.panes[0].counts[0].on_time)
    assert (counts.rows, counts.nulls) == (1, 1)


@given(st.binary(max_size=100))
@example(b"\x9b\xa2\x00\x80")  # a text that is not UTF-8
def test_any_bytes_are_a_partial_or_refused(value):
    with contextlib.suppress(ValueError):
        from_bytes(value)


def test_a_partial_comes_back_from_its_bytes():
    [partial] = partials_of([block(0, 0, draw(np.random.default_rng(3), [DAY0] * 50), None)], TIMELINE)
    assert from_bytes(to_bytes(partial)) == partial


def summed(partials: list[Partial]) -> dict[object, object]:
    """All counts by pane, feature, segment and punctuality."""
    total: dict[object, Counts] = {}
    rows: dict[object, int] = {}
    for partial in partials:
        for part in partial.panes:
            for late in (False, True):
                rows[part.pane, late] = rows.get((part.pane, late), 0) + (part.late if late else part.on_time)
            for one in part.counts:
                for late, value in ((False, one.on_time), (True, one.late)):
                    if value:
                        name = (part.pane, one.key, late)
                        total[name] = total.get(name, EMPTY) + Counts.from_bytes(value)
    return {**{k: v.to_bytes() for k, v in total.items()}, **rows}
