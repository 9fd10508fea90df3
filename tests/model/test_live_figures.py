"""Tallies add up in any order, their figures are scikit-learn's, and their intervals hold the truth as often as they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from pipeline.contract import EvaluationPlan
from stream_processors.live import live_metrics
from stream_processors.live.estimate import covers, estimated
from stream_processors.live.live_metrics import figures, wilson
from stream_processors.live.tally import CELLS, Tally, cell_of, facts, merged, middle

PLAN = EvaluationPlan(threshold=0.25, false_positive=1.0, false_negative=3.0)


def tally_of(p: np.ndarray, y: np.ndarray) -> Tally:
    tally = Tally()
    for score, label in zip(p.tolist(), y.tolist(), strict=True):
        found = facts(score, PLAN.threshold)
        tally.predict(found)
        tally.label(found, bool(label))
    return tally


def drawn(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels whose log odds are `shift` away from what the scores say."""
    odds = rng.normal(-1.7, 1.0, n)
    return 1 / (1 + np.exp(-odds)), rng.random(n) < 1 / (1 + np.exp(-odds - shift))


PAIRS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40)


@given(PAIRS, st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=60)
def test_any_order_and_any_cut_give_the_same_tally(pairs: list[tuple[float, bool]], random: object, cut: int) -> None:
    def one(some: list[tuple[float, bool]]) -> Tally:
        return tally_of(np.array([p for p, _ in some]), np.array([y for _, y in some]))

    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    whole = one(pairs)
    assert merged([one(mixed[:cut]), one(mixed[cut:])]).json() == whole.json()
    assert Tally.from_json(json.loads(json.dumps(whole.json()))).json() == whole.json()


def test_cells_cover_the_scores_in_order() -> None:
    assert [cell_of(middle(c)) for c in range(CELLS)] == list(range(CELLS))


def test_figures_are_scikit_learns() -> None:
    p, y = drawn(np.random.default_rng(1), 3_000)
    found, hard = figures(tally_of(p, y), PLAN), p >= PLAN.threshold
    exact = {
        "log_loss": log_loss(y, p),
        "brier": brier_score_loss(y, p),
        "accuracy": np.mean(hard == y),
        "precision": precision_score(y, hard),
        "recall": recall_score(y, hard),
        "f1": f1_score(y, hard),
        "cost": np.mean(hard & ~y) + 3 * np.mean(~hard & y),
    }
    assert {k: found[k].value for k in exact} == pytest.approx(exact, abs=1e-8)
    assert abs(found["roc_auc"].value - roc_auc_score(y, p)) < 0.002  # the bracket
    assert abs(found["pr_auc"].value - average_precision_score(y, p)) < 0.01
    assert set(found) == set(live_metrics.FIGURES)


def test_what_is_not_defined_is_absent() -> None:
    none = figures(tally_of(np.array([0.1, 0.2]), np.array([False, False])), PLAN)
    assert not {"recall", "precision", "f1", "roc_auc", "pr_auc"} & set(none) and none["accuracy"].value == 1.0
    assert figures(Tally(), PLAN) == {} and estimated(Tally(), PLAN) == {}
    perfect = figures(tally_of(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])), PLAN)
    assert perfect["roc_auc"].value == 1.0 and perfect["roc_auc"].low < 0.5  # four rows prove little


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, trials, n = np.random.default_rng(7), 300, 400
    big_p, big_y = drawn(rng, 200_000)
    hard = big_p >= PLAN.threshold
    truth = {
        "log_loss": log_loss(big_y, big_p),
        "brier": brier_score_loss(big_y, big_p),
        "accuracy": np.mean(hard == big_y),
        "precision": precision_score(big_y, hard),
        "recall": recall_score(big_y, hard),
        "f1": f1_score(big_y, hard),
        "roc_auc": roc_auc_score(big_y, big_p),
        "pr_auc": average_precision_score(big_y, big_p),
        "cost": np.mean(hard & ~big_y) + 3 * np.mean(~hard & big_y),
        "calibration_error": 0.0,
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(trials):
        found = figures(tally_of(*drawn(rng, n)), PLAN)
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    assert min(held.values()) >= 0.91 * trials, held  # 95 % less three standard errors of 300 trials
    assert wilson(0, 0) is None


def test_the_estimate_holds_under_a_shift_of_the_inputs_and_not_of_the_relation() -> None:
    rng = np.random.default_rng(8)

    def kept(shift: float, middle: float) -> float:
        answers = []
        for _ in range(60):
            odds = rng.normal(middle, 1.0, 800)
            p, y = 1 / (1 + np.exp(-odds)), rng.random(800) < 1 / (1 + np.exp(-odds - shift))
            tally = tally_of(p, y)
            answers.append(covers(tally, PLAN, figures(tally, PLAN)["log_loss"]))
        return float(np.mean(answers))

    assert kept(0.0, -1.7) >= 0.9 and kept(0.0, -0.5) >= 0.9  # harder orders: the estimate rises with the loss
    assert kept(0.9, -1.7) <= 0.1


def test_precision_holds_though_few_of_the_rows_that_calibrate_lie_above_the_threshold() -> None:
    rng, held = np.random.default_rng(11), []
    for _ in range(40):
        truth = np.where(rng.random(8_000) < 0.05, 0.4, 0.05)
        off = rng.normal(0, np.sqrt(0.4 * 0.6 / (4_000 * 0.05)))  # what 4,000 rows leave open of those above
        tally = tally_of(np.where(truth == 0.4, truth + off, truth), rng.random(8_000) < truth)
        promised, found = estimated(tally, PLAN)["precision"], figures(tally, PLAN)["precision"]
        held.append(promised.low <= found.value <= promised.high)
    assert np.mean(held) >= 0.95


def test_labels_that_are_too_few_say_nothing_about_the_estimate() -> None:
    p, y = drawn(np.random.default_rng(9), 100)
    tally = tally_of(p, y)
    for score in p[:20].tolist():
        tally.predict(facts(score, PLAN.threshold))
    assert covers(tally, PLAN, figures(tally, PLAN)["log_loss"]) is None


def test_the_estimates_agree_with_what_happens() -> None:
    p, y = drawn(np.random.default_rng(10), 20_000)
    tally = tally_of(p, y)
    promised, found = estimated(tally, PLAN), figures(tally, PLAN)
    for name in ("log_loss", "brier", "accuracy", "precision", "cost", "roc_auc"):
        assert promised[name].low <= found[name].value <= promised[name].high, name
        assert promised[name].high - promised[name].low < 0.1, name
