"""The scan's stretches hold exactly the last panes, and its value is the formula, with one law or with many."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from stream_processors.detectors import engine
from tests.drift_core.samples import detectors_of, numeric


def test_stretches_hold_exactly_the_last_panes_of_every_scale():
    rng, levels, history = np.random.default_rng(12), np.zeros((engine.LEVELS, 4, 3), np.int64), []
    looks = dict.fromkeys(engine.SCALES, 0)
    for number in range(1, 600):
        history.append(rng.integers(0, 9, 3))
        engine.push(levels, number, history[-1])
        for which, scale in enumerate(engine.SCALES):
            out = np.empty(3, np.int64)
            if engine.stretch(levels, number, which, out):
                looks[scale] += 1
                assert out.tolist() == np.sum(history[-scale:], 0).tolist(), (number, scale)
    assert all(looks[scale] == len(range(scale, 600, max(1, scale // 4))) for scale in looks)


def test_one_law_is_expected_as_it_is_and_many_in_proportion_to_their_rows():
    laws, rows, out = np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([10_000.0, 2_500.0]), np.empty(2)
    assert engine.expected(np.array([6, 4]), 2, laws[:1], rows[:1], out) == (10, 10_000)
    assert out.tolist() == [0.5, 0.5]
    n, behind = engine.expected(np.array([6, 4, 5, 5]), 2, laws, rows, out)
    assert n == 10 and out == pytest.approx([0.35, 0.65])
    assert behind == pytest.approx(1 / (0.25 / 10_000 + 0.25 / 2_500))


def test_value_is_the_formula():
    assert engine.scan_value(1_000, 0.1, 4, 1.0, False) == pytest.approx(20 + log(4))
    assert engine.scan_value(1_000, 0.1, 4, 2.0, True) == pytest.approx(10 + log(4) - 1)
    counts, law = np.array([600, 400]), np.array([0.3, 0.7])
    assert engine.largest_difference(counts, 2, 1_000.0, law) == pytest.approx(0.3)


@pytest.mark.parametrize(("rows", "looked"), [(1_000, True), (1_001, False)])
def test_the_scan_does_not_look_at_scales_too_large_for_the_reference(rows, looked):
    known = numeric(np.arange(10_000.0))
    detectors = detectors_of(known)
    state, pane = detectors.start(), np.zeros(len(known.cell_rows), np.int64)
    pane[0] = rows  # all in the lowest cell: as far as can be
    detectors.step_coarse(state, {known.key: pane}, 0)
    said = detectors.evidence(state)[known.key]
    above = 1 - known.cell_rows[0] / 10_000 - engine.REFERENCE_ERROR / 100
    assert said.scan_value == pytest.approx(2 * rows * above**2 if looked else 0.0, rel=0.05)
