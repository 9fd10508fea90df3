from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from pipeline.times import to_text
from stream_processors.judging.alert import Alert
from stream_processors.judging.closed import Finding, Tally
from stream_processors.judging.episodes import Episode, Scene, follow
from stream_processors.judging.judge import Cause, Closed
from stream_processors.judging.verdict import State, Verdict
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
    return closed(start, cause, {verdict.place[1:]: (verdict, said(state, version=version, start=start, rule=rule))})


def said(
    state: State, start: int, *, version: int = 1, rule: str = "bank", e: float = 12.0, last: State | None = None,
    end: float = 3.0, since: int = 3,
) -> Finding:  # fmt: skip
    return Finding(version, e, 9.0, rule, state, "shift +0.4 sd", since, start + 6 * CLOCK.pane, None, 0.0, last or state, end)  # fmt: skip


def closed(start: int, cause: Cause, parts: dict[tuple[str, str], tuple[Verdict, Finding]]) -> Closed:
    findings = {key: finding for key, (_, finding) in parts.items()}
    return Closed(start, cause, tuple(v for v, _ in parts.values()), findings, start + HOUR, Tally(1))


def several(hour: int, **states: Finding) -> Closed:
    """A window of several features and segments: `price` or `price_north`; the verdict says what the finding does."""
    start, parts = DAY0 + hour * HOUR, {}
    for name, finding in states.items():
        feature, _, region = name.partition("_")
        verdict = replace(
            PLAIN, feature=feature, segment=f"region={region}" if region else "*", window_start=to_text(start),
            window_end=to_text(start + HOUR), state=finding.state, e_value=finding.e_value,
        )  # fmt: skip
        parts[verdict.place[1:]] = (verdict, finding)
    return closed(start, "final", parts)


def told(*windows: Closed) -> list[Alert]:
    episode, alerts = Episode(), []
    scene = Scene([DAY0 + i * CLOCK.pane for i in range(300)])
    for one in windows:
        episode, alert = follow(episode, one, CLOCK, scene, 0)
        alerts += [alert] if alert else []
    return alerts


def changes(*windows: Closed) -> list[tuple[str, str | None, str]]:
    return [(a.state, a.resolution, a.window_start[11:13]) for a in told(*windows)]


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


def test_an_alarm_that_returned_within_the_window_ends_the_incident_at_its_end():
    def at(hour: int, state: State, **more: object) -> Closed:
        return several(hour, price=said(state, DAY0 + hour * HOUR, **more))

    assert changes(at(0, "alarm"), at(1, "alarm", last="ok", end=-9.0), at(2, "ok")) == [
        ("firing", None, "00"),
        ("resolved", "returned", "01"),
    ]


#  price at `*` leads; region=north is small: its evidence falls (20, 15, 11 ...) while it cannot yet prove its return
def small_and_slow(hour: int, price: State, north: float, last: State = "alarm") -> Closed:
    start = DAY0 + hour * HOUR
    whole = said(price, start, e=40.0, end=31.0 if price == "alarm" else -9.0)
    return several(hour, price=whole, price_north=said("alarm", start, e=north + 9.0, end=north, last=last, since=60))


def test_a_small_segment_that_still_proves_its_return_does_not_hold_the_incident_nor_open_another():
    windows = [small_and_slow(0, "alarm", 20), small_and_slow(1, "alarm", 19), small_and_slow(2, "ok", 15)]
    windows += [small_and_slow(hour, "ok", 20 - 2 * hour) for hour in range(3, 9)]
    assert changes(*windows) == [("firing", None, "00"), ("resolved", "returned", "02")]


def test_a_segment_whose_evidence_still_grows_holds_the_incident():
    windows = [small_and_slow(0, "alarm", 20), small_and_slow(1, "ok", 24), small_and_slow(2, "ok", 29)]
    assert changes(*windows) == [("firing", None, "00")]


def test_a_muted_segment_speaks_again_when_its_evidence_has_risen_by_its_threshold():
    muted = [small_and_slow(0, "alarm", 20), small_and_slow(1, "ok", 12), small_and_slow(2, "ok", 8)]
    assert changes(*muted, small_and_slow(3, "ok", 16)) == [("firing", None, "00"), ("resolved", "returned", "01")]
    assert changes(*muted, small_and_slow(3, "ok", 18))[2:] == [("firing", None, "03")]


def test_a_segment_that_returned_may_page_again_at_once():
    def again(hour: int, north: State) -> Closed:
        start = DAY0 + hour * HOUR
        return several(hour, price=said("ok", start, e=0.0), price_north=said(north, start, since=2))

    windows = [small_and_slow(0, "alarm", 20), small_and_slow(1, "ok", 12), small_and_slow(2, "ok", 8, last="ok")]
    assert changes(*windows, again(3, "ok"), again(4, "alarm"))[2:] == [("firing", None, "04")]


def test_an_alarm_whose_evidence_began_before_the_incident_ended_belongs_to_it():
    #  hour        0      1      2      3
    #  price     alarm   ok     ok     ok
    #  quantity   ok     ok    alarm              its run of `since` panes began in hour 0, or in hour 2
    def hours(since: int) -> list[Closed]:
        loud = [("alarm", "ok"), ("ok", "ok"), ("ok", "alarm"), ("ok", "alarm")]
        return [
            several(h, price=said(p, DAY0 + h * HOUR), quantity=said(q, DAY0 + h * HOUR, since=since + 12 * (h - 2)))
            for h, (p, q) in enumerate(loud)
        ]

    assert [a.state for a in told(*hours(since=24))] == ["firing", "resolved"]
    assert [a.state for a in told(*hours(since=3))] == ["firing", "resolved", "firing"]


def test_features_that_alarm_one_after_the_other_and_return_at_different_times_are_one_incident():
    def hour(h: int, price: State, quantity: State) -> Closed:
        return several(h, price=said(price, DAY0 + h * HOUR), quantity=said(quantity, DAY0 + h * HOUR))

    states = [("alarm", "ok"), ("alarm", "alarm"), ("ok", "alarm"), ("alarm", "alarm"), ("ok", "ok")]
    assert changes(*[hour(h, p, q) for h, (p, q) in enumerate(states)]) == [
        ("firing", None, "00"),
        ("resolved", "returned", "04"),
    ]


def test_the_segments_that_carry_the_shift_are_named():
    def part(region: str, n: int, effect: float) -> Verdict:
        return replace(PLAIN, segment=f"region={region}", n=n, effect=effect, state="alarm", e_value=20.0)

    start = DAY0
    whole = replace(PLAIN, state="alarm", e_value=30.0, window_start=to_text(start), window_end=to_text(start + HOUR))
    parts = {v.place[1:]: (v, said("alarm", start)) for v in (whole, part("north", 300, 0.6), part("south", 600, 0.02))}
    [alert] = told(closed(start, "final", parts))
    [north] = alert.segments
    assert (north.feature, north.segment, north.carries) == ("price", "region=north", 1.0)
    assert abs(north.rows - 1 / 3) < 1e-9


def test_the_onset_is_of_the_key_that_fired_first_and_never_after_the_page():
    weak, strong = (
        said("alarm", DAY0, e=12.0),
        replace_pane(said("alarm", DAY0, e=90.0, since=1), DAY0 + 10 * CLOCK.pane),
    )
    [alert] = told(several(0, price=strong, quantity=weak))
    assert alert.event_time == to_text(DAY0 + 7 * CLOCK.pane) and alert.features[0].feature == "price"
    assert alert.onset == to_text(DAY0 + 4 * CLOCK.pane)
    assert alert.onset_low < alert.onset < alert.onset_high <= alert.event_time


def test_a_final_close_that_fired_earlier_than_the_provisional_one_bounds_its_onset():
    late = replace(
        several(0, price=replace_pane(said("alarm", DAY0, since=1), DAY0 + 10 * CLOCK.pane)), cause="provisional"
    )
    first, second = told(late, several(0, price=said("alarm", DAY0)))
    assert first.onset > second.event_time and second.onset_low <= second.onset <= second.onset_high
    assert second.onset_high <= second.event_time == to_text(DAY0 + 7 * CLOCK.pane)


def replace_pane(finding: Finding, pane: int) -> Finding:
    return msgspec.structs.replace(finding, pane=pane)
