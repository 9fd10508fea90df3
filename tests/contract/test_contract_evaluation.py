"""The evaluation plan of a contract: threshold, cost matrix, slices; and what is refused."""

from __future__ import annotations

import pytest

from pipeline import contract_file
from pipeline.contract import EvaluationPlan
from pipeline.errors import UsageError

SALES = contract_file.shipped_text("sales")
OWN = "{threshold: 0.25, cost: {falsePositive: 1, falseNegative: 3}, slices: [category, region, channel]}"


def test_the_shipped_plans() -> None:
    sales = contract_file.load("sales")
    assert sales.evaluation == EvaluationPlan(0.25, 0, 1, 3, 0, ("category", "region", "channel"))
    assert len(sales.slices) == 17 and sales.slices[0] == "category=electronics"
    paper = contract_file.load("paper")
    assert paper.evaluation == EvaluationPlan() and paper.slices == ()


def test_what_costs_nothing_is_not_named() -> None:
    text = SALES.replace(OWN, "{cost: {truePositive: -2}}")
    assert contract_file.parse(text, "s.yaml").evaluation == EvaluationPlan(0.5, 0, 0, 0, -2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{threshold: 1}", "threshold: expected a probability between 0 and 1"),
        ("{cost: {wrong: 1}}", "cost"),
        ("{slices: [price]}", "slices: expected fields with allowed values"),
        ("{slices: [region, region]}", "slices: expected fields with allowed values"),
        ("{slices: [nowhere]}", "nowhere"),
        ("{treshold: 0.3}", "treshold"),
    ],
)
def test_an_error_names_its_key(value: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"s.yaml:[0-9]+: ") as caught:
        contract_file.parse(SALES.replace(OWN, value), "s.yaml")
    assert said in str(caught.value)
