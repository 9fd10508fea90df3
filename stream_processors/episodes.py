"""PURE. Episodes: one incident, one page. At most one at a time for a contract's data.

    none --alarm--> firing --no alarm in a window--------------------------------> resolved (returned)
      \--warning--> pending --no warning--> resolved (returned)       same, under a newer reference: rebased
                       \--alarm--> firing                             opened by a provisional close only: withdrawn

A detector stays in alarm until its own evidence of return, so "no alarm in a window" is statistical, not one quiet hour.
Under `ks_alpha` there is no such evidence: two windows in a row without an alarm are asked for.
A reference that is missing or too small is charted and never pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import msgspec

from pipeline.times import to_text
from stream_processors.closed import Finding
from stream_processors.judge import Closed
from stream_processors.panes import Clock, Key
from stream_processors.verdict import Verdict

EpisodeState = Literal["none", "pending", "firing"]
SOURCE = "data"
QUIET_WINDOWS_KS = 2
RANKED = 20  # features named in an alert


class Episode(msgspec.Struct, frozen=True, array_like=True):
    """The current episode, or none."""

    state: EpisodeState = "none"
    id: str = ""
    version: int = 0  # reference under which it was opened
    provisional: bool = False  # no final window has confirmed it
    window: int = 0  # the newest one that spoke for it
    quiet: int = 0  # windows in a row without an alarm


@dataclass(frozen=True, slots=True)
class RankedFeature:
    feature: str
    segment: str
    kind: str
    statistic: float | None
    p_value: float | None
    n: int
    effect: float | None
    psi: float | None
    e_value: float | None
    threshold: float | None
    rule: str
    change: str | None
    quantiles_reference: Sequence[float] | None
    quantiles_window: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Alert:
    """One change of state, as published on `drift.alerts` under the episode's id."""

    episode: str
    contract: str
    dataset: str
    source: str
    state: Literal["pending", "firing", "resolved"]
    at: str  # wall time
    event_time: str
    onset: str
    onset_low: str
    onset_high: str
    window_start: str
    window_end: str
    features: tuple[RankedFeature, ...]
    reference_version: int
    resolution: Literal["returned", "rebased", "withdrawn"] | None
    provisional: bool

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()


def follow(
    episode: Episode, closed: Closed, clock: Clock, stepped: Sequence[int], wall: int
) -> tuple[Episode, Alert | None]:
    """The episode after one closed window, and the change of state to publish, if it is one."""
    if closed.cause == "revision" or not closed.verdicts:
        return episode, None
    provisional = closed.cause == "provisional"
    version = closed.verdicts[0].reference_version
    alarms, warnings = _in(closed.verdicts, "alarm"), _in(closed.verdicts, "warning")
    make = _Maker(closed, clock, stepped, wall)
    if alarms:
        return _alarm(episode, closed, version, provisional, make)
    if episode.state == "none":
        if not warnings or provisional:
            return episode, None
        opened = Episode("pending", make.id(), version, False, closed.window)
        return opened, make.alert(opened, "pending", None)
    return _quiet(episode, closed, version, provisional, bool(warnings), make)


def _alarm(
    episode: Episode, closed: Closed, version: int, provisional: bool, make: _Maker
) -> tuple[Episode, Alert | None]:
    if episode.state == "firing":
        confirmed = episode.provisional and not provisional
        now = msgspec.structs.replace(
            episode, window=max(episode.window, closed.window), quiet=0, provisional=episode.provisional and provisional
        )
        return now, make.alert(now, "firing", None) if confirmed else None
    firing = Episode("firing", episode.id or make.id(), version, provisional, closed.window)
    return firing, make.alert(firing, "firing", None)


def _quiet(
    episode: Episode, closed: Closed, version: int, provisional: bool, warned: bool, make: _Maker
) -> tuple[Episode, Alert | None]:
    """A window without an alarm while an episode is open."""
    if provisional or (episode.state == "pending" and warned):
        return episode, None  # only a final window ends an episode
    if episode.provisional and closed.window < episode.window:
        return episode, None  # an earlier window of the same provisional stretch
    ks = closed.verdicts[0].rule == "ks_alpha"
    quiet = episode.quiet + 1
    if (
        ks
        and episode.state == "firing"
        and version <= episode.version
        and not episode.provisional
        and quiet < QUIET_WINDOWS_KS
    ):
        return msgspec.structs.replace(episode, quiet=quiet), None
    resolution: Literal["returned", "rebased", "withdrawn"] = (
        "withdrawn" if episode.provisional else "rebased" if version > episode.version else "returned"
    )
    return Episode(), make.alert(episode, "resolved", resolution)


def _in(verdicts: Iterable[Verdict], state: str) -> list[Verdict]:
    return [v for v in verdicts if v.state == state]


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the alert of one closed window."""

    closed: Closed
    clock: Clock
    stepped: Sequence[int]
    wall: int

    def id(self) -> str:
        first = self.closed.verdicts[0]
        return f"{first.dataset}-{SOURCE}-{first.window_start}-v{first.reference_version}"

    def alert(
        self,
        episode: Episode,
        state: Literal["pending", "firing", "resolved"],
        resolution: Literal["returned", "rebased", "withdrawn"] | None,
    ) -> Alert:
        first, ranked = self.closed.verdicts[0], rank(self.closed.verdicts)
        low, onset, high = onset_of(self.closed.findings, ranked, self.stepped, self.clock, self.closed.window)
        fired = [f.pane for f in self.closed.findings.values() if f.state == "alarm"]
        changed = min(fired, default=self.closed.window + self.clock.window - self.clock.pane) + self.clock.pane
        return Alert(
            episode.id, first.contract, first.dataset, SOURCE, state, to_text(self.wall), to_text(changed),
            to_text(onset), to_text(low), to_text(high), first.window_start, first.window_end,
            tuple(_ranked(v) for v in ranked[:RANKED]), first.reference_version, resolution, episode.provisional,
        )  # fmt: skip


def rank(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those in alarm, then those that warn, each by how far the evidence is past its threshold; `*` before segments at a tie."""
    told = [v for v in verdicts if v.state in ("alarm", "warning")]
    return sorted(told, key=lambda v: (v.state != "alarm", -_excess(v), v.segment, v.feature))


def _ranked(v: Verdict) -> RankedFeature:
    return RankedFeature(
        v.feature, v.segment, v.kind, v.statistic, v.p_value, v.n, v.effect, v.psi, v.e_value, v.threshold, v.rule,
        v.change, v.quantiles_reference, v.quantiles_window,
    )  # fmt: skip


def _excess(verdict: Verdict) -> float:
    if verdict.rule == "ks_alpha":
        return (verdict.statistic or 0.0) / (verdict.critical_value or 1.0)
    return (verdict.e_value or 0.0) - (verdict.threshold or 0.0)


def onset_of(
    findings: Mapping[Key, Finding], ranked: Sequence[Verdict], stepped: Sequence[int], clock: Clock, window: int
) -> tuple[int, int, int]:
    """(low, estimate, high) of the change's event time: where the run of the strongest finding began.

    The interval spans the runs of all findings in alarm and one pane beside them; it is an estimate without a stated
    coverage. Without a finding it is the window.
    """
    runs = {k: _start(f, stepped) for k, f in findings.items() if f.state == "alarm"}
    top = [(v.feature, v.segment) for v in ranked if (v.feature, v.segment) in runs]
    if not top:
        return window, window, window + clock.window
    near = [runs[k] for k in top if findings[k].since <= 2 * findings[top[0]].since] or [runs[top[0]]]
    return min(near) - clock.pane, runs[top[0]], max(near) + clock.pane


def _start(finding: Finding, stepped: Sequence[int]) -> int:
    """Start of the pane where the run began, as far as starts are remembered."""
    until = [s for s in stepped if s <= finding.pane]
    return until[-min(len(until), max(1, finding.since))] if until else finding.pane
