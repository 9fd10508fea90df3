"""History features: a row knows what had arrived before it, and knows the same online and offline.

Draws small logs in which events and outcomes are late by days, out of order, doubled or missing.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import dataset
from pipeline import contract_file
from pipeline.contract import Contract
from pipeline.errors import UsageError
from pipeline.settings import from_environment
from stream_processors.live import feature_fold, feature_plan, feature_replay, feature_windows, model_features
from stream_processors.live.feature_plan import NOTHING, History
from stream_processors.live.feature_state import Bounds, Position, State
from tests.model import lake, sales_rows

SALES, RETAIL = contract_file.load("sales"), contract_file.load("online_retail")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def history_of(contract: Contract) -> History:
    found = feature_plan.compiled(contract)
    assert found is not None
    return found


HISTORY = history_of(SALES)


def times(ms: list[int]) -> pl.Series:
    return pl.Series(ms, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")).cast(pl.Datetime("us", "UTC"))


def sales(rows: list[tuple[int, int, str, str, str]], price: float = 10.0) -> pl.DataFrame:
    """(arrived ms, event ms, order, customer, product)."""
    arrived, at, order, customer, product = (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 5
    return pl.DataFrame(
        {
            "append_time": times(arrived),
            "event_time": times(at),
            "order_id": pl.Series(order, dtype=pl.String),
            "customer_id": pl.Series(customer, dtype=pl.String),
            "product_id": pl.Series(product, dtype=pl.String),
            "price": pl.Series([price] * len(rows), dtype=pl.Float64),
            "quantity": pl.Series([2] * len(rows), dtype=pl.Int64),
        }
    )


def returns(rows: list[tuple[int, int, str, bool]]) -> pl.DataFrame:
    """(arrived ms, event ms, order, returned), in order of arrival."""
    arrived, at, order, returned = (
        (list(c) for c in zip(*sorted(rows, key=lambda r: r[0]), strict=True)) if rows else ([],) * 4
    )
    return pl.DataFrame(
        {
            "append_time": times(arrived),
            "event_time": times(at),
            "order_id": pl.Series(order, dtype=pl.String),
            "returned": pl.Series(returned, dtype=pl.Boolean),
        }
    )  # fmt: skip


def offline(rows: pl.DataFrame, events: pl.DataFrame, outcomes: pl.DataFrame | None) -> np.ndarray:
    return feature_replay.values(HISTORY, SALES, rows, events, outcomes).to_numpy()


def online(state: State, rows: pl.DataFrame, history: History = HISTORY, clock: str = "event_time") -> np.ndarray:
    out = np.empty((rows.height, len(history.names)))
    for entity in history.entities:
        keys = [f"{entity.name}:{i}" for i in rows[entity.field].to_list()]
        known = state.sums(keys)
        stored = [known.get(k) or NOTHING for k in keys]
        feature_windows.looked_up(history, entity, stored, rows[clock].dt.epoch("ms").to_numpy(), out)
    return out


EVENT = st.tuples(
    st.integers(0, 40 * 24).map(
        lambda h: h * HOUR_MS // 4
    ),  # arrival: 10 days in quarters of an hour, so that many tie
    st.integers(-9 * 24, 1).map(lambda h: h * HOUR_MS),  # event time: up to nine days before, or an hour ahead
    st.sampled_from("abcdef"),
    st.sampled_from(["C1", "C2", "C3"]),
    st.sampled_from(["P1", "P2"]),
)
OUTCOME = st.tuples(
    st.integers(0, 40 * 24).map(lambda h: h * HOUR_MS // 4),
    st.integers(-9 * 24, 1).map(lambda h: h * HOUR_MS),
    st.sampled_from("abcdef"),
    st.booleans(),
)
START = 100 * DAY_MS
LOG = st.tuples(st.lists(EVENT, max_size=30), st.lists(OUTCOME, max_size=20)).map(
    lambda log: (
        sales(sorted((START + a, START + a + d, *rest) for a, d, *rest in log[0])),
        returns([(START + a, START + a + d, o, r) for a, d, o, r in log[1]]),
    )
)


@given(LOG, st.lists(st.integers(0, 10 * 24 * 4), max_size=2), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_online_and_offline_agree_whatever_the_batches(
    log: tuple[pl.DataFrame, pl.DataFrame], cuts: list[int], rng: st.DrawFn
) -> None:
    events, outcomes = log
    expected = offline(events, events, outcomes)
    asked = sorted({START + c * HOUR_MS // 4 for c in cuts} | {START + 11 * DAY_MS})
    with tempfile.TemporaryDirectory() as home:
        state = State(Path(home) / "state", HISTORY, SALES)
        done = [0, 0]
        for at in asked:
            now = datetime.fromtimestamp(at / 1000, UTC)
            until = [
                events.filter(pl.col("append_time") < now).height,
                outcomes.filter(pl.col("append_time") < now).height,
            ]
            for share in [*sorted(rng.random() for _ in range(2)), 1.0]:  # apart, in any interleaving
                step = [
                    d + round((u - d) * s)
                    for d, u, s in zip(done, until, (share, rng.random() if share < 1 else 1), strict=True)
                ]
                state.fold(events[done[0] : step[0]], outcomes[done[1] : step[1]], {})
                done = step
            rows = events.with_row_index().filter(pl.col("append_time") == now)
            assert np.array_equal(online(state, rows), expected[rows["index"].to_numpy()], equal_nan=True)
        state.close()


@given(LOG, st.integers(0, 10 * 24))
@settings(max_examples=60)
def test_what_arrives_later_changes_nothing(log: tuple[pl.DataFrame, pl.DataFrame], hour: int) -> None:
    assert not leaks(*log, START + hour * HOUR_MS)


def leaks(events: pl.DataFrame, outcomes: pl.DataFrame, at_ms: int) -> bool:
    """Whether a row that arrived by `at_ms` has other features once the rest of the log is there."""
    now = datetime.fromtimestamp(at_ms / 1000, UTC)
    then, heard = events.filter(pl.col("append_time") <= now), outcomes.filter(pl.col("append_time") < now)
    known = then.filter(pl.col("append_time") < now)
    return not np.array_equal(offline(then, known, heard), offline(then, events, outcomes), equal_nan=True)


@pytest.fixture(scope="module")
def late_corpus() -> tuple[pl.DataFrame, pl.DataFrame]:
    """5,000 orders of five days; a third of them and of their outcomes come up to three days late."""
    block, rng = sales_rows.draw(5_000, hours=120, seed=5), np.random.default_rng(1)

    def late(frame: pl.DataFrame) -> pl.DataFrame:
        by = np.where(
            rng.random(frame.height) < 0.3,
            rng.integers(0, 3 * DAY_MS, frame.height),
            rng.integers(0, 2_000, frame.height),
        )
        return frame.with_columns(append_time=pl.col("event_time") + pl.Series(by * 1000).cast(pl.Duration("us"))).sort("append_time")  # fmt: skip

    few = pl.col("customer_id").str.slice(-1) + pl.col("customer_id").str.slice(1, 1)  # ten customers: long pasts
    return late(sales_rows.events(block).with_columns(customer_id=few)), late(sales_rows.outcomes(block))


def test_a_late_corpus_leaks_nothing_and_a_planted_leak_is_seen(
    late_corpus: tuple[pl.DataFrame, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = [sales_rows.START_MS + h * HOUR_MS for h in (30, 60, 90)]
    assert not any(leaks(*late_corpus, cut) for cut in cuts)
    monkeypatch.setattr(
        feature_fold, "APPEND_TIME", "event_time"
    )  # knows things when they happen, not when they arrive
    assert all(leaks(*late_corpus, cut) for cut in cuts)


def test_training_rows_of_the_lake_keep_their_history_when_the_lake_grows(
    late_corpus: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    here = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    events, outcomes = late_corpus
    offsets = events.with_columns(raw_partition=pl.lit(0, pl.Int32), raw_offset=pl.int_range(pl.len(), dtype=pl.Int64))
    ending = sales_rows.START_MS + 48 * HOUR_MS
    lake.write_events(here, SALES, offsets[:4000])
    lake.write_outcomes(here, SALES, outcomes[:4000])
    first = dataset.labelled(here, SALES, end=ending)
    lake.write_events(here, SALES, offsets[4000:])
    lake.write_outcomes(here, SALES, outcomes[4000:])
    grown = dataset.labelled(here, SALES, end=ending).rows
    names = list(HISTORY.names)
    rows = first.rows
    assert rows.height > 500 and first.identity.history and rows["customer_rate_1d"].n_unique() > 100
    same = rows.select("raw_offset").join(grown, on="raw_offset", how="left", maintain_order="left")
    assert rows.select(names).equals(same.select(names))


def test_rows_of_a_range_have_the_history_that_they_have_among_all(
    late_corpus: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    here = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    events, outcomes = late_corpus
    offsets = events.with_columns(raw_partition=pl.lit(0, pl.Int32), raw_offset=pl.int_range(pl.len(), dtype=pl.Int64))
    lake.write_events(here, SALES, offsets)
    lake.write_outcomes(here, SALES, outcomes)
    names, start, ending = list(HISTORY.names), *(sales_rows.START_MS + h * HOUR_MS for h in (96, 110))
    some = dataset.labelled(here, SALES, start, ending).rows  # reads less of the lake
    whole = dataset.labelled(here, SALES, end=ending).rows
    assert some.height > 100
    among = some.select("raw_offset").join(whole, on="raw_offset", how="left", maintain_order="left")
    assert some.select(names).equals(among.select(names))


def test_the_values_of_a_small_past_by_hand() -> None:
    #  step of 6 h   |0.....|6.....|12....|   C1 orders a at 1 h, b at 2 h (arrives at 13 h), c at 7 h; a comes back at 5 h
    h = [START + i * HOUR_MS for i in range(20)]
    events = sales([(h[1], h[1], "a", "C1", "P1"), (h[7], h[7], "c", "C1", "P2"), (h[13], h[2], "b", "C1", "P1")])
    asked = sales(
        [
            (h[7] + 1, h[7], "x", "C1", "P1"),
            (h[14], h[14], "y", "C1", "P1"),
            (h[14], h[14], "z", "C9", "P1"),
            (h[14], h[3], "w", "C1", "P1"),
        ]
    )
    found = feature_replay.values(HISTORY, SALES, asked, events, returns([(h[5], h[5], "a", True)])).to_dicts()
    assert [f["customer_count_1d"] for f in found] == [2, 3, 0, 2]  # w lies before c
    assert [f["customer_mean_1d"] for f in found] == [20.0, 20.0, 0.0, 20.0]
    assert [f["customer_rate_1d"] for f in found] == pytest.approx([3 / 11, 3 / 11, 0.2, 3 / 11])
    assert [f["product_count_1d"] for f in found] == [1, 2, 2, 2]


def test_of_two_outcomes_of_an_order_the_first_counts_online_too(tmp_path: Path) -> None:
    said = [(START + 1, START, "a", False), (START + 2, START, "a", True)]
    event, row = sales([(START + 3, START, "a", "C1", "P1")]), sales([(START + 4, START, "b", "C1", "P1")])
    state = State(tmp_path / "state", HISTORY, SALES)
    state.fold(sales([]), returns(said[:1]), {})
    state.fold(sales([]), returns(said[1:]), {})
    state.fold(event, returns([]), {})
    assert online(state, row)[0, 2] == offline(row, event, returns(said))[0, 2] == pytest.approx(2 / 11)
    state.close()


def test_rows_that_arrive_together_do_not_see_each_other() -> None:
    events = sales([(START, START, "a", "C1", "P1"), (START, START, "b", "C1", "P1")])
    assert offline(events, events, None)[:, 0].tolist() == [0, 0]


def test_what_lies_before_the_horizon_is_not_counted_and_what_is_remembered_is_bounded() -> None:
    old = [(START + i, START + i * DAY_MS, str(i), "C1", "P1") for i in range(60)]
    asked = sales([(START + 99, START + 59 * DAY_MS, "x", "C1", "P1")])
    assert offline(asked, sales(old), None)[0, 0] == 1
    with tempfile.TemporaryDirectory() as home:
        state = State(Path(home) / "state", HISTORY, SALES)
        state.fold(sales(old), returns([]), {})
        sizes = [len(s or b"") // feature_plan.SUMS.itemsize for _, s in state.changed()]
        assert max(sizes) == 2 and online(state, asked)[0, 0] == 1  # a day and the one that an event is late
        state.close()


def test_an_outcome_long_after_its_event_says_nothing_of_the_recent_past() -> None:
    events = sales([(START, START, "a", "C1", "P1"), (START, START, "b", "C1", "P1")])
    outcomes = returns([(START + 1, START + DAY_MS, "a", True), (START + 1, START + DAY_MS + 1, "b", True)])
    rows = sales([(START + 2, START + DAY_MS, "c", "C1", "P1")])
    assert offline(rows, events, outcomes)[0, 2] == pytest.approx(3 / 11)  # a alone: b came beyond four delays


def test_the_second_contract_declares_its_own_history() -> None:
    history, start = history_of(RETAIL), START
    lines = pl.DataFrame(
        {
            "append_time": times([start, start + 1, start + 2, start + 3]),
            "InvoiceDate": times([start, start + 1, start + 2, start + 3]),
            "InvoiceNo": ["500001", "500002", "C500003", "500004"],
            "StockCode": ["10001", "10001", "10001", "10001"],
            "CustomerID": ["1.0", None, "1.0", "1.0"],
            "UnitPrice": [2.0, 2.0, 2.0, 2.0],
            "Quantity": [3, 5, -3, 4],
        }
    )
    found = feature_replay.values(history, RETAIL, lines, lines, None)
    assert found["customer_count_7d"].to_list() == [0, 0, 1, 1]  # a cancellation is an outcome, not an order
    assert found["customer_sum_60d"].to_list() == [0, 0, 6, 6]
    assert found["customer_rate_60d"].to_list() == pytest.approx([0.02, 0.02, 1 / 51, 2 / 51])
    assert found["article_rate_60d"].to_list() == pytest.approx([0.02, 1 / 51, 1 / 52, 2 / 52])
    with tempfile.TemporaryDirectory() as home:
        state = State(Path(home) / "state", history, RETAIL)
        state.fold(lines[:2], pl.DataFrame(), {})
        state.fold(lines[2:3], pl.DataFrame(), {})
        expected = found[3:].to_numpy()
        assert np.array_equal(online(state, lines[3:], history, "InvoiceDate"), expected, equal_nan=True)
        state.close()


def test_a_killed_fold_goes_on_where_its_file_says(tmp_path: Path) -> None:
    state = State(tmp_path / "state", HISTORY, SALES)
    events = sales([(START + i, START, f"o{i}", "C1", "P1") for i in range(4)])
    state.fold(events[:2], returns([]), {("sales.blocks", 0): Position(1, 2, START + 1)})
    state.published()
    state.fold(events[2:3], returns([]), {("sales.blocks", 0): Position(2, 3, START + 2)})
    with pytest.raises(pl.exceptions.ColumnNotFoundError):  # a fold that fails half-way leaves nothing
        state.fold(events[3:].drop("price"), returns([(START, START, "o0", True)]), {})
    state.close()
    again = State(tmp_path / "state", HISTORY, SALES)
    assert again.positions() == {("sales.blocks", 0): Position(2, 3, START + 2)}
    assert [k for k, _ in again.changed()] == [
        "customer:C1",
        "product:P1",
    ]  # told again: it may not have been published
    assert online(again, events[3:])[0].tolist()[:3] == [3.0, 20.0, 0.2]
    again.close()


def test_beyond_its_bounds_the_least_recent_is_forgotten_and_said_so(tmp_path: Path) -> None:
    state = State(tmp_path / "state", HISTORY, SALES, Bounds(entities=3, waiting=2))
    for i in range(4):
        state.fold(sales([(START + i, START, f"o{i}", f"C{i}", "P1")]), returns([]), {})
        state.published()
    state.fold(sales([]), returns([(START + 9, START, "o0", True), (START + 9, START, "o3", True)]), {})
    assert state.forgotten == {"entity": 2, "event": 2, "outcome": 0} and state.held["entity"] == 3
    rows = sales([(START + 10, START, "x", f"C{i}", "P1") for i in (0, 3)])
    assert online(state, rows)[:, 2].tolist() == pytest.approx([0.2, 3 / 11])
    state.close()


def test_a_forgotten_entity_is_told_once_as_none(tmp_path: Path) -> None:
    state = State(tmp_path / "state", HISTORY, SALES, Bounds(entities=2))
    state.fold(sales([(START, START, "a", "C1", "P1")]), returns([]), {})
    state.published()
    state.fold(sales([(START, START, "b", "C2", "P1")]), returns([]), {})
    assert {k: s is None for k, s in state.changed()} == {
        "customer:C1": True,
        "customer:C2": False,
        "product:P1": False,
    }
    state.published()
    assert state.changed() == [] and state.sums(["customer:C1"]) == {}
    state.close()


NUMBER = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 1000).map(float)
TEXT = st.none() | st.sampled_from(["books", "north", "web", "fax"])


@pytest.mark.parametrize("contract", [SALES, RETAIL], ids=lambda c: c.id)
@given(data=st.data())
@settings(max_examples=30)
def test_a_request_and_a_frame_have_the_same_features(contract: Contract, data: st.DataObject) -> None:
    features = model_features.features_for(contract)
    if contract is RETAIL:
        features = model_features.with_categories(features, pl.DataFrame({"Country": ["north", "web"]}))
    own = [c for c in features.columns if c not in features.history and c != features.clock]
    texts = [c for c in own if contract.field(c).type == "string"]
    record = {c: data.draw(TEXT if c in texts else NUMBER) for c in own}
    record[features.clock] = data.draw(st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1))).replace(tzinfo=UTC)
    past = data.draw(
        st.lists(st.floats(allow_nan=True), min_size=len(features.history), max_size=len(features.history))
    )
    types = {c: pl.String if c in texts else pl.Float64 for c in own}
    frame = pl.DataFrame([record], schema={**types, features.clock: pl.Datetime("us", "UTC")})
    with_past = frame.with_columns(pl.lit(v).alias(n) for n, v in zip(features.history, past, strict=True))
    one = np.array(features.row(record, past))
    assert np.array_equal(one, features.matrix(frame, np.array([past]))[0], equal_nan=True)
    assert np.array_equal(one, features.matrix(with_past)[0], equal_nan=True)
    assert len(one) == len(features.names)


def test_a_model_of_another_history_is_refused() -> None:
    features = model_features.features_for(SALES)
    model_features.check_history(features, SALES)
    assert SALES.history is not None
    changed = replace(SALES, history=replace(SALES.history, prior=0.3))
    with pytest.raises(UsageError, match="trained with definition"):
        model_features.check_history(features, changed)


def test_amounts_that_are_no_money_add_nothing() -> None:
    events = pl.concat([sales([(START, START, "a", "C1", "P1")], p) for p in (float("nan"), float("inf"), 1e300, 5.0)])
    rows = sales([(START + 1, START + timedelta(hours=1) // timedelta(milliseconds=1), "x", "C1", "P1")])
    assert np.isfinite(offline(rows, events, None)).all()
