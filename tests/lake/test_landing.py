"""What an error between a verdict and its commit may not cost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from batch import table as lake
from batch.landed_rows import DEAD_LETTER_SCHEMA, Landed, dead_letter
from batch.landing import EventsLanding, open_table
from pipeline.blocks import encode, to_headers
from pipeline.contract import DatasetRule, Reject
from pipeline.settings import from_environment
from stream_processors.dead_letters.letter import describe
from stream_processors.dead_letters.letter import to_headers as to_letter_headers
from tests.lake.lake_samples import HOUR, batch, contract, header

RULE = DatasetRule("few", "row_count", severity="critical", window=timedelta(hours=1), minimum=5)


class Read:
    """A block as the consumer hands it over."""

    def __init__(self, start: int, times: list[int], offset: int):
        rows = batch(start, [(f"o{start + i}", 1.0, t, None) for i, t in enumerate(times)])
        self._header, self._rows, self._offset = header(start, start + len(times), rows), rows, offset

    def headers(self):
        return to_headers(self._header)

    def value(self):
        return encode(self._rows)

    def offset(self):
        return self._offset

    def partition(self):
        return 0


class NoMeter:
    def inc(self, *args, **labels) -> None: ...

    set = observe = inc


@pytest.mark.parametrize("broken", ["commit", "publish"])
def test_a_verdict_reaches_its_topic_and_a_commit_though_the_first_try_fails(tmp_path, monkeypatch, broken):
    shop = contract(RULE)
    table = open_table(tmp_path / "shop" / "events", lake.lake_schema(shop), lake.EVENT_DATE, "at", {})
    published, failing = [], [True]

    def publish(verdicts):
        if broken == "publish" and failing:
            failing.clear()
            raise OSError("the broker is away")
        published.extend(verdicts)

    commit = lake.Table.commit

    def full(self, *args):
        if broken == "commit" and failing:
            failing.clear()
            raise OSError(28, "No space left on device")
        return commit(self, *args)

    monkeypatch.setattr(lake.Table, "commit", full)
    landing = EventsLanding(table, shop, "shop.blocks", [0], NoMeter(), publish)
    landing.add(Read(0, [1, 2], 0))
    landing.add(Read(2, [2 * HOUR], 1))
    with pytest.raises(OSError):
        landing.flush()
    landing.flush()
    assert [(v.rule, v.status) for v in published if v.window_start.startswith("1970-01-01T00")][-1:] == [
        ("few", "critical")
    ]
    lake_of = from_environment({"DRIFTLINE_HOME": str(tmp_path), "DRIFTLINE_LAKE": str(tmp_path)})
    name = lake.identity(lake_of, "shop")
    assert (name.rows, name.status, {v["rule"] for v in name.violations}) == (3, "critical", {"few"})


def test_a_dead_letters_row_is_what_its_headers_say_the_first_reason_too():
    again = [
        ("driftline.replay-of", b"shop.events/1/2"),
        ("driftline.first-rule", b"range"),
        ("driftline.attempt", b"1"),
    ]
    letter = describe(
        coordinate=("shop.events", 1, 7), reject=Reject("type", "price", "expected a number"), key=b"k", value=b"v",
        headers=again, timestamp=5_000, contract="shop@1.0.0", now=9_000,
    )  # fmt: skip
    row = dead_letter(Landed(0, 3, 9_000, b"k", b"v", dict(to_letter_headers(letter))))
    assert row is not None and set(row) == set(DEAD_LETTER_SCHEMA.names)
    said = ("raw_partition", "raw_offset", "reason", "field", "attempt", "first_reason", "replay_of", "letter_offset")
    assert [row[name] for name in said] == [1, 7, "type", "price", 2, "range", "shop.events/1/2", 3]
    assert dead_letter(Landed(0, 3, 9_000, b"k", b"v", {})) is None
