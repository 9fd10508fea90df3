"""The policy: a table of cases, evidence that is broken in any way, a version that follows every letter of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import gate, policy
from tests.model.evidence import CHALLENGER, FIRST, FORCED

BASES = {"challenger": CHALLENGER, "first": FIRST, "forced": FORCED}
CASES = [json.loads(line) for line in (Path(__file__).parent / "policy_cases.jsonl").read_text().splitlines()]
MISSING = "(missing)"


def evidence(case: dict[str, object]) -> dict[str, object]:
    """The base with what the case sets; `a.b` is a path, and a slice's name may hold an equals sign."""
    found = copy.deepcopy(BASES[str(case["base"])])
    for path, value in case["set"].items():  # type: ignore[attr-defined]
        *way, last = path.split(".")
        place = found
        for name in way:
            place = place[name]  # type: ignore[assignment]
        if value == MISSING:
            place.pop(last, None)
        else:
            place[last] = value
    return found


def test_there_are_at_least_200_cases_and_no_two_are_the_same():
    assert len(CASES) >= 200
    assert len({json.dumps([c["base"], c["set"]]) for c in CASES}) == len({c["case"] for c in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[c["case"] for c in CASES])
def test_the_table(case):
    found = policy.decide(evidence(case))
    assert (found.promote, list(found.denied)) == (case["promote"], case["denied"])
    assert found.policy == policy.version() and found.reasons


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(-(10**9), 10**9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
PARTS = ("overall", "slices", "groups", "calibration", "replay", "cost", "golden", "schema")


@given(st.sampled_from(PARTS), JSON)
@settings(max_examples=40)
def test_a_part_that_is_anything_else_promotes_nothing(part, value):
    found = policy.decide({**CHALLENGER, part: value})
    nothing_to_judge = part in ("slices", "groups") and value == {}
    assert found.promote == nothing_to_judge and found.policy == policy.version()


@given(JSON)
@settings(max_examples=25)
def test_any_document_gets_an_answer_and_it_is_no(document):
    found = policy.decide(document)
    assert not found.promote and found.denied


def test_a_policy_that_does_not_answer_promotes_nothing(monkeypatch):
    broken = {name: text.replace("answer :=", "answer") for name, text in policy.sources().items()}
    monkeypatch.setattr(policy, "sources", lambda: broken)
    found = policy.decide(CHALLENGER)
    assert (found.promote, found.denied) == (False, ("policy",)) and "did not answer" in found.reasons[0]
    assert policy.verdict({"log_e": 99.0, "threshold": 4.6, "rows": 9, "former_loads": True}) == "watch"


def test_the_version_changes_with_any_number(monkeypatch):
    before = policy.version()
    changed = {name: text.replace('"margin": 0.005', '"margin": 0.006', 1) for name, text in policy.sources().items()}
    monkeypatch.setattr(policy, "sources", lambda: changed)
    assert policy.version.__wrapped__() != before == policy.version()


def test_evidence_is_gathered_at_the_level_at_which_it_is_judged():
    assert policy.limits()["confidence"] == gate.CONFIDENCE


@pytest.mark.parametrize(
    ("watched", "verdict"),
    [
        ({"log_e": 4.7, "rows": 600, "former_loads": True}, "rollback"),
        ({"log_e": 4.7, "rows": 600, "former_loads": False}, "alert"),
        ({"log_e": 4.7, "rows": 600, "former_loads": None}, "watch"),
        ({"log_e": 4.5, "rows": 600, "former_loads": True}, "watch"),
        ({"log_e": 4.5, "rows": 20_000, "former_loads": True}, "keep"),
        ({"log_e": 4.7, "rows": 20_000, "former_loads": True}, "rollback"),
        ({"log_e": float("nan"), "rows": 20_000, "former_loads": True}, "watch"),
        ({"log_e": None, "rows": 20_000, "former_loads": True}, "watch"),
        ({"log_e": 0.1, "rows": None, "former_loads": True}, "watch"),
        ({"log_e": 0.0, "rows": 0, "arrived": 199_999, "former_loads": True}, "watch"),
        ({"log_e": 0.0, "rows": 0, "arrived": 200_000, "former_loads": True}, "keep"),
        ({"log_e": None, "rows": 0, "arrived": 200_000, "former_loads": True}, "keep"),
        ({"log_e": 4.7, "rows": 600, "arrived": 200_000, "former_loads": True}, "rollback"),
        ({"log_e": 0.0, "rows": 0, "arrived": None, "former_loads": True}, "watch"),
        ({"log_e": 0.0, "rows": 0, "arrived": "200000", "former_loads": True}, "watch"),
        ({}, "watch"),
    ],
)
def test_a_watch_ends_only_by_numbers(watched, verdict):
    assert policy.verdict({"threshold": 4.6, **watched}) == verdict


def test_a_watch_without_a_threshold_changes_nothing():
    for threshold in (None, "4", 0, float("nan")):
        assert policy.verdict({"log_e": 9.0, "rows": 5, "former_loads": True, "threshold": threshold}) == "watch"
