"""Labels: which events count, which outcome is theirs, and what names the result."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from batch import dataset, labels
from batch.labels import LABEL
from pipeline import contract_file
from pipeline.contract import MatchLabel, OutcomeLabel
from pipeline.errors import CheckFailed
from pipeline.settings import Settings, from_environment
from tests.model import lake, sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS

CONTRACT = contract_file.load("sales")


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return from_environment({"DRIFTLINE_HOME": str(tmp_path / "home")})


def at(minute: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)


def test_the_first_event_and_the_first_outcome_of_a_key_count() -> None:
    events = pl.LazyFrame(
        {
            "order_id": ["a", "a", "b"],
            "raw_partition": [0, 0, 0],
            "raw_offset": [0, 1, 2],
            "append_time": [at(0), at(1), at(2)],
        }
    )
    outcomes = pl.LazyFrame(
        {
            "order_id": ["a", "a", "a"],
            "returned": [False, False, True],
            "append_time": [at(9), at(5), at(5)],
            "topic_partition": [0, 0, 0],
            "topic_offset": [9, 6, 5],
        }
    )
    found = (
        labels.by_outcome(events, outcomes, OutcomeLabel("returned", "order_id", timedelta(hours=6)))
        .collect()
        .sort("raw_offset")
    )
    assert found.select("raw_offset", LABEL).rows() == [(0, True), (2, None)]


def test_a_cancellation_marks_the_latest_earlier_line_of_that_customer_within_the_horizon() -> None:
    #  minute     0        5        10      12     20        90
    #  a/x        line     line     C(a/x)                   C(a/x) too late
    #  b/x                                  C(b/x) before    line
    rows = [
        (0, "1", "a", "x"),
        (5, "2", "a", "x"),
        (10, "C3", "a", "x"),
        (12, "C4", "b", "x"),
        (20, "5", "b", "x"),
        (21, "6", None, "x"),
        (90, "C7", "a", "x"),
    ]
    frame = pl.LazyFrame(
        {
            "time": [at(r[0]) for r in rows],
            "invoice": [r[1] for r in rows],
            "customer": [r[2] for r in rows],
            "stock": [r[3] for r in rows],
            "raw_partition": [0] * len(rows),
            "raw_offset": list(range(len(rows))),
        }
    )
    rule = MatchLabel("cancelled", "invoice", "^C", ("customer", "stock"), timedelta(minutes=60))
    labelled, unmatched = labels.by_match(frame, rule, "time")
    assert labelled.collect().sort("raw_offset").select("invoice", LABEL).rows() == [
        ("1", False),
        ("2", True),
        ("5", False),
    ]
    assert sorted(unmatched.collect()["time"].to_list()) == [at(12), at(90)]


def test_young_events_are_left_out_even_if_their_label_is_there(here: Settings) -> None:
    block = sales_rows.draw(4_000, hours=24)
    lake.write_events(here, CONTRACT, sales_rows.events(block, 2))
    lake.write_outcomes(here, CONTRACT, sales_rows.outcomes(block))
    found = dataset.labelled(here, CONTRACT)
    newest = found.rows["event_time"].max()
    assert newest <= datetime.fromtimestamp((START_MS + 18 * HOUR_MS) / 1000, UTC)
    assert found.identity.rows == 3_000 - 1 + 1 == found.rows.height
    assert dataset.count_labelled(here, CONTRACT) == found.rows.height
    assert found.rows["event_time"].is_sorted()


def test_the_identity_names_versions_offsets_rows_and_what_is_missing(here: Settings) -> None:
    block = sales_rows.draw(4_000, hours=24)
    lake.write_events(here, CONTRACT, sales_rows.events(block, 2))
    lake.write_outcomes(here, CONTRACT, sales_rows.outcomes(block).slice(100))
    found = dataset.labelled(here, CONTRACT)
    identity = found.identity
    assert (identity.table_version, identity.outcomes_version, identity.status) == (1, 1, "ok")
    assert identity.unlabelled == 100 and identity.positives == int(found.rows[LABEL].sum())
    assert set(identity.ranges) == {"0", "1"}
    json.dumps(identity.json(), allow_nan=False)


def test_the_digest_follows_the_rows_not_their_order_or_files(here: Settings, tmp_path: Path) -> None:
    block = sales_rows.draw(2_000, hours=24)
    events, outcomes = sales_rows.events(block, 2), sales_rows.outcomes(block)
    other = replace(here, lake=str(tmp_path / "other"))
    lake.write_events(here, CONTRACT, events)
    for part in (events.slice(1_200), events.slice(0, 1_200).reverse()):
        lake.write_events(other, CONTRACT, part)
    for place in (here, other):
        lake.write_outcomes(place, CONTRACT, outcomes)
    first, second = dataset.labelled(here, CONTRACT), dataset.labelled(other, CONTRACT)
    assert first.identity.digest == second.identity.digest
    assert first.identity.table_version != second.identity.table_version
    changed = first.rows.with_columns(
        pl.when(pl.col("raw_offset") == 1_024_000).then(~pl.col(LABEL)).otherwise(LABEL).alias(LABEL)
    )
    flipped = (
        first.rows.with_row_index()
        .with_columns(pl.when(pl.col("index") == 5).then(~pl.col(LABEL)).otherwise(LABEL).alias(LABEL))
        .drop("index")
    )
    assert dataset.content_digest(flipped) != first.identity.digest
    assert changed.height == first.rows.height


def test_critical_quality_halts_training_and_names_the_rule(here: Settings) -> None:
    block = sales_rows.draw(2_000, hours=24)
    failed = {
        "rule": "row_count",
        "severity": "critical",
        "window_start": "2026-03-02T05:00:00.000Z",
        "window_end": "2026-03-02T06:00:00.000Z",
    }
    lake.write_events(here, CONTRACT, sales_rows.events(block), worst="critical", violations=json.dumps([failed]))
    lake.write_outcomes(here, CONTRACT, sales_rows.outcomes(block))
    with pytest.raises(CheckFailed, match=r"critical dataset rule row_count failed \(window 2026-03-02T05"):
        dataset.labelled(here, CONTRACT)
    assert dataset.labelled(here, CONTRACT, START_MS + 8 * HOUR_MS).identity.status == "degraded"  # elsewhere


def test_no_lake_is_no_row() -> None:
    nowhere = from_environment({"DRIFTLINE_HOME": "/nonexistent/driftline"})
    assert dataset.count_labelled(nowhere, CONTRACT) == 0
    assert dataset.newest_event_time(nowhere, CONTRACT) is None
