"""Confidence sequences of the distribution function cover it at all times at once, and page within their budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from pipeline.contract import Tolerance
from stream_processors.detectors import engine
from stream_processors.reference import cells
from tests.drift_core.samples import NUMBER, PLAN, detectors_of, floats, numeric

PAGES = replace(PLAN, rule="confseq", pages_per=timedelta(hours=100), rejects=False)  # one in 1,200 panes
KNOWN = numeric(np.random.default_rng(51).normal(size=100_000))


def panes(shift: float, number: int, rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(
        [cells.coarse(KNOWN, cells.count(KNOWN, floats(rng.normal(shift, 1, rows)))) for _ in range(number)]
    )


def test_the_value_is_the_level_at_which_the_band_just_leaves_the_reference_out():
    for n, odds in ((50.0, 3.0), (1_000.0, 9.0), (1e6, 20.0)):
        assert engine.confseq_value(n, engine.confseq_radius(n, odds)) == pytest.approx(odds)


def test_the_band_covers_at_all_times_at_once_as_often_as_it_says():
    """300 sequences of 2,000 rows at alpha = 0.05, looked at after every ten rows: 15 may leave their band, ever."""
    rng, n = np.random.default_rng(52), np.arange(10, 2_001, 10)
    radius = np.array([engine.confseq_radius(float(i), np.log(20)) for i in n])
    left = 0
    for _ in range(300):
        u = rng.random(2_000)
        grid = np.cumsum(u[:, None] <= np.linspace(0.02, 0.98, 49), 0)[n - 1]
        away = np.abs(grid / n[:, None] - np.linspace(0.02, 0.98, 49)).max(1)
        left += bool((away > radius).any())
    assert left <= 15


def test_quiet_panes_do_not_page_beyond_the_budget_and_a_shift_does():
    """Ten quiet streams of 1,200 panes: ten pages allowed."""
    detectors, pages = detectors_of(KNOWN, plan=PAGES), 0
    for seed in range(10):
        quiet, state, at = panes(0, 1_200, 50, seed), detectors.start(), 0
        while at < len(quiet):
            at += detectors.step_panes(state, quiet[at:], np.zeros(len(quiet) - at, np.int64))
            if detectors.fired(state)[0]:
                pages += 1
                detectors.reset(state, KNOWN.key)
    assert pages <= 10
    state = detectors.start()
    assert detectors.step_panes(state, panes(0.5, 40, 50, 99), np.zeros(40, np.int64)) < 15
    said = detectors.evidence(state)[KNOWN.key]
    assert said.rule == "confseq" and said.e_value is None and said.scan_value >= said.scan_threshold


def test_the_sequence_must_leave_the_tolerance_out_too():
    tolerant = replace(PAGES, features=(replace(NUMBER, tolerance=Tolerance("distance", 0.1)),))
    detectors = detectors_of(KNOWN, plan=tolerant)
    small, large = panes(0.2, 60, 400, 5), panes(0.5, 60, 400, 6)  # D = 0.08 and 0.20
    assert detectors.step_panes(detectors.start(), small, np.zeros(60, np.int64)) == 60
    state = detectors.start()
    assert detectors.step_panes(state, large, np.zeros(60, np.int64)) < 60
    assert 0.1 < detectors.evidence(state)[KNOWN.key].lower_effect < 0.2
