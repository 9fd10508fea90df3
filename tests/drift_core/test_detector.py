"""The detector fires on what it should, is silent on what it should, and is a function of its panes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import DriftPlan, MonitoredFeature
from stream_processors.detectors import bank
from stream_processors.detectors.detector import Detectors, Evidence, State
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference, Slots
from stream_processors.reference.counts import EMPTY, Counts
from tests.drift_core.samples import PLAN, categorical, channels, detectors_of, floats, numeric

RNG = np.random.default_rng(21)
NORMAL = numeric(RNG.normal(size=50_000))
CHANNELS = categorical(channels(RNG, 30_000))
BIMODAL = numeric(np.concatenate((RNG.normal(-3, 0.5, 25_000), RNG.normal(3, 0.5, 25_000))))


class Watch:
    """One feature's detector, fed with columns."""

    def __init__(self, known: FeatureReference, plan: DriftPlan = PLAN):
        self.known, self.detectors, self.panes, self.fired_at = known, detectors_of(known, plan=plan), 0, 0
        self.state = self.detectors.start()

    def see(self, *panes: pa.Array | Counts, start: int = 0) -> Watch:
        for pane in panes:
            counts = pane if isinstance(pane, Counts) else cells.count(self.known, pane)
            self.detectors.step(self.state, {self.known.key: counts}, start)
            self.panes += 1
            if self.fired and not self.fired_at:
                self.fired_at = self.panes
        return self

    @property
    def fired(self) -> bool:
        return bool(self.detectors.fired(self.state)[0])

    @property
    def said(self) -> Evidence:
        return self.detectors.evidence(self.state)[self.known.key]


def delay(known: FeatureReference, draw, panes: int = 60) -> tuple[int, Watch]:
    """Panes until it fires, after 20 quiet ones."""
    rng = np.random.default_rng(22)
    quiet = (
        rng.choice(known.values, (20, 100)) if known.kind == "numeric" else rng.choice(channels(rng, 2_000), (20, 100))
    )
    watch = Watch(known).see(*(pa.array(p) for p in quiet))
    assert not watch.fired
    for number in range(1, panes + 1):
        if watch.see(draw(rng)).fired:
            return number, watch
    return panes + 1, watch


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
    found, watch = delay(known, draw)
    assert found <= panes, name
    said = watch.said
    assert said.rule in ("bank", "scan") and change in said.change
    assert 1 <= said.since <= found + 2


@pytest.mark.parametrize("size", [83, 833, 8_333])
def test_a_hundred_quiet_windows_do_not_page(size):
    rng = np.random.default_rng(size)
    for known, draw in (
        (NORMAL, lambda: floats(rng.normal(size=size))),
        (CHANNELS, lambda: pa.array(channels(rng, size))),
    ):
        watch = Watch(known)
        for _ in range(1_200 if size < 5_000 else 300):
            watch.see(draw())
        assert not watch.fired


def test_an_immaterial_shift_of_a_hundredth_sd_stays_quiet_at_large_panes():
    rng = np.random.default_rng(23)
    known = numeric(rng.normal(size=200_000))
    assert not Watch(known).see(*(floats(rng.normal(0.01, 1, 20_000)) for _ in range(50))).fired


def test_mean_of_m_is_the_number_of_panes_while_rows_follow_the_reference():
    """E[M_t] = t for Shiryaev-Roberts sums; without alternatives about cells of share 1/10,000, whose mean converges slowly."""
    known = categorical(channels(np.random.default_rng(1), 20_000))
    made = bank.bank_of(known)
    tame = [i for i, name in enumerate(made.names) if not name.startswith(("new", "null"))]
    rng, runs, steps = np.random.default_rng(24), 20_000, 6
    log_r = np.full((runs, len(tame)), -np.inf)
    for _ in range(steps):
        panes = rng.multinomial(4, made.laws[0], runs)
        log_r = np.logaddexp(log_r, 0.0) + panes @ (made.scores[0] + made.slack[0])[:, tame]
    m = np.exp(log_r).mean(1)
    assert m.mean() == pytest.approx(steps, abs=5 * m.std() / np.sqrt(runs))
    assert np.mean(m >= 100) <= steps / 100  # Ville


def test_shiryaev_roberts_sum_is_the_closed_form_of_its_recursion():
    made, rng = bank.bank_of(NORMAL), np.random.default_rng(25)
    panes = [cells.count(NORMAL, floats(rng.normal(0.1, 1, 50))) for _ in range(7)]
    gains = bank.block_scores(NORMAL, [cells.coarse(NORMAL, p) for p in panes])
    want = sum(np.exp(gains[k:].sum(0)) for k in range(7))
    assert Watch(NORMAL).see(*panes).said.e_value == pytest.approx(np.log(want @ made.weights), rel=1e-9)


def test_evidence_goes_on_from_a_sum_to_its_logarithm_without_a_step():
    """A sum beyond e**30 is kept as its logarithm; the closed form must hold on both sides and back again."""
    made, rng = bank.bank_of(NORMAL), np.random.default_rng(36)
    panes = [cells.count(NORMAL, floats(rng.normal(m, 1, 60))) for m in (0.6, 0.6, 0.6, 0.6, 0, 0, 0, 0, 0, 9, 0)]
    gains = bank.block_scores(NORMAL, [cells.coarse(NORMAL, p) for p in panes])
    watch, log_r = Watch(NORMAL), np.full(gains.shape[1], -np.inf)
    for pane, gain in zip(panes, gains, strict=True):
        log_r = np.logaddexp(log_r, 0.0) + gain
        want = np.logaddexp.reduce(log_r + np.log(made.weights))
        assert watch.see(pane).said.e_value == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_a_tempered_alternative_counts_its_evidence_less():
    rng, temper = np.random.default_rng(37), cells.Temper({n: 0.25 for n in bank.bank_of(NORMAL).names}, 4.0, 0.5, 100)
    panes = [floats(rng.normal(0.4, 1, 100)) for _ in range(4)]
    plain, tempered = (Watch(k).see(*panes).said for k in (NORMAL, replace(NORMAL, temper=temper)))
    assert plain.e_value > 10 > tempered.e_value > 0
    assert tempered.scan_value < plain.scan_value


def test_a_pane_is_judged_by_the_law_of_its_slot():
    """Days lie half a sd above nights: that is the rhythm, and half a sd by night is a change."""
    rng = np.random.default_rng(38)
    night, day = rng.normal(0, 1, 30_000), rng.normal(0.5, 1, 30_000)
    pool = numeric(np.concatenate((night, day)))
    counts = (cells.count(pool, floats(night)), cells.count(pool, floats(day)))
    known = replace(pool, slots=Slots((0,) * 12 + (1,) * 12, ("night", "day"), counts))
    clock = lambda hour: 4 * 86_400_000 + hour * 7 * 3_600_000  # noqa: E731  24 stretches of seven hours make the week
    quiet, pooled = Watch(known), Watch(pool)
    for hour in list(range(24)) * 4:
        pane = floats(rng.normal(0.5 * (hour >= 12), 1, 200))
        quiet.see(pane, start=clock(hour))
        pooled.see(pane)
    assert not quiet.fired and pooled.fired
    changed = Watch(known).see(*(floats(rng.normal(0.5, 1, 200)) for _ in range(3)), start=clock(3))
    assert changed.fired and "shift +" in changed.said.change


def test_the_scan_catches_a_shape_that_the_bank_is_denied():
    rng, watch = np.random.default_rng(26), Watch(BIMODAL, replace(PLAN, rule="scan"))
    while not watch.fired and watch.panes < 60:
        watch.see(floats(rng.normal(0, 3.04, 100)))
    said = watch.said
    assert watch.fired and said.rule == "scan" and said.e_value is None and said.threshold is None


def test_an_empty_pane_changes_nothing_but_time():
    watch = Watch(NORMAL).see(floats(np.random.default_rng(27).normal(0.6, 1, 100)))
    before = watch.said
    now = watch.see(EMPTY).said
    assert (now.e_value, now.scan_value) == (before.e_value, before.scan_value)
    assert before.change and now.since == before.since + 1
    assert Watch(NORMAL).see(EMPTY).said.e_value is None


def test_a_key_without_counts_has_an_empty_pane():
    both = Detectors({NORMAL.key: NORMAL, CHANNELS.key: CHANNELS}, PLAN)
    one, other = both.start(), both.start()
    pane = cells.count(NORMAL, floats(np.random.default_rng(39).normal(1, 1, 50)))
    both.step(one, {NORMAL.key: pane}, 0)
    both.step(other, {NORMAL.key: pane, CHANNELS.key: EMPTY}, 0)
    assert one.to_bytes() == other.to_bytes()
    assert both.evidence(one)[CHANNELS.key].e_value is None and both.evidence(one)[NORMAL.key].e_value > 3


def test_keys_do_not_see_each_other():
    """Stepped together or alone, a feature says the same but for its share of the budget."""
    rng = np.random.default_rng(40)
    both = Detectors({NORMAL.key: NORMAL, CHANNELS.key: CHANNELS}, PLAN)
    state, alone, other = both.start(), Watch(NORMAL), Watch(CHANNELS)
    for _ in range(30):
        numbers, names = floats(rng.normal(0.2, 1, 100)), pa.array(channels(rng, 100))
        counts = {NORMAL.key: cells.count(NORMAL, numbers), CHANNELS.key: cells.count(CHANNELS, names)}
        both.step(state, counts, 0)
        alone.see(numbers)
        other.see(names)
    said = both.evidence(state)
    assert (said[NORMAL.key].e_value, said[CHANNELS.key].e_value) == (alone.said.e_value, other.said.e_value)
    assert said[NORMAL.key].threshold == pytest.approx(alone.said.threshold + np.log(2))
    both.reset(state, NORMAL.key)
    now = both.evidence(state)
    assert now[NORMAL.key].e_value is None and now[CHANNELS.key] == said[CHANNELS.key]


def test_many_panes_in_one_call_stop_where_a_key_fires_anew():
    rng, watch = np.random.default_rng(41), Watch(NORMAL)
    panes = [cells.count(NORMAL, floats(rng.normal(0.6 * (i >= 10), 1, 100))) for i in range(30)]
    packed = np.stack([watch.detectors.packed({NORMAL.key: cells.coarse(NORMAL, p)}) for p in panes])
    state = watch.detectors.start()
    stepped = watch.detectors.step_panes(state, packed, np.zeros(30, np.int64))
    watch.see(*panes[:stepped])
    assert 10 < stepped < 16 and watch.fired_at == stepped and state.to_bytes() == watch.state.to_bytes()
    assert watch.detectors.step_panes(state, packed[stepped:], np.zeros(30 - stepped, np.int64)) == 30 - stepped


def test_evidence_grows_on_after_an_alarm_and_stays_finite():
    rng = np.random.default_rng(28)
    watch = Watch(NORMAL).see(*(floats(rng.normal(9, 1, 5_000)) for _ in range(40)))
    said = watch.said
    assert watch.fired_at == 1 and said.e_value > 1e4 and np.isfinite(said.e_value) and said.since == 40
    assert not said.returned


def test_return_is_proved_after_the_change_ends_and_not_by_one_quiet_pane():
    rng = np.random.default_rng(29)
    watch = Watch(NORMAL).see(*(floats(rng.normal(0.5, 1, 400)) for _ in range(6)))
    assert watch.fired
    waits = [watch.see(floats(rng.normal(size=400))).said.returned for _ in range(64)]
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
    watch = Watch(NORMAL).see(floats(rng.normal(2, 1, 400)))
    for _ in range(200):
        assert not watch.see(floats(draw(rng))).said.returned


def test_return_is_not_claimed_while_an_alternative_too_small_to_be_rejected_gathers_evidence():
    rng = np.random.default_rng(35)
    watch = Watch(NORMAL).see(floats(rng.normal(1, 1, 400)))
    for _ in range(20):
        watch.see(floats(np.where(rng.random(10_000) < 0.004, 4.0, rng.normal(size=10_000))))
        assert watch.fired and not watch.said.returned


def test_quiet_panes_before_the_alarm_prove_no_return():
    rng = np.random.default_rng(31)
    watch = Watch(NORMAL).see(*(floats(rng.normal(size=1_000)) for _ in range(126)))  # pane 128 ends a stretch of 128
    watch.see(floats(rng.normal(1, 1, 200)), floats(rng.normal(1, 1, 200)))
    assert watch.fired_at == 127 and not watch.said.returned


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0, 1, 20, 300]), min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 2**31))
def test_a_restart_from_bytes_at_any_pane_ends_in_the_same_bytes(sizes, cut, seed):
    rng = np.random.default_rng(seed)
    panes = [cells.count(NORMAL, floats(rng.normal(0.3, 1, n))) for n in sizes]
    straight, again = Watch(NORMAL).see(*panes), Watch(NORMAL)
    for number, pane in enumerate(panes):
        if number == cut:
            stored = again.state.to_bytes()
            again = Watch(cells.from_arrow(cells.to_arrow(NORMAL)))
            again.state = again.detectors.state_of(stored)
        again.see(pane)
    assert again.state.to_bytes() == straight.state.to_bytes()
    assert again.said == straight.said


def test_state_is_small_and_foreign_bytes_are_refused():
    rng = np.random.default_rng(32)
    watch = Watch(NORMAL).see(*(floats(rng.normal(size=100)) for _ in range(600)))
    assert len(watch.state.to_bytes()) <= 20_000
    with pytest.raises(ValueError, match="rebuild"):
        State.from_bytes(b"no")


def test_counts_beyond_four_billion_rows_survive_the_bytes():
    watch = Watch(CHANNELS).see(Counts(np.array([0], np.uint32), np.array([1 << 33])))
    assert State.from_bytes(watch.state.to_bytes()).levels.max() == 1 << 33


def test_a_copy_steps_alone():
    watch = Watch(NORMAL).see(floats(np.random.default_rng(33).normal(size=100)))
    before, copied = watch.state.to_bytes(), watch.state.copy()
    watch.detectors.step(copied, {NORMAL.key: cells.count(NORMAL, floats(np.full(100, 5.0)))}, 0)
    assert watch.state.to_bytes() == before != copied.to_bytes()


def test_detectors_refuse_a_state_and_a_pane_of_others():
    watch, other = Watch(NORMAL), Watch(CHANNELS)
    with pytest.raises(ValueError, match="start a new one"):
        watch.detectors.step(other.state, {}, 0)
    with pytest.raises(ValueError, match="another reference"):
        watch.detectors.step_coarse(watch.state, np.zeros(3, np.int64), 0)


def test_a_reference_below_the_floor_is_not_stepped():
    small = numeric(RNG.normal(size=5_000))
    both = Detectors({small.key: small, CHANNELS.key: CHANNELS}, PLAN)
    assert both.keys == (CHANNELS.key,) and small.key in both.budget.refused
    both.step(state := both.start(), {small.key: cells.count(small, floats(np.ones(9)))}, 0)
    assert set(both.evidence(state)) == {CHANNELS.key}


def test_rejects_that_rise_from_half_a_percent_to_two_page_within_a_few_panes():
    rng = np.random.default_rng(42)
    codes, usual = np.array(["valid", "range", "type"]), (0.995, 0.003, 0.002)
    known = cells.build(
        MonitoredFeature("reject", "categorical"), "*", pa.array(rng.choice(codes, 100_000, p=usual)), version=1, effective_from=0
    )  # fmt: skip
    watch = Watch(known).see(*(pa.array(rng.choice(codes, 1_000, p=usual)) for _ in range(100)))
    assert not watch.fired
    watch.see(*(pa.array(rng.choice(codes, 1_000, p=(0.98, 0.012, 0.008))) for _ in range(4)))
    assert watch.fired


def test_a_single_reject_is_no_page_where_none_was_seen_before():
    known = cells.build(
        MonitoredFeature("reject", "categorical"), "*", pa.array(["valid"] * 20_000), version=1, effective_from=0
    )  # fmt: skip
    watch = Watch(known).see(*(pa.array(["valid"] * 299 + ["range" if i % 100 == 0 else "valid"]) for i in range(400)))
    assert not watch.fired
    assert watch.see(*(pa.array(["valid"] * 297 + ["range"] * 3) for _ in range(6))).fired


@pytest.mark.parametrize("values, rows", [(1_000, 100_000), (1_500, 10_000), (5_000, 50_000), (1.3, 100_000)])
def test_many_stationary_categories_stay_quiet_and_new_ones_page(values, rows):
    r = np.random.default_rng(4)

    def draw(n):
        drawn = r.integers(0, values, n) if values > 2 else np.minimum(r.zipf(values, n), 49_999)
        return drawn.astype("U6")

    known = categorical(draw(rows))
    watch = Watch(known).see(*(pa.array(draw(2_000)) for _ in range(100)))
    assert not watch.fired
    watch.see(*(pa.array(np.where(r.random(2_000) < 0.3, "never seen", draw(2_000))) for _ in range(5)))
    assert watch.fired
