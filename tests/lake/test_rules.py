"""Dataset rules: over all decoded rows, by event-time window, independent of how the rows arrive."""

from datetime import timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from batch.rules import EMPTY_WINDOWS, Windows, carry, evaluate, flagged, hashes, prepare, status_of
from pipeline.contract import DatasetRule
from tests.lake.lake_samples import DAY, HOUR, batch, contract

AN_HOUR = timedelta(hours=1)
COUNT = DatasetRule("row_count", "row_count", minimum=1, severity="critical", window=AN_HOUR)
MEAN = DatasetRule("mean_amount", "mean", ("amount",), 10, 1000, window=AN_HOUR)
UNIQUE = DatasetRule("unique_order", "unique", ("order",), window=AN_HOUR)
BOTH = DatasetRule("unique_pair", "unique", ("order", "at"), severity="info")


def frame(rows, c):
    return prepare(pl.DataFrame(pl.from_arrow(batch(0, rows, c))), c)


def verdicts(c, rows):
    return {(v.rule, v.window_start): v for v in evaluate(pl.DataFrame(pl.from_arrow(batch(0, rows, c))), c)}


def test_flagged_rows_are_all_rows_whose_key_occurs_more_than_once():
    c = contract(UNIQUE)
    rows = [(k, 1.0, 5, None) for k in ("a", "b", "a", "c", "a", "b")]
    v = verdicts(c, rows)["unique_order", "1970-01-01T00:00:00.000Z"]
    assert (v.violations, v.value, v.rows, v.passed, v.status) == (5, 5.0, 6, False, "degraded")


def test_rejected_rows_count_too_and_null_keys_are_not_compared():
    c = contract(UNIQUE, COUNT)
    found = verdicts(
        c, [("a", 1.0, 5, None), ("a", 1.0, 6, "range"), (None, 1.0, 7, "missing"), (None, 1.0, 8, "missing")]
    )
    hour = "1970-01-01T00:00:00.000Z"
    assert found["unique_order", hour].violations == 2
    assert found["row_count", hour].value == 4


def test_the_same_key_in_two_windows_is_no_duplicate():
    found = verdicts(contract(UNIQUE), [("a", 1.0, 5, None), ("a", 1.0, HOUR + 5, None)])
    assert [v.violations for v in found.values()] == [0, 0]


def test_a_compound_key_is_compared_as_a_whole_and_info_stays_ok():
    found = verdicts(
        contract(BOTH), [("a", 1.0, 5, None), ("a", 1.0, 6, None), ("b", 1.0, 5, None), ("b", 2.0, 5, None)]
    )
    v = found["unique_pair", "run"]
    assert (v.violations, v.passed, v.status) == (2, False, "ok")


def test_the_mean_ignores_nulls_and_its_bounds_are_inclusive():
    c = contract(MEAN)
    assert verdicts(c, [("a", 5.0, 1, None), ("b", 15.0, 1, None), ("c", None, 1, None)])[
        "mean_amount", "1970-01-01T00:00:00.000Z"
    ].passed
    v = verdicts(c, [("a", 9.9, 1, None)])["mean_amount", "1970-01-01T00:00:00.000Z"]
    assert (v.passed, v.expected, v.status) == (False, "mean of amount in [10, 1000]", "degraded")


def test_a_window_without_a_row_between_two_others_breaks_the_row_count():
    found = verdicts(contract(COUNT), [("a", 1.0, 5, None), ("b", 1.0, 2 * HOUR + 5, None)])
    assert [v.status for v in found.values()] == ["ok", "critical", "ok"]


def test_a_wild_clock_does_not_make_a_million_windows():
    found = verdicts(contract(COUNT), [("a", 1.0, 5, None), ("b", 1.0, (EMPTY_WINDOWS + 10) * HOUR, None)])
    assert len(found) == 2


def test_a_row_from_the_future_belongs_to_no_window_but_to_the_run():
    c = contract(COUNT, DatasetRule("all", "row_count", minimum=2))
    found = verdicts(c, [("a", 1.0, 5, None), ("b", 1.0, 400 * DAY, "time_future")])
    assert found["all", "run"].value == 2
    assert [k for k in found if k[0] == "row_count"] == [("row_count", "1970-01-01T00:00:00.000Z")]


def test_a_window_closes_when_the_watermark_has_passed_its_end_and_not_before():
    #  0....|....60   windows of 60 min; the row at 59 closes nothing, the watermark 60 closes the first
    c = contract(COUNT)
    windows = Windows(c, AN_HOUR, [COUNT])
    windows.add(frame([("a", 1.0, 59 * 60_000, None)], c))
    assert windows.close(HOUR - 1) == []
    assert [v.window_start for v in windows.close(HOUR)] == ["1970-01-01T00:00:00.000Z"]
    windows.add(frame([("late", 1.0, 5, None)], c))
    assert windows.late == 1
    assert [v.value for v in windows.close(2 * HOUR)] == [0.0]


def test_before_its_end_the_run_is_judged_only_on_what_more_rows_cannot_mend():
    exact = DatasetRule("row_count", "row_count", minimum=2, maximum=2)
    c = contract(exact, DatasetRule("unique", "unique", ("order",)))
    windows = Windows(c, None, c.dataset_rules)
    windows.add(frame([("a", 1.0, 5, None)], c))
    assert [v.rule for v in windows.peek(final=False)] == ["unique"]
    assert [v.status for v in windows.peek(final=True)] == ["degraded", "ok"]
    windows.add(frame([("b", 1.0, 5, None), ("c", 1.0, 5, None)], c))
    assert [v.rule for v in windows.peek(final=False)] == ["row_count", "unique"]


def test_freshness_is_how_far_event_time_is_behind_append_time():
    c = contract(DatasetRule("fresh", "freshness", maximum=60))
    rows = pl.DataFrame(pl.from_arrow(batch(0, [("a", 1.0, 5_000, None)], c))).with_columns(
        pl.lit(125_000).cast(pl.Datetime("ms", "UTC")).alias("append_time")
    )
    assert [(v.value, v.passed) for v in evaluate(rows, c)] == [(120.0, False)]


def test_a_newer_verdict_on_the_same_window_replaces_the_older_failure():
    c = contract(UNIQUE)
    bad = evaluate(pl.DataFrame(pl.from_arrow(batch(0, [("a", 1.0, 5, None), ("a", 1.0, 6, None)], c))), c)
    good = evaluate(pl.DataFrame(pl.from_arrow(batch(0, [("a", 1.0, 5, None)], c))), c)
    assert [v["rule"] for v in carry([], bad)] == ["unique_order"]
    assert carry(carry([], bad), good) == []
    assert status_of(bad) == "degraded"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4 * HOUR)), min_size=1, max_size=30), st.integers(1, 7)
)
def test_how_rows_are_cut_into_blocks_does_not_matter(pairs, size):
    c = contract(COUNT, MEAN, UNIQUE, BOTH)
    rows = [(k, 20.0, t, None) for k, t in pairs]
    whole = {v.key: v for v in evaluate(pl.DataFrame(pl.from_arrow(batch(0, rows, c))), c)}
    groups = {AN_HOUR: Windows(c, AN_HOUR, [COUNT, MEAN, UNIQUE]), None: Windows(c, None, [BOTH])}
    for at in range(0, len(rows), size):
        for windows in groups.values():
            windows.add(frame(rows[at : at + size], c))
    newest = max(t for _, t in pairs)
    cut = {v.key: v for w in groups.values() for v in w.close(newest) + w.peek(final=True)}
    assert cut == whole


def test_keys_beyond_what_is_held_leave_that_window_unknown_and_no_other():
    c = contract(UNIQUE)
    windows = Windows(c, AN_HOUR, [UNIQUE], keys_held=4)
    windows.add(frame([("a", 1.0, 5, None), ("a", 1.0, 6, None), ("b", 1.0, 7, None)], c))
    windows.add(frame([("c", 1.0, HOUR + 5, None), ("d", 1.0, HOUR + 6, None)], c))  # the fifth key
    windows.add(frame([("b", 1.0, 8, None)], c))  # room again: the window above gave its keys back
    windows.add(frame([("c", 1.0, HOUR + 7, None)], c))
    found = windows.close(2 * HOUR)
    assert [(v.value, v.violations, v.status) for v in found] == [(4.0, 4, "degraded"), (None, 0, "unknown")]
    windows.add(frame([("e", 1.0, 2 * HOUR + n, None) for n in (1, 1, 2, 3)], c))  # a closed window holds nothing
    assert [v.violations for v in windows.close(3 * HOUR)] == [4]


@given(st.lists(st.integers(0, 30), max_size=80), st.lists(st.integers(1, 9), max_size=20))
def test_flagged_rows_are_those_of_a_count_by_key_however_they_arrive(keys, cuts):
    parts, rest = [], keys
    for cut in [*cuts, len(keys)]:
        parts, rest = [*parts, rest[:cut]], rest[cut:]
    hashed = [hashes(pl.DataFrame({"k": [f"order-{k}" for k in part]}, schema={"k": pl.String})) for part in parts]
    assert flagged(hashed) == sum(keys.count(k) > 1 for k in keys)


def test_a_repeat_that_was_seen_is_told_though_later_keys_were_not_kept_and_unknown_mends_nothing():
    critical = DatasetRule("unique_order", "unique", ("order",), severity="critical")
    c = contract(critical)
    run = Windows(c, None, c.dataset_rules, keys_held=3)
    run.add(frame([("a", 1.0, 5, None), ("a", 1.0, 6, None), ("b", 1.0, 7, None)], c))
    [early] = run.peek(final=True)
    run.add(frame([("c", 1.0, 8, None), ("d", 1.0, 9, None)], c))
    run.add(frame([("e", 1.0, 8, None)], c))
    [late] = run.peek(final=True)
    assert [(v.value, v.violations, v.status) for v in (early, late)] == [(2.0, 2, "critical")] * 2
    clean = Windows(c, None, c.dataset_rules, keys_held=1)
    clean.add(frame([("a", 1.0, 5, None), ("b", 1.0, 6, None)], c))
    [undecided] = clean.peek(final=True)
    assert (undecided.status, undecided.passed) == ("unknown", False)
    assert [v["severity"] for v in carry(carry([], [early]), [undecided])] == ["critical"]
