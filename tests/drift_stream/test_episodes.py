from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.times import to_text
from stream_processors.closed import Finding
from stream_processors.episodes import Alert, Episode, follow
from stream_processors.judge import Cause, Closed
from stream_processors.verdict import State, Verdict
from tests.drift_stream.samples import CLOCK, DAY0, HOUR

PLAIN = Verdict(
    contract="tiny@1.0.0", dataset="tiny", window_start="", window_end="", feature="price", segment="*", kind="numeric", n=900,
    reference_n=12_000, statistic=0.2, p_value=0.001, rule="bank", alpha=0.05, critical_value=0.05, threshold=9.0, e_value=1.0,
    effect=0.2, psi=0.1, js=0.1, null_ratio=0.0, quantiles_reference=None, quantiles_window=None, change="shift +0.4 sd", state="ok",
    provisional=False, revision=0, reference_version=1, contract_version="1.0.0", offsets={"0": (0, 1)},
)  # fmt: skip


def window(hour: int, state: State, cause: Cause = "final", version: int = 1, rule: str = "bank") -> Closed:
    start = DAY0 + hour * HOUR
    verdict = replace(
        PLAIN, window_start=to_text(start), window_end=to_text(start + HOUR), state=state, reference_version=version, rule=rule,
        provisional=cause == "provisional",
    )  # fmt: skip
    finding = Finding(version, 12.0, 9.0, rule, state, "shift +0.4 sd", 3, start + 6 * CLOCK.pane)
    return Closed(start, cause, (verdict,), {("price", "*"): finding})


def told(*windows: Closed) -> list[Alert]:
    episode, alerts = Episode(), []
    stepped = [DAY0 + i * CLOCK.pane for i in range(300)]
    for closed in windows:
        episode, alert = follow(episode, closed, CLOCK, stepped, 0)
        alerts += [alert] if alert else []
    return alerts


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        #  one letter a window: o ok, w warning, a alarm
        ("ooo", []),
        ("owo", [("pending", None), ("resolved", "returned")]),
        ("owwa", [("pending", None), ("firing", None)]),
        ("oaaa", [("firing", None)]),
        ("oaao", [("firing", None), ("resolved", "returned")]),
        ("aoa", [("firing", None), ("resolved", "returned"), ("firing", None)]),
    ],
)
def test_one_page_an_incident(windows, expected):
    states: dict[str, State] = {"o": "ok", "w": "warning", "a": "alarm"}
    assert [(a.state, a.resolution) for a in told(*[window(i, states[w]) for i, w in enumerate(windows)])] == expected


def test_a_quiet_window_under_a_newer_reference_rebases():
    alerts = told(window(0, "alarm"), window(1, "alarm", version=2), window(2, "ok", version=2))
    assert [(a.state, a.resolution) for a in alerts] == [("firing", None), ("resolved", "rebased")]
    assert len({a.episode for a in alerts}) == 1


def test_a_provisional_page_that_the_final_window_does_not_bear_out_is_withdrawn():
    alerts = told(window(0, "alarm", "provisional"), window(0, "ok"))
    assert [(a.state, a.resolution, a.provisional) for a in alerts] == [
        ("firing", None, True),
        ("resolved", "withdrawn", True),
    ]


def test_a_provisional_page_that_stands_is_confirmed_under_the_same_name():
    alerts = told(window(0, "alarm", "provisional"), window(0, "alarm"), window(1, "ok"))
    assert [(a.state, a.provisional) for a in alerts] == [("firing", True), ("firing", False), ("resolved", False)]
    assert len({a.episode for a in alerts}) == 1


def test_a_provisional_warning_or_a_quiet_provisional_window_changes_nothing():
    assert told(window(0, "warning", "provisional")) == []
    assert [a.state for a in told(window(0, "alarm"), window(1, "ok", "provisional"))] == ["firing"]


@pytest.mark.parametrize("state", ["reference_missing", "reference_too_small", "undefined"])
def test_a_reference_that_cannot_judge_never_pages(state):
    assert told(window(0, state), window(1, state)) == []


def test_a_revision_never_pages():
    assert told(window(0, "alarm", "revision")) == []


def test_under_ks_alpha_two_quiet_windows_are_asked_for():
    alerts = told(*[window(i, s, rule="ks_alpha") for i, s in enumerate(("alarm", "ok", "alarm", "ok", "ok"))])
    assert [(a.state, a.event_time) for a in alerts][-1] == ("resolved", to_text(DAY0 + 5 * HOUR))
    assert [a.state for a in alerts] == ["firing", "resolved"]


def test_the_onset_is_where_the_run_began_and_lies_in_its_interval():
    [alert] = told(window(5, "alarm"))
    #  fired in pane 6 of hour 5, the run lasts 3 panes: it began in pane 4
    assert alert.onset == to_text(DAY0 + 5 * HOUR + 4 * CLOCK.pane)
    assert alert.onset_low < alert.onset < alert.onset_high
    assert alert.event_time == to_text(DAY0 + 5 * HOUR + 7 * CLOCK.pane)
