"""The watch after a promotion: its stated error, what it sees, and that looking often costs nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import policy, watch

LIMITS = policy.limits("watch")


def answers(seed: int, champion: float, former: float, rows: int = 6_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the answers of two models that miss the true log odds by so much."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1.7, 1.0, rows)
    model = lambda noise: 1 / (1 + np.exp(-(odds + rng.normal(0, noise, rows))))  # noqa: E731
    return rng.random(rows) < 1 / (1 + np.exp(-odds)), model(champion), model(former)


def test_a_champion_as_good_as_the_former_one_stays_however_often_one_looks() -> None:
    crossed = [watch.against_former(*answers(seed, 0.3, 0.3), LIMITS).crossed_at for seed in range(300)]
    assert sum(c is not None for c in crossed) <= 3  # at most 1 % over the whole path, and the margin is on top


def test_even_at_the_margin_the_stated_error_holds() -> None:
    rng = np.random.default_rng(1)
    paths = [watch.log_martingale(rng.choice([-0.5, 0.5], 4_000), 1.0) for _ in range(1_000)]  # mean 0: the worst case
    assert sum(path.max() >= -np.log(0.01) for path in paths) <= 20  # 10 expected at most


@pytest.mark.parametrize(("noise", "rows"), [(0.8, 2_500), (1.2, 1_200), (2.5, 400)])  # 10, 22, 80 % worse
def test_a_worse_champion_is_found_within_rows(noise: float, rows: int) -> None:
    found = [watch.against_former(*answers(seed, noise, 0.0), LIMITS) for seed in range(40)]
    assert np.median([w.crossed_at or np.inf for w in found]) < rows
    assert all(policy.verdict({**_facts(w), "former_loads": True}) == "rollback" for w in found)


def test_without_a_former_champion_its_own_promise_is_the_measure() -> None:
    label, truth, _ = answers(3, 0.0, 0.0)
    assert watch.against_promise(label, truth, LIMITS).crossed_at is None
    broken = watch.against_promise(label, np.where(truth > 0.5, 0.02, 0.6), LIMITS)
    assert broken.crossed_at is not None
    assert policy.verdict({**_facts(broken), "former_loads": False}) == "alert"


def test_a_score_that_is_no_number_decides_nothing() -> None:
    label, champion, former = answers(4, 2.5, 0.0)
    for broken in (champion, former):
        kept, broken[100] = broken[100], np.nan
        found = watch.against_former(label, champion, former, LIMITS)
        assert policy.verdict({**_facts(found), "former_loads": True}) == "watch"
        broken[100] = kept


def test_no_answers_no_evidence() -> None:
    nothing = np.zeros(0)
    found = watch.against_former(nothing, nothing, nothing, LIMITS)
    assert (found.rows, found.log_e, policy.verdict({**_facts(found), "former_loads": True})) == (0, 0.0, "watch")


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200), st.integers(1, 199))
@settings(max_examples=80)
def test_evidence_only_grows_and_a_look_changes_nothing(d: list[float], at: int) -> None:
    path = watch.log_martingale(np.array(d), 1.0)
    assert np.all(np.isfinite(path)) and np.all(np.diff(path) >= np.log(0.5))
    assert np.allclose(watch.log_martingale(np.array(d[:at]), 1.0), path[:at])  # bets look back only


def _facts(found: watch.Watched) -> dict[str, object]:
    return {"log_e": found.log_e, "threshold": found.threshold, "rows": found.rows}
