"""After a promotion, on a real broker: what does worse on live outcomes goes by itself, what does as well stays."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from batch import compare, dataset, ledger, ledger_topic
from batch.controller import Controller
from batch.decisions import Episode, Look, Policy, Request, Wait
from batch.ledger import Entry, Ledger
from batch.models import Models
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, topics
from pipeline.errors import CheckFailed
from pipeline.kafka import read_all
from pipeline.settings import Settings
from tests.model import lake, made, sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS
from tests.waiting import wait_until

CONTRACT = contract_file.load("sales")
MODEL = "sales-returned"
DAY_MS = 24 * HOUR_MS


def day(settings: Settings, number: int, orders: int, scenario: str = "baseline") -> pl.DataFrame:
    """Another day of orders that arrive from now on, one a millisecond, and their outcomes; its rows.

    Three quarters of them are old enough for a label.
    """
    block = sales_rows.draw(orders, scenario, seed=number + 1, start_ms=START_MS + number * DAY_MS)
    arrival = pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")) + pl.duration(milliseconds=pl.int_range(orders))
    place = pl.int_range(pl.len()).over("raw_partition") + number * 100_000
    rows = sales_rows.events(block, 2).with_columns(append_time=arrival, raw_offset=place)
    lake.write_events(settings, CONTRACT, rows)
    lake.write_outcomes(settings, CONTRACT, sales_rows.outcomes(block).with_columns(append_time=arrival))
    return dataset.rows_between(settings, CONTRACT, START_MS + number * DAY_MS, START_MS + (number + 1) * DAY_MS)


def models(settings: Settings, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    Models.configure(parser)
    return Models.run(parser.parse_args(argv), settings)


def last(settings: Settings) -> Entry:
    return Ledger(ledger.path_of(settings)).entries(MODEL)[-1]


@pytest.fixture
def ready(fresh_topics: Callable[..., Settings]) -> Settings:
    return fresh_topics("sales", 2)


def test_a_bad_champion_goes_by_itself_and_a_good_one_stays(
    ready: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    # version 1 serves; 2 was taught nonsense; 3 is as good as 1
    day(ready, 0, 12_000)
    rows = dataset.labelled(ready, CONTRACT).rows
    good = made.trained(ready, CONTRACT, "1", rows)
    nonsense = np.random.default_rng(5).permutation(rows["label"].to_numpy())
    bad = made.trained(ready, CONTRACT, "2", rows, nonsense)
    other = made.trained(ready, CONTRACT, "3", rows.tail(8_000))
    models(ready, "promote", "1", "--direct", "--reason", "the first")
    first = last(ready)
    assert (first.draft.action, first.draft.former, first.draft.reference_version) == ("promote", None, 1)

    # the gate: on the same rows and on the requests that users made
    asked = day(ready, 1, 6_000)
    by_score, by_people = asked[:5_000], asked[5_000:]
    made.answer(ready, CONTRACT, "1", by_score, good.score(by_score))
    made.answer(ready, CONTRACT, "1", by_score[:50], bad.score(by_score[:50]))  # a repeat: the first answer counts
    made.answer(ready, CONTRACT, "1", by_people, good.score(by_people), placed=False)
    never_sent = by_people[:10].with_columns(order_id=pl.col("order_id") + "-never")
    made.answer(ready, CONTRACT, "1", never_sent, good.score(never_sent), placed=False)
    to_come = by_score[:30].with_columns(raw_offset=pl.col("raw_offset") + 1_000_000)
    made.answer(ready, CONTRACT, "1", to_come, good.score(to_come))
    with pytest.raises(CheckFailed, match="does not pass the gate: not better"):
        models(ready, "promote", "2", "--direct", "--reason", "looks fine to me")
    refused = last(ready)
    assert (refused.draft.action, refused.draft.version, refused.draft.former) == ("refuse", "2", "1")
    for argv, why in ((("promote", "9"), "no trained version 9"), (("rollback", "9"), "expected a former champion")):
        with pytest.raises(CheckFailed, match=why):
            models(ready, *argv, "--direct", "--reason", "a slip")
        slip = last(ready).draft
        assert slip.data["table_version"] is not None
        assert (slip.action, slip.version, slip.actor, slip.former) == (
            "refuse",
            "9",
            "test",
            "1",
        ) and why in slip.reason
    assert refused.draft.metrics["denied"] and refused.draft.data["digest"]
    seen = compare.asked_of(ready, CONTRACT, "1")
    assert seen is not None and (seen.rows.height, seen.lost, seen.waiting, seen.unsent) == (6_000, 0, 30, 10)
    told = compare.replay(CONTRACT, bad, seen, asked)
    assert told["requests"] == 6_000 and told["unscored"] == 0 and told["loss"]["mean"] > 0  # type: ignore[index]
    decided = [s >= CONTRACT.evaluation.threshold for s in (bad.score(seen.rows), seen.rows[compare.ANSWER].to_numpy())]
    assert told["disagreement"] == np.mean(decided[0] != decided[1]) > 0
    same = compare.replay(CONTRACT, good, seen, asked)
    assert same["distance"] < 1e-9 and same["disagreement"] == 0  # type: ignore[operator]

    # forced through, it answers, its outcomes come, and it goes
    models(ready, "promote", "2", "--force", "--direct", "--reason", "I insist")
    forced = last(ready)
    assert (forced.draft.version, forced.draft.metrics["force"]) == ("2", True)
    answered = day(ready, 2, 4_000)
    made.answer(ready, CONTRACT, "2", answered, bad.score(answered))
    capsys.readouterr()
    models(ready, "watch", "--json")
    look = json.loads(capsys.readouterr().out)
    assert (look["verdict"], look["against"], look["champion"], look["former"]) == ("rollback", "former", "2", "1")
    meter = PrometheusMeter()
    turned = Controller(ready, CONTRACT, Policy(first_rows=10**9, cooldown_s=0), meter)
    assert isinstance(turned.turn([], []), Look)
    back = last(ready)
    assert (back.draft.action, back.draft.version, back.draft.former) == ("rollback", "1", "2"), back.draft.reason
    assert (back.draft.actor, back.draft.metrics["watch"]) == ("control", forced.seq) and back.draft.policy
    assert back.draft.metrics["evidence"]["log_e"] >= 4.6  # type: ignore[index]
    assert back.draft.data == first.draft.data and back.draft.data["digest"]  # the rows that version 1 was let in by
    assert ledger.champion_of(ledger_topic.read(ready), MODEL)["version"] == "1"  # type: ignore[index]
    assert b"driftline_rollback_timestamp_seconds{" in meter.exposition()
    wait_until(lambda: back.draft.reference_version in _references(ready), 20, "the former champion's reference")
    assert back.draft.reference["from"] == first.draft.reference["from"]  # type: ignore[index]
    assert isinstance(turned.turn([], []), Wait)
    with pytest.raises(CheckFailed, match="rolled back from before"):
        models(ready, "promote", "2", "--direct", "--reason", "once more")

    # as good as the former one: it stays, and its watch ends
    models(ready, "promote", "3", "--force", "--direct", "--reason", "a second opinion")
    crowned = last(ready)
    answered = day(ready, 3, 28_000)
    for n in (1, 2):  # the first 40,000 answers are to people who never order
        nobody = answered.head(20_000).with_columns(order_id=pl.col("order_id") + f"-never-{n}")
        made.answer(ready, CONTRACT, "3", nobody, other.score(nobody), placed=False)
    made.answer(ready, CONTRACT, "3", answered, other.score(answered))
    assert isinstance(turned.turn([], []), Look)
    kept = last(ready)
    assert (kept.draft.action, kept.draft.version, kept.draft.metrics["watch"]) == ("keep", "3", crowned.seq)
    assert kept.draft.former == "3" and kept.draft.data["table_version"] is not None
    assert isinstance(turned.turn([], []), Wait)

    # a person asks: who was champion when, and is the ledger whole
    capsys.readouterr()
    models(ready, "history", "--at", forced.draft.at, "--json")
    assert [json.loads(line)["version"] for line in capsys.readouterr().out.splitlines()] == ["2"]
    models(ready, "list")
    out = capsys.readouterr().out
    assert "rolled back" in out and "former champion" in out
    _cut(ready)
    with pytest.raises(CheckFailed, match="the file was cut or replaced"):
        models(ready, "history")
    promotion_now = Controller(ready, CONTRACT, Policy(), meter)
    assert isinstance(promotion_now.turn([], []), Wait)
    assert b'driftline_ledger_intact{model="sales-returned"} 0.0' in meter.exposition()


def test_a_person_who_asks_inside_an_episode_is_told_of_the_rows_since_its_onset(ready: Settings) -> None:
    old = day(ready, 0, 12_000)
    made.trained(ready, CONTRACT, "1", dataset.labelled(ready, CONTRACT).rows)
    models(ready, "promote", "1", "--direct", "--reason", "the first")
    day(ready, 1, 12_000, "concept-shift")
    onset, rows = START_MS + DAY_MS, dataset.labelled(ready, CONTRACT).rows
    is_new = pl.col("event_time").dt.epoch("ms") >= onset
    # taught on both worlds, and measured from the old one on
    made.trained(ready, CONTRACT, "2", pl.concat([rows.filter(is_new)[:5_000], rows.filter(~is_new)[-7_000:]]))
    assert old.height == 12_000
    episode = Episode("e1", "data", "firing", onset, onset, seen_firing=True)
    asked = Request("control.requests[0]@1", "promote", "2", "a person", "better since yesterday")
    Controller(ready, CONTRACT, Policy(first_rows=10**9), PrometheusMeter()).turn([episode], [asked])
    entry = last(ready)
    assert (entry.draft.action, entry.draft.version, entry.draft.metrics["harm"]) == ("promote", "2", "harmful"), entry
    overall, after = entry.draft.metrics["overall"], entry.draft.metrics["after"]
    assert after["rows"] == rows.filter(is_new).height < overall["rows"]  # type: ignore[index]
    assert entry.draft.episode is None  # the episode is still to be answered


def _references(settings: Settings) -> set[int]:
    return {json.loads(m.value())["version"] for m in read_all(settings, topics.REFERENCES)}


def _cut(settings: Settings) -> None:
    import sqlite3

    with sqlite3.connect(ledger.path_of(settings)) as db:
        db.execute("delete from entries where seq = (select max(seq) from entries)")
