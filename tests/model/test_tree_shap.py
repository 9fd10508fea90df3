"""What each feature adds: the same as shap's, whatever is in a row; the parts of a row add up to its margin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator

from batch import fitting
from batch.plan import compile_plan
from batch.tree_shap import explainer_of, paths_of
from pipeline import contract_file
from stream_processors.live import model_features
from tests.model import sales_rows

CONTRACT = contract_file.load("sales")
ROWS = sales_rows.labelled(sales_rows.draw(12_000, seed=3))
WIDTH = 6


def odd(matrix: np.ndarray) -> np.ndarray:
    """The rows with values that no training row had."""
    made = matrix.copy()
    for step, value in ((3, np.nan), (7, np.inf), (11, -np.inf), (13, 1e300)):
        made[step % 2 :: step, step % made.shape[1]] = value
    made[-1] = np.nan
    return made


def calibrated(trees: HistGradientBoostingClassifier, x: np.ndarray, y: np.ndarray) -> CalibratedClassifierCV:
    return CalibratedClassifierCV(FrozenEstimator(trees), method="sigmoid").fit(x, y)


def drawn(seed: int, leaves: int, trees: int = 12) -> CalibratedClassifierCV:
    """A model of deep trees on features with ties, holes and interactions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1_500, WIDTH)).round(1)
    x[rng.random(x.shape) < 0.1] = np.nan
    known = np.nan_to_num(x)
    y = rng.random(len(x)) < 1 / (1 + np.exp(-known[:, 0] * known[:, 1] - np.isnan(x[:, 2])))
    params = {"max_leaf_nodes": leaves, "min_samples_leaf": 1, "max_iter": trees, "random_state": seed}
    return calibrated(HistGradientBoostingClassifier(**params).fit(x, y), x, y)


def trees_of(model: CalibratedClassifierCV) -> HistGradientBoostingClassifier:
    return model.calibrated_classifiers_[0].estimator.estimator


@pytest.fixture(scope="module")
def served() -> CalibratedClassifierCV:
    features = model_features.features_for(CONTRACT)
    parts = fitting.split(np.arange(ROWS.height))
    return fitting.fit(features.matrix(ROWS), ROWS["label"].to_numpy(), parts, seed=1).classifier


def compare_with_shap(model: CalibratedClassifierCV, rows: np.ndarray) -> None:
    shap = pytest.importorskip("shap")
    theirs, ours = shap.TreeExplainer(trees_of(model)), paths_of(compile_plan(model))
    assert np.max(np.abs(theirs.shap_values(rows) - ours.contributions(rows))) < 1e-9
    assert abs(float(np.ravel(theirs.expected_value)[0]) - ours.expected) < 1e-9


def test_contributions_are_those_of_shap_for_the_model_as_it_is_trained(served: CalibratedClassifierCV) -> None:
    matrix = model_features.features_for(CONTRACT).matrix(ROWS.head(400))
    compare_with_shap(served, np.vstack([matrix, odd(matrix)]))


@pytest.mark.parametrize(("seed", "leaves"), [(1, 2), (5, 4), (2, 31), (3, 127)])
def test_contributions_are_those_of_shap_for_shallow_and_deep_trees(seed: int, leaves: int) -> None:
    rows = np.random.default_rng(seed + 9).normal(size=(300, WIDTH)).round(1)
    compare_with_shap(drawn(seed, leaves), np.vstack([rows, odd(rows)]))


VALUE = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 0.1, -1.2])
DEEP = drawn(4, 63)


@given(st.lists(st.lists(VALUE, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=6))
@settings(max_examples=60)
def test_the_parts_of_a_row_add_up_to_its_margin_and_to_the_log_odds_of_its_score(rows: list[list[float]]) -> None:
    matrix, plan = np.array(rows), compile_plan(DEEP)
    paths, explainer = paths_of(plan), explainer_of(plan)
    assert np.max(np.abs(paths.contributions(matrix).sum(axis=1) + paths.expected - plan.raw(matrix))) < 1e-9
    log_odds = explainer.contributions(matrix).sum(axis=1) + explainer.base
    assert np.max(np.abs(1 / (1 + np.exp(-log_odds)) - plan.score(matrix))) < 1e-12


def test_a_feature_that_no_tree_asks_adds_nothing_and_two_that_are_asked_alike_add_the_same() -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 2, size=(4_000, 3)).astype(float)
    y = (x[:, 0] + x[:, 1]) > 0.5
    model = calibrated(HistGradientBoostingClassifier(max_leaf_nodes=4, max_iter=1, min_samples_leaf=1).fit(x, y), x, y)
    found = paths_of(compile_plan(model)).contributions(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    assert np.array_equal(found[:, 2], [0.0, 0.0])
    # "a or b": alone each explains the answer, together they share it, up to the shares of the training rows
    assert found[0, 0] == pytest.approx(found[0, 1], rel=0.1) and found[1, 0] > 0 > found[1, 1]


def test_a_model_that_always_says_the_same_has_nothing_to_explain() -> None:
    x, y = np.zeros((200, WIDTH)), np.arange(200) % 2 == 0
    plan = compile_plan(calibrated(HistGradientBoostingClassifier(max_iter=3).fit(x, y), x, y))
    found = paths_of(plan)
    assert not found.contributions(np.ones((4, WIDTH))).any()
    assert found.expected == pytest.approx(float(plan.raw(np.ones((1, WIDTH)))[0]), abs=1e-12)


def test_rows_of_another_width_are_refused(served: CalibratedClassifierCV) -> None:
    with pytest.raises(ValueError, match="features"):
        explainer_of(compile_plan(served)).contributions(np.zeros((1, 3)))
