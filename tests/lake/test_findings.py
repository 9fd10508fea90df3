"""The batch report's figures."""

from datetime import timedelta

from batch.findings import report
from batch.report import chart, page
from batch.rules import judge
from pipeline.contract import DatasetRule
from tests.lake.lake_samples import contract

UNIQUE = DatasetRule("unique_order", "unique", ("order",), window=timedelta(hours=1))


def verdict(violations: int):
    return judge("shop@1.0.0", UNIQUE, ("a", "b"), float(violations), violations, rows=10)


def test_every_rule_is_listed_with_its_violations_and_their_share_of_all_records():
    found = report(contract(UNIQUE), 9_988, {("amount", "range"): 12}, [verdict(30), verdict(6)])
    assert (found.records, found.valid, found.dead, found.status) == (10_000, 9_988, 12, "degraded")
    assert [(f.rule, f.violations, f"{f.share:.2%}") for f in found.findings] == [
        ("order", 0, "0.00%"),
        ("amount", 12, "0.12%"),
        ("at", 0, "0.00%"),
        ("unique_order", 36, "0.36%"),
    ]


def test_a_record_without_a_field_to_blame_is_listed_too():
    found = report(contract(), 1, {("", "syntax"): 2, ("strange", "unknown_field"): 1}, [])
    assert {f.rule: f.violations for f in found.violated} == {"record": 2, "strange": 1}


def test_the_page_escapes_what_it_shows_and_the_chart_is_a_picture(tmp_path):
    found = report(contract(UNIQUE), 1, {("<script>", "unknown_field"): 1}, [verdict(0)])
    assert "<script>" not in page(found)
    chart(found, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
