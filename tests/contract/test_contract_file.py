"""Contract files: what is shipped says what it should, and every error names its line and key."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import contract_file
from pipeline.contract import (
    REJECTS,
    SCORES,
    DatasetRule,
    MatchLabel,
    MonitoredFeature,
    OutcomeLabel,
    ReferencePlan,
    Tolerance,
)
from pipeline.contract_plans import LEAST_REFERENCE_ROWS
from pipeline.contract_verbs import ContractVerb
from pipeline.errors import UsageError
from pipeline.settings import from_environment
from stream_processors.detectors.budget import SMALLEST_REFERENCE
from tests.contracts import contract_file_named

SALES = contract_file.shipped_text("sales")
RETAIL = contract_file.shipped_text("online_retail")


def errors_of(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        contract_file.parse(text, "s.yaml")
    return str(caught.value).splitlines()


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


def test_sales_holds_the_eight_rules_of_the_published_check() -> None:
    sales = contract_file.load("sales")
    fields = {f.name: f for f in sales.fields}
    assert fields["product_id"].required
    assert (fields["quantity"].type, fields["quantity"].minimum, fields["quantity"].maximum) == ("integer", 0, 1000)
    assert (fields["order_date"].type, fields["order_date"].format) == ("date", "%Y-%m-%d")
    assert fields["customer_id"].type == "string"
    rules = {r.name: (r.kind, r.columns, r.minimum, r.maximum, r.severity, r.window) for r in sales.dataset_rules}
    hour, day = timedelta(hours=1), timedelta(days=1)
    assert rules == {
        "row_count": ("row_count", (), 1, None, "critical", hour),
        "mean_price": ("mean", ("price",), 10, 1000, "degraded", hour),
        "unique_order_id": ("unique", ("order_id",), None, 0, "degraded", hour),
        "unique_customer_day": ("unique", ("customer_id", "order_date"), None, 0, "info", day),
    }
    assert sales.label == OutcomeLabel("returned", "order_id", timedelta(hours=6))
    assert (sales.drift.window, sales.drift.pane, sales.drift.pages) == (hour, timedelta(minutes=5), 1)


def test_paper_differs_from_sales_in_its_dataset_rules_and_bounds_only() -> None:
    sales, paper = contract_file.load("sales"), contract_file.load("paper")
    assert (paper.id, paper.fields, paper.drift) == ("paper", sales.fields, sales.drift)
    rules: dict[str, DatasetRule] = {r.name: r for r in paper.dataset_rules}
    assert (rules["row_count"].minimum, rules["row_count"].maximum) == (10_000, 10_000)
    assert {r.window for r in rules.values()} == {None}
    assert {rules["unique_order_id"].severity, rules["unique_customer_day"].severity} == {"degraded"}
    assert (paper.time.future, paper.time.revise_within) == (None, None)


def test_online_retail_states_its_label_as_a_match() -> None:
    retail = contract_file.load("online_retail")
    on = ("CustomerID", "StockCode")
    assert retail.label == MatchLabel("cancelled", "InvoiceNo", "^C", on, timedelta(days=30))
    assert not retail.field("CustomerID").required
    assert retail.time.future is None


def test_a_renamed_contract_is_the_same_but_for_its_topics(tmp_path: Path) -> None:
    renamed = contract_file.load(str(contract_file_named(tmp_path, id="sales_x")))
    assert (renamed.id, renamed.fields) == ("sales_x", contract_file.load("sales").fields)


def plan_with(old: str, new: str):
    assert old in SALES
    return contract_file.parse(SALES.replace(old, new, 1), "s.yaml").drift


def test_a_window_is_a_stretch_of_time_that_tumbles_or_slides_or_a_number_of_rows() -> None:
    hour, pane = timedelta(hours=1), timedelta(minutes=5)
    kinds = {
        "window: 1 h\n": (hour, None, None),
        "window: 1 h\n      slide: 15 min\n": (hour, timedelta(minutes=15), None),
        "window: 1 h\n      slide: 1 h\n": (hour, None, None),
        "window: 10000 rows\n": (pane, None, 10_000),
    }
    found = [plan_with("window: 1 h\n", text) for text in kinds]
    assert [(p.window, p.slide, p.window_rows) for p in found] == list(kinds.values())


def test_a_tolerance_has_the_unit_of_its_feature() -> None:
    price, category = "tolerance: 0.01", "kind: categorical, tolerance: 0.01"
    assert plan_with(price, "tolerance: 0.03").features[0].tolerance == Tolerance("distance", 0.03)
    assert plan_with(price, "tolerance: {wasserstein: 5}").features[0].tolerance == Tolerance("wasserstein", 5.0)
    assert plan_with(category, "kind: categorical, tolerance: {share: 0.01}").features[3].tolerance == Tolerance(
        "share", 0.01
    )
    assert plan_with("tolerance: 0.01, weight: 1", "weight: 1").features[0].tolerance.value == 0


def test_what_a_drift_plan_does_not_say_is_automatic() -> None:
    sales = contract_file.load("sales").drift
    assert (sales.rhythm, sales.dependence, sales.reference) == ("auto", "auto", ReferencePlan())
    assert [f.name for f in sales.watched][-1] == "reject"
    more = "alpha: 0.05\n      rhythm: week\n      dependence: none\n      rejects: false\n      nullMonitor: false\n      reference: {kind: rolling, span: 3 d, every: 6 h, rows: 10000}"
    said = plan_with("alpha: 0.05", more)
    assert (said.rhythm, said.dependence, said.rejects, said.null_monitor) == ("week", "none", False, False)
    assert said.reference == ReferencePlan("rolling", timedelta(days=3), timedelta(hours=6), 10_000)
    assert said.watched == (*said.features, *said.scores)


def test_the_models_answers_are_watched_where_there_is_a_label() -> None:
    wide = Tolerance("distance", 0.05)
    assert contract_file.load("sales").drift.scores == tuple(replace(f, tolerance=wide) for f in SCORES)
    told = "score: {tolerance: 0.05}\n        confidence: {tolerance: 0.05}"
    said = plan_with(told, "score: {weight: 2}").scores
    assert said == (MonitoredFeature("score", "numeric", Tolerance(), 2.0), SCORES[1])
    assert plan_with(told, "scores: false").scores == ()
    unlabelled = SALES[SALES.index("  - property: label") : SALES.index("  - property: partitions")]
    assert plan_with(unlabelled, "").scores == ()
    field = "      - name: channel\n"
    taken = "      - {name: confidence, logicalType: number}\n"
    assert plan_with(field, taken + field).scores == ()  # unless a field has the name


def test_what_a_model_knows_of_the_past_is_watched_where_it_is_asked_for() -> None:
    told, plain = "confidence: {tolerance: 0.05}\n", "confidence: {tolerance: 0.05}\n        history:\n          - "
    said = plan_with(told, plain + "{name: customer_rate_1d, tolerance: 0.1, weight: 2}\n").scores
    assert said[-1] == MonitoredFeature("customer_rate_1d", "numeric", Tolerance("distance", 0.1), 2.0)
    assert [f.name for f in said] == ["score", "confidence", "customer_rate_1d"]
    for wrong, expected in {
        "{name: customer_rate_9d}\n": "each once, one of the contract's history: customer_count_1d, ",
        "{name: customer_rate_1d}\n          - {name: customer_rate_1d}\n": "each once",
        "{name: customer_rate_1d}\n        scores: false\n": "no history beside `scores: false`",
    }.items():
        with pytest.raises(UsageError, match=expected):
            plan_with(told, plain + wrong)


def test_a_plan_parts_into_what_each_stream_is_judged_for() -> None:
    plan = contract_file.load("sales").drift
    assert (*plan.of_rows.watched, *plan.of_scores.watched) == (*plan.features, REJECTS, *plan.scores)
    assert set(plan.of_rows.beside) == set(plan.scores) and set(plan.of_scores.beside) == {*plan.features, REJECTS}
    assert plan.of_rows.of_rows == plan.of_rows


def test_the_least_reference_is_what_the_detectors_ask_for() -> None:
    assert LEAST_REFERENCE_ROWS == SMALLEST_REFERENCE


def test_a_contract_that_is_checked_tells_its_plan(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    ContractVerb.configure(parser)
    assert ContractVerb.run(parser.parse_args(["check", "sales"]), from_environment({})) == 0
    told = capsys.readouterr().out
    assert "price (numeric, tolerance 0.01)" in told and "at most 1 false page expected in 30 d" in told


@pytest.mark.parametrize("name", ["nope", "no/such.yaml"])
def test_a_contract_that_is_not_there_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        contract_file.load(name)


ONE_ERROR = [
    ("version: 1.0.0", "version: 1.0", "version: expected text like 1.0.0, got a number '1.0'; quote it"),
    ("id: sales", "id: Sales!", "id: expected text like sales (small letters, digits, _), got text 'Sales!'"),
    ("status: active", "", "status: expected text, got nothing"),
    ("status: active", "status: active\nowner: me", "owner: unknown key, expected one of: apiVersion"),
    ("id: sales", "id: sales\nid: sales", "id: the key stands twice; keep one"),
    ("apiVersion: v3.1.0", "apiVersion: v2.2.2", "apiVersion: expected text like v3.1.0, got text 'v2.2.2'"),
    ("minimum: 0, maximum: 1000}", "minimum: x, maximum: 1000}", "properties[6].logicalTypeOptions.minimum: expected a number, got text 'x'"),
    ("minimum: 0, maximum: 1000}", "minimum: 2000, maximum: 1000}", "maximum: expected a number >= the minimum, 2000"),
    ("minimum: 0, maximum: 1000}", "minimum: .nan, maximum: 1000}", "minimum: expected a number, got a number '.nan'"),
    ("{format: yyyy-MM-dd}", "{format: dd.MM.yyyy}", "logicalTypeOptions.format: expected text like yyyy-MM-dd"),
    ("severity: info", "severity: low", "severity: expected one of: info, degraded, critical, got text 'low'"),
    ("mustBeGreaterOrEqualTo: 1\n", "mustBe: 1\n        mustBeLessOrEqualTo: 2\n", "quality[0]: expected exactly one of mustBe"),
    ("column: price", "column: colour", "implementation.column: expected a field of the schema: order_id"),
    ("column: price", "column: region", "implementation.column: expected a field of type integer or number"),
    ("name: mean_price", "name: row_count", "quality[1].name: expected a name that no other rule has"),
    ("value: customer_id", "value: client", "customProperties[0].value: expected a field of the schema"),
    ("property: partitions", "property: shards", "customProperties[5].property: expected one of: key, eventTime"),
    ("value: 4", "value: 0", "customProperties[5].value: expected an integer >= 1, got an integer '0'"),
    ("lateness: 10 min", "lateness: 10 m", "value.lateness: expected a duration like 10 min"),
    ("field: event_time", "field: order_id", "value.field: expected a required field of type timestamp"),
    ("pane: 5 min", "pane: 7 min", "value.pane: expected a divisor of the window, 1 h"),
    ("pageBudget: 1 per 30 d", "pageBudget: few", "value.pageBudget: expected a page budget like 1 per 30 d (units: h, d)"),
    ("alpha: 0.05", "alpha: 5", "value.alpha: expected a number between 0 and 1, got an integer '5'"),
    ("pane: 5 min", "slide: 25 min\n      pane: 5 min", "value.slide: expected a multiple of the pane, 5 min, that divides the window, 1 h"),
    ("window: 1 h\n      pane: 5 min", "window: 500 rows\n      slide: 15 min\n      pane: 5 min", "value.slide: expected no slide beside a window of rows"),
    ("window: 1 h\n      pane", "window: 0 rows\n      pane", "value.window: expected a duration like 1 h (units: ms, s, min, h, d), or a number of rows"),
    ("tolerance: 0.01", "tolerance: 1", "features[0].tolerance: expected a K-S distance, 0 or more and below 1"),
    ("tolerance: 0.01", "tolerance: {share: 0.02}", "tolerance.share: unknown key, expected one of: distance, wasserstein"),
    ("tolerance: 0.01", "tolerance: {distance: 0.1, wasserstein: 1}", "tolerance: expected exactly one of: distance, wasserstein"),
    ("tolerance: 0.01", "tolerance: {wasserstein: -1}", "tolerance.wasserstein: expected a number >= 0"),
    ("alpha: 0.05", "alpha: 0.05\n      rhythm: day", "value.rhythm: expected one of: auto, none, hour, week"),
    ("alpha: 0.05", "alpha: 0.05\n      reference: {kind: weekly}", "reference.kind: expected one of: training, last-week, rolling"),
    ("alpha: 0.05", "alpha: 0.05\n      reference: {rows: 20000000}", "reference.rows: expected at most 10000000"),
    ("alpha: 0.05", "alpha: 0.05\n      reference: {rows: 9999}", "reference.rows: expected an integer >= 10000"),
    ("alpha: 0.05", "alpha: 0.05\n      reference: {kind: last-week, span: 3 d}", "reference.span: expected no span beside kind last-week"),
    ("alpha: 0.05", "alpha: 0.05\n      reference: {kind: training, every: 1 d}", "reference.every: expected nothing beside kind training"),
    ("alpha: 0.05", "alpha: 0.05\n      reference: {kind: rolling, every: 1 min}", "reference.every: expected at least the pane, 5 min"),
    ("pageBudget: 1 per 30 d", "pageBudget: 100000 per 1 h", "value.pageBudget: expected at most one page a pane, which is 12 per 1 h"),
    ("name: quantity, kind: numeric", "name: price, kind: numeric", "features[1].name: expected a field that is not watched already"),
    ("name: quantity, kind: numeric", "name: event_time", "features[1].name: expected a number, a text or a boolean"),
    ("- [region]", "- []", "segments[0]: expected a list of one field or more"),
    ("- [region]", "- [region, region]", "segments[0]: expected each field once"),
    ("- [region]", "- [region, channel]\n        - [channel, region]", "segments[1]: expected columns that are not grouped by already"),
    ("- [region]", "- [customer_id]", "segments[0]: expected fields that many records share, not customer_id, the key"),
    ("confidence: {tolerance: 0.05}", "confidence: {tolerance: 2}", "model.confidence.tolerance: expected a K-S distance"),
    ("rule: bank", "rule: guess", "value.rule: expected one of: bank, scan, confseq, ks_alpha"),
    ("name: quantity, kind: numeric", "name: quantity, kind: categorical", "features[1].kind: expected numeric, as quantity is of type integer"),
    ("- [region]", "- [price]", "segments[0]: expected fields of type string, integer, boolean"),
    ("key: order_id, delay: 6 h", "key: order_id", "value.delay: expected a duration like 10 min"),
    ("name: returned", "name: price", "value.name: expected a name that no field has"),
    ("name: channel\n", "name: raw_offset\n", "properties[5].name: expected a name that is not reserved"),
    ("name: channel\n", "name: class\n", "properties[5].name: expected a name of letters, digits and _"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), ONE_ERROR, ids=[e[:50] for _, _, e in ONE_ERROR])
def test_an_error_names_its_line_and_key(old: str, new: str, expected: str) -> None:
    assert old in SALES
    text = SALES.replace(old, new, 1)
    errors = errors_of(text)
    mine = next((e for e in errors if expected in e), None)
    assert mine is not None, errors
    changed = SALES[: SALES.index(old)].count("\n") + 1
    assert 0 <= changed + new.count("\n") - int(mine.split(":")[1]) <= 5 or mine.startswith(
        "s.yaml:1:"
    )  # absent: its parent's line


@pytest.mark.parametrize(
    ("old", "new"), [("window: 1 h\n", "window: 1 hour\n"), ("pane: 5 min", "slide: often\n      pane: 5 min")]
)
def test_one_mistake_is_told_once(old: str, new: str) -> None:
    [error] = errors_of(SALES.replace(old, new, 1))
    assert "window" not in old or "or a number of rows like 10000 rows" in error


def test_the_line_of_a_deep_key_is_its_own() -> None:
    text = SALES.replace("severity: info", "severity: low")
    assert errors_of(text)[0].startswith(f"s.yaml:{line_of(text, 'severity: low')}: schema[0].quality[3].severity:")


def test_all_errors_are_told_at_once() -> None:
    errors = errors_of(SALES.replace("severity: info", "severity: low").replace("lateness: 10 min", "late: 1 h"))
    assert len(errors) == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'pattern: "[A-Z]?[0-9]{6}"',
            'pattern: "("',
            "logicalTypeOptions.pattern: expected a regular expression of RE2",
        ),
        (
            'pattern: "[A-Z]?[0-9]{6}"',
            r'pattern: "(a)\\1"',
            "logicalTypeOptions.pattern: expected a regular expression",
        ),
        ("InvoiceNo matches [^C].*", "InvoiceNo matches (", "when[0]: expected a regular expression of RE2"),
        ('"Quantity > 0"', '"Quantity > none"', "then[0]: expected a number after Quantity >"),
        ('"Quantity > 0"', '"Quantity"', "then[0]: expected field operator value"),
        ('"Quantity > 0"', '"Pieces > 0"', "then[0]: expected field operator value"),
        ("exclusiveMinimum: 0", "minimum: 0, exclusiveMinimum: 0", "exclusiveMinimum: expected either minimum or"),
        ("on: [CustomerID, StockCode]", "on: [Customer]", "match.on[0]: expected a field of the schema"),
        ("horizon: 30 d", "horizon: long", "match.horizon: expected a duration like 10 min"),
    ],
)
def test_errors_in_patterns_cross_field_rules_and_match_labels(old: str, new: str, expected: str) -> None:
    assert old in RETAIL
    assert any(expected in e for e in errors_of(RETAIL.replace(old, new, 1)))


@pytest.mark.parametrize(
    "text", ["", "a: [", "- 1", "just text", "a: \x07", "a: b\n\nc: \x07", "{}", "schema: [1]", "schema: {}"]
)
def test_what_is_no_contract_is_told_with_a_line(text: str) -> None:
    assert all(e.startswith("s.yaml:") for e in errors_of(text))


@given(st.integers(0, len(SALES)), st.integers(0, 60), st.text(max_size=10))
@settings(max_examples=40)
def test_a_damaged_contract_is_read_or_refused_and_never_crashes(at: int, length: int, inserted: str) -> None:
    try:
        contract_file.parse(SALES[:at] + inserted + SALES[at + length :], "s.yaml")
    except UsageError as error:
        assert str(error).startswith("s.yaml:")
