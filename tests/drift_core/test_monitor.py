"""The library: rows of any kind in, frozen results out; the division of rows into calls does not matter."""

import doctest
from dataclasses import FrozenInstanceError
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.contract import Tolerance
from stream_processors import monitor as module
from stream_processors.detectors.budget import SEGMENTS_A_GROUPING
from stream_processors.detectors.detector import Evidence
from stream_processors.library.result import loudest
from stream_processors.monitor import Monitor, budget, compare
from stream_processors.reference.cells import from_arrow, to_arrow

LIBRARY = Path(__file__).parents[2] / "docs" / "library.md"


def rows(seed: int, n: int, factor: float = 1.0, north: float = 0.6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "price": np.round(rng.lognormal(3, 0.6, n) * factor, 1),
        "region": rng.choice(["north", "south"], n, p=[north, 1 - north]),
    }


REFERENCE = rows(1, 30_000)


def watching(**options: object) -> Monitor:
    return Monitor(REFERENCE, **{"run_length": 1_000_000, **options})


def test_rows_like_the_reference_stay_quiet_and_a_shift_is_named():
    monitor = watching()
    assert not monitor.update(rows(2, 20_000)).alarm
    result = monitor.update(rows(3, 5_000, factor=1.15))
    assert result.alarm and result.new == (("price", "*"),)
    assert "shift" in result["price"].change and result["region"].state == "ok"
    assert result.ranked[0] is result["price"]


def test_the_statistics_are_those_of_the_two_samples():
    window = rows(4, 3_000, factor=1.05)
    told = watching().update(window)["price"]
    expected = stats.ks_2samp(REFERENCE["price"], window["price"])
    assert told.statistic == pytest.approx(expected.statistic, abs=1e-12)
    assert told.p_value == pytest.approx(expected.pvalue, abs=0.01)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 6_000), min_size=1, max_size=5))
def test_evidence_does_not_depend_on_how_rows_come(sizes):
    window, at_once, bit_by_bit = rows(5, sum(sizes), factor=1.02), watching(), watching()
    expected, at = at_once.update(window), 0
    for size in sizes:
        told = bit_by_bit.update({k: v[at : at + size] for k, v in window.items()})
        at += size
    assert [f.evidence for f in told] == [f.evidence for f in expected]
    assert [f.history for f in told] == [f.history for f in expected]


@pytest.mark.parametrize("kind", ["dict", "polars", "arrow", "batch"])
def test_every_kind_of_rows_says_the_same(kind):
    window = rows(6, 2_000)
    made = {
        "dict": window,
        "polars": pl.DataFrame(window).with_columns(pl.col("region").cast(pl.Categorical)),
        "arrow": pa.table(window),
        "batch": pa.RecordBatch.from_pydict(window),
    }[kind]
    assert repr(compare(REFERENCE, made)) == repr(compare(REFERENCE, window))


def test_an_array_alone_is_a_feature_called_value():
    assert compare(REFERENCE["price"], REFERENCE["price"][:500]).features.keys() == {("value", "*")}


def test_a_shift_within_the_tolerance_is_shown_and_does_not_page():
    window = rows(7, 40_000, factor=1.07)
    assert watching().update(window)["price"].state == "alarm"
    tolerant = watching(tolerance={"price": Tolerance("distance", 0.08)}).update(window)["price"]
    assert tolerant.state == "ok" and tolerant.evidence.e_value > tolerant.evidence.threshold


def test_segments_are_the_rows_that_hold_their_values_and_a_null_is_in_none():
    rng = np.random.default_rng(21)
    table = pa.table({
        "price": rng.normal(size=9_000),
        "region": pa.array(rng.choice(["north", "south", None], 9_000), pa.string()),
        "store": pa.array(rng.choice([1, 2], 9_000)),
    })  # fmt: skip
    monitor = Monitor(table, features=["price"], segments=["region", ("region", "store")])
    found = monitor.update(table.slice(0, 3_000))
    frame = pl.from_arrow(table.slice(0, 3_000))
    wanted = {f"region={r}": frame.filter(pl.col("region") == r) for r in ("north", "south")}
    wanted |= {f"{name},store={s}": part.filter(pl.col("store") == s) for name, part in wanted.items() for s in (1, 2)}
    pool = "region=*,store=*"  # of 1,500 rows each they are too few to page alone
    assert {s for _, s in found.features} == {"*", pool, *wanted}
    assert found["price", pool].statistics.n == frame["region"].is_not_null().sum()
    for segment, part in wanted.items():
        assert found["price", segment].statistics.n == part.height
        known = pl.from_arrow(table).filter(pl.col("region") == segment.split("=")[1].split(",")[0])
        known = known if "," not in segment else known.filter(pl.col("store") == int(segment[-1]))
        theirs = stats.ks_2samp(known["price"].to_numpy(), part["price"].to_numpy(), method="asymp").statistic
        assert found["price", segment].statistic == pytest.approx(theirs, abs=1e-12)


def test_hundreds_of_segments_have_references_and_share_the_budget():
    rng, names = np.random.default_rng(22), [f"s{i:03}" for i in range(600)]
    store = np.repeat(names, np.arange(1_000, 400, -1))
    monitor = Monitor({"price": rng.normal(size=len(store)), "store": store}, features=["price"], segments=["store"])
    own = {segment for _, segment in monitor.references} - {"*", "store=*"}
    assert len(own) == SEGMENTS_A_GROUPING >= 300 and own == {f"store={n}" for n in names[:SEGMENTS_A_GROUPING]}
    assert monitor.references["price", "store=*"].source_rows == len(store)  # none of them could page alone


def test_values_too_rare_to_page_alone_page_together():
    #  region   a 12,000   b 3,000   c, d, e 1,500 each   f 100      in the window g, too
    rng, sizes = np.random.default_rng(23), {"a": 12_000, "b": 3_000, "c": 1_500, "d": 1_500, "e": 1_500, "f": 100}
    region = np.repeat(list(sizes), list(sizes.values()))
    monitor = Monitor({"x": rng.normal(size=len(region)), "region": region}, features=["x"], segments=["region"])
    assert monitor.references["x", "region=*"].source_rows == 4_600 and "region=f" not in monitor.references
    window = np.concatenate([rng.permutation(region)[:6_000], ["g"] * 50])
    rare = ~np.isin(window, ["a", "b"])
    moved = {"x": rng.normal(size=len(window)) + 1.0 * rare, "region": window}
    result = monitor.update(moved)
    assert result["x", "region=*"].statistics.n == rare.sum() > 1_000
    assert ("x", "region=*") in result.new and set(result.new) <= {("x", "region=*"), ("x", "*")}
    assert [result["x", f"region={r}"].state for r in "cde"] == ["reference_too_small"] * 3
    assert result["x", "region=c"].statistics.n == (window == "c").sum()


def test_a_segment_has_detectors_of_its_own():
    result = watching(segments=["region"]).update(rows(8, 4_000))
    assert set(result.features) == {
        ("price", "*"), ("region", "*"), ("price", "region=north"), ("price", "region=south")
    }  # fmt: skip
    assert result["price", "region=north"].statistics.n + result["price", "region=south"].statistics.n == 4_000


def test_a_reference_below_the_floor_is_described_and_never_pages():
    result = Monitor(rows(1, 500)).update(rows(2, 5_000, factor=3))
    assert not result.alarm and result["price"].state == "reference_too_small"
    assert result["price"].statistic > 0.5 and "reference_too_small" in repr(result)


def test_an_alarm_ends_with_the_evidence_that_the_data_returned():
    monitor = watching()
    monitor.update(rows(9, 3_000, factor=1.3))
    states = [monitor.update(rows(10 + i, 2_000))["price"].state for i in range(20)]
    assert states[0] == "alarm" and states[-1] == "ok"


def test_comparing_two_samples_once_holds_holms_correction():
    same, moved = compare(REFERENCE, rows(30, 4_000)), compare(REFERENCE, rows(31, 4_000, north=0.5))
    assert not same.alarm and same.run_length is None
    assert moved["region"].state == "different" and moved["price"].state == "ok"


def test_empty_and_null_windows_are_undefined_not_nan():
    empty = compare(REFERENCE, {"price": np.empty(0), "region": pa.array([], pa.string())})
    assert {f.state for f in empty} == {"undefined"} and empty["price"].statistics.undefined == "no rows"
    assert compare(REFERENCE, {"price": [], "region": np.empty(0)})["region"].state == "undefined"
    nulls = watching().update({"price": [None, None], "region": [None, None]})["price"]
    assert nulls.statistics.undefined == "only nulls" and "only nulls" in str(nulls)


def test_rows_are_rounded_as_a_narrower_reference():
    rng = np.random.default_rng(13)
    known, rows = (np.round(rng.choice([0, 0.05, 0.1, 0.15, 0.2], 20_000), 2) for _ in range(2))
    assert not Monitor({"d": known.astype("f4")}).update({"d": rows}).alarm
    assert not compare(known.astype("f4"), rows).alarm


def test_a_comparison_sees_nulls():
    rng = np.random.default_rng(14)
    known, rows = rng.normal(size=5_000), rng.normal(size=2_000)
    half = np.where(np.arange(2_000) % 2, rows, np.nan)
    assert compare(known, half)["value"].state == "different"
    assert compare(known, pa.nulls(500, pa.float64()))["value"].state == "different"
    assert compare(np.append(known, [np.nan] * 5_000), half)["value"].state == "ok"
    assert compare({"c": ["a", "b"] * 500}, {"c": ["a", "b", None, None] * 100})["c"].state == "different"


def test_a_comparison_says_whether_nulls_decided():
    rng = np.random.default_rng(15)
    known, rows = rng.normal(size=5_000), rng.normal(size=2_000)
    half = compare(known, np.where(np.arange(2_000) % 2, rows, np.nan))
    assert half["value"].change.startswith("nulls 0.0% -> 50.0% (p ") and half["value"].change in repr(half)
    gone = compare(known, pa.nulls(500, pa.float64()))["value"]
    assert (gone.why, gone.change[:21]) == ("only nulls", "nulls 0.0% -> 100.0% ")
    moved = compare(np.append(known, np.nan), np.append(rows + 1, np.nan))["value"]
    assert (moved.state, moved.change) == ("different", None)
    assert compare(known, known[:500])["value"].change is None


def test_a_result_is_frozen_and_draws_itself():
    result = watching().update(rows(11, 3_000))
    with pytest.raises(FrozenInstanceError):
        result.rows = 1
    assert len(result.plot().axes) == 4
    assert "<table>" in result._repr_html_() and "false alarm in 1,000,000 rows" in repr(result)
    with pytest.raises(KeyError, match="expected one of"):
        result["cost"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Monitor([1, 2]), "expected a frame"),
        (lambda: Monitor({"price": np.zeros((3, 2))}), "one dimension"),
        (lambda: Monitor({"price": [1, "a"]}), "no column of numbers or texts"),
        (lambda: Monitor({"price": "abc"}), "column 'price': expected an array or a list of values, got 'abc'"),
        (lambda: Monitor({"price": {"a": 1}}), "expected an array or a list of values, got {'a': 1}"),
        (lambda: Monitor({"price": [Decimal("NaN")]}), "'price' .* got Decimal\\('NaN'\\): give None"),
        (
            lambda: watching().update({"price": [1, Decimal("Infinity")], "region": ["a"] * 2}),
            "window: column 'price' .* give floats",
        ),
        (lambda: Monitor({"price": [2**70]}), "'price' .* whole numbers of 64 bits, got 1180591620717411303424: give"),
        (
            lambda: Monitor(pl.DataFrame({"price": pl.Series([1], dtype=pl.Int128)})),
            "column 'price': expected .* cast it",
        ),
        (lambda: Monitor(REFERENCE, features=["cost"]), "expected the columns \\['cost'\\]"),
        (lambda: Monitor({"at": np.array(["2020-01-01"], "datetime64[ms]")}), "at least one column"),
        (lambda: Monitor({"price": np.empty(0)}), "expected rows, got none"),
        (lambda: Monitor(REFERENCE, pane_rows=0), "pane_rows 0"),
        (lambda: watching().update({"price": [1.0]}), "window: expected the columns \\['region'\\]"),
        (lambda: Monitor(REFERENCE, pane_rows=100.5), "pane_rows: expected a whole number"),
        (lambda: Monitor(REFERENCE, run_length=float("inf")), "run_length: expected"),
        (lambda: Monitor(REFERENCE, run_length=float("nan")), "run_length: expected"),
        (lambda: Monitor(REFERENCE, rule="guess"), "rule: expected one of bank, scan, confseq, ks_alpha, got 'guess'"),
        (
            lambda: Monitor(REFERENCE, features=["price", "price"]),
            "features: expected each column once, got twice \\['price'\\]",
        ),
        (lambda: compare(REFERENCE, REFERENCE, features=["region"] * 3), "each column once, got twice \\['region'\\]"),
        (lambda: Monitor(REFERENCE, alpha=0), "alpha: expected a number between 0 and 1, got 0"),
        (lambda: compare(REFERENCE, REFERENCE, alpha=2), "alpha: expected"),
        (lambda: Monitor(REFERENCE, weights={"price": float("nan")}), "weights: expected .* got nan"),
        (lambda: Monitor(REFERENCE, weights={"price": 0}), "weights: expected .* got 0"),
        (lambda: Monitor(REFERENCE, weights={"pirce": 1}), "weights: expected names .* got \\['pirce'\\]"),
        (lambda: Monitor(REFERENCE, tolerance={"pirce": 0.1}), "tolerance: expected names"),
        (lambda: Monitor(REFERENCE, tolerance=float("nan")), "tolerance of 'price': expected a number"),
        (lambda: Monitor(REFERENCE, tolerance=2), "tolerance of 'price': expected from 0"),
        (lambda: Monitor(REFERENCE, tolerance=-1), "tolerance of 'price'"),
        (lambda: Monitor(REFERENCE, tolerance="abc"), "tolerance of 'price': expected a number"),
        (lambda: Monitor(REFERENCE, tolerance=Tolerance("share", 0.1)), "distance or wasserstein of a numeric column"),
        (lambda: Monitor(REFERENCE, tolerance={"region": Tolerance("wasserstein", 1)}), "kind share of a categorical"),
        (
            lambda: watching().update({**REFERENCE, "price": ["a"] * 30_000}),
            "column 'price': expected double .* got text",
        ),
        (lambda: compare({"b": [True, False]}, {"b": [0, 1]}), "window: column 'b': expected bool .* got int64"),
        (lambda: Monitor({"price": [1.0], "region": ["a", "b"]}), "reference: expected columns of one length"),
        (lambda: Monitor(pa.table([[1.0], [2.0]], names=["a", "a"])), "different column names, got twice \\['a'\\]"),
        (lambda: budget("1 per 1 d", rows_a_day=-5), "rows_a_day: expected"),
        (lambda: budget("often", 10), "expected a budget like"),
        (
            lambda: watching(segments=["region", ("region",)]),
            "segments: expected columns that are not grouped by already",
        ),
        (lambda: compare(REFERENCE, REFERENCE, segments=["region"] * 2), "not grouped by already"),
        (lambda: watching(segments=[("region", "region")]), "segments: expected different columns in a tuple"),
        (lambda: watching(segments="region"), "segments: expected a list of columns .* got 'region'"),
        (lambda: watching(segments=[[]]), "segments: expected a column or a tuple of columns, got \\[\\]"),
        (lambda: watching(segments=[None]), "segments: expected a column .* got None"),
        (
            lambda: compare(REFERENCE["price"], REFERENCE["price"].astype("f4")),
            "expected double .* got float, which rounds",
        ),
    ],
)
def test_what_is_wrong_is_said(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [lambda f: f, lambda f: {"price": f}])
def test_a_lazy_frame_is_refused_without_any_work(make):
    with pytest.raises(ValueError, match=r"expected rows, got LazyFrame, .*\.collect\(\)"):
        Monitor(make(pl.DataFrame({"price": [1.0]}).lazy()))


NUMBERS = {
    "whole": np.array([1, 2]),
    "small": np.array([1, 2], "u1"),
    "float": np.array([1.0, 2.0]),
    "tenths": np.array([Decimal("1.0"), Decimal("2.0")]),
    "hundredths": np.array([Decimal("1.00"), Decimal("2.00")]),
}


@pytest.mark.parametrize("now", NUMBERS)
@pytest.mark.parametrize("was", NUMBERS)
def test_a_segment_is_the_same_whatever_type_its_number_has(was, now):
    rng = np.random.default_rng(41)
    known, rows = ({"x": rng.normal(size=n), "g": rng.integers(2, size=n)} for n in (2_000, 500))
    known, rows = {**known, "g": NUMBERS[was][known["g"]]}, {**rows, "g": NUMBERS[now][rows["g"]]}
    options = {"features": ["x"], "segments": ["g"]}
    for result in (Monitor(known, **options).update(rows), compare(known, rows, **options)):
        sizes = {f.segment: f.statistics.n for f in result}
        assert (
            sizes.pop("g=*") == 500
            and len(sizes) == 3
            and sizes.pop("*") == 500 == sum(sizes.values())
            and all(sizes.values())
        )


def test_a_null_makes_no_segment_and_loses_none():
    group = np.repeat([1, 2], 1_000)
    gaps = np.where(np.arange(2_000) % 4, group.astype(float), np.nan)
    for was, now in ((group, gaps), (gaps, group), (gaps, gaps)):
        found = compare(
            {"x": np.arange(2_000), "g": was}, {"x": np.arange(2_000), "g": now}, segments=["g"], features=["x"]
        )
        assert [f.statistics.n for f in found if "*" not in f.segment] == [1_000 if now is group else 750] * 2


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ([1, 2], [1.0, 1.5]),
        ([1, 2], [Decimal("1.0"), Decimal("1.5")]),
        ([1.0, 2.0], [1, 2**53 + 1]),
        ([Decimal("1.5"), Decimal("2.5")], [1.5, 2.55]),
    ],
)
def test_a_segments_number_that_the_references_type_does_not_hold_is_refused(was, now):
    with pytest.raises(
        ValueError, match=r"window: column 'g', which makes segments: expected values that .* got .* cast"
    ):
        compare({"x": [1.0] * 600, "g": was * 300}, {"x": [1.0] * 2, "g": now}, features=["x"], segments=["g"])


def test_new_values_of_a_segments_column_are_no_fault():
    known, rows = {"x": [1.0] * 600, "g": [Decimal("1.5")] * 600}, {"x": [1.0] * 9, "g": [Decimal("1234.5")] * 9}
    assert compare(known, rows, features=["x"], segments=["g"])["x", "g=1.5"].statistics.n == 0


def test_decimals_are_the_floats_that_they_are_written_as():
    tenths = np.random.default_rng(42).integers(1, 50, 5_000) / 10
    decimals = pa.array([Decimal(f"{v:.1f}") for v in tenths])
    assert compare(tenths, decimals)["value"].statistic == compare(decimals, tenths)["value"].statistic == 0


@pytest.mark.parametrize("make", [pl.Series, pa.array, lambda v: pa.chunked_array([v[:100], v[100:]])])
def test_one_column_of_any_library_is_a_feature_called_value(make):
    price = REFERENCE["price"]
    assert repr(compare(make(price), make(price[:500]))) == repr(compare(price, price[:500]))


def test_a_structured_array_has_a_feature_for_each_field():
    made = np.array([(1.0, 2), (2.0, 3)], dtype=[("a", float), ("b", int)])
    assert compare(made, made).features.keys() == {("a", "*"), ("b", "*")}


def test_a_column_that_is_not_watched_is_named():
    assert "not watched" not in repr(watching())
    dated = {"price": REFERENCE["price"], "at": np.zeros(30_000, "datetime64[us]")}
    assert "1 feature, 1 detector, not watched: at (timestamp[us])" in repr(Monitor(dated))
    assert "not watched: at (timestamp[us])" in repr(compare(dated, dated))


def test_rows_that_fill_no_pane_are_said_to_wait():
    monitor = watching()
    assert "waiting: 600 of 1,000 rows of the pane" in repr(monitor.update(rows(2, 600, factor=3)))
    assert not monitor.update(rows(3, 400)).notes


@pytest.mark.parametrize("seen", [0, 20_000])
@pytest.mark.parametrize(("size", "why"), [(0, "no rows"), (1, "1 row with a value, fewer than 5")])
@pytest.mark.parametrize("rule", ["bank", "ks_alpha"])
def test_a_window_of_too_few_rows_is_no_verdict(rule, size, why, seen):
    monitor = watching(rule=rule)
    if seen:
        monitor.update(rows(2, seen))
    result = monitor.update(rows(3, size))
    assert not result.alarm and {(f.state, f.why) for f in result} == {("undefined", why)}
    assert "none of 2 in alarm, 2 undefined" in repr(result) and why in str(result["price"])


def test_before_the_first_pane_there_is_no_verdict():
    monitor = watching()
    early = monitor.update(rows(2, 999, factor=3))["price"]
    assert (early.state, early.why) == ("undefined", "999 of the 1,000 rows of the first pane")
    assert monitor.update(rows(3, 10, factor=3))["price"].state == "alarm"


def test_an_alarm_lasts_through_an_empty_window():
    monitor = watching()
    monitor.update(rows(3, 5_000, factor=1.3))
    empty = monitor.update(rows(4, 0))["price"]
    assert (empty.state, empty.why) == ("alarm", "no rows")


def test_ks_alpha_holds_each_window_against_its_critical_value():
    monitor = watching(rule="ks_alpha", tolerance=0.2)
    quiet = [monitor.update(rows(100 + i, 510)) for i in range(200)]
    prices = [r["price"] for r in quiet]
    assert [f.state for f in prices] == ["alarm" if f.statistic > f.critical_value else "ok" for f in prices]
    assert 2 <= sum(f.state == "alarm" for f in prices) <= 20  # one in twenty, by chance
    assert not monitor.reach
    moved = [monitor.update(rows(i, 510, factor=1.3)) for i in (1, 2)]
    assert [r["price"].state for r in moved] == ["alarm"] * 2 and not moved[1].new
    back = monitor.update(rows(302, 510))
    evidence = back["price"].evidence  # the detectors go on, for comparison
    assert back["price"].state == "ok" and evidence.e_value > evidence.threshold
    assert back.run_length is None and not back.notes and "rule ks_alpha promises no run length" in repr(back)


def test_ks_alpha_tells_of_the_nulls_that_it_does_not_look_at():
    rng, monitor = np.random.default_rng(43), Monitor({n: REFERENCE["price"] for n in "ab"}, rule="ks_alpha")
    rows = rng.choice(REFERENCE["price"], (2, 1_000))
    assert not monitor.update({"a": rows[0], "b": rows[1]}).notes
    for share, state, told in (
        (0.89, "ok", "a: nulls 0.0% -> 89.0% (p "),
        (1, "undefined", "a: nulls 0.0% -> 100.0% (p "),
    ):
        gaps = monitor.update({"a": np.where(np.arange(1_000) < share * 1_000, np.nan, rows[0]), "b": rows[1]})
        [note] = gaps.notes
        assert gaps["a"].state == state and told in note and "b: " not in note and told in repr(gaps)
    bank = Monitor(REFERENCE["price"]).update(np.where(np.arange(1_000) < 890, np.nan, rows[0]))
    assert bank["value"].state == "alarm" and not bank.notes


def test_ks_alpha_shows_no_change_of_a_quiet_window():
    monitor = watching(rule="ks_alpha")
    loud = monitor.update(rows(3, 2_000, factor=1.3))["price"]
    quiet = monitor.update(rows(302, 510))["price"]
    assert loud.state == "alarm" and "shift" in loud.change
    assert quiet.state == "ok" and quiet.evidence.change and quiet.change is None and "shift" not in str(quiet)


@pytest.mark.parametrize("rule", ["bank", "ks_alpha"])
def test_silence_about_whole_numbers_that_floats_confuse_is_no_verdict(rule):
    known, rng = 2**60 + np.arange(20_000) // 10_000, np.random.default_rng(1)
    monitor = Monitor({"id": known, "n": np.arange(20_000)}, rule=rule)
    result = monitor.update({"id": rng.choice(known, 5_000) + 7, "n": rng.integers(0, 20_000, 5_000)})
    assert result["id"].state == "undefined" and result["n"].state == "ok" and result["n"].why is None
    assert result["id"].why.startswith("100.0% of the reference's rows are whole numbers beyond 2^53")
    assert from_arrow(to_arrow(monitor.references["id", "*"])).rounded == result["id"].why
    moved = monitor.update({"id": known[:5_000] * 2, "n": rng.integers(0, 20_000, 5_000)})
    assert moved["id"].state == "alarm" and moved["n"].state != "alarm"


def test_a_comparison_of_whole_numbers_that_floats_confuse_is_undefined():
    known = 2**60 + np.arange(20_000) // 10_000
    for window, other in ((known, known + 1), (-known, -known), (known.astype("u8") * 8, known.astype("u8") * 8)):
        assert compare(window, other)["value"].state == "undefined"
    assert compare(known - 2**60, known - 2**60 + 1)["value"].state == "different"


def test_a_few_large_whole_numbers_do_no_harm():
    known = np.random.default_rng(3).poisson(50, 20_000)
    known[:10] = 2**63 - 1
    result = Monitor(known).update(np.append(known[:5_000], [2**62] * 5))["value"]
    assert result.state == "ok" and result.statistic < 0.01


@pytest.mark.parametrize("rule", ["bank", "scan", "confseq"])
def test_an_alarm_shows_evidence_over_a_threshold_under_every_rule(rule):
    result = watching(rule=rule).update(rows(12, 10_000, factor=1.2))
    evidence, threshold = loudest(result["price"].evidence)
    assert result["price"].state == "alarm" and evidence > threshold
    assert f"{evidence:.3g}" in str(result["price"]) and f"{threshold:.3g}" in str(result["price"])
    assert len(result.plot().axes[1].lines) == 2 and result["price"].history[-1][1:] == (evidence, threshold)


def test_the_rule_that_fired_is_the_one_that_is_shown():
    assert loudest(Evidence(-1.33, 9.43, 21.0, 15.0, "scan", None, 0)) == (21.0, 15.0)
    assert loudest(Evidence(12.0, 9.43, 3.0, 15.0, "bank", None, 0)) == (12.0, 9.43)
    assert loudest(None) == (None, None)


def test_the_features_of_a_result_are_frozen():
    with pytest.raises(TypeError):
        compare(REFERENCE, REFERENCE).features["price", "*"] = None


def test_a_plot_steps_at_counts_and_leaves_out_long_tails():
    rng = np.random.default_rng(4)
    data = {"visits": rng.poisson(3, 20_000), "loss": rng.standard_cauchy(20_000)}
    laws = {ax.get_title(loc="left"): ax for ax in compare(data, data).plot().axes}
    assert laws["visits: ok"].lines[0].get_drawstyle() == "steps-post"
    assert laws["loss: ok"].get_xlim()[1] < 200


@pytest.mark.parametrize(("unit", "asked"), [("wasserstein", 4.0), ("distance", 0.03)])
def test_the_smallest_effect_that_can_alarm_is_said_and_true(unit, asked):
    rng = np.random.default_rng(6)
    values = rng.normal(100, 10, 20_000)

    def watching_it() -> Monitor:
        return Monitor(values, tolerance=Tolerance(unit, asked))

    reach = watching_it().reach["value", "*"]
    assert reach > asked and f"smallest effect that can alarm: value {reach:.3g}" in repr(watching_it())
    shift = reach if unit == "wasserstein" else 20 * stats.norm.ppf(0.5 + reach / 2)  # of that K-S distance
    for factor, state in ((0.85, "ok"), (1.15, "alarm")):
        assert watching_it().update(rng.choice(values, 600_000) + factor * shift)["value"].state == state


def test_the_examples_are_true():
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0
    failed, tried = doctest.testfile(str(LIBRARY), module_relative=False)
    assert tried > 5 and not failed


def test_an_alarm_that_begins_and_returns_within_one_window_is_told():
    rng = np.random.default_rng(5)
    shifted = rng.standard_normal(400_000) + np.repeat([0.0, 1.0, 0.0], [50_000, 20_000, 330_000])
    monitor = Monitor(rng.standard_normal(100_000))
    result = monitor.update(shifted)
    [one] = result
    assert result.alarm and result.new == ((one.feature, one.segment),) and one.state == "ok"
    assert any(note.startswith("over again: ") and "in alarm from row 5" in note for note in result.notes)
    assert not monitor.update(rng.standard_normal(1_000)).alarm


def test_the_scan_alone_is_refused_where_it_would_be_blind():
    known = np.random.default_rng(6).standard_normal(20_000)
    with pytest.raises(ValueError, match="a tenth of the reference's 20,000 rows, got 2,001"):
        Monitor(known, rule="scan", pane_rows=2_001)
    shifted = np.random.default_rng(7).standard_normal(20_000) + 1
    assert Monitor(known, rule="scan", pane_rows=2_000).update(shifted).alarm
