"""Stored rows judged again say what the live judge said, byte for byte; and when they would have paged."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch import table
from batch.backtest import Backtest, compare
from batch.backtested import Backtested
from batch.landed_rows import DEAD_LETTER_SCHEMA, FAILED_DATE
from batch.reference_build import of_rejects
from batch.rejudge import blocks_of, rejudge
from batch.stored_rows import Lake
from pipeline.blocks import VALID, Block, BlockHeader
from pipeline.contract import RAW_PARTITION, REJECT, Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import from_environment
from pipeline.times import to_text
from stream_processors.judging.panes import clock_of
from stream_processors.judging.timeline import ReferenceSet, Timeline
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import CONTRACT, DAY0, HOUR, MINUTE, batch, draw, reference_set, with_plan
from tests.drift_stream.stream import TINY


def with_rejects(found: ReferenceSet) -> ReferenceSet:
    records = pa.table({"time": np.arange(12_200) * MINUTE, "outcome": [VALID] * 12_000 + ["range"] * 200})
    usual = of_rejects(CONTRACT, records, 1, found.version, found.effective_from)
    return replace(found, load=lambda: {**found.load(), usual.key: usual})


REFERENCES = Timeline((with_rejects(reference_set(1, DAY0)), with_rejects(reference_set(2, DAY0 + 5 * HOUR, seed=11))))
Row = tuple[int, float, str]


def history(seed: int, hours: int, factor: float = 1.0) -> list[tuple[list[Row], list[int]]]:
    """Two partitions: their rows in the order of the log, and the places of rejected ones; some rows are late."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(2):
        times = np.sort(rng.integers(DAY0, DAY0 + hours * HOUR, 150 * hours))
        late = rng.random(len(times)) < 0.03
        rows = draw(rng, (times - late * rng.integers(0, 3 * HOUR, len(times))).tolist(), factor)
        made.append((rows, np.flatnonzero(rng.random(len(rows)) < 0.02).tolist()))
    return made


def live_blocks(partition: int, rows: Sequence[Row], rejects: Sequence[int], cuts: Sequence[int]) -> list[Block]:
    """As the validator cuts them."""
    made, before = [], None
    for low, high in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        bad = [i - low for i in rejects if low <= i < high]
        times = [t for i, (t, _, _) in enumerate(rows[low:high]) if i not in bad]
        counts = {VALID: len(times), **({"range": len(bad)} if bad else {})}
        least, most = min(times, default=None), max(times, default=None)
        header = BlockHeader("tiny.events", partition, low, high, counts, least, most, before, CONTRACT.name)
        made.append(Block(header, batch(rows[low:high], low, bad)))
        before = max([t for t in (before, most) if t is not None], default=None)
    return made


def stored(found: Sequence[tuple[list[Row], list[int]]]) -> pa.Table:
    """As the lake and the dead letters keep them: of a rejected row its coordinate and the reason."""
    parts = []
    for partition, (rows, rejects) in enumerate(found):
        frame = pl.from_arrow(pa.Table.from_batches([batch(rows, 0, rejects)]))
        bad = pl.col(REJECT).is_not_null()
        gone = [pl.when(~bad).then(pl.col(c)).alias(c) for c in ("price", "region", "at")]
        parts.append(frame.with_columns(*gone, pl.lit(partition, pl.Int32).alias(RAW_PARTITION)))
    whole = pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=1)  # a table has no order
    columns = ["at", "price", "region", RAW_PARTITION, "raw_offset", REJECT]
    return whole.select(columns).to_arrow().cast(
        pa.schema([(c, CONTRACT.block_schema.field(c).type if c != RAW_PARTITION else pa.int32()) for c in columns])
    )  # fmt: skip


def live(found: Sequence[tuple[list[Row], list[int]]], contract: Contract, cuts: int, seed: int) -> Harness:
    rng, harness = np.random.default_rng(seed), Harness(2, REFERENCES, contract)
    queues = []
    for partition, (rows, rejects) in enumerate(found):
        at = sorted(set(rng.integers(1, len(rows), cuts).tolist()))
        queues.append(counted(live_blocks(partition, rows, rejects, at), REFERENCES, contract=contract))
    while any(queues):
        queue = queues[int(rng.integers(2))]
        if queue:
            harness.write(*queue.pop(0))
            harness.turn()
    harness.drain()
    return harness


PLANS = {
    "tumbling": CONTRACT,
    "sliding": with_plan(slide=timedelta(minutes=30)),
    "by rows": with_plan(window_rows=400, window=timedelta(minutes=5)),
}


@pytest.mark.parametrize("plan", PLANS)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), cuts=st.integers(1, 12), rows=st.sampled_from([37, 10_000]))
def test_stored_rows_give_the_verdicts_of_the_live_judge(plan, seed, cuts, rows):
    contract, found = PLANS[plan], history(seed, 9)
    said = live(found, contract, cuts, seed)
    with mock.patch("batch.rejudge.BLOCK_ROWS", rows):
        again = rejudge(contract, clock_of(contract), REFERENCES, blocks_of(stored(found), contract))
    assert again.rejects == sum(len(r) for _, r in found)
    compared = compare(again.verdicts, said.latest)
    assert compared.same >= 3 * 6 and compared.different == ()
    assert {v.feature for v in again.verdicts if v.n} == {"price", "region", "reject"}
    finals = {place for place, told in said.latest.items() if not json.loads(told)["provisional"]}
    assert finals == {v.place for v in again.verdicts if not v.provisional}


@pytest.mark.parametrize("plan", PLANS)
def test_episodes_do_not_depend_on_how_many_windows_a_block_spans(plan):
    """A judge that was fed ahead still speaks window by window: the onset of an alert knows nothing of what came after its window."""
    contract, told = PLANS[plan], []
    for factor in (1.0, 1.4):  # ten quiet hours, ten of higher prices
        told.append(history(8, 20, factor))
    found = [
        ([*calm[: len(calm) // 2], *high[len(calm) // 2 :]], bad) for (calm, bad), (high, _) in zip(*told, strict=True)
    ]
    alerts = []
    for windows in (1, 32):
        with mock.patch("batch.rejudge.BLOCK_WINDOWS", windows):
            again = rejudge(contract, clock_of(contract), REFERENCES, blocks_of(stored(found), contract))
        alerts.append(
            [
                (a.state, a.event_time, a.onset, a.onset_high, [(f.feature, f.segment) for f in a.features])
                for a in again.alerts
            ]
        )
    assert alerts[0] == alerts[1] and {state for state, *_ in alerts[0]} >= {"firing"}


def test_a_verdict_that_differs_is_named_with_its_fields():
    found = history(1, 4)
    again = rejudge(CONTRACT, clock_of(CONTRACT), REFERENCES, blocks_of(stored(found), CONTRACT))
    verdict = next(v for v in again.verdicts if not v.provisional)
    other = {verdict.place: replace(verdict, n=verdict.n + 1, state="alarm").to_bytes()}
    [difference] = compare(again.verdicts, other).different
    assert difference.endswith("price *: n, state")


def test_late_rows_of_windows_long_closed_are_counted_again():
    rows, _ = history(2, 40)[0]
    early = [(DAY0 + 10 * MINUTE + i, 20.0, "north") for i in range(7)]
    found = [([*rows, *early], []), (draw(np.random.default_rng(3), [t for t, _, _ in rows]), [])]
    again = rejudge(CONTRACT, clock_of(CONTRACT), REFERENCES, blocks_of(stored(found), CONTRACT))
    first = next(v for v in again.verdicts if v.place == (to_text(DAY0), "price", "*"))
    assert first.revision >= 7 and first.n == sum(DAY0 <= t < DAY0 + HOUR for part, _ in found for t, _, _ in part)


# -- the lake


@pytest.fixture
def lake(tmp_path):
    """The rows of a history as tables, settings that name them, and the same rows as they are."""
    found, told = history(6, 12), from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    rows = pl.from_arrow(stored(found))
    bad = pl.col(REJECT).is_not_null()
    events = rows.filter(~bad).drop(REJECT).with_columns(order=pl.lit("o"), append_time=pl.col("at"))
    events = events.with_columns(
        pl.col("at", "append_time").cast(pl.Datetime("us", "UTC")), event_date=pl.col("at").dt.date()
    )
    letters = rows.filter(bad).select(raw_topic=pl.lit("tiny.events"), raw_partition=RAW_PARTITION, raw_offset="raw_offset", reason=REJECT, failed_date=pl.lit(date(2026, 6, 1)))  # fmt: skip
    for name, schema, by, frame in (
        (table.EVENTS, table.lake_schema(CONTRACT), table.EVENT_DATE, events),
        (table.DEAD_LETTERS, DEAD_LETTER_SCHEMA, FAILED_DATE, letters),
    ):
        made = table.Table.create(table.location(told, "tiny", name), schema, by, {})
        whole = pl.concat([pl.from_arrow(schema.empty_table()), frame], how="diagonal_relaxed")
        made.commit(whole.select(schema.names).to_arrow().cast(schema), {}, {}, {})
    return told, found


@pytest.mark.parametrize(("first", "until"), [(0, None), (5, None), (0, 7), (5, 8)])
def test_a_part_of_the_lake_gives_the_verdicts_of_the_whole(lake, first, until):
    told, found = lake
    references = Timeline((reference_set(1, DAY0 + first * HOUR),))
    clock, end = clock_of(CONTRACT), None if until is None else DAY0 + until * HOUR
    whole = rejudge(CONTRACT, clock, references, blocks_of(stored(found), CONTRACT))
    part = rejudge(CONTRACT, clock, references, Lake(told, CONTRACT).blocks(DAY0 + first * HOUR, end))
    low, high = to_text(DAY0 + first * HOUR), to_text(end or DAY0 + 11 * HOUR)
    wanted = {v.place: v.to_bytes() for v in whole.verdicts if low <= v.window_start and v.window_end <= high}
    assert len(wanted) >= 2 * 6
    assert wanted == {v.place: v.to_bytes() for v in part.verdicts if v.place in wanted}
    assert until is None or part.rows < whole.rows


def test_a_reference_is_built_from_the_lakes_own_rows(lake, tiny, capsys):
    told, _ = lake
    arguments = ("--reference-from", "2026-06-01T00:00:00Z", "--reference-to", "2026-06-01T06:00:00Z", "--json")
    assert run(tiny, *arguments, home=told.home) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["windows"] >= 5 and said["from"] == "2026-06-01T06:00:00.000Z" and said["rejects"] > 0


def test_a_stretch_that_the_lake_does_not_hold_is_told_with_what_it_holds(lake, tiny):
    arguments = ("--reference-from", "2026-05-01", "--reference-to", "2026-05-02")
    with pytest.raises(
        CheckFailed, match="from 2026-05-01 to 2026-05-02, got none; the lake holds rows from 2026-05-31"
    ):
        run(tiny, *arguments, home=lake[0].home)


# -- the verb, over a file


@pytest.fixture
def tiny(tmp_path):
    contract = tmp_path / "tiny.yaml"
    contract.write_text(TINY)
    return str(contract)


def write(path: Path, factor: float, checked: bool = False) -> Path:
    """A day of quiet rows, then a day whose prices are `factor` times as high; every 50th row breaks the contract."""
    rng = np.random.default_rng(4)
    times = np.sort(rng.integers(DAY0, DAY0 + 48 * HOUR, 40_000))
    day, next_day = (np.count_nonzero(part) for part in (times < DAY0 + 24 * HOUR, times >= DAY0 + 24 * HOUR))
    rows = [*draw(rng, times[:day].tolist()), *draw(rng, times[day : day + next_day].tolist(), factor)]
    frame = pl.DataFrame(
        {
            "order": [f"o{i}" for i in range(len(rows))],
            "price": [p for _, p, _ in rows],
            "region": [r for _, _, r in rows],
            "at": pl.Series([t for t, _, _ in rows]).cast(pl.Datetime("ms", "UTC")),
        }
    )
    if checked:
        frame = frame.with_columns(raw_partition=pl.lit(0, pl.Int32), raw_offset=pl.int_range(len(rows)))
    else:
        frame = frame.with_columns(price=pl.when(pl.int_range(len(rows)) % 50 > 0).then("price"))
    frame.write_parquet(path)
    return path


def run(contract: str, *arguments: str, home: Path = Path(".driftline")) -> int:
    parser = argparse.ArgumentParser()
    Backtest.configure(parser)
    return Backtest.run(parser.parse_args(arguments), from_environment({"DRIFTLINE_HOME": str(home)}, contract))


DAY = ("--reference-from", "2026-06-01", "--reference-to", "2026-06-02")


@pytest.mark.parametrize("checked", [False, True])
def test_a_file_tells_the_day_on_which_it_would_have_paged(tmp_path, tiny, capsys, checked):
    file, picture = write(tmp_path / "rows.parquet", 1.3, checked), tmp_path / "plot.svg"
    assert run(tiny, "--file", str(file), *DAY, "--json", "--plot", str(picture)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["days"] == ["2026-06-02"]
    assert 19_000 * 0.98 < told["rows"] < 20_500 and (told["rejects"] == 0 if checked else 370 < told["rejects"] < 410)
    assert told["pages"][0]["features"][0]["feature"] == "price"
    assert {f["feature"] for f in told["features"] if f["alarms"]} == {"price"}
    assert "<svg" in picture.read_text()


def test_a_quiet_file_would_have_stayed_silent(tmp_path, tiny, capsys):
    file = write(tmp_path / "rows.parquet", 1.0)
    assert run(tiny, "--file", str(file), *DAY) == 0
    assert "it would have stayed silent" in capsys.readouterr().out


def test_what_cannot_page_is_told_first_and_is_not_called_silent(tmp_path, capsys):
    file, contract = write(tmp_path / "rows.parquet", 100.0), tmp_path / "whole.yaml"
    contract.write_text(TINY.replace("      segments:\n        - [region]\n", ""))
    few = ("--reference-from", "2026-06-01", "--reference-to", "2026-06-01T08:00:00Z")
    assert run(str(contract), "--file", str(file), *few) == 0
    told = capsys.readouterr().out
    assert re.match(r"price cannot page: reference 6,\d\d\d rows, 10,000 needed\n", told)
    assert "nothing could page" in told and "stayed silent" not in told


def test_a_file_out_of_order_says_how_many_rows_came_late(tmp_path, tiny, capsys):
    file = write(tmp_path / "rows.parquet", 100.0)
    pl.read_parquet(file).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(file)
    run(tiny, "--file", str(file), *DAY)
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"3\d,\d\d\d of 39,\d\d\d rows came late .*sort the file by at", told)
    assert told.index("rows came late") < told.index("reject cannot page: reference 1 row, 10,000 needed")


def test_records_that_are_no_records_are_told_without_a_field(tmp_path, tiny):
    file = tmp_path / "rows.jsonl"
    file.write_text("[1, 2]\nhello\n")
    with pytest.raises(CheckFailed, match=r"2 of 2 records are rejected: not_object 1, syntax 1$"):
        run(tiny, "--file", str(file), *DAY)


def test_a_reference_that_is_not_the_contracts_kind_is_told(tmp_path, capsys):
    contract = tmp_path / "rolling.yaml"
    contract.write_text(TINY.replace("      rule: bank", "      rule: bank\n      reference: {kind: rolling}"))
    run(str(contract), "--file", str(write(tmp_path / "rows.parquet", 1.0)), *DAY)
    assert "the contract's rolling reference was not followed" in " ".join(capsys.readouterr().out.split())


def test_the_table_fits_a_terminal_and_tells_what_judged(tmp_path, tiny, capsys):
    run(tiny, "--file", str(write(tmp_path / "rows.parquet", 1.3)), *DAY)
    told = capsys.readouterr().out
    table = [line for line in told.splitlines() if line[:1] in "│┃"]
    assert max(map(len, table)) <= 80 and any(re.search(r"price .* 2026-06-02 \d\d:00 ", line) for line in table)
    assert re.search(
        r"reference of price: 19,\d\d\d rows, independent rows, one law at all times; a daily rhythm needs 3 days, a weekday rhythm needs 14 days: \d here",
        told,
    )


def test_silence_about_numbers_that_floats_confuse_is_told(tmp_path, capsys):
    contract = tmp_path / "whole.yaml"
    contract.write_text(TINY.replace("price, logicalType: number", "price, logicalType: integer"))
    file = write(tmp_path / "rows.parquet", 1.0, checked=True)
    large = 2**54 + (pl.col("price") * 10).cast(pl.Int64)
    pl.read_parquet(file).with_columns(price=large).write_parquet(file)
    run(str(contract), "--file", str(file), *DAY, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["notes"][0].startswith("price: 100.0% of the reference's rows are whole numbers beyond 2^53")
    assert found["states"]["undefined"] >= 24


def spoiled(path: Path, how: str) -> Path:
    frame = pl.read_parquet(write(path, 1.0)) if how != "junk" else None
    if frame is None:
        path.write_bytes(b"junk")
    else:
        {"empty": frame.clear(), "named wrongly": frame.rename({"price": "cost"})}[how].write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("junk", UsageError, "--file .*not readable as parquet"),
        ("empty", UsageError, "--file .*expected rows, got none"),
        ("named wrongly", CheckFailed, "([0-9,]+) of \\1 records are rejected: unknown_field `cost` \\1$"),
    ],
)
def test_a_file_that_is_no_good_says_why(tmp_path, tiny, how, error, message):
    with pytest.raises(error, match=message):
        run(tiny, "--file", str(spoiled(tmp_path / "rows.parquet", how)), *DAY)


def test_only_the_windows_asked_for_are_told(tmp_path, tiny, capsys):
    file = write(tmp_path / "rows.parquet", 1.3)
    arguments = ("--from", "2026-06-02T06:00:00Z", "--to", "2026-06-02T09:00:00Z", "--json")
    run(tiny, "--file", str(file), *DAY, *arguments)
    told = json.loads(capsys.readouterr().out)
    assert told["windows"] == 3 and told["from"] == "2026-06-02T06:00:00.000Z"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--file", "nowhere.parquet", *DAY), UsageError, "there is no such file"),
        (("--file", ".", *DAY), UsageError, "^--file .: expected a file, got a folder"),
        (("--file", "/dev/null", *DAY), UsageError, "^--file /dev/null: expected a file, got a device"),
        (("--file", "x.parquet"), UsageError, "which of its rows are the reference"),
        (("--file", "x.parquet", *DAY, "--check"), UsageError, "expected the lake"),
        (("--reference-version", "1", *DAY), UsageError, "expected one of them"),
        (("--from", "2026-06-03", "--to", "2026-06-02"), UsageError, "--from 2026-06-03: expected a time before --to"),
        (("--reference-from", "yesterday"), UsageError, "expected a day like 2011-04-01 .*got 'yesterday'"),
        (("--plot", "no/such/folder.svg"), UsageError, "there is no folder"),
        (("--plot", "x.pdf", *DAY), UsageError, "ends in .svg or .png"),
        (("--from", "monday", *DAY), UsageError, "--from"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tiny, arguments, error, message):
    with pytest.raises(error, match=message):
        run(tiny, *arguments)


def test_without_a_lake_it_says_so(tmp_path, tiny):
    with pytest.raises(CheckFailed, match=r"tiny/events: no table here yet; `driftline compact` makes it$"):
        run(tiny, "--check", home=tmp_path)


def test_a_range_without_rows_says_so(tmp_path, tiny):
    file = write(tmp_path / "rows.parquet", 1.0)
    with pytest.raises(CheckFailed, match="got none"):
        run(tiny, "--file", str(file), *DAY, "--from", "2026-07-01", "--to", "2026-07-02")


def test_a_page_is_told_once_an_episode():
    alerts = [
        Fake("a", "pending"),
        Fake("a", "firing"),
        Fake("a", "firing"),
        Fake("b", "firing"),
        Fake("a", "resolved"),
    ]
    found = Backtested(CONTRACT, clock_of(CONTRACT), 0, 0, 0, 0, (), tuple(alerts), ())
    assert [(p.episode, p.state) for p in found.pages] == [("a", "firing"), ("b", "firing")]


class Fake:
    def __init__(self, episode: str, state: str):
        self.episode, self.state = episode, state
