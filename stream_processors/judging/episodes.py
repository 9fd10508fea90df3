"""PURE. Episodes: one incident, one page. At most one at a time for a contract's data.

    none --alarm--> firing --the alarms that carried it have returned-------------> resolved (returned)
      \--warning--> pending --no warning--> resolved (returned)       same, under a newer reference: rebased
                       \--alarm--> firing                             opened by a provisional close only: withdrawn

A detector stays in alarm until its own evidence of return. An incident is over when its **leaders** are: of every feature
that alarmed the whole (`*`), or if that did not the key with most evidence; and when no other alarm still gathers evidence
(it fell by a factor of 20 since the window before: the window's rows spoke for the reference). A small segment may need
hours more to prove that it is back: it is *muted*, and so is an alarm whose evidence began before the incident ended (a slow
scale that sees the incident late). A muted key opens a new episode only after it returned, or when its evidence has risen
by its whole threshold above its lowest since: a CUSUM at the threshold of the page budget, which is rarer under no drift
than the detector's own alarm.

Rows and the model's scores are two streams of windows, and their shift is one incident: a stream *speaks* for the episode
from its alarm until it is over in that stream, and the episode ends when none speaks. The one that alarms second has the
alert told again, with the features of both. Rows that are quiet under a newer reference end it for both, as scores may lag;
windows under an older reference than the episode's say nothing any more.

Under `ks_alpha` there is no evidence of return: two windows in a row without an alarm are asked for.
A reference that is missing or too small is charted and never pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Literal

import msgspec

from stream_processors.detectors.onset import EMPTY, History, Onset, estimate
from stream_processors.judging import alert as alerts
from stream_processors.judging.alert import Alert, Resolution, Told
from stream_processors.judging.causes import Quality
from stream_processors.judging.closed import Finding
from stream_processors.judging.judge import Closed, Judge
from stream_processors.judging.panes import WHOLE, Clock, Key
from stream_processors.judging.verdict import Verdict
from stream_processors.judging.volumes import Volume, remember, volume_of
from stream_processors.reference.cells import FeatureReference

EpisodeState = Literal["none", "pending", "firing"]
QUIET_WINDOWS_KS = 2
FALLEN = log(20.0)  # evidence that a window takes away while the rows follow the reference


class Carrier(msgspec.Struct, frozen=True, array_like=True):
    """A key that alarmed in this episode."""

    feature: str
    segment: str
    peak: float  # evidence over its threshold, the highest
    now: float  # in its last window

    @property
    def key(self) -> Key:
        return self.feature, self.segment


class Muted(msgspec.Struct, frozen=True, array_like=True):
    """A key still in alarm of an incident that is over."""

    feature: str
    segment: str
    lowest: float  # evidence since then

    @property
    def key(self) -> Key:
        return self.feature, self.segment


class Episode(msgspec.Struct, frozen=True, array_like=True):
    """The current episode, or none and what must be remembered of the last one."""

    state: EpisodeState = "none"
    id: str = ""
    version: int = 0  # reference under which it was opened
    provisional: bool = False  # no final window has confirmed it
    window: int = 0  # the newest one that spoke for it
    quiet: int = 0  # windows of rows in a row without an alarm
    onset: tuple[int, int, int, str] | None = None  # low, estimate, high, shape
    carriers: tuple[Carrier, ...] = ()
    muted: tuple[Muted, ...] = ()
    ended: int | None = None  # event time of the last one's end
    volumes: tuple[Volume, ...] = ()  # of the last windows
    speaking: tuple[bool, ...] = ()  # streams in alarm, or warning while it is pending: of rows False, of scores True
    told: tuple[Told, ...] = ()  # by each stream that fired
    quiet_scores: int = 0  # windows of scores in a row without an alarm


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known beside the windows; without it an alert has no cause, and its onset no interval of known coverage."""

    stepped: Sequence[int] = ()  # starts of the panes walked
    history: History = EMPTY
    members: Mapping[Key, FeatureReference] = field(default_factory=dict)  # that judge the window
    quality: Sequence[Quality] = ()


def scene_of(judge: Judge, closed: Closed, quality: Sequence[Quality] = ()) -> Scene:
    found = judge.timeline.of(closed.verdicts[0].reference_version) if closed.verdicts else None
    walk = judge.walk if closed.cause == "provisional" else judge.run
    return Scene(walk.stepped, walk.history, found.load() if found else {}, quality)


def follow(episode: Episode, closed: Closed, clock: Clock, scene: Scene, wall: int) -> tuple[Episode, Alert | None]:
    """The episode after one closed window, and the change of state to publish, if it is one."""
    if closed.tally.rows and not closed.of_scores:
        volumes = remember(episode.volumes, volume_of(closed.window, closed.tally, scene.members))
        episode = msgspec.structs.replace(episode, volumes=volumes)
    if closed.cause == "revision" or not closed.verdicts:
        return episode, None
    if closed.of_scores and closed.verdicts[0].reference_version < episode.version:
        return episode, None
    return _Turn(closed, clock, scene, wall).follow(episode)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One closed window, final or provisional."""

    closed: Closed
    clock: Clock
    scene: Scene
    wall: int

    @property
    def provisional(self) -> bool:
        return self.closed.cause == "provisional"

    @property
    def version(self) -> int:
        return self.closed.verdicts[0].reference_version

    @property
    def own(self) -> bool:
        """The stream that the window is of."""
        return self.closed.of_scores

    def follow(self, episode: Episode) -> tuple[Episode, Alert | None]:
        loud, muted = self._heard(episode)
        if not self.provisional:
            episode = msgspec.structs.replace(episode, muted=muted)
        if episode.state != "firing":
            if loud:
                return self._fire(episode, loud)
            return self._below(episode)
        return self._burning(episode, loud)

    def _heard(self, episode: Episode) -> tuple[list[Verdict], tuple[Muted, ...]]:
        """(the alarms that speak, the muted keys after this window)."""
        before = {m.key: m for m in episode.muted} if self.version == episode.version else {}
        told = {v.feature for v in self.closed.verdicts}
        loud, muted = [], [m for m in before.values() if m.feature not in told]
        for verdict in _in(self.closed.verdicts, "alarm"):
            key, finding = (verdict.feature, verdict.segment), self._finding(verdict)
            known = before.get(key)
            if verdict.rule == "ks_alpha" or finding is None:
                loud.append(verdict)
            elif known is not None:
                lowest = min(known.lowest, finding.last_excess)
                risen = max(_excess(finding) - known.lowest, finding.last_excess - lowest)
                if risen >= (finding.threshold or 0.0):
                    loud.append(verdict)
                elif finding.last != "ok":
                    muted.append(Muted(*key, lowest))
            elif episode.state != "firing" and self._is_old(episode, finding):
                if finding.last != "ok":
                    muted.append(Muted(*key, finding.last_excess))
            else:
                loud.append(verdict)
        return loud, tuple(muted)

    def _is_old(self, episode: Episode, finding: Finding) -> bool:
        """Whether the evidence began before the last incident ended."""
        if episode.ended is None or self.version != episode.version:
            return False
        return _start(finding, self.scene.stepped) < episode.ended

    def _fire(self, episode: Episode, loud: Sequence[Verdict]) -> tuple[Episode, Alert | None]:
        firing = Episode(
            "firing", episode.id or self._id(), self.version, self.provisional, self.closed.window, 0, self._onset(episode, loud),
            self._carriers((), loud), episode.muted, episode.ended, episode.volumes, (self.own,),
        )  # fmt: skip
        return self._tell(firing)

    def _burning(self, episode: Episode, loud: Sequence[Verdict]) -> tuple[Episode, Alert | None]:
        before = {c.key: c for c in episode.carriers}
        if not loud or (not self.provisional and self._is_over(before, loud)):
            return self._quiet(episode, loud)
        now = msgspec.structs.replace(self._counted(episode, 0), window=max(episode.window, self.closed.window))
        if self.provisional:
            return now, None
        carriers = self._carriers(episode.carriers, loud)
        now = msgspec.structs.replace(now, provisional=False, carriers=carriers, speaking=self._and_own(episode))
        news = episode.provisional or self.own not in {t.of_scores for t in episode.told}
        return self._tell(now) if news else (now, None)

    def _tell(self, episode: Episode) -> tuple[Episode, Alert]:
        """The alert of a firing episode: what this stream says, with what the other one said before."""
        own = self._alert(episode, "firing", None)
        others = tuple(t for t in episode.told if t.of_scores != self.own)
        told = Told(self.own, own.features, own.causes, own.segments)
        return msgspec.structs.replace(episode, told=(*others, told)), alerts.beside(own, others)

    def _is_over(self, before: Mapping[Key, Carrier], loud: Sequence[Verdict]) -> bool:
        """Whether every leader has returned and no other alarm gathers evidence."""
        leaders = _leaders(before.values())
        for verdict in loud:
            key, finding = (verdict.feature, verdict.segment), self._finding(verdict)
            if finding is None or verdict.rule == "ks_alpha":
                return False
            if finding.last == "ok":
                continue
            if key in leaders or key not in before or finding.last_excess > before[key].now - FALLEN:
                return False
        return True

    def _quiet(self, episode: Episode, loud: Sequence[Verdict] = ()) -> tuple[Episode, Alert | None]:
        """A window in which nothing speaks for a firing episode any more."""
        if self.provisional or (episode.provisional and self.closed.window < episode.window):
            return episode, None  # only a final window ends an episode, and not an earlier one of a provisional stretch
        quiet = (episode.quiet_scores if self.own else episode.quiet) + 1
        lasting = self.version <= episode.version and not episode.provisional
        if self.closed.verdicts[0].rule == "ks_alpha" and lasting and quiet < QUIET_WINDOWS_KS:
            return self._counted(episode, quiet), None
        if self._others(episode):
            return msgspec.structs.replace(self._counted(episode, quiet), speaking=self._others(episode)), None
        resolution: Resolution = (
            "withdrawn" if episode.provisional else "rebased" if self.version > episode.version else "returned"
        )
        return self._none(episode, loud), self._alert(episode, "resolved", resolution)

    def _below(self, episode: Episode) -> tuple[Episode, Alert | None]:
        """No alarm speaks and none did: warnings."""
        warned = [v for v in _in(self.closed.verdicts, "warning") if not self._is_echo(episode, v)]
        if episode.state == "none":
            if not warned or self.provisional:
                return episode, None
            opened = Episode(
                "pending", self._id(), self.version, False, self.closed.window, 0, self._onset(episode, warned), (), episode.muted,
                episode.ended, episode.volumes, (self.own,),
            )  # fmt: skip
            return opened, self._alert(opened, "pending", None)
        if self.provisional:
            return episode, None
        if warned or self._others(episode):
            still = self._and_own(episode) if warned else self._others(episode)
            return msgspec.structs.replace(episode, speaking=still), None
        resolution: Resolution = "rebased" if self.version > episode.version else "returned"
        gone = Episode(version=self.version, muted=episode.muted, ended=episode.ended, volumes=episode.volumes)
        return gone, self._alert(episode, "resolved", resolution)

    def _is_echo(self, episode: Episode, verdict: Verdict) -> bool:
        finding = self._finding(verdict)
        return finding is not None and self._is_old(episode, finding)

    def _none(self, episode: Episode, loud: Sequence[Verdict]) -> Episode:
        still = [(v, self._finding(v)) for v in loud]
        muted = [Muted(v.feature, v.segment, f.last_excess) for v, f in still if f is not None and f.last != "ok"]
        return Episode(
            version=self.version, muted=(*episode.muted, *muted), ended=self.closed.end, volumes=episode.volumes
        )

    # -- the two streams

    def _and_own(self, episode: Episode) -> tuple[bool, ...]:
        return tuple(sorted({*episode.speaking, self.own}))

    def _others(self, episode: Episode) -> tuple[bool, ...]:
        """Streams that speak for the episode beside this one; rows under a newer reference silence the scores."""
        if not self.own and self.version > episode.version:
            return ()
        return tuple(s for s in episode.speaking or (False,) if s != self.own)

    def _counted(self, episode: Episode, quiet: int) -> Episode:
        return msgspec.structs.replace(episode, **{"quiet_scores" if self.own else "quiet": quiet})

    # -- what an alert says

    def _id(self) -> str:
        first = self.closed.verdicts[0]
        stream = "-scores" if self.own else ""
        return f"{first.dataset}-{alerts.SOURCE}-{first.window_start}-v{first.reference_version}{stream}"

    def _finding(self, verdict: Verdict) -> Finding | None:
        return self.closed.findings.get((verdict.feature, verdict.segment))

    def _carriers(self, before: Iterable[Carrier], loud: Sequence[Verdict]) -> tuple[Carrier, ...]:
        found = {c.key: c for c in before}
        for verdict in loud:
            key, finding = (verdict.feature, verdict.segment), self._finding(verdict)
            peak = alerts.excess(verdict)
            had = found.get(key)
            now = finding.last_excess if finding is not None else peak
            found[key] = Carrier(*key, max(peak, had.peak) if had else peak, now)
        return tuple(found[key] for key in sorted(found))

    def _onset(self, episode: Episode, speaking: Sequence[Verdict]) -> tuple[int, int, int, str]:
        """Of the key that fired first, at a tie the one with most evidence: from the last panes, or else where its run began."""
        findings = self.closed.findings
        ranked = [(v.feature, v.segment) for v in alerts.rank(speaking) if (v.feature, v.segment) in findings]
        if ranked:
            key = min(ranked, key=lambda k: findings[k].pane)  # an onset after the page would be none
            reference = self.scene.members.get(key)
            found: Onset | None = None
            if reference is not None and findings[key].rule != "ks_alpha":
                found = estimate(self.scene.history, reference, findings[key].pane, episode.ended, self.clock.pane)
            if found is not None:
                return found.low, found.at, found.high, found.shape
            start = _start(findings[key], self.scene.stepped)
            return start - self.clock.pane, start, start + self.clock.pane, ""
        return self.closed.window, self.closed.window, self.closed.end, ""

    def _alert(
        self, episode: Episode, state: Literal["pending", "firing", "resolved"], why: Resolution | None
    ) -> Alert:
        onset = episode.onset or (self.closed.window, self.closed.window, self.closed.end, "")
        opened = alerts.Opened(episode.id, episode.provisional, onset, frozenset(c.key for c in episode.carriers))
        seen = (self.scene.members, self.scene.quality, episode.volumes, any(not t.of_scores for t in episode.told))
        return alerts.make(self.closed, self.clock, opened, state, why, self.wall, *seen)


def _leaders(carriers: Iterable[Carrier]) -> set[Key]:
    """Of each feature the whole, if it alarmed, or else the key with most evidence."""
    of: dict[str, list[Carrier]] = {}
    for carrier in carriers:
        of.setdefault(carrier.feature, []).append(carrier)
    return {max(own, key=lambda c: (c.segment == WHOLE, c.peak, c.segment)).key for own in of.values()}


def _in(verdicts: Iterable[Verdict], state: str) -> list[Verdict]:
    return [v for v in verdicts if v.state == state]


def _excess(finding: Finding) -> float:
    return (finding.e_value or 0.0) - (finding.threshold or 0.0)


def _start(finding: Finding, stepped: Sequence[int]) -> int:
    """Start of the pane where the run began, as far as starts are remembered."""
    until = [s for s in stepped if s <= finding.pane]
    return until[-min(len(until), max(1, finding.since))] if until else finding.pane
