"""PURE. A contract file's evaluation plan: threshold, cost matrix and slices of the live figures."""

from __future__ import annotations

from pipeline.contract import EvaluationPlan, Field
from pipeline.contract_terms import field_name
from pipeline.contract_yaml import At

MOST_SLICES = 32  # values of all slices together: each is a series of its own


def evaluation_plan(at: At, known: dict[str, Field], labelled: bool) -> EvaluationPlan:
    if at.absent:
        return EvaluationPlan()
    at.only("threshold", "cost", "slices")
    if not labelled:
        at.wrong("nothing, or a label: without one nothing is evaluated")
    threshold = at.get("threshold").number(0.5)
    if threshold is None or not 0 < threshold < 1:
        at.get("threshold").wrong("a probability between 0 and 1")
    cost = at.get("cost")
    if not cost.absent:
        cost.only("trueNegative", "falsePositive", "falseNegative", "truePositive")
    slices = tuple(field_name(item, known) for item in at.get("slices").items())
    values = [len(known[s].allowed or ()) for s in slices if s in known]
    if not all(values) or len(set(slices)) < len(slices) or sum(values) > MOST_SLICES:
        at.get("slices").wrong(f"fields with allowed values, each once, at most {MOST_SLICES} values in all")
    wrong = 1.0 if cost.absent else 0.0
    defaults = {"trueNegative": 0.0, "falsePositive": wrong, "falseNegative": wrong, "truePositive": 0.0}
    return EvaluationPlan(threshold or 0.5, *(cost.get(k).number(v) or 0.0 for k, v in defaults.items()), slices=slices)
