"""Every alternative is a law of its own whose likelihood ratio has expectation one, in every slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from stream_processors.detectors import bank
from stream_processors.reference import cells
from tests.drift_core.samples import CHANNELS, SHARES, categorical, channels, floats, numeric

RNG = np.random.default_rng(11)
REFERENCES = {
    "lognormal": numeric(RNG.lognormal(3, 1, 100_000)),
    "poisson": numeric(RNG.poisson(3, 50_000).astype(float)),
    "constant": numeric(np.full(20_000, 5.0)),
    "half zero, nulls": numeric([None if u < 0.05 else 0.0 if u < 0.5 else x for u, x in zip(RNG.random(20_000), RNG.normal(size=20_000), strict=True)]),
    "segment": numeric(RNG.normal(size=2_500), "region=north"),
    "channels": categorical(channels(RNG, 20_000)),
    "one category": categorical(["web"] * 10_000),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_likelihood_ratio_of_every_alternative_has_expectation_one_under_the_reference(name):
    made = bank.bank_of(REFERENCES[name])
    assert made.names and made.weights.sum() == pytest.approx(1)
    (p,) = made.laws
    assert p.sum() == pytest.approx(1) and p.min() > 0
    expected = p @ np.exp(made.scores[0].astype(np.float64) + made.slack[0])
    assert expected == pytest.approx(np.ones(len(made.names)), abs=1e-5)
    assert expected.max() <= 1 + 1e-12  # rounding may only lose evidence
    assert np.isfinite(made.scores).all()


def test_expectation_is_at_most_one_under_the_law_that_the_reference_was_drawn_from():
    """Over many references: the true expectation exceeds 1 in no more than the 1 of 740 that three standard errors allow, nearly."""
    rng, over, alternatives = np.random.default_rng(13), 0, 0
    for _ in range(60):
        reference = categorical(channels(rng, 20_000))
        made = bank.bank_of(reference)
        truth = np.zeros(made.laws.shape[1])
        truth[:4] = [dict(zip(CHANNELS, SHARES, strict=True))[c] for c in reference.categories]
        expected = truth @ np.exp(made.scores[0].astype(np.float64))
        over, alternatives = over + int((expected > 1).sum()), alternatives + len(expected)
    assert over <= alternatives / 200


def test_scores_add_up_exactly_in_any_order():
    made = bank.bank_of(REFERENCES["lognormal"])
    scores = made.scores[0].astype(np.float64)
    counts = RNG.integers(0, 100_000, len(scores)).astype(float)
    order = RNG.permutation(len(counts))
    assert ((counts @ scores) == (counts[order] @ scores[order])).all()


def test_alternatives_too_small_for_the_reference_are_off():
    large, small = (bank.bank_of(numeric(RNG.normal(size=n))).names for n in (100_000, 10_000))
    tiny = bank.bank_of(REFERENCES["segment"]).names
    assert "shift +0.1 sd" in large and "shift +0.1 sd" in small
    assert "shift +0.1 sd" not in tiny and "shift +0.2 sd" in tiny  # 8 / sqrt(2,500) = 0.16
    assert len(tiny) < len(small) < len(large)


def test_alternatives_name_categories_and_rare_ones_together():
    names = bank.bank_of(REFERENCES["channels"]).names
    assert {"partner +5%", "web x0.5", "new values +1%", "nulls +5%"} <= set(names)
    rare = categorical(["web"] * 9_000 + ["app"] * 1_000 + [f"r{i}" for i in range(200)])
    assert any(n.startswith("rare values") for n in bank.bank_of(rare).names)


def test_values_never_seen_are_no_surprise_where_many_were_seen_once():
    (common,) = bank.bank_of(categorical(["a"] * 5_000 + ["b"] * 5_000)).laws
    (long_tail,) = bank.bank_of(categorical(["a"] * 9_000 + [f"x{i}" for i in range(1_000)])).laws
    assert common[-2] < 5e-4 and 0.09 < long_tail[-2] < 0.12


def test_a_long_tail_of_categories_is_judged_by_what_its_next_rows_are_not_by_what_was_seen():
    """Values seen a few times were seen by luck: their share falls and that of new values rises, with nothing changed."""
    rng = np.random.default_rng(16)
    draw = lambda n: np.char.add("x", np.floor(rng.pareto(1.0, n) * 5).astype(int).astype(str))  # noqa: E731
    known = categorical(draw(20_000))
    made = bank.bank_of(known)
    next_rows = bank.in_groups(made, cells.coarse(known, cells.count(known, pa.array(draw(400_000))))) / 400_000
    assert made.laws[0][-2] >= next_rows[-2] > 0.01  # never seen
    expected = next_rows @ np.exp(made.scores[0].astype(np.float64))
    assert expected.max() <= 1.01


def test_a_rise_of_rare_rejects_has_an_alternative_and_too_few_rows_have_none():
    rejects = categorical(["valid"] * 99_500 + ["range"] * 300 + ["type"] * 200)
    assert {"range x4", "all but valid x4"} <= set(bank.bank_of(rejects).names)
    rare = categorical(["valid"] * 99_990 + ["range"] * 10)
    assert not any(" x" in n and "valid" not in n for n in bank.bank_of(rare).names)


def slotted(rows: int, hours: int = 6) -> cells.FeatureReference:
    """Values that move by a sd over the day, in four slots; the last one holds few rows."""
    rng, per = np.random.default_rng(14), rows // 10
    slots = [rng.normal(s / 2, 1, per if s == 3 else 3 * per) for s in range(4)]
    pool = numeric(np.concatenate(slots))
    of = tuple(hour // hours % 4 for hour in range(168))
    counts = tuple(cells.count(pool, floats(values)) for values in slots)
    return replace(pool, slots=cells.Slots(of, ("night", "morning", "noon", "evening"), counts))


def test_every_slot_has_a_law_of_its_own_under_which_no_alternative_gains():
    made = bank.bank_of(slotted(40_000))
    assert made.slots == 4 and made.rows.tolist() == [12_000, 12_000, 12_000, 4_000]
    for p, scores, slack in zip(made.laws, made.scores, made.slack, strict=True):
        assert p.sum() == pytest.approx(1)
        expected = p @ np.exp(scores.astype(np.float64) + slack)
        assert expected.max() <= 1 + 1e-12 and expected == pytest.approx(np.ones(len(made.names)), abs=1e-5)
    below = np.cumsum(made.laws, 1)[:, len(made.laws[0]) // 2]
    assert (np.diff(below) < -0.1).all()  # later slots lie higher


def test_an_alternative_that_a_slot_cannot_tell_apart_scores_nothing_there():
    made = bank.bank_of(slotted(40_000))
    small = made.names.index("shift +0.1 sd")  # 8 / sqrt(4,000) = 0.13, 8 / sqrt(12,000) = 0.07
    assert not made.scores[3, :, small].any() and made.slack[3, small] == 0
    assert all(made.scores[s, :, small].any() for s in range(3))


def test_tempered_alternatives_keep_their_scores_and_those_of_no_weight_are_off():
    known = REFERENCES["lognormal"]
    temper = cells.Temper({"shift +0.1 sd": 0.0, "shift +0.2 sd": 0.4}, 2.0, 0.5, 100)
    plain, tempered = bank.bank_of(known), bank.bank_of(replace(known, temper=temper))
    assert "shift +0.1 sd" not in tempered.names and len(tempered.names) == len(plain.names) - 1
    assert tempered.eta[tempered.names.index("shift +0.2 sd")] == 0.4 and np.count_nonzero(tempered.eta != 1) == 1
    assert (plain.eta == 1).all() and tempered.weights.sum() == pytest.approx(1)


def test_block_scores_are_what_the_detectors_add_up():
    known = REFERENCES["channels"]
    pane = cells.coarse(known, cells.count(known, pa.array(["web", "app", "app", None, "kiosk"])))
    scores = bank.block_scores(known, [pane, 2 * pane])
    names = bank.bank_of(known).names
    assert scores.shape == (2, len(names)) and (scores[1] == 2 * scores[0]).all()
    assert scores[0, names.index("new values +1%")] > 0


def test_pages_are_not_raised_by_a_reference_that_is_not_loaded_twice():
    known = REFERENCES["lognormal"]
    again = cells.from_arrow(cells.to_arrow(known))
    assert bank.bank_of(again).names == bank.bank_of(known).names
    assert (bank.bank_of(again).scores == bank.bank_of(known).scores).all()
    assert cells.count(again, floats(np.array([1.0]))) == cells.count(known, floats(np.array([1.0])))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [500, 5_000])
def test_a_text_column_without_a_repeated_value_has_an_empty_bank_and_no_warning(rows):
    found = bank.bank_of(categorical([f"id{i}" for i in range(rows)]))
    assert found.names == () and np.isfinite(found.laws).all()
