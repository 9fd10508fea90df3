"""The share of rejects: where a record without an event time counts, and that it does not depend on the blocks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import Block
from pipeline.contract import REJECT
from stream_processors.judging.partial import Partial
from stream_processors.judging.timeline import Timeline
from stream_processors.reference.cells import Counts
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import (
    DAY0,
    HOUR,
    MINUTE,
    block,
    blocks_of,
    draw,
    partials_of,
    reference_set,
    with_plan,
    with_rejects,
)

SET = with_rejects(reference_set(1, DAY0))
NAMES = SET.load()["reject", "*"].categories
TIMELINE = Timeline((SET,))


def outcomes(partials: list[Partial]) -> dict[tuple[int, str], int]:
    """Records by pane (in minutes) and outcome; `(new)` = one that the reference does not hold."""
    found: dict[tuple[int, str], int] = {}
    for part in (part for partial in partials for part in partial.panes):
        for one in (c for c in part.counts if c.feature == REJECT):
            assert one.late == b""
            counts = Counts.from_bytes(one.on_time)
            for code, n in zip(counts.codes.tolist(), counts.n.tolist(), strict=True):
                name = NAMES[code] if code < len(NAMES) else "(new)"
                place = ((part.pane - DAY0) // MINUTE, name)
                found[place] = found.get(place, 0) + n
    return found


def at(*minutes: int) -> list[tuple[int, float, str]]:
    return [(DAY0 + m * MINUTE, 20.0, "north") for m in minutes]


def test_a_record_counts_where_its_partitions_log_stood():
    #  offset     0   1   2   3   4
    #  minutes    1   x   7   -   8      x: rejected, its own time is not believed; -: no row
    [partial] = partials_of([block(0, 0, at(1, 99, 7, 0, 8), None, rejects=[1], lost=[3])], TIMELINE)
    assert outcomes([partial]) == {(0, "valid"): 1, (0, "range"): 1, (5, "valid"): 2, (5, "(new)"): 1}


def test_a_late_row_counts_as_valid_where_the_log_stood():
    [partial] = partials_of([block(0, 0, at(2), DAY0 + 30 * MINUTE)], TIMELINE)
    assert outcomes([partial]) == {(30, "valid"): 1}
    assert [(p.pane, p.on_time, p.late) for p in partial.panes] == [(DAY0, 0, 1), (DAY0 + 30 * MINUTE, 0, 0)]


def test_what_comes_before_the_first_valid_row_is_told_and_not_counted():
    [partial] = partials_of([block(0, 0, at(1, 2, 3), None, rejects=[0], lost=[1])], TIMELINE)
    assert (partial.unplaced, outcomes([partial])) == (2, {(0, "valid"): 1})


def test_a_contract_can_switch_it_off():
    contract = with_plan(rejects=False)
    [partial] = partials_of([block(0, 0, at(1, 2), None, rejects=[1])], TIMELINE, contract)
    assert outcomes([partial]) == {}


@settings(max_examples=60)
@given(st.integers(0, 1000), st.sets(st.integers(1, 79), max_size=8), st.sets(st.integers(0, 79), max_size=30))
def test_any_cut_into_blocks_gives_the_same_counts(seed, cuts, bad):
    rng = np.random.default_rng(seed)
    times = (DAY0 + HOUR + np.sort(rng.integers(0, HOUR, 80)) - rng.integers(0, 25 * MINUTE, 80)).tolist()
    rows, lost = draw(rng, times), {o for o in bad if o % 3 == 0}
    whole = partials_of(blocks_of(0, rows, [], bad - lost, lost), TIMELINE)
    cut = partials_of(blocks_of(0, rows, sorted(cuts), bad - lost, lost), TIMELINE)
    assert outcomes(cut) == outcomes(whole)
    assert sum(p.unplaced for p in cut) == sum(p.unplaced for p in whole)
    assert sum(outcomes(whole).values()) + sum(p.unplaced for p in whole) == 80


def test_a_record_that_was_given_a_row_again_counts_as_the_one_without():
    rows = at(1, 2, 3, 8)
    without = block(0, 0, rows, None, lost=[2])
    codes = pa.array([None, None, "syntax", None])
    whole = block(0, 0, rows, None).rows
    again = Block(without.header, whole.set_column(whole.schema.get_field_index(REJECT), REJECT, codes))
    assert outcomes(partials_of([again], TIMELINE)) == outcomes(partials_of([without], TIMELINE))


def test_offsets_that_hold_no_record_are_not_rejects():
    [found] = blocks_of(0, at(1, 2, 3), [], lost=[1])
    gap = replace(found.header, counts={"valid": 2})  # a transaction's marker stood there
    assert outcomes(partials_of([Block(gap, found.rows)], TIMELINE)) == {(0, "valid"): 2}


def test_more_rejects_raise_an_alarm():
    rng = np.random.default_rng(4)
    rows = draw(rng, (DAY0 + np.sort(rng.integers(0, 6 * HOUR, 12_000))).tolist())
    third = next(i for i, (t, _, _) in enumerate(rows) if t >= DAY0 + 3 * HOUR)
    bad = [o for o in range(len(rows)) if rng.random() < (0.01 if o < third else 0.06)]
    harness = Harness(1, TIMELINE)
    for partials in counted(blocks_of(0, rows, list(range(500, len(rows), 500)), set(bad)), TIMELINE):
        harness.write(*partials)
        harness.turn(0.1)
    assert harness.states("reject") == ["ok", "ok", "ok", "alarm", "alarm"]
    first = min(v for k, v in harness.latest.items() if k[1] == "reject")
    assert json.loads(first)["n"] == sum(t < DAY0 + HOUR for t, _, _ in rows)  # every record, rejected ones too
    told = [json.loads(v) for k, v in sorted(harness.latest.items()) if k[1] == "reject"]
    assert [v["reject_p_value"] < 1e-6 for v in told] == [False, False, False, True, True]
    assert all(json.loads(v)["reject_p_value"] is None for k, v in harness.latest.items() if k[1] != "reject")
