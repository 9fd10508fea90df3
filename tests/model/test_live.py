"""Live evaluation: joining, figures, and a loss watch that stays calm until the model's promise breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import contract_file
from stream_processors.live import live_metrics, loss_episodes
from stream_processors.live.joining import Joiner, Prediction
from stream_processors.live.loss_watch import BATCH, RECENT, LossWatch

CONTRACT = contract_file.load("sales")
HOUR = 3_600_000


def prediction(key: str, version: str = "1", event_ms: int = 0, identity: str | None = None) -> Prediction:
    return Prediction(key, version, 0.3, event_ms, identity or f"raw/0/{key}")


EVENTS = [
    ("p", "a", "1"),
    ("p", "a", "1"),
    ("p", "a", "2"),
    ("o", "a", True),
    ("o", "a", False),
    ("o", "b", True),
    ("p", "b", "1"),
    ("p", "c", "1"),
]


@given(st.permutations(EVENTS))
@settings(max_examples=80, deadline=None)
def test_any_order_joins_the_same_pairs_once(order: list[tuple[str, str, str | bool]]) -> None:
    joiner, found = Joiner(HOUR), []
    first = next(value for kind, key, value in order if (kind, key) == ("o", "a"))
    for kind, key, value in order:
        found += joiner.predicted(prediction(key, str(value))) if kind == "p" else joiner.happened(key, bool(value), 0)
    pairs = sorted((p.prediction.key, p.prediction.version, p.label) for p in found)
    assert pairs == [("a", "1", first), ("a", "2", first), ("b", "1", True)]


def test_memory_is_bounded_by_age_and_by_number() -> None:
    joiner = Joiner(age_ms=HOUR, cap=100)
    for i in range(1_000):
        joiner.predicted(prediction(str(i), event_ms=i))
    assert len(joiner) == 100 and joiner.counts["expired"] == 900
    joiner.happened("late", True, 3 * HOUR)
    assert len(joiner) == 1
    assert joiner.happened("999", True, 3 * HOUR) == []  # it waited too long: no pair, no crash


def test_figures_equal_scikit_learns() -> None:
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    rng = np.random.default_rng(1)
    p = rng.random(500).round(2) * 0.98 + 0.01
    y = rng.random(500) < p
    found = live_metrics.figures(p.tolist(), y.tolist())
    assert found == pytest.approx(
        {
            "log_loss": log_loss(y, p),
            "brier": brier_score_loss(y, p),
            "accuracy": np.mean((p >= 0.5) == y),
            "auc": roc_auc_score(y, p),
        }
    )
    assert "auc" not in live_metrics.figures([0.5, 0.2], [True, True])
    assert live_metrics.figures([], []) == {}


def feed(
    watch: LossWatch,
    rng: np.random.Generator,
    batches: int,
    shift: float = 0.0,
    middle: float = -1.8,
    start_ms: int = 0,
) -> list[str]:
    """Rows whose true log odds are `shift` away from what the model says; the states that were seen."""
    states = []
    for i in range(batches * BATCH):
        odds = rng.normal(middle, 1.0)
        label = rng.random() < 1 / (1 + np.exp(-(odds + shift)))
        if watch.add(1 / (1 + np.exp(-odds)), bool(label), start_ms + i):
            states.append(watch.state)
    return states


@pytest.mark.parametrize("bias", [0.0, 0.06, -0.06])
def test_a_million_stationary_rows_raise_nothing(bias: float) -> None:
    rng, watch = np.random.default_rng(17), LossWatch()
    assert set(feed(watch, rng, 1_400, shift=bias)) == {"quiet"}


def test_easier_and_harder_orders_raise_nothing() -> None:
    rng, watch = np.random.default_rng(18), LossWatch()
    states = [s for middle in (-1.8, -3.0, -0.5, -1.8) for s in feed(watch, rng, 200, middle=middle)]
    assert set(states) == {"quiet"}


@pytest.mark.parametrize("shift", [0.6, -0.8])
def test_a_broken_relation_fires_within_5_000_rows_and_the_onset_is_found(shift: float) -> None:
    rng, watch = np.random.default_rng(19), LossWatch()
    feed(watch, rng, 120)
    states = feed(watch, rng, 30, shift=shift, start_ms=1_000_000)
    assert "firing" in states[:RECENT]
    onset, low, high = watch.onset()
    assert low <= onset <= high and abs(onset - 1_000_000) <= 3 * BATCH


def test_a_loss_episode_fires_once_and_ends_when_a_new_champion_is_quiet() -> None:
    rng, old, new = np.random.default_rng(20), LossWatch(), LossWatch()
    seen, open_ = [], None

    def look(version: str, watch: LossWatch) -> None:
        nonlocal open_
        change = loss_episodes.follow(open_, version, watch, CONTRACT, 0)
        open_ = change.open
        if change.alert:
            seen.append((change.alert["state"], change.alert["resolution"]))

    feed(old, rng, 60)
    look("1", old)
    for _ in range(30):
        feed(old, rng, 1, shift=0.9, start_ms=1_000_000)
        look("1", old)
    assert seen[-1] == ("firing", None) and [s for s, _ in seen].count("firing") == 1
    look("2", new)  # promoted, no label yet
    for _ in range(RECENT + 2):
        feed(new, rng, 1, start_ms=2_000_000)
        look("2", new)
    assert seen[-1] == ("resolved", "rebased") and open_ is None


def test_a_loss_that_comes_back_by_itself_resolves_as_returned_and_a_restart_knows_the_episode() -> None:
    rng, watch = np.random.default_rng(21), LossWatch()
    feed(watch, rng, 60)
    feed(watch, rng, 25, shift=0.9)
    begun = loss_episodes.follow(None, "1", watch, CONTRACT, 0)
    assert begun.alert is not None and begun.alert["state"] == "firing"
    assert loss_episodes.restored(begun.alert) == begun.open
    feed(watch, rng, 60)
    ended = loss_episodes.follow(begun.open, "1", watch, CONTRACT, 0)
    assert ended.alert is not None and (ended.alert["state"], ended.alert["resolution"]) == ("resolved", "returned")
    assert loss_episodes.restored(ended.alert) is None


def test_an_alert_has_the_fields_that_every_alert_has() -> None:
    rng, watch = np.random.default_rng(22), LossWatch()
    feed(watch, rng, 60)
    feed(watch, rng, 25, shift=0.9)
    alert = loss_episodes.follow(None, "1", watch, CONTRACT, 0).alert
    assert alert is not None
    wanted = "episode contract dataset source state at event_time onset onset_low onset_high window_start window_end features reference_version resolution provisional"
    assert set(wanted.split()) <= set(alert) and alert["dataset"] == "sales"


def test_a_real_change_that_is_too_small_to_matter_is_pending_and_never_fires() -> None:
    rng, watch = np.random.default_rng(23), LossWatch()
    feed(watch, rng, 300)
    states = set(feed(watch, rng, 500, shift=0.14, start_ms=1_000_000))
    assert states == {"quiet", "pending"}
