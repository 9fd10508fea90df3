"""References are built from rows, a lake or a file; the same rows give the same files; two of them can be compared."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from batch import reference, reference_show, rolling, table
from batch.landed_rows import DEAD_LETTER_SCHEMA, FAILED_DATE
from batch.reference_build import as_window, build, of_rejects, outcomes
from pipeline.blocks import VALID
from pipeline.contract import (
    Contract,
    CrossFieldRule,
    DriftPlan,
    Field,
    MonitoredFeature,
    ReferencePlan,
    TimePlan,
)
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings, from_environment
from stream_processors.detectors.budget import thresholds
from stream_processors.judging.panes import WHOLE, clock_of
from stream_processors.reference import cells
from stream_processors.reference.slots import UNMATCHED
from stream_processors.reference.store import ReferenceStore
from tests.drift_core.samples import categorical
from tests.model.lake import write_events

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)
CONTRACT = Contract(
    id="shop",
    version="1.0.0",
    fields=(Field("order", "string"), Field("price", "number"), Field("region", "string"), Field("at", "timestamp")),
    key="order",
    time=TimePlan("at"),
    drift=DriftPlan(
        (MonitoredFeature("price", "numeric"), MonitoredFeature("region", "categorical")), segments=(("region",),)
    ),
    rules=(CrossFieldRule("sum", (), (("price", ">=", 0),), "sum_of_lines", "price"),),
)
CLOCK = clock_of(CONTRACT)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment({"DRIFTLINE_HOME": str(tmp_path)})


def rows(seed: int, number: int = 6_000, factor: float = 1.0, cycle: float = 0.0, days: int = 7) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.integers(0, days * 86_400, number))
    sign = np.sin(2 * np.pi * seconds / 86_400)
    regions = rng.choice(["north", "south", *[f"r{i}" for i in range(40)]], number, p=[0.6, 0.3, *[0.1 / 40] * 40])
    return pl.DataFrame(
        {
            "order": [f"o{i}" for i in range(number)],
            "price": np.exp(rng.normal(3, 0.5, number) + cycle * sign) * factor,
            "region": regions,
            "at": [MONDAY + timedelta(seconds=int(s)) for s in seconds],
            "raw_partition": np.arange(number) % 2,
            "raw_offset": np.arange(number) // 2,
            "append_time": [MONDAY] * number,
        },
        schema_overrides={
            "at": pl.Datetime("ms", "UTC"),
            "append_time": pl.Datetime("ms", "UTC"),
            "raw_partition": pl.Int32,
        },
    )


def made(frame: pl.DataFrame, version: int = 1, rejects: pa.Table | None = None):
    return build(CONTRACT, CLOCK, frame, version, 0, rejects)


def records(outcome: list[str]) -> pa.Table:
    """In this order, 100 in a pane."""
    times = np.arange(len(outcome)) * (CLOCK.pane // 100)
    return pa.table({"time": times, "outcome": pa.array(outcome, pa.string())})


def by_outcome(found: pa.Table) -> dict[str, int]:
    return dict(pl.from_arrow(found).group_by("outcome").len().iter_rows())


def stored(settings: Settings, *versions: pl.DataFrame) -> ReferenceStore:
    """A store that has heard of these versions, without a broker."""
    store, earlier = ReferenceStore(CONTRACT.id), ()
    for number, frame in enumerate(versions, 1):
        records = reference.written(settings, CONTRACT, made(frame, number), earlier)
        for record in records:
            store.add(record)
        earlier = (*earlier, (number, records[0].effective_from))
    return store


def test_small_values_of_a_grouping_share_one_segment_and_nulls_belong_to_none():
    frame = rows(1).with_columns(region=pl.when(pl.int_range(pl.len()) < 50).then(None).otherwise(pl.col("region")))
    found = made(frame)
    assert {s for _, s in found} == {"*", "region=north", "region=south", "region=*"}
    prices = {s: r.rows for (f, s), r in found.items() if f == "price"}
    assert prices["*"] == 6_000 and prices["region=north"] + prices["region=*"] == 5_950
    assert 200 <= prices["region=south"] < 2_000 < prices["region=*"]  # charted, and too few to page: in the pool, too
    assert ("region", "region=north") not in found


def test_a_segment_follows_the_rhythm_of_its_whole_or_does_not_page():
    found = made(rows(4, number=30_000, cycle=0.5, days=7))
    assert found["price", WHOLE].slots
    segments = {key: r for key, r in found.items() if key[0] == "price" and key[1] != WHOLE}
    refused = thresholds(CONTRACT.drift, found).refused
    assert segments["price", "region=north"].slots and segments["price", "region=south"].slots
    assert all(r.slots or key in refused for key, r in segments.items())
    few = made(rows(4, number=14_000, cycle=0.5, days=7))
    assert few["price", WHOLE].slots and few["price", "region=south"].rows > 2_000
    assert "rhythm" in thresholds(CONTRACT.drift, few).refused["price", "region=south"]


def test_the_same_rows_in_another_order_give_the_same_bytes():
    once, again = (
        made(rows(2, 50_000, cycle=0.4)),
        made(rows(2, 50_000, cycle=0.4).sample(fraction=1, shuffle=True, seed=1)),
    )
    assert once["price", "*"].slots is not None
    assert [cells.digest(r) for r in once.values()] == [cells.digest(r) for r in again.values()]


def test_every_outcome_of_a_record_is_named_in_the_reference_of_rejects():
    known = of_rejects(CONTRACT, records([VALID] * 9_000 + ["range"] * 30 + ["syntax"] * 4 + ["empty"] * 6), 9, 3, 0)
    named = dict(zip(known.categories, known.counts.tolist(), strict=True))
    assert (named[VALID], named["range"], named["undecodable"], named["not_null"]) == (9_000, 30, 10, 0)
    assert "sum_of_lines" in named and "syntax" not in named
    assert (known.rows, known.key) == (9_040, ("reject", "*"))
    assert ("reject", "*") in made(rows(3), rejects=records([VALID] * 6_000)) and ("reject", "*") not in made(rows(3))


@pytest.mark.parametrize("burst", [1, 20])
def test_rejects_that_come_in_bursts_weigh_less(burst):
    bad = np.repeat(np.random.default_rng(8).random(60_000 // burst) < 0.01, burst)
    known = of_rejects(CONTRACT, records(np.where(bad, "range", VALID).tolist()), 9, 3, 0)
    assert (known.temper is None) == (burst == 1)
    if known.temper is not None:
        assert known.temper.eta["range x4"] < 0.2 and known.temper.inflation > 10


def test_a_record_stands_where_its_partitions_log_stood():
    #  partition, minute, code: a reject's own time is not believed; late rows reach beyond the reference's times
    log = [
        (0, 1, "range"),
        (0, 5, None),
        (1, 8, None),
        (0, 99, "range"),
        (0, None, "syntax"),
        (1, 3, None),
        (0, 9, None),
    ]
    moments = [None if m is None else MONDAY + timedelta(minutes=m) for _, m, _ in log]
    columns = {"raw_partition": [p for p, _, _ in log], "raw_offset": range(len(log)), "at": moments, "reject": [c for *_, c in log]}  # fmt: skip
    frame = pl.DataFrame(columns, schema_overrides={"at": pl.Datetime("ms", "UTC")}).sample(
        fraction=1, shuffle=True, seed=2
    )
    own = frame.filter(pl.col("at").is_between(MONDAY, MONDAY + timedelta(minutes=8)), pl.col("reject").is_null())
    start = int(MONDAY.timestamp() * 1000)
    found = [((row["time"] - start) // 60_000, row["outcome"]) for row in outcomes(frame, own, "at").to_pylist()]
    assert found == [(5, VALID), (5, "range"), (5, "syntax"), (8, VALID), (8, VALID)]


def test_rejects_are_those_of_the_rows_own_offsets(settings):
    frame = rows(4, 1_000)
    write_events(settings, CONTRACT, frame)
    assert by_outcome(reference.rejects_of(settings, CONTRACT, frame)) == {VALID: 1_000}
    letter = {**dict.fromkeys(DEAD_LETTER_SCHEMA.names), "raw_topic": "shop.events"}
    letters = [
        {**letter, "raw_partition": p, "raw_offset": o, "reason": r, "letter_partition": 0, "letter_offset": i,
         "attempt": 1, FAILED_DATE: MONDAY.date()}
        for i, (p, o, r) in enumerate([(0, 3, "range"), (0, 3, "range"), (1, 7, "syntax"), (1, 99_999, "range")])
    ]  # fmt: skip
    lake = table.Table.create(table.location(settings, "shop", table.DEAD_LETTERS), DEAD_LETTER_SCHEMA, FAILED_DATE, {})
    lake.commit(pa.Table.from_pylist(letters, DEAD_LETTER_SCHEMA), {}, {}, {"partitions": "[]"})
    found = reference.rejects_of(settings, CONTRACT, frame)
    assert by_outcome(found) == {VALID: 1_000, "range": 1, "syntax": 1}
    assert reference.rejects_of(settings, CONTRACT, frame.drop("raw_partition")) is None


def test_show_says_what_pages_and_which_rhythm_there_is(settings, capsys):
    store = stored(settings, rows(5), rows(6, 60_000, cycle=0.4))
    reference_show.show(store, CONTRACT, as_json=True)
    said = {
        (r["version"], r["feature"], r["segment"]): r for r in map(json.loads, capsys.readouterr().out.splitlines())
    }
    price = said[2, "price", "*"]
    assert price["pages"] == "yes" and len(price["slots"]) == 24 and price["evidence"]["hour_p_value"] < 1e-6
    assert said[2, "price", "region=*"]["pages"] == "yes"
    assert said[2, "region", "*"]["slots"] == [] and said[2, "region", "*"]["rhythm"] == "none"
    assert "slots" not in said[1, "price", "*"] and said[1, "price", "*"]["rows"] == 6_000
    small = stored(settings, rows(5, 3_000))
    reference_show.show(small, CONTRACT, as_json=False)
    out = capsys.readouterr().out
    assert "version 1, in force from 1970-01-01" in out and "10,000" in out
    assert "rhythm of price: " in out and "rhythm of region: one law at all times" in out


def test_what_may_not_page_is_told_as_the_detectors_decide_it():
    few = made(rows(4, number=14_000, cycle=0.5, days=7))
    for known in few.values():
        refused = thresholds(CONTRACT.drift, {known.key: known}).refused
        assert (reference_show.told(known)["pages"] == "yes") is (not refused)
        assert not refused or refused[known.key] in str(reference_show.told(known)["pages"])
    unmatched = [r for r in few.values() if UNMATCHED in r.evidence]
    assert unmatched and all("rhythm" in reference_show.told(r)["pages"] for r in unmatched if r.rows >= 2_000)
    many = categorical([f"c{i}" for i in range(200)] * 60)  # a fifth of the rows chooses the names: they count too
    assert many.rows < 10_000 <= many.source_rows and reference_show.told(many)["pages"] == "yes"


def test_diff_says_what_changed_largest_first(settings, capsys):
    after = rows(8, factor=1.3).with_columns(region=pl.col("region").replace({"south": "east"}))
    store = stored(settings, rows(7), after)
    reference_show.diff(reference_show.members(store, 1), reference_show.members(store, 2), 0.05, as_json=True)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by = {(r["feature"], r["segment"]): r for r in said}
    price, region = by["price", "*"], by["region", "*"]
    assert price["p_value"] < 1e-9 and price["wasserstein"] == pytest.approx(0.3 * np.exp(3 + 0.125), rel=0.1)
    assert region["vanished"] == ["south"] and region["new_share"] == pytest.approx(0.3, abs=0.03)
    assert by["price", "region=south"]["said"] == "only in the old"
    assert [r["effect"] or 0 for r in said] == sorted((r["effect"] or 0 for r in said), reverse=True)
    reference_show.diff(made(rows(7)), made(rows(7)), 0.05, as_json=False)
    assert "0" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="published are: 1, 2"):
        reference_show.members(store, 9)


def test_a_diff_of_a_reference_with_itself_is_nothing():
    for one in made(rows(9)).values():
        same = cells.count(
            one,
            pa.array(
                np.repeat(one.values, one.counts) if one.kind == "numeric" else np.repeat(one.categories, one.counts)
            ),
        )
        assert as_window(one, one) == same


DAY, H = 86_400_000, 3_600_000


@pytest.mark.parametrize(
    ("plan", "oldest", "newest", "last", "due"),
    [
        (ReferencePlan("training"), 0, 90 * DAY, None, None),
        (ReferencePlan("rolling", timedelta(days=7), timedelta(days=1)), 0, 9 * DAY + H, 8 * DAY + H, (2 * DAY + H, 9 * DAY + H)),
        (ReferencePlan("rolling", timedelta(days=7), timedelta(days=1)), 0, 9 * DAY, 8 * DAY + H, None),  # too early
        (ReferencePlan("rolling", timedelta(days=7), timedelta(days=1)), 3 * DAY, 9 * DAY, None, None),  # too little
        (ReferencePlan("last-week"), 0, 9 * DAY + H, None, (2 * DAY, 9 * DAY)),
    ],
)  # fmt: skip
def test_a_moving_reference_is_due_when_its_time_has_come(plan, oldest, newest, last, due):
    assert rolling.span_due(plan, oldest, newest, last) == due


def test_a_training_run_names_its_rows_and_a_foreign_one_is_refused(settings, monkeypatch):
    tags = {"table_version": "3", "start": "2026-06-02T00:00:00.000Z", "end": "2026-06-03T00:00:00.000Z"}
    monkeypatch.setattr("batch.registry.data_of", lambda *_: {**tags, "contract": CONTRACT.name})
    end = MONDAY + timedelta(days=2, milliseconds=1)
    assert reference.trained_on(settings, CONTRACT, "run") == (3, MONDAY + timedelta(days=1), end)
    for wrong in ({}, {**tags, "contract": "other@1"}):
        monkeypatch.setattr("batch.registry.data_of", lambda *_, wrong=wrong: wrong)
        with pytest.raises(CheckFailed, match="MLflow run run"):
            reference.trained_on(settings, CONTRACT, "run")


def test_a_file_with_other_columns_or_of_another_kind_is_refused_and_says_what_to_do(tmp_path):
    parser, wrong, text = ArgumentParser(), tmp_path / "wrong.parquet", tmp_path / "rows.csv"
    reference.Reference.configure(parser)
    rows(1).rename({"price": "cost"}).write_parquet(wrong)
    text.write_text("price,region\n1.5,north\n")
    for file, said in (
        (wrong, "expected the columns .*price, .*got order, cost, .*; missing .*price.*--contract"),
        (text, "expected a Parquet file, got "),
    ):
        with pytest.raises(UsageError, match=f"^{file}: {said}"):
            reference.Reference.run(
                parser.parse_args(["build", "--file", str(file)]), from_environment({"DRIFTLINE_HOME": str(tmp_path)})
            )


def test_a_span_that_is_none_is_refused():
    assert reference.span_of("12h") == timedelta(hours=12)
    for text in ("7", "d", "0d", "1.5h", "7w"):
        with pytest.raises(UsageError, match="7d, 12h, 90m"):
            reference.span_of(text)
