"""Every alternative is a law of its own whose likelihood ratio has expectation one; the budget follows from the contract."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest

from pipeline.contract import DriftPlan, MonitoredFeature
from pipeline.errors import UsageError
from stream_processors import bank, budget, cells, scan
from tests.drift_core.samples import CHANNELS, PLAN, SHARES, categorical, channels, floats, numeric

RNG = np.random.default_rng(11)
REFERENCES = {
    "lognormal": numeric(RNG.lognormal(3, 1, 100_000)),
    "poisson": numeric(RNG.poisson(3, 50_000).astype(float)),
    "constant": numeric(np.full(20_000, 5.0)),
    "half zero, nulls": numeric([None if u < 0.05 else 0.0 if u < 0.5 else x for u, x in zip(RNG.random(20_000), RNG.normal(size=20_000), strict=True)]),
    "segment": numeric(RNG.normal(size=2_500), "region=north"),
    "channels": categorical(channels(RNG, 20_000)),
    "one category": categorical(["web"] * 10_000),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_likelihood_ratio_of_every_alternative_has_expectation_one_under_the_reference(name):
    made = bank.bank_of(REFERENCES[name])
    assert made.names and made.weights.sum() == pytest.approx(1)
    assert made.reference.sum() == pytest.approx(1) and made.reference.min() > 0
    expected = made.reference @ np.exp(made.scores + made.slack)
    assert expected == pytest.approx(np.ones(len(made.names)), abs=1e-6)
    assert expected.max() <= 1 + 1e-12  # rounding may only lose evidence
    coarser = np.diff(made.scan_cumulative, prepend=0) @ np.exp(made.scan_scores)
    assert coarser == pytest.approx(np.ones(len(made.names)), abs=1e-6)
    assert np.isfinite(made.scores).all()


def test_expectation_is_at_most_one_under_the_law_that_the_reference_was_drawn_from():
    """Over many references: the true expectation exceeds 1 in no more than the 1 of 740 that three standard errors allow, nearly."""
    rng, over, alternatives = np.random.default_rng(13), 0, 0
    for _ in range(60):
        reference = categorical(channels(rng, 20_000))
        made = bank.bank_of(reference)
        truth = np.zeros(len(made.reference))
        truth[:4] = [dict(zip(CHANNELS, SHARES, strict=True))[c] for c in reference.categories]
        expected = truth @ np.exp(made.scores)
        over, alternatives = over + int((expected > 1).sum()), alternatives + len(expected)
    assert over <= alternatives / 200


def test_scores_add_up_exactly_in_any_order():
    made = bank.bank_of(REFERENCES["lognormal"])
    counts = RNG.integers(0, 10_000, len(made.reference)).astype(float)
    order = RNG.permutation(len(counts))
    assert ((counts @ made.scores) == (counts[order] @ made.scores[order])).all()


def test_alternatives_too_small_for_the_reference_are_off():
    large, small = (bank.bank_of(numeric(RNG.normal(size=n))).names for n in (100_000, 10_000))
    tiny = bank.bank_of(REFERENCES["segment"]).names
    assert "shift +0.1 sd" in large and "shift +0.1 sd" in small
    assert "shift +0.1 sd" not in tiny and "shift +0.2 sd" in tiny  # 8 / sqrt(2,500) = 0.16
    assert len(tiny) < len(small) < len(large)


def test_alternatives_name_categories_and_rare_ones_together():
    names = bank.bank_of(REFERENCES["channels"]).names
    assert {"partner +5%", "web x0.5", "new values +1%", "nulls +5%"} <= set(names)
    rare = categorical(["web"] * 9_000 + ["app"] * 1_000 + [f"r{i}" for i in range(200)])
    assert any(n.startswith("rare values") for n in bank.bank_of(rare).names)


def test_values_never_seen_are_no_surprise_where_many_were_seen_once():
    common = bank.shares(categorical(["a"] * 5_000 + ["b"] * 5_000))
    long_tail = bank.shares(categorical(["a"] * 9_000 + [f"x{i}" for i in range(1_000)]))
    assert common[-2] < 5e-4 and long_tail[-2] > 0.08


def test_the_page_budget_is_shared_over_features_segments_and_detectors():
    references = {r.key: r for r in (numeric(RNG.normal(size=12_000)), numeric(RNG.normal(size=2_100), "region=a"))}
    found = budget.thresholds(PLAN, references)
    panes = 30 * 24 * 12
    assert found.panes == panes
    assert found.of(("price", "*")).bank == pytest.approx(log(panes * 2 / 0.8))
    total = sum(
        panes / np.exp(t.bank) + 2 * scan.looks_a_pane() * panes / np.exp(t.scan) for t in found.by_key.values()
    )
    assert total == pytest.approx(PLAN.pages)


def test_a_heavier_feature_gets_more_of_the_budget():
    plan = DriftPlan((MonitoredFeature("price", "numeric", weight=3.0), MonitoredFeature("channel", "categorical")))
    references = {r.key: r for r in (REFERENCES["lognormal"], REFERENCES["channels"])}
    found = budget.thresholds(plan, references)
    assert found.of(("channel", "*")).bank - found.of(("price", "*")).bank == pytest.approx(log(3))


@pytest.mark.parametrize(
    ("rows", "segment", "refused"),
    [(9_999, "*", True), (10_000, "*", False), (1_999, "a=b", True), (2_000, "a=b", False)],
)
def test_a_reference_below_the_floor_is_refused_with_the_reason(rows, segment, refused):
    known = numeric(np.arange(float(rows)), segment)
    found = budget.thresholds(PLAN, {known.key: known})
    assert found.too_small(known.key) is refused
    assert (known.key in found.by_key) is not refused
    assert not refused or str(rows) in found.refused[known.key]


def test_rules_choose_the_detectors_and_an_unbuilt_one_is_said():
    known = REFERENCES["lognormal"]
    assert budget.thresholds(replace(PLAN, rule="scan"), {known.key: known}).of(known.key).bank is None
    with pytest.raises(UsageError, match="confseq"):
        budget.thresholds(replace(PLAN, rule="confseq"), {})


def test_scan_levels_hold_exactly_the_last_panes_of_every_scale():
    rng, levels, history = np.random.default_rng(12), scan.empty(3), []
    for number in range(1, 600):
        history.append(rng.integers(0, 9, 3))
        levels = scan.push(levels, number, history[-1])
        for scale, counts in scan.stretches(levels, number):
            assert counts.tolist() == np.sum(history[-scale:], 0).tolist(), (number, scale)


def test_scan_does_not_look_at_scales_too_large_for_the_reference():
    counts = np.array([600, 400])
    assert scan.value([(4, counts)], np.array([0.3, 1.0]), 9_999) == (0.0, 0)
    value, scale = scan.value([(4, counts)], np.array([0.3, 1.0]), 10_000)
    assert scale == 4 and value == pytest.approx(2 * 1_000 * (0.3 - 0.013581) ** 2 + log(4))


def test_pages_are_not_raised_by_a_reference_that_is_not_loaded_twice():
    known = REFERENCES["lognormal"]
    again = cells.from_arrow(cells.to_arrow(known))
    assert bank.bank_of(again).names == bank.bank_of(known).names
    assert (bank.bank_of(again).scores == bank.bank_of(known).scores).all()
    assert cells.count(again, floats(np.array([1.0]))) == cells.count(known, floats(np.array([1.0])))
