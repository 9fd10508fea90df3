"""The engine as one of river's drift detectors."""

import doctest

import numpy as np
import pytest
from river.base import DriftDetector

from stream_processors import river_adapter
from stream_processors.river_adapter import DriftlineDetector

RNG = np.random.default_rng(5)
REFERENCE = RNG.normal(0, 1, 20_000)


def first_drift(detector: DriftlineDetector, values: np.ndarray) -> int | None:
    for i, x in enumerate(values):
        detector.update(float(x))
        if detector.drift_detected:
            return i
    return None


def test_it_is_one_of_rivers_detectors():
    detector = DriftlineDetector(REFERENCE, pane_rows=50)
    copy = detector.clone()
    assert isinstance(detector, DriftDetector) and not detector.drift_detected
    assert copy is not detector and copy.pane_rows == 50 and np.array_equal(copy.reference, REFERENCE)
    assert detector.clone({"pane_rows": 200}).pane_rows == 200


def test_a_clone_knows_nothing_of_what_was_seen():
    detector = DriftlineDetector(REFERENCE)
    assert first_drift(detector, RNG.normal(2, 1, 500)) is not None
    assert not detector.clone().drift_detected


def test_quiet_values_are_quiet_and_a_wider_spread_is_found():
    detector = DriftlineDetector(REFERENCE)
    assert first_drift(detector, RNG.normal(0, 1, 20_000)) is None
    assert first_drift(detector, RNG.normal(0, 1.5, 2_000)) < 1_000
    assert "scale" in detector.change


def test_the_first_values_are_the_reference_if_none_is_given():
    detector = DriftlineDetector()
    assert first_drift(detector, RNG.normal(7, 1, 15_000)) is None
    assert first_drift(detector, RNG.normal(8, 1, 1_000)) is not None
    assert first_drift(detector, RNG.normal(8, 1, 15_000)) is None  # learned anew after the detection


def test_a_given_reference_stays_and_is_reported_again():
    detector = DriftlineDetector(REFERENCE)
    shifted = RNG.normal(1, 1, 1_000)
    assert first_drift(detector, shifted) is not None
    detector.update(shifted[0])
    assert not detector.drift_detected
    assert first_drift(detector, shifted) is not None


def test_missing_values_are_a_change_too():
    assert first_drift(DriftlineDetector(REFERENCE), np.full(1_000, np.nan)) is not None


def test_a_reference_that_could_never_alarm_is_refused():
    with pytest.raises(ValueError, match="at least 10,000 values, got 200"):
        DriftlineDetector(REFERENCE[:200])
    with pytest.raises(ValueError, match="at least 10,000"):
        DriftlineDetector(learn=100)


@pytest.mark.parametrize("wrong", [{"pane_rows": 0}, {"run_length": 10}, {"tolerance": -1}])
def test_wrong_options_are_refused_before_anything_is_learned(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*expected"):
        DriftlineDetector(**wrong)


def test_the_example_is_true():
    assert doctest.testmod(river_adapter, extraglobs={"np": np}).failed == 0
