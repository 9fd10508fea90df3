"""The verb's arguments, as a source and a pace."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pipeline.contract_file import load
from pipeline.errors import UsageError
from producers.arrivals import DAY_MS, HOUR_MS
from producers.plan import Plan, moment, plan_of
from producers.produce import Produce
from tests.producers.sales_samples import START_MS

SLICE = Path(__file__).parents[1] / "data" / "online-retail-slice.parquet"


def plan(*argv: str, contract: str = "sales") -> Plan:
    parser = argparse.ArgumentParser()
    Produce.configure(parser)
    return plan_of(parser.parse_args(argv), load(contract), START_MS)


def test_by_default_event_time_is_now_and_compressed_time_begins_ten_days_ago() -> None:
    assert plan().start_ms == START_MS
    assert plan("--speed", "1440").start_ms == START_MS - 10 * DAY_MS
    assert plan("--start", "36h ago").start_ms == START_MS - 36 * HOUR_MS
    assert plan("--start", "2026-09-01T00:00:00Z").start_ms == moment("2026-09-01T00:00:00Z", 0)


def test_flat_out_has_no_pace_and_ends_before_now() -> None:
    flat = plan("--flat-out", "--events", "20000", "--rate", "100")
    batches = list(flat.source)
    assert flat.timeline is None
    assert sum(len(b) for b in batches) == 20_000
    assert START_MS - 10 * 60_000 < batches[-1].event_ms[-1] < START_MS


def test_a_file_is_flat_out_unless_a_speed_is_asked_for() -> None:
    assert plan("--replay", str(SLICE), contract="online_retail").timeline is None
    paced = plan("--replay", str(SLICE), "--speed", "86400", contract="online_retail")
    batch = next(paced.source)
    due = paced.timeline.wall_ms(batch.event_ms)
    assert due[0] == START_MS
    assert due[-1] - due[0] == pytest.approx((batch.event_ms[-1] - batch.event_ms[0]) / 86400)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--rate", "0"], "--rate 0.0: expected a number above 0"),
        (["--events", "-1"], "--events -1"),
        (["--seed", "-1"], "--seed -1"),
        (["--start", "tomorrow"], "expected now, '10d ago'"),
        (["--scenario", "prize-shift"], "not known"),
        (["--replay", "x.csv", "--rate", "5"], "own event times"),
    ],
)
def test_wrong_arguments_are_refused_with_their_reason(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(*argv)


def test_a_contract_that_the_generator_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="use --replay"):
        plan(contract="online_retail")
