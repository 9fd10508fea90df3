"""Whatever the interleaving, the repeats, the restarts, the idle times: the latest verdicts have the same bytes."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_processors.judging.timeline import Timeline
from tests.drift_stream.harness import IDLE_S, Harness, counted
from tests.drift_stream.samples import (
    CONTRACT,
    DAY0,
    HOUR,
    MINUTE,
    blocks_of,
    draw,
    reference_set,
    with_plan,
    with_rejects,
)

FIRST = with_rejects(reference_set(1, DAY0 + HOUR))
SECOND = with_rejects(reference_set(2, DAY0 + 4 * HOUR + 25 * MINUTE, seed=10, factor=1.3))  # within a window
KINDS = {
    "tumbling": CONTRACT,
    "sliding": with_plan(slide=timedelta(minutes=15)),
    "by rows": with_plan(window_rows=25, window=CONTRACT.drift.pane),
}


def partition_rows(seed: int, partition: int, hours: int, late: int) -> list[tuple[int, float, str]]:
    """A partition's rows in offset order: event time rises, some rows lag by minutes, some by hours, one by days."""
    rng = np.random.default_rng([seed, partition])
    times = np.sort(rng.integers(DAY0, DAY0 + hours * HOUR, 40 * hours))
    times = times - np.where(rng.random(len(times)) < 0.2, rng.integers(0, 20 * MINUTE, len(times)), 0)
    for _ in range(late):
        times[rng.integers(5, len(times))] -= rng.integers(0, hours * HOUR)
    return draw(rng, times.tolist(), factor=1.0 + 0.5 * (seed % 2))


def broken(seed: int, partition: int, hours: int) -> tuple[set[int], set[int]]:
    """Offsets of rejected rows, and of records that could not be decoded."""
    found = np.random.default_rng([seed, partition, 1]).permutation(40 * hours)[:10].tolist()
    return set(found[:5]), set(found[5:])


@st.composite
def runs(draw_: st.DrawFn) -> tuple[int, int, int, list[list[int]], list[list[tuple[int, int]]], list[int]]:
    seed, partitions, hours = draw_(st.integers(0, 50)), draw_(st.integers(1, 3)), draw_(st.integers(2, 7))
    cuts = [sorted(draw_(st.sets(st.integers(1, 40 * hours - 1), max_size=8))) for _ in range(partitions)]
    learned = []
    for own in cuts:
        at = sorted(draw_(st.lists(st.integers(0, len(own) + 1), min_size=2, max_size=2)))
        learned.append([(at[0], 1), (at[1], 2)])
    steps = draw_(st.lists(st.integers(0, 9), min_size=0, max_size=60))
    return seed, partitions, hours, cuts, learned, steps


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(runs())
def test_latest_verdicts_are_a_function_of_the_log(kind, run):
    contract = KINDS[kind]
    seed, partitions, hours, cuts, learned, steps = run
    timeline = Timeline((FIRST, SECOND))
    rows = [partition_rows(seed, p, hours, late=4) for p in range(partitions)]
    bad = [broken(seed, p, hours) for p in range(partitions)]
    plain = Harness(partitions, timeline, contract)
    for p in range(partitions):
        for partials in counted(
            blocks_of(p, rows[p], [], *bad[p]), timeline, (), contract
        ):  # one block a partition, references known before
            plain.write(*partials)
    plain.drain()

    odd = Harness(partitions, timeline, contract)
    waiting = [
        counted(blocks_of(p, rows[p], cuts[p], *bad[p]), timeline, learned[p], contract) for p in range(partitions)
    ]
    for step in steps:
        if step < 3:  # the next block of a partition
            if waiting[step % partitions]:
                odd.write(*waiting[step % partitions].pop(0))
        elif step < 6 and odd.log:  # redelivery of something old
            odd.write(odd.log[(seed * 7 + step * 13) % len(odd.log)])
        elif step == 6:
            odd.turn()
        elif step == 7:
            odd.turn(IDLE_S)
        elif step == 8:
            odd.feed()
        else:
            odd.restart()
    for p in range(partitions):
        while waiting[p]:
            odd.write(*waiting[p].pop(0))
            odd.turn(0.1)
    odd.drain()
    assert odd.latest == plain.latest
    assert len(plain.latest) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", range(1, 6))
def test_a_restart_at_any_point_changes_nothing(at, kind):
    timeline = Timeline((FIRST,))
    rows = [partition_rows(3, p, 5, late=6) for p in range(2)]
    plain, odd = (Harness(2, timeline, KINDS[kind]) for _ in range(2))
    for one, restarts in ((plain, False), (odd, True)):
        parts = [counted(blocks_of(p, rows[p], list(range(30, 200, 30))), timeline, (), KINDS[kind]) for p in range(2)]
        for i, pair in enumerate(zip(*parts, strict=True)):
            for partials in pair:
                one.write(*partials)
                one.feed()
            if i % 2:
                one.turn()
            if restarts and i == at % len(parts[0]):
                one.restart()
        one.drain()
    assert odd.latest == plain.latest
