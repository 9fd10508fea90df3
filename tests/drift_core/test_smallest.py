"""The smallest shift that would be caught is caught about as often as it says, and moves the way it should."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from pipeline.contract import Tolerance
from stream_processors.detectors.smallest import shifted, smallest_shift
from tests.drift_core.samples import NUMBER, PLAN, categorical, channels, detectors_of, numeric

RNG = np.random.default_rng(71)
NORMAL = numeric(RNG.normal(size=60_000))
CHANNELS = categorical(channels(RNG, 60_000))


def caught(detectors, key, size: float, n: int, panes: int, runs: int) -> float:
    rng, known, hits = np.random.default_rng(72), detectors.references[key], 0
    for _ in range(runs):
        state = detectors.start()
        quiet = rng.multinomial(n, shifted(known, 0.0), size=24).astype(np.int64)
        moved = rng.multinomial(n, shifted(known, size), size=panes).astype(np.int64)
        detectors.step_panes(state, quiet, np.zeros(24, np.int64))
        detectors.step_panes(state, moved, np.zeros(panes, np.int64))
        hits += bool(detectors.fired(state)[0])
    return hits / runs


@pytest.mark.parametrize(("known", "n", "panes"), [(NORMAL, 83, 12), (NORMAL, 1_000, 3), (CHANNELS, 500, 12)])
def test_the_smallest_shift_is_caught_nine_times_in_ten(known, n, panes):
    detectors = detectors_of(known)
    size = smallest_shift(detectors, known.key, n, panes)
    assert 0.85 <= caught(detectors, known.key, size, n, panes, 300) <= 0.95
    assert caught(detectors, known.key, size / 2, n, panes, 50) < 0.6


def test_more_rows_or_more_time_find_less_and_a_tolerance_or_a_smaller_budget_finds_more():
    least = lambda plan, n, panes: smallest_shift(detectors_of(NORMAL, plan=plan), NORMAL.key, n, panes)  # noqa: E731
    usual = least(PLAN, 200, 6)
    assert least(PLAN, 2_000, 6) < usual and least(PLAN, 200, 24) < usual
    assert least(replace(PLAN, pages=0.001), 200, 6) > usual
    assert least(replace(PLAN, rule="scan"), 200, 6) > usual
    assert least(replace(PLAN, rule="confseq"), 200, 6) > least(replace(PLAN, rule="scan"), 200, 6)
    tolerant = replace(PLAN, features=(replace(NUMBER, tolerance=Tolerance("distance", 0.1)),))
    assert least(tolerant, 2_000, 6) > 0.25  # D = 0.1 is a quarter of a sd


def test_nothing_is_caught_with_too_few_rows():
    assert smallest_shift(detectors_of(NORMAL), NORMAL.key, 1, 1) == inf
    assert smallest_shift(detectors_of(NORMAL), NORMAL.key, 0, 12) == inf


def test_the_shifted_law_is_a_law_and_keeps_the_nulls():
    known = numeric([None] * 5_000 + list(RNG.normal(size=20_000)))
    for size in (0.0, 0.3, 4.0):
        law = shifted(known, size)
        assert law.sum() == pytest.approx(1) and law.min() >= 0 and law[-1] == pytest.approx(0.2)
    assert (shifted(known, 0.0) == known.cell_rows / known.cell_rows.sum()).all()
    moved = shifted(CHANNELS, 0.1) - shifted(CHANNELS, 0.0)
    assert moved.max() == moved[CHANNELS.categories.index("web")] == pytest.approx(0.05, abs=0.002)


def test_a_dominant_category_loses_to_the_others_for_it_has_nothing_left_to_gain():
    rejects = categorical(channels(RNG, 60_000, (0.97, 0.015, 0.01, 0.005)))
    moved = shifted(rejects, 0.1)[:-2] / shifted(rejects, 0.0)[:-2]
    web = rejects.categories.index("web")
    assert moved[web] == pytest.approx(0.9) and np.ptp(np.delete(moved, web)) == pytest.approx(0, abs=1e-9)
    detectors = detectors_of(rejects)
    size = smallest_shift(detectors, rejects.key, 500, 12)
    assert 0.85 <= caught(detectors, rejects.key, size, 500, 12, 200) <= 1.0 and size < 0.05
