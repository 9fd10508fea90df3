"""OpenLineage events: equal to the client's own, whatever the batches were; nobody waits for a transport."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.lineage import Assertion, Dataset, Run, Tally, completed, failed, started, whole
from pipeline.lineage_send import Lineage, Minutes
from pipeline.meter import Silent
from pipeline.settings import Settings, from_environment
from tests.shared.lineage_oracle import as_the_client_writes_it

RAW = Dataset("kafka://a:9092", "sales.events", kind="TOPIC", fields=(("price", "number"), ("sku", "string")))
RUN = Run(
    "sales.train",
    "k",
    (
        Dataset(
            "file",
            "/lake/sales/events",
            "6",
            "TABLE",
            100,
            (("price", "number"),),
            (Assertion("mean", False, "mean_price", "one window", "error", "10 to 1000", "3.2"), Assertion("x", True)),
        ),
        RAW,
    ),
    (Dataset("http://127.0.0.1:5000", "sales-returned", "3", "MODEL", 1),),
    {"data": "c085", "seed": "1"},
)


class Counting(Silent):
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        self.counts[labels["result"]] += 1


def settings_of(tmp_path: Path, lineage: str, bootstrap: str = "127.0.0.1:1") -> Settings:
    env = {"DRIFTLINE_HOME": str(tmp_path), "DRIFTLINE_LINEAGE": lineage, "DRIFTLINE_BOOTSTRAP": bootstrap}
    return from_environment(env)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("event", [started(RUN, 0), completed(RUN, 1_500), failed(RUN, 2_000, "no rows")])
def test_an_event_is_what_the_clients_own_classes_write(event: dict) -> None:
    assert as_the_client_writes_it(event) == event


def test_a_run_that_is_told_twice_has_one_id_and_another_run_another() -> None:
    first, again = whole(RUN, 0, 1), whole(RUN, 5, 6)
    other = started(Run("sales.train", "other"), 0)
    assert {e["run"]["runId"] for e in (*first, *again)} == {RUN.id} and other["run"]["runId"] != RUN.id  # type: ignore[index]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=20))
def test_a_minute_does_not_depend_on_how_it_was_batched(batches: list[tuple[int, int]]) -> None:
    at, one, many = 100, Tally(), Tally()
    for rows, rejected in batches:
        many.take("sales.events", 0, at, at + rows)
        many.count("sales.events", rows)
        many.rejects.update({"range": rejected})
        at += rows
    one.take("sales.events", 0, 100, at)
    one.count("sales.events", at - 100)
    one.rejects["range"] = sum(rejected for _, rejected in batches)
    assert many.run("j", "k", [RAW], [], ["null", "range"]) == one.run("j", "k", [RAW], [], ["null", "range"])


def test_each_record_rule_holds_or_tells_how_many_records_broke_it() -> None:
    tally = Tally()
    tally.rejects.update({"range": 3, "own_rule": 1})
    [raw] = tally.run("j", "k", [RAW], [], ["null", "range"]).inputs
    assert [(a.assertion, a.success, a.actual) for a in raw.assertions] == [
        ("null", True, "0 records"),
        ("range", False, "3 records"),
        ("own_rule", False, "1 records"),
    ]


def test_a_year_of_verdicts_keeps_the_ones_that_failed() -> None:
    tally = Tally()
    tally.verdicts = [Assertion("mean", i != 9_999, str(i)) for i in range(10_000)]
    [raw] = tally.run("j", "k", [RAW], [], []).inputs
    assert len(raw.assertions) == 500 and raw.assertions[0].name == "9999"


def test_a_file_gets_a_line_an_event(tmp_path: Path) -> None:
    lineage, meter = settings_of(tmp_path, "file"), Counting()
    sender = Lineage(lineage, meter)
    sender.send(*whole(RUN, 0, 1))
    sender.close(10)
    assert [e["eventType"] for e in lines(tmp_path / "lineage.jsonl")] == ["START", "COMPLETE"]
    assert meter.counts == {"sent": 2}


def test_nobody_waits_for_a_broker_that_is_away_and_the_file_has_it_all(tmp_path: Path) -> None:
    sender, began = Lineage(settings_of(tmp_path, "kafka,file:told/here.jsonl")), time.monotonic()
    sender.send(started(RUN, 0))
    sent = time.monotonic() - began
    sender.close(0.5)
    assert sent < 0.5 and time.monotonic() - began < 5
    assert [e["eventType"] for e in lines(tmp_path / "told/here.jsonl")] == ["START"]


def test_what_cannot_be_written_is_counted_and_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file where a directory should be")
    meter = Counting()
    sender = Lineage(settings_of(tmp_path, "file:taken/lineage.jsonl"), meter)
    sender.send(*whole(RUN, 0, 1))
    sender.close(10)
    assert meter.counts == {"dropped": 2} and capsys.readouterr().err.count("lineage_dropped") == 1


def test_a_full_queue_drops_and_says_so(tmp_path: Path) -> None:
    meter = Counting()
    sender = Lineage(settings_of(tmp_path, "kafka"), meter)
    sender.send(*[started(RUN, n) for n in range(300)])
    assert 40 <= meter.counts["dropped"] <= 44  # 256 wait, one or none is on its way


def test_a_process_that_may_have_no_thread_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    meter = Counting()
    sender = Lineage(settings_of(tmp_path, "file"), meter)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        sender.send(started(RUN, 0))
        sender.close()
    sender.send(completed(RUN, 1))
    sender.close(10)
    assert meter.counts == {"dropped": 1, "sent": 1}


def test_off_starts_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    sender = Lineage(settings_of(tmp_path, "off"))
    minutes = Minutes(sender, "j", [RAW], [])
    minutes.tally.count("sales.events", 1)
    sender.send(started(RUN, 0))
    minutes.close()
    assert threading.active_count() == before and not list(tmp_path.iterdir())


def test_a_process_that_never_ends_completes_a_run_each_time_it_is_due(tmp_path: Path) -> None:
    sender = Lineage(settings_of(tmp_path, "file"))
    minutes = Minutes(sender, "sales.validate", [RAW], [], every_s=0)
    minutes.turn()  # nothing was done: no run
    for start in (0, 10):
        minutes.tally.take("sales.events", 0, start, start + 10)
        minutes.tally.count("sales.events", 10)
        minutes.turn()
    minutes.close()
    told = lines(tmp_path / "lineage.jsonl")
    assert [e["eventType"] for e in told] == ["START", "COMPLETE"] * 2
    versions = [e["inputs"][0]["facets"]["datasetVersion"]["datasetVersion"] for e in told]
    assert versions == ["0@0-10", "0@0-10", "0@10-20", "0@10-20"]
    assert len({e["run"]["runId"] for e in told}) == 2


@pytest.mark.parametrize("value", ["on", "", "kafka,off", "file:", "kafka,"])
def test_a_wrong_place_is_named_with_the_right_ones(value: str) -> None:
    with pytest.raises(UsageError, match=r"DRIFTLINE_LINEAGE=.* is not one of: off, kafka, file, file:PATH"):
        from_environment({"DRIFTLINE_LINEAGE": value})
