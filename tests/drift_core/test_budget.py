"""The thresholds of every feature and segment follow from one page budget."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest

from pipeline.contract import DriftPlan, MonitoredFeature
from stream_processors.detectors import budget, scan
from tests.drift_core.samples import PLAN, categorical, channels, numeric

RNG = np.random.default_rng(15)
NUMBERS = numeric(RNG.normal(size=12_000))
NAMES = categorical(channels(RNG, 12_000))


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
    references = {r.key: r for r in (NUMBERS, NAMES)}
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
    assert not refused or f"{rows:,} rows" in found.refused[known.key]


def test_rules_choose_the_detectors():
    of = lambda rule: budget.thresholds(replace(PLAN, rule=rule), {NUMBERS.key: NUMBERS}).of(NUMBERS.key)  # noqa: E731
    assert of("scan").bank is None and of("scan").scan == pytest.approx(budget.scan_threshold(8640, 1))
    assert of("confseq").bank is None and of("confseq").confseq and of("confseq").scan == pytest.approx(log(8640))
    assert of("ks_alpha") == of("bank") and of("bank").bank is not None


def test_hundreds_of_segments_cost_the_logarithm_of_their_number():
    many = {r.key: r for r in (replace(NUMBERS, segment=f"shop={i}") for i in range(300))}
    alone, shared = (budget.thresholds(PLAN, r) for r in ({NUMBERS.key: NUMBERS}, many))
    key = ("price", "shop=7")
    assert shared.of(key).bank - alone.of(NUMBERS.key).bank == pytest.approx(log(300))
    assert sum(map(shared.false_pages, many)) == pytest.approx(PLAN.pages)
    assert "one false page in 2,592,000 panes" in shared.told(key)
