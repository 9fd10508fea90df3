"""What the loop bench makes of a run: schedules, moments, losses, and bars that can miss."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest

from tests.bench import _loop_story, loop
from tests.bench._loop_rollback import Staged, told_of
from tests.bench._loop_story import EVENT_HOUR_MS, Loss, Played, Stamp
from tests.demo.demo import SPEED
from tests.demo.pictures import Hour
from tests.demo.watch import Json

START = 1_767_225_600_000  # 2026-01-01, the event time of an onset
WALL = 1_800_000_000_000


def hour(n: float) -> Stamp:
    """So many event hours after the onset, at the producer's pace."""
    return Stamp(START + round(n * EVENT_HOUR_MS), WALL + round(n * EVENT_HOUR_MS / SPEED))


PROMOTED = Played(
    "price-shift",
    hour(0),
    SPEED,
    {"e1"},
    alert=hour(0.5),
    challenger=hour(12),
    champion=hour(12.5),
    resolved=hour(14),
    ended=hour(20),
    decision={"action": "promote", "version": "2", "former": "1", "reason": "better"},
    cases=["undecided", "harmful shift"],
)


def losses(old: float, new: float, promised: float = 0.5) -> Loss:
    """By version and hour: 0.4 before the onset, then as said; `promised` by the new one's scores."""
    served = {START + h * EVENT_HOUR_MS: Hour(0.4 if h < 0 else old, 0.4) for h in range(-20, 13)}
    return {"1": served, "2": {START + h * EVENT_HOUR_MS: Hour(new, promised) for h in range(12, 20)}}


def missed(played: Played, loss: Loss) -> list[str]:
    return [str(b["name"]) for b in loop.told_of(played, loss)[0] if not b["pass"]]


def test_what_was_changed_stays_changed_but_a_fault_in_the_records_ends() -> None:
    assert doctest.testmod(_loop_story).failed == 0


def test_a_run_as_it_should_be_misses_no_bar_and_tells_its_moments_in_both_times() -> None:
    bars, figures = loop.told_of(PROMOTED, losses(0.6, 0.5))
    assert [b["pass"] for b in bars] == [True] * 6
    assert figures["loss"] == {"before": 0.4, "during": 0.6, "after": 0.5, "promised": 0.5}
    assert figures["champion"] == {
        "event_time": "2026-01-01T12:30:00.000Z",
        "event_minutes": 750.0,
        "wall_seconds": pytest.approx(12.5 * 3600 / SPEED, abs=0.1),
    }
    assert figures["recovered"]["event_minutes"] == 14 * 60  # type: ignore[index]  # the first whole hour of the new champion


@pytest.mark.parametrize(
    ("played", "loss", "expected"),
    [
        (replace(PROMOTED, cases=["harmless shift"]), losses(0.6, 0.5), "price-shift: named harmful shift"),
        (replace(PROMOTED, cases=[]), losses(0.6, 0.5), "price-shift: named harmful shift"),
        (replace(PROMOTED, failed="waited"), losses(0.6, 0.5), "price-shift: decided and quiet again"),
        (PROMOTED, losses(0.6, 0.61, 0.6), "price-shift: loss after the promotion against before it"),
        (PROMOTED, losses(0.6, 0.56), "price-shift: loss after the promotion against what its scores promise"),
        (replace(PROMOTED, retrained=2), losses(0.6, 0.5), "price-shift: trainings while the old world faded"),
    ],
)
def test_a_bar_misses_what_it_is_there_for(played: Played, loss: Loss, expected: str) -> None:
    assert missed(played, loss) == [expected]


def test_without_an_answer_of_the_new_champion_nothing_has_recovered() -> None:
    assert [name.split(": ")[1] for name in missed(PROMOTED, {})] == [
        "loss after the promotion against before it",
        "loss after the promotion against what its scores promise",
    ]


def test_a_harmful_shift_without_a_new_champion_misses() -> None:
    kept = replace(PROMOTED, champion=None, decision={"action": "accept", "version": "1", "former": None, "reason": ""})
    assert "price-shift: a better champion" in missed(kept, losses(0.6, 0.5))
    harmless = replace(kept, name="seasonal", cases=["harmless shift"])
    assert missed(harmless, losses(0.4, 0.4)) == []
    assert missed(replace(harmless, promotions=1), losses(0.4, 0.4)) == ["seasonal: needless promotions"]


def test_a_training_without_a_planted_cause_is_counted() -> None:
    def entry(action: str, episode: str | None = None, *also: str) -> Json:
        return {"action": action, "episode": episode, "also": list(also)}

    first = [
        entry("train"),
        entry("refuse"),
        entry("train"),
        entry("promote"),
    ]  # before the first champion: none counts
    assert _loop_story.uncaused([*first, entry("train", "e1"), entry("train", "e9", "e1")], {"e1"}) == 0
    assert _loop_story.uncaused([*first, entry("train", "e9"), entry("train")], {"e1"}) == 2
    assert _loop_story.uncaused([*first, {**entry("train"), "version": "5"}, entry("train")], {"e1"}, "5") == 1


STAGED = Staged(
    "5", "1", promoted=hour(0), rolled_back=hour(30), served_again=hour(30.5), alerted=hour(31), by_itself=True,
    entry={"reason": "worse", "metrics": {"watch": 9, "evidence": {"rows": 3_000, "excess": 0.04}}},
)  # fmt: skip


def test_a_rollback_as_it_should_be_is_told_in_both_times() -> None:
    bars, figures = told_of(STAGED)
    assert all(b["pass"] for b in bars) and figures["labelled_answers"] == 3_000
    assert figures["rolled_back"]["event_minutes"] == 30 * 60  # type: ignore[index]


@pytest.mark.parametrize(
    ("staged", "missing"),
    [
        (replace(STAGED, by_itself=False), ["by the controller"]),
        (replace(STAGED, served_again=None), ["the former champion answers again"]),
        (replace(STAGED, alerted=None), ["DriftlineModelRolledBack fires"]),
        (
            Staged(failed="no promotion"),
            ["by the controller", "the former champion answers again", "DriftlineModelRolledBack fires"],
        ),
    ],
)
def test_a_rollback_that_is_not_seen_misses(staged: Staged, missing: list[str]) -> None:
    names = [str(b["name"]) for b in told_of(staged)[0] if not b["pass"]]
    assert len(names) == len(missing) and all(m in n for m, n in zip(missing, names, strict=True))
