"""The search: the same seed finds the same winner, noise keeps the parameters at hand, and no later row is looked at."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch import fitting, train
from batch.search import ROWS as RUNG_ROWS
from batch.search import Params, draw, folds, search
from pipeline import contract_file
from tests.model import sales_rows

CONTRACT = contract_file.load("sales")
ROWS = sales_rows.labelled(sales_rows.draw(6_000, seed=3))


def labels(rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows' true probabilities, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.05, 0.6, rows)
    return truth, (rng.random(rows) < truth).astype(np.int8)


def answering(truth: np.ndarray, wrong_by: float, good: Params | None, seed: int = 5):
    """An answer to every candidate: the truth with noise on its log odds, less of it for the good one."""

    def answer(params: Params, taught: np.ndarray, measured: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, crc32(repr(params).encode()), len(measured)])
        noise = (0.0 if params == good else wrong_by) * rng.normal(size=len(measured))
        odds = np.log(truth[measured] / (1 - truth[measured])) + noise
        return 1 / (1 + np.exp(-odds))

    return answer


@given(st.integers(0, 30_000), st.integers(0, len(RUNG_ROWS) - 1))
def test_a_fold_is_measured_on_rows_behind_all_that_it_was_taught(rows: int, rung: int) -> None:
    pairs = list(folds(rows, rung))
    assert len(pairs) == rung + 1
    for taught, measured in pairs:
        assert not len(measured) or taught.max(initial=-1) < measured.min()
    seen = np.concatenate([m for _, m in pairs])
    assert len(np.unique(seen)) == len(seen) and len(seen) + len(pairs[0][0]) == min(rows, RUNG_ROWS[rung])


def test_a_candidate_that_is_better_wins_and_the_table_tells_how_far_each_one_came() -> None:
    truth, y = labels(20_000)
    good = draw(fitting.PARAMS, 7, 24)[17]
    found = search(y, fitting.PARAMS, answering(truth, 0.6, good), 7, 24)
    assert found.params == good and found.candidates[0].params == good and found.candidates[0].upper < 0
    table = found.table()
    assert [len(v) for v in table.values()] == [24] * len(table) and max(table["rung"]) == 3
    assert sorted(table["rung"], reverse=True) == table["rung"] and set(table) > {*fitting.PARAMS, "log_loss"}


def test_equally_good_candidates_leave_the_parameters_at_hand() -> None:
    kept = 0
    for seed in range(20):
        truth, y = labels(12_000, seed)
        kept += search(y, fitting.PARAMS, answering(truth, 0.3, None, seed), seed, 24).params == fitting.PARAMS
    assert kept >= 16  # each of the two that came far has its chance of 5 % and is the luckiest of eight


@pytest.mark.parametrize("y", [np.zeros(20_000), np.resize([0, 1], 999)], ids=["one class", "few rows"])
def test_where_nothing_can_be_compared_nothing_is_searched(y: np.ndarray) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("asked")

    found = search(y, fitting.PARAMS, never, 1, 24)
    assert found.params == fitting.PARAMS and not found.candidates


def test_the_same_rows_and_seed_build_the_same_model_and_later_rows_do_not_matter() -> None:
    one, again = (train.build(CONTRACT, ROWS, None, 4, 4) for _ in range(2))
    assert one.found == again.found and len(one.found.candidates) == 4
    assert np.array_equal(one.fitted.scores, again.fitted.scores)
    cut = int(one.parts.calibrate[0])
    turned = ROWS.with_columns(label=pl.when(pl.int_range(pl.len()) < cut).then("label").otherwise(~pl.col("label")))
    assert train.build(CONTRACT, turned, None, 4, 4).found == one.found


def test_the_winner_is_what_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    stump = {**fitting.PARAMS, "max_iter": 1}  # any candidate is better than one tree
    monkeypatch.setattr(fitting, "PARAMS", stump)
    built = train.build(CONTRACT, ROWS, None, 4, 4)
    assert built.params == built.found.params != stump
    assert built.fitted.classifier.estimator.estimator.get_params()["max_iter"] == built.found.params["max_iter"]


@pytest.mark.parametrize("search", [0, 2])
def test_a_feature_that_never_had_a_value_is_named_and_stops_nothing(search: int) -> None:
    empty = ROWS.with_columns(customer_rate_1d=pl.lit(None, pl.Float64), product_rate_1d=pl.lit(None, pl.Float64))
    built = train.build(CONTRACT, empty, None, 1, search)
    assert built.params["features_empty"] == "customer_rate_1d, product_rate_1d"
    later = built.matrix[built.parts.test].copy()
    later[:, [built.features.names.index("customer_rate_1d")]] = 0.9  # a value at last: no tree knows of it
    assert np.array_equal(built.fitted.classifier.predict_proba(later)[:, 1], built.fitted.scores)
