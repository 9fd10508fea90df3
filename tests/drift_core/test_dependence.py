"""Dependence is found where rows depend, costs nothing where they do not, and the temper grows with it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.fit import Wish, fit
from tests.drift_core.samples import NAME, NUMBER

MINUTE = 60_000
WISH = Wish(pane=5 * MINUTE, rhythm="none")


def known(values: np.ndarray, per_pane: int = 100, wish: Wish = WISH) -> FeatureReference:
    feature = NUMBER if values.dtype == float else NAME
    when = np.arange(len(values)) * (5 * MINUTE // per_pane)
    return fit(feature, "*", pa.array(values), when, wish, version=1, effective_from=0)


def chain(rng: np.random.Generator, rows: int, phi: float) -> np.ndarray:
    """AR(1) with variance 1."""
    x, out = 0.0, np.empty(rows)
    for i, e in enumerate(rng.normal(size=rows) * np.sqrt(1 - phi * phi)):
        x = phi * x + e
        out[i] = x
    return out


def test_independent_rows_pay_nothing():
    rng = np.random.default_rng(1)
    found = 0
    for trial in range(40):
        values = rng.normal(size=20_000) if trial % 2 else np.array(["a", "b", "c"])[rng.integers(0, 3, 20_000)]
        made = known(values)
        found += made.temper is not None
    assert found <= 2


@pytest.mark.parametrize("phi", [0.2, 0.5, 0.8])
def test_autocorrelation_is_found_and_tempers_the_evidence(phi):
    made = known(chain(np.random.default_rng(2), 60_000, phi))
    assert made.temper is not None
    inflation = (1 + phi) / (1 - phi)
    assert made.evidence["inflation"] == pytest.approx(inflation, rel=0.25)
    assert 0.6 / inflation <= made.temper.eta["shift +0.4 sd"] <= 1.4 / inflation
    assert made.temper.inflation == made.evidence["inflation"]
    assert made.temper.tail >= 1 + 0.2 * (inflation - 1)
    assert all(0 <= eta < 1 for eta in made.temper.eta.values())
    assert made.temper.panes == 300


def test_a_category_that_comes_in_bursts_is_found():
    rng = np.random.default_rng(3)
    values = np.where(np.repeat(rng.random(3_000) < 0.2, 20), "bulk", "single")
    made = known(values)
    assert made.temper is not None and made.evidence["inflation"] > 5


def test_the_contract_may_say_none():
    values = chain(np.random.default_rng(4), 20_000, 0.8)
    assert known(values, wish=Wish(pane=5 * MINUTE, rhythm="none", dependence="none")).temper is None


def test_a_matched_rhythm_is_no_dependence():
    rng = np.random.default_rng(5)
    rows = 288 * 14 * 20
    when = np.arange(rows) * (5 * MINUTE // 20)
    values = rng.normal(size=rows) + 0.3 * np.sin(2 * np.pi * when / 86_400_000)
    assert known(values, 20).temper is not None
    made = known(values, 20, Wish(pane=5 * MINUTE))
    assert made.slots is not None and made.temper is None


def test_equal_rows_give_an_equal_temper():
    values = chain(np.random.default_rng(6), 30_000, 0.5)
    assert known(values).temper == known(values).temper


def test_what_no_row_speaks_for_counts_as_dependent_as_the_rest():
    made = known(chain(np.random.default_rng(7), 60_000, 0.8))
    assert made.temper is not None and made.nulls == 0
    assert made.temper.eta["nulls +5%"] == pytest.approx(1 / made.temper.inflation, abs=2e-3)


def test_how_many_rows_a_pane_has_is_no_evidence():
    rng = np.random.default_rng(8)
    rows = np.where(rng.random(800) < 0.5, 20, 300)
    when = np.repeat(np.arange(800) * 5 * MINUTE, rows)
    values = np.repeat(rng.normal(size=len(when) // 10 + 1), 10)[: len(when)]
    made = fit(NUMBER, "*", pa.array(values), when, WISH, version=1, effective_from=0)
    assert made.temper is not None and made.evidence["inflation"] == pytest.approx(10, rel=0.25)
    assert 0.06 <= made.temper.eta["shift +0.4 sd"] <= 0.14 and 0.06 <= made.temper.eta["shift +0.8 sd"] <= 0.14
