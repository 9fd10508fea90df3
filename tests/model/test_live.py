"""Live evaluation: joining, figures, and a loss watch that stays calm until the model's promise breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import contract_file
from stream_processors.live import loss_episodes
from stream_processors.live.joining import A_KEY, NEVER, Joiner, Prediction
from stream_processors.live.loss_watch import BATCH, RECENT, LossWatch
from stream_processors.live.resume import Trail

CONTRACT = contract_file.load("sales")
HOUR = 3_600_000


AGE = 4


def prediction(key: str, version: str = "1", event_ms: int = 0, identity: str | None = None) -> Prediction:
    return Prediction(key, version, 0.3, event_ms, identity or f"raw/0/{key}/{event_ms}")


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
@settings(max_examples=80)
def test_any_order_joins_the_same_pairs_once(order: list[tuple[str, str, str | bool]]) -> None:
    joiner, found = Joiner(HOUR), []
    first = next(value for kind, key, value in order if (kind, key) == ("o", "a"))
    for kind, key, value in order:
        if kind == "p":
            found += joiner.predicted(prediction(key, str(value))).pairs
        else:
            found += joiner.happened(key, bool(value), 0)
    pairs = sorted((p.prediction.key, p.prediction.version, p.label) for p in found)
    assert pairs == [("a", "1", first), ("a", "2", first), ("b", "1", True)]


Log = list[tuple[str, int, bool]]  # key, event time, label (of an outcome)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Log], list[Log]]:
    """Two partitions of predictions, two of outcomes; a key lies in one of each. Late, out of order, repeated, missing."""
    order = st.tuples(st.integers(0, 25), st.integers(0, 16), st.integers(-1, AGE + 1), st.booleans())
    jitter = st.lists(st.integers(0, AGE + 2), max_size=2)  # of arrival, once for each copy
    predictions: list[list[tuple[int, str, int, bool]]] = [[], []]
    outcomes: list[list[tuple[int, str, int, bool]]] = [[], []]
    for (k, at, after, label), said, happened in draw(
        st.lists(st.tuples(order, jitter, jitter), min_size=12, max_size=40)
    ):
        predictions[k % 2] += [(at + j, f"k{k}", at, label) for j in said]
        outcomes[k % 2] += [(at + after + j, f"k{k}", at + after, label) for j in happened]

    def arrived(places: list[list[tuple[int, str, int, bool]]]) -> list[Log]:
        return [[row[1:] for row in sorted(place, key=lambda row: row[0])] for place in places]

    return arrived(predictions), arrived(outcomes)


def punctual(log: Log) -> Log:
    """Without the records that are more than AGE behind the newest one before them."""
    kept, clock = [], 0
    for row in log:
        if row[1] >= clock - AGE:
            kept.append(row)
        clock = max(clock, row[1])
    return kept


def said(predictions: list[Log], outcomes: list[Log]) -> set[tuple[str, int, bool]]:
    """The definition, in words of one log at a time: a prediction gets the first outcome of its key within AGE."""
    happened = [row for log in outcomes for row in punctual(log)]
    found = set()
    for key, at, _ in (row for log in predictions for row in punctual(log)):
        labels = [y for k, t, y in happened if k == key and abs(t - at) <= AGE]
        if labels:
            found.add((key, at, labels[0]))
    return found


@given(logs(), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_what_is_joined_is_a_function_of_the_logs(made: tuple[list[Log], list[Log]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictions, outcomes = made
    places = {f"p{i}": log for i, log in enumerate(predictions)} | {f"o{i}": log for i, log in enumerate(outcomes)}
    left = {name: list(log) for name, log in places.items() if log}
    joiner, found = Joiner(AGE, places=left), []
    while left:
        name = str(rng.choice(sorted(left)))
        key, at, label = left[name].pop(0)
        if not left[name]:
            del left[name]
        if name[0] == "p":
            found += joiner.predicted(prediction(key, event_ms=at), name).pairs
        else:
            found += joiner.happened(key, label, at, name)
        joiner._let_go()  # as often as can be: what is let go early must not be missed
    pairs = [(p.prediction.key, p.prediction.event_ms, p.label) for p in found]
    assert len(set(pairs)) == len(pairs) and set(pairs) == said(predictions, outcomes)


def test_one_topic_may_run_ahead_of_the_other_by_days() -> None:
    joiner, found = Joiner(HOUR, places=["predictions", "outcomes"]), []
    for i in range(1_000):
        joiner.predicted(prediction(str(i), event_ms=i * HOUR))
    for i in range(1_000):
        found += joiner.happened(str(i), True, i * HOUR + HOUR // 2)
    assert len(found) == 1_000 and joiner.counts["joined"] == 1_000


def test_memory_is_bounded_by_age_and_by_number() -> None:
    joiner = Joiner(HOUR, cap=100)
    for i in range(1_000):
        joiner.predicted(prediction(str(i), event_ms=i))
    assert len(joiner) <= 100 and joiner.counts["overflow"] == 900
    for i in range(1_000):
        joiner.predicted(prediction(f"n{i}", event_ms=10 * HOUR + i))
    assert joiner.counts["expired"] >= 100  # the first hundred: nobody knows how they ended
    assert joiner.happened("999", True, 3 * HOUR) == []  # it waited too long: no pair, no crash
    assert joiner.happened("n0", True, 1 * HOUR) == [] and joiner.counts["late"] == 1


def test_one_order_asked_about_again_and_again_costs_no_more_than_a_few() -> None:
    joiner = Joiner(HOUR)
    first = [joiner.predicted(prediction("a", identity=f"request {i}")).first for i in range(20_000)]
    assert sum(first) == A_KEY and joiner.counts["overflow"] == 20_000 - A_KEY
    assert len(joiner.happened("a", True, 0)) == A_KEY
    for i in range(20_000):
        joiner.happened("a", False, i % HOUR)
    assert joiner.counts["overflow"] + joiner.counts["duplicate"] == 2 * 20_000 - A_KEY


def test_memory_does_not_grow_with_the_stream() -> None:
    joiner, most = Joiner(100), 0
    for i in range(20_000):
        joiner.predicted(prediction(str(i), event_ms=i))
        joiner.happened(str(i), True, i)
        most = max(most, len(joiner))
    assert most <= 2 * 100 + 257 and joiner.counts["overflow"] == 0


def test_a_trail_leads_back_before_every_record_that_matters() -> None:
    rng, clock, trail, seen = np.random.default_rng(3), NEVER, Trail(7, NEVER), []
    for offset in range(7, 20_007):
        at = offset * 10 + int(rng.integers(-5_000, 5_000))
        trail.passed(offset, clock)
        seen.append((offset, at, clock))
        clock = max(clock, at)
    assert trail.back_to(-10_000).offset == 7
    mark = trail.back_to(150_000)
    assert all(at < 150_000 for offset, at, _ in seen if offset < mark.offset)
    assert mark.clock_ms == next(c for offset, _, c in seen if offset == mark.offset) and mark.offset > 12_000


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
