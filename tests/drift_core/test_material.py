"""A page needs an effect that is proved to exceed its tolerance: within it nothing pages, at twice of it everything does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from pipeline.contract import DriftPlan, MonitoredFeature, Tolerance
from stream_processors.detectors import engine, material
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.grid import edges_of
from tests.drift_core.samples import NAME, NUMBER, PLAN, categorical, channels, detectors_of, floats, numeric

RNG = np.random.default_rng(61)
NORMAL = numeric(RNG.normal(10, 2, 100_000))
CHANNELS = categorical(channels(RNG, 100_000))


def asked(feature: MonitoredFeature, kind: str, value: float) -> DriftPlan:
    wanted = replace(feature, tolerance=Tolerance(kind, value))
    return replace(PLAN, features=(wanted,), rejects=False, pages_per=timedelta(days=30))


def shifted_panes(sd: float, n: int, number: int, seed: int) -> np.ndarray:
    """Panes of normal rows moved by some sd, drawn from the exact law of the coarse cells."""
    below = special.ndtr((edges_of(NORMAL) - 10) / 2 - sd)
    law = np.concatenate((np.diff(below, prepend=0, append=1), [0, 0]))
    return np.random.default_rng(seed).multinomial(n, law, size=number).astype(np.int64)


def mixes(moved: float, n: int, number: int, seed: int) -> np.ndarray:
    law = CHANNELS.cell_rows / CHANNELS.cell_rows.sum()
    law[0] += moved
    law[3] -= moved
    return np.random.default_rng(seed).multinomial(n, law, size=number).astype(np.int64)


def fires(known: FeatureReference, plan: DriftPlan, panes: np.ndarray) -> bool:
    detectors = detectors_of(known, plan=plan)
    state = detectors.start()
    detectors.step_panes(state, panes, np.zeros(len(panes), np.int64))
    return bool(detectors.fired(state)[0])


def sd_of(distance: float) -> float:
    return float(2 * special.ndtri((1 + distance) / 2))


@pytest.mark.parametrize("n", [50, 1_000, 100_000, 1_000_000])
@pytest.mark.parametrize(
    ("known", "plan", "panes", "below", "above"),
    [
        (NORMAL, asked(NUMBER, "distance", 0.03), shifted_panes, sd_of(0.0295), sd_of(0.06)),
        (NORMAL, asked(NUMBER, "wasserstein", 0.4), shifted_panes, 0.195, 0.4),  # sd 2: 0.39 and 0.8 units
        (CHANNELS, asked(NAME, "share", 0.03), mixes, 0.0295, 0.06),
    ],
    ids=["distance", "wasserstein", "share"],
)
def test_just_within_tolerance_nothing_pages_at_any_size_and_at_twice_of_it_all_do(n, known, plan, panes, below, above):
    number = 600 if n <= 1_000 else 20
    assert not any(fires(known, plan, panes(below, n, number, seed)) for seed in range(3))
    assert all(fires(known, plan, panes(above, n, number, seed)) for seed in range(3))


def test_a_hundredth_of_a_sd_at_a_million_rows_shows_and_stays_quiet():
    panes = shifted_panes(0.01, 1_000_000, 40, 1)
    detectors = detectors_of(NORMAL, plan=asked(NUMBER, "distance", 0.02))
    state = detectors.start()
    assert detectors.step_panes(state, panes, np.zeros(40, np.int64)) == 40
    said = detectors.evidence(state)[NORMAL.key]
    assert not said.fires and said.tolerance == 0.02 and said.lower_effect < 0.005
    above = np.cumsum(panes.sum(0)) / panes.sum() - np.cumsum(NORMAL.cell_rows) / NORMAL.rows
    assert np.abs(above).max() == pytest.approx(0.004, abs=0.003)


def test_evidence_over_its_threshold_without_a_material_effect_does_not_fire():
    panes = shifted_panes(sd_of(0.04), 20_000, 30, 2)
    detectors = detectors_of(NORMAL, plan=asked(NUMBER, "distance", 0.05))
    state = detectors.start()
    detectors.step_panes(state, panes, np.zeros(30, np.int64))
    said = detectors.evidence(state)[NORMAL.key]
    assert said.rule == "bank" and said.e_value > said.threshold and not said.fires
    assert fires(NORMAL, asked(NUMBER, "distance", 0.0), panes)


def test_a_null_burst_is_material_where_the_tolerance_is_in_units():
    rng = np.random.default_rng(62)
    pane = cells.coarse(
        NORMAL, cells.count(NORMAL, floats(np.where(rng.random(2_000) < 0.1, np.nan, rng.normal(10, 2, 2_000))))
    )
    assert fires(NORMAL, asked(NUMBER, "wasserstein", 1.0), np.stack([pane] * 3))


def test_an_alarm_ends_when_the_effect_is_within_tolerance_though_not_gone():
    detectors = detectors_of(NORMAL, plan=asked(NUMBER, "distance", 0.05))
    state, shown = detectors.start(), []
    for panes in (shifted_panes(0.5, 5_000, 3, 3), shifted_panes(0.05, 5_000, 40, 4)):
        for pane in panes:
            detectors.step_coarse(state, {NORMAL.key: pane}, 0)
            shown.append(detectors.evidence(state)[NORMAL.key].returned)
    assert detectors.fired(state)[0] and not any(shown[:6]) and any(shown[6:24])


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.3, 3), st.booleans())
def test_the_wasserstein_bound_without_allowances_stays_below_the_distance_and_near_it(seed, move, scale, ties):
    rng = np.random.default_rng(seed)
    draw = lambda n, m, s: np.round(rng.normal(m, s, n), 1 if ties else 12)  # noqa: E731
    sample, window = draw(20_000, 0, 1), draw(5_000, move, scale)
    known = numeric(sample)
    wide, place = material.widths(known)
    law = known.cell_rows / known.cell_rows.sum()
    counts = cells.coarse(known, cells.count(known, floats(window))).astype(float)
    bound = engine.carried(counts, len(law), law, wide, place, True, 0.0, 0.0, 1.0)
    true = stats.wasserstein_distance(sample, window)
    assert bound <= true + 1e-9
    if not ties:
        assert bound >= 0.5 * true - 0.1  # beyond the range a row counts up to the last fence before it


FAR = {  # sd 10 about 50, a tolerance of 5 units
    "cents for units": lambda x: 100 * x,
    "fifty sd up": lambda x: x + 500,
    "fifty sd down": lambda x: x - 500,
    "kilo": lambda x: x / 1000,
    "a fifth of the rows ten ranges up": lambda x: np.where(np.arange(len(x)) % 5 == 0, x + 900, x),
    "all infinite": lambda x: x + np.inf,
}


@pytest.mark.parametrize("name", FAR)
def test_what_lies_beyond_the_range_is_material_in_units(name):
    rng = np.random.default_rng(64)
    known = numeric(rng.normal(50, 10, 20_000))
    moved = lambda n: cells.coarse(known, cells.count(known, floats(FAR[name](rng.normal(50, 10, n)))))  # noqa: E731
    panes, least = np.stack([moved(500) for _ in range(8)]), {"kilo": 30.0}.get(name, 50.0)
    assert fires(known, asked(NUMBER, "wasserstein", least), panes)  # the reference's own range is 80 wide
    assert fires(known, asked(NUMBER, "wasserstein", 5.0), panes[:2])


def test_within_a_tolerance_beyond_the_range_nothing_pages():
    rng = np.random.default_rng(66)
    known = numeric(rng.normal(50, 10, 20_000))
    panes = np.stack([cells.coarse(known, cells.count(known, floats(rng.normal(540, 10, 500)))) for _ in range(8)])
    assert not fires(known, asked(NUMBER, "wasserstein", 500.0), panes)
    assert fires(known, asked(NUMBER, "wasserstein", 200.0), panes)


@settings(max_examples=60)
@given(
    st.integers(0, 2**31), st.sampled_from([0.01, 0.1, 0.5, 1.0, 10.0, 100.0]), st.floats(-60, 60), st.floats(0.3, 20)
)
def test_the_wasserstein_bound_is_never_above_the_true_distance_however_far_rows_go(seed, factor, move, scale):
    """At level 12 a bound above the law's own distance has the chance e-12 a case; the reference's error counts too."""
    rng = np.random.default_rng(seed)
    sample, window = rng.normal(5, 1, 10_000), factor * rng.normal(5 + move, scale, 4_000)
    known = numeric(sample)
    wide, place = material.widths(known)
    law = known.cell_rows / known.cell_rows.sum()
    counts = cells.coarse(known, cells.count(known, floats(window))).astype(float)
    bound = engine.carried(counts, len(law), law, wide, place, True, 1.3581 / 100, 12.0, 1.0)
    z = special.ndtri((np.arange(20_000) + 0.5) / 20_000)
    assert bound <= np.abs(5 + z - factor * (5 + move + scale * z)).mean()  # between the quantiles of both laws


def test_a_bound_beyond_the_range_holds_half_of_the_way_there():
    rng = np.random.default_rng(65)
    known = numeric(rng.normal(0, 1, 20_000))
    wide, place = material.widths(known)
    law = known.cell_rows / known.cell_rows.sum()
    for move in (6.0, 50.0, 3e3, 1e5):
        counts = cells.coarse(known, cells.count(known, floats(rng.normal(move, 1, 4_000)))).astype(float)
        bound = engine.carried(counts, len(law), law, wide, place, True, 0.01, 12.0, 1.0)
        assert 0.45 * move <= bound <= move


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(50, 100_000))
def test_the_share_bound_holds_for_the_largest_move(seed, n):
    """At level 12 a bound above the true move has the chance 6e-6."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(6, 2.0)), rng.dirichlet(np.full(6, 2.0))
    bound = engine.share_moved(rng.multinomial(n, q), 0, 6, float(n), p, 1e9, 12.0, 1.0)
    assert bound <= np.abs(q - p).max()
    if n >= 50_000:
        assert bound >= np.abs(q - p).max() - 0.03


def test_the_band_is_the_inverse_of_the_scans_value():
    assert engine.scan_value(5_000, engine.band(5_000, 14.0, 3.0), 1, 3.0, False) == pytest.approx(14.0)
