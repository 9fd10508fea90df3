"""Labels made from the events themselves: on the stream what the lake says, in any order of partitions, once a row matured."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import labels
from batch.labels import LABEL
from pipeline import contract_file
from pipeline.contract import MatchLabel
from stream_processors.live.matching import Matcher, Row, Told

RETAIL = contract_file.load("online_retail")
LATENESS, HORIZON = 2, 6  # seconds


def of_the_lake(rows: list[Row]) -> dict[tuple[int, int], bool]:
    """By coordinate, every row's label as training reads it."""
    assert isinstance(RETAIL.label, MatchLabel)
    rule = replace(RETAIL.label, horizon=timedelta(seconds=HORIZON))
    when = [datetime.fromtimestamp(r.event_ms / 1000, UTC) for r in rows]
    frame = pl.DataFrame(
        {
            "raw_partition": [r.place[0] for r in rows],
            "raw_offset": [r.place[1] for r in rows],
            "InvoiceNo": ["C1" if r.is_match else "1" for r in rows],
            "CustomerID": [str(r.on[0]) for r in rows],
            "StockCode": ["a"] * len(rows),
            "InvoiceDate": pl.Series(when, dtype=pl.Datetime("us", "UTC")),
        }
    )
    found = labels.by_match(frame.lazy(), rule, "InvoiceDate")[0].collect()
    return {(p, o): label for p, o, label in found.select("raw_partition", "raw_offset", LABEL).iter_rows()}


def matcher(cap: int = 1_000) -> Matcher:
    made = Matcher(HORIZON * 1000, LATENESS * 1000, cap)
    made.clocks = {0: -1_000_000, 1: -1_000_000}
    return made


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Two partitions with steps back within the lateness; whoever buys and whoever cancels may lie in either."""
    drawn: list[list[Row]] = []
    for partition in range(2):
        times, clock = [], 0
        for step in draw(st.lists(st.integers(-LATENESS, 3), min_size=1, max_size=25)):
            times.append(max(clock + step, clock - LATENESS, 0))
            clock = max(clock, times[-1])
        kinds = draw(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=len(times), max_size=len(times)))
        drawn.append([Row((str(who),), at * 1000, (partition, i), match) for i, (at, (who, match)) in enumerate(zip(times, kinds, strict=True))])  # fmt: skip
    return drawn[0], drawn[1]


@given(streams(), st.data())
@settings(max_examples=150)
def test_a_matured_row_has_the_lakes_label_however_the_partitions_are_read(
    drawn: tuple[list[Row], list[Row]], data: st.DataObject
) -> None:
    wanted, made, told = of_the_lake([*drawn[0], *drawn[1]]), matcher(), []
    left = [list(part) for part in drawn]
    while any(left):
        chosen = data.draw(st.sampled_from([i for i in range(2) if left[i]]))
        made.take([left[chosen].pop(0)])
        told += made.matured()
    assert made.late == made.overflow == 0
    assert [t.event_ms for t in told] == sorted(t.event_ms for t in told)
    assert len({t.place for t in told}) == len(told)
    assert all(wanted[t.place] == t.label for t in told)
    due = min(max(r.event_ms for r in part) for part in drawn) - (LATENESS + HORIZON) * 1000
    assert {t.place for t in told} == {r.place for part in drawn for r in part if not r.is_match and r.event_ms < due}


#            0    1    2    3    4    5    6    7    8    9   10
#            a    a         C                        watermark past 0 + 6 and 1 + 6
def test_a_match_marks_the_latest_row_before_it_and_labels_come_when_the_horizon_is_over() -> None:
    made, on = matcher(), ("a",)
    made.take([Row(on, 0, (0, 0), False), Row(on, 1_000, (0, 1), False), Row(on, 3_000, (1, 0), True)])
    made.take([Row(("b",), 8_000, (0, 2), False), Row(("b",), 8_000, (1, 1), False)])
    assert list(made.matured()) == []  # a match at 6 could still come
    made.take([Row(("b",), 9_500, (0, 3), False), Row(("b",), 9_500, (1, 2), False)])
    assert list(made.matured()) == [Told((0, 0), 0, False), Told((0, 1), 1_000, True)]


def test_a_silent_partition_holds_labels_back_and_a_late_row_takes_no_part() -> None:
    made = matcher()
    made.take([Row(("a",), 0, (0, 0), False), Row(("a",), 50_000, (0, 1), False), Row(("a",), 1_000, (0, 2), True)])
    assert made.late == 1 and list(made.matured()) == []
    made.take([Row(("a",), 40_000, (1, 0), False)])
    assert list(made.matured()) == [Told((0, 0), 0, False)]


def test_memory_has_an_end_and_what_it_cost_is_counted() -> None:
    made = matcher(cap=10)
    made.take(Row((str(i),), i, (0, i), i % 5 == 0) for i in range(30))
    assert list(made.matured()) == [] and len(made) == 10 and made.overflow == 16
