"""The detector fires on what it should, is silent on what it should, and is a function of its panes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors import bank, budget, cells, detector
from stream_processors.cells import EMPTY, Counts, FeatureReference
from stream_processors.detector import DetectorState
from tests.drift_core.samples import PLAN, budget_of, categorical, channels, floats, numeric

RNG = np.random.default_rng(21)
NORMAL = numeric(RNG.normal(size=50_000))
CHANNELS = categorical(channels(RNG, 30_000))
BIMODAL = numeric(np.concatenate((RNG.normal(-3, 0.5, 25_000), RNG.normal(3, 0.5, 25_000))))


def run(known: FeatureReference, panes: list[pa.Array], state: DetectorState | None = None) -> DetectorState:
    state = state or detector.start(known, budget_of(known))
    for pane in panes:
        state = detector.step(state, known, cells.count(known, pane))
    return state


def delay(known: FeatureReference, draw, panes: int = 60) -> tuple[int, DetectorState]:
    """Panes until it fires, after 20 quiet ones."""
    rng = np.random.default_rng(22)
    quiet = (
        rng.choice(known.values, (20, 100)) if known.kind == "numeric" else rng.choice(channels(rng, 2_000), (20, 100))
    )
    state = run(known, [pa.array(p) for p in quiet])
    assert state.fired < 0
    for number in range(1, panes + 1):
        state = run(known, [draw(rng)], state)
        if state.fired >= 0:
            return number, state
    return panes + 1, state


@pytest.mark.parametrize(
    ("name", "known", "draw", "panes", "change"),
    [
        ("half a sd up", NORMAL, lambda r: floats(r.normal(0.5, 1, 100)), 5, "shift +"),
        ("a quarter sd down", NORMAL, lambda r: floats(r.normal(-0.25, 1, 100)), 14, "shift -"),
        ("wider", NORMAL, lambda r: floats(r.normal(0, 1.5, 100)), 8, "scale x1"),
        ("upper tail", NORMAL, lambda r: floats(np.where(r.random(100) < 0.1, 6, r.normal(size=100))), 6, "upper tail"),
        (
            "one value in ten",
            NORMAL,
            lambda r: floats(np.where(r.random(100) < 0.1, 0.3, r.normal(size=100))),
            15,
            "excess",
        ),
        ("times a hundred", NORMAL, lambda r: floats(r.normal(size=100) * 100), 1, ""),
        (
            "one row in ten null",
            NORMAL,
            lambda r: floats(np.where(r.random(100) < 0.1, np.nan, r.normal(size=100))),
            2,
            "nulls",
        ),
        ("all null", NORMAL, lambda r: floats(np.full(100, np.nan)), 1, "nulls"),
        (
            "a new category",
            CHANNELS,
            lambda r: pa.array(np.where(r.random(100) < 0.05, "kiosk", channels(r, 100))),
            4,
            "new values",
        ),
        ("a mix change", CHANNELS, lambda r: pa.array(channels(r, 100, (0.35, 0.3, 0.3, 0.05))), 5, "store +"),
        ("a category gone", CHANNELS, lambda r: pa.array(channels(r, 100, (0.6, 0.4, 0, 0))), 6, ""),
    ],
)
def test_fires_soon_and_names_the_change(name, known, draw, panes, change):
    found, state = delay(known, draw)
    assert found <= panes, name
    said = detector.evidence(state)
    assert said.rule in ("bank", "scan") and change in said.change
    assert 1 <= said.since <= found + 2


@pytest.mark.parametrize("size", [83, 833, 8_333])
def test_a_hundred_quiet_windows_do_not_page(size):
    rng = np.random.default_rng(size)
    for known, draw in (
        (NORMAL, lambda: floats(rng.normal(size=size))),
        (CHANNELS, lambda: pa.array(channels(rng, size))),
    ):
        state = detector.start(known, budget_of(known))
        for _ in range(1_200 if size < 5_000 else 300):
            state = detector.step(state, known, cells.count(known, draw()))
        assert state.fired < 0


def test_an_immaterial_shift_of_a_hundredth_sd_stays_quiet_at_large_panes():
    rng = np.random.default_rng(23)
    known = numeric(rng.normal(size=200_000))
    assert run(known, [floats(rng.normal(0.01, 1, 20_000)) for _ in range(50)]).fired < 0


def test_mean_of_m_is_the_number_of_panes_while_rows_follow_the_reference():
    """E[M_t] = t for Shiryaev-Roberts sums; without alternatives about cells of share 1/10,000, whose mean converges slowly."""
    known = categorical(channels(np.random.default_rng(1), 20_000))
    made = bank.bank_of(known)
    tame = [i for i, name in enumerate(made.names) if not name.startswith(("new", "null"))]
    rng, runs, steps = np.random.default_rng(24), 20_000, 6
    log_r = np.full((runs, len(tame)), -np.inf)
    for _ in range(steps):
        panes = rng.multinomial(4, made.reference, runs)
        log_r = np.logaddexp(log_r, 0.0) + panes @ (made.scores + made.slack)[:, tame]
    m = np.exp(log_r).mean(1)
    assert m.mean() == pytest.approx(steps, abs=5 * m.std() / np.sqrt(runs))
    assert np.mean(m >= 100) <= steps / 100  # Ville


def test_shiryaev_roberts_sum_is_the_closed_form_of_its_recursion():
    made, rng = bank.bank_of(NORMAL), np.random.default_rng(25)
    panes = [cells.count(NORMAL, floats(rng.normal(0.1, 1, 50))) for _ in range(7)]
    gains = np.array([cells.coarse(NORMAL, p) @ made.scores for p in panes])
    want = sum(np.exp(gains[k:].sum(0)) for k in range(7))
    state = detector.start(NORMAL, budget_of(NORMAL))
    for pane in panes:
        state = detector.step(state, NORMAL, pane)
    assert detector.evidence(state).e_value == pytest.approx(np.log(want @ made.weights), rel=1e-9)


def test_the_scan_catches_a_shape_that_the_bank_is_denied():
    limits = budget.thresholds(replace(PLAN, rule="scan"), {BIMODAL.key: BIMODAL})
    rng, state = np.random.default_rng(26), detector.start(BIMODAL, limits)
    while state.fired < 0 and state.panes < 60:
        state = detector.step(state, BIMODAL, cells.count(BIMODAL, floats(rng.normal(0, 3.04, 100))))
    said = detector.evidence(state)
    assert state.fired > 0 and said.rule == "scan" and said.e_value is None and said.threshold is None


def test_an_empty_pane_changes_nothing_but_time():
    state = run(NORMAL, [floats(np.random.default_rng(27).normal(0.6, 1, 100))])
    after = detector.step(state, NORMAL, EMPTY)
    assert (after.steps, after.panes) == (state.steps + 1, state.panes)
    before, now = detector.evidence(state), detector.evidence(after)
    assert (now.e_value, now.scan_value) == (before.e_value, before.scan_value)
    assert before.change and now.since == before.since + 1
    assert detector.evidence(detector.step(detector.start(NORMAL, budget_of(NORMAL)), NORMAL, EMPTY)).e_value is None


def test_evidence_grows_on_after_an_alarm_and_stays_finite():
    rng = np.random.default_rng(28)
    state = run(NORMAL, [floats(rng.normal(9, 1, 5_000)) for _ in range(40)])
    said = detector.evidence(state)
    assert state.fired == 1 and said.e_value > 1e4 and np.isfinite(said.e_value) and said.since == 40
    assert not detector.returned(state)


def test_return_is_proved_after_the_change_ends_and_not_by_one_quiet_pane():
    rng = np.random.default_rng(29)
    state = run(NORMAL, [floats(rng.normal(0.5, 1, 400)) for _ in range(6)])
    assert state.fired > 0
    waits = []
    for _ in range(64):
        state = run(NORMAL, [floats(rng.normal(size=400))], state)
        waits.append(detector.returned(state))
    first = waits.index(True) + 1
    assert 4 <= first <= 32 and not any(waits[:3])


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: r.normal(0.25, 1, 400),
        lambda r: r.normal(0, 1.25, 400),
        lambda r: np.where(r.random(400) < 0.02, 4.0, r.normal(size=400)),
    ],
)
def test_return_is_not_claimed_while_the_change_lasts(draw):
    rng = np.random.default_rng(30)
    state = run(NORMAL, [floats(rng.normal(2, 1, 400))])
    for _ in range(200):
        state = run(NORMAL, [floats(draw(rng))], state)
        assert not detector.returned(state)


def test_return_is_not_claimed_while_an_alternative_too_small_to_be_rejected_gathers_evidence():
    rng = np.random.default_rng(35)
    state = run(NORMAL, [floats(rng.normal(1, 1, 400))])
    for _ in range(20):
        state = run(NORMAL, [floats(np.where(rng.random(10_000) < 0.004, 4.0, rng.normal(size=10_000)))], state)
        assert state.fired > 0 and not detector.returned(state)


def test_quiet_panes_before_the_alarm_prove_no_return():
    rng = np.random.default_rng(31)
    state = run(NORMAL, [floats(rng.normal(size=1_000)) for _ in range(126)])  # pane 128 ends a stretch of 128
    state = run(NORMAL, [floats(rng.normal(1, 1, 200)), floats(rng.normal(1, 1, 200))], state)
    assert state.fired == 127 and not detector.returned(state)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 20, 300]), min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 2**31))
def test_a_restart_from_bytes_at_any_pane_ends_in_the_same_bytes(sizes, cut, seed):
    rng = np.random.default_rng(seed)
    panes = [cells.count(NORMAL, floats(rng.normal(0.3, 1, n))) for n in sizes]
    straight = detector.start(NORMAL, budget_of(NORMAL))
    for pane in panes:
        straight = detector.step(straight, NORMAL, pane)
    again = detector.start(NORMAL, budget_of(NORMAL))
    for number, pane in enumerate(panes):
        if number == cut:
            again = DetectorState.from_bytes(again.to_bytes())
        again = detector.step(again, cells.from_arrow(cells.to_arrow(NORMAL)) if number == cut else NORMAL, pane)
    assert again.to_bytes() == straight.to_bytes()
    assert detector.evidence(again) == detector.evidence(DetectorState.from_bytes(straight.to_bytes()))


def test_state_is_small_and_foreign_bytes_are_refused():
    rng = np.random.default_rng(32)
    state = run(NORMAL, [floats(rng.normal(size=100)) for _ in range(600)])
    assert len(state.to_bytes()) <= 20_000
    with pytest.raises(ValueError, match="rebuild"):
        DetectorState.from_bytes(b"no")


def test_counts_beyond_four_billion_rows_survive_the_bytes():
    state = detector.step(
        detector.start(CHANNELS, budget_of(CHANNELS)), CHANNELS, Counts(np.array([0], np.uint32), np.array([1 << 33]))
    )
    assert DetectorState.from_bytes(state.to_bytes()).levels.max() == 1 << 33


def test_a_step_leaves_its_argument_as_it_was():
    state = run(NORMAL, [floats(np.random.default_rng(33).normal(size=100))])
    before = state.to_bytes()
    run(NORMAL, [floats(np.random.default_rng(34).normal(5, 1, 100))], state)
    assert state.to_bytes() == before


def test_a_detector_refuses_a_reference_that_it_was_not_started_with():
    with pytest.raises(ValueError, match="start a new one"):
        detector.step(detector.start(NORMAL, budget_of(NORMAL)), CHANNELS, cells.count(CHANNELS, pa.array(["web"])))
