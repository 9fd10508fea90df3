"""PURE. An alert: one change of an episode's state, as published on `drift.alerts` under the episode's id.

It says what moved and where, since when, which segments carry it, and what probably happened. Knows no episode logic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import msgspec

from pipeline.times import to_text
from stream_processors.judging import causes
from stream_processors.judging.causes import Cause, Quality, beyond_noise
from stream_processors.judging.judge import Closed
from stream_processors.judging.panes import WHOLE, Clock, Key
from stream_processors.judging.verdict import Verdict
from stream_processors.judging.volumes import Volume
from stream_processors.reference.cells import FeatureReference

SOURCE = "data"
RANKED = 20  # features named in an alert
CARRIED = 3  # segments told for each feature that moved, of one grouping

State = Literal["pending", "firing", "resolved"]
Resolution = Literal["returned", "rebased", "withdrawn"]


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
class Share:
    """How much of a feature's shift a segment carries."""

    feature: str
    segment: str
    rows: float  # its share of the window's rows
    carries: float  # share of the sum, over the segments of its grouping, of rows times effect beyond sampling noise
    evidence: float | None  # e-value less its threshold


@dataclass(frozen=True, slots=True)
class Alert:
    episode: str
    contract: str
    dataset: str
    source: str
    state: State
    at: str  # wall time
    event_time: str
    onset: str
    onset_low: str
    onset_high: str
    window_start: str
    window_end: str
    features: tuple[RankedFeature, ...]
    reference_version: int
    resolution: Resolution | None
    provisional: bool
    onset_shape: str  # abrupt, gradual, or empty: the interval then has no stated coverage (else 90 %)
    causes: tuple[Cause, ...]
    segments: tuple[Share, ...]

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What the alert of one stream said, to be said again beside the other's."""

    of_scores: bool
    features: tuple[RankedFeature, ...]
    causes: tuple[Cause, ...]
    segments: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """What the episode says of itself."""

    id: str
    provisional: bool
    onset: tuple[int, int, int, str]
    carriers: frozenset[Key]  # that alarmed; what is still in alarm of an earlier incident is none


def make(
    closed: Closed,
    clock: Clock,
    opened: Opened,
    state: State,
    resolution: Resolution | None,
    wall: int,
    members: Mapping[Key, FeatureReference],
    quality: Sequence[Quality],
    volumes: Sequence[Volume],
    inputs_moved: bool = False,
) -> Alert:
    """The alert of one closed window. What probably happened is said while it happens, not when it is over."""
    first = closed.verdicts[0]
    ranked = [v for v in rank(closed.verdicts) if v.state != "alarm" or (v.feature, v.segment) in opened.carriers]
    fired = [f.pane for key, f in closed.findings.items() if f.state == "alarm" and key in opened.carriers]
    changed = min(fired, default=closed.end - clock.pane) + clock.pane if state != "resolved" else closed.end
    low, onset, high = (min(t, changed) for t in opened.onset[:3])  # a later close may have fired earlier
    shape = opened.onset[3]
    told: tuple[Cause, ...] = ()
    if state == "firing" and closed.of_scores:
        told = causes.of_scores(closed.verdicts, inputs_moved)
    elif state == "firing" and members:
        counts = {key: closed.tally.total(key) for key in members}
        known = [v for v in volumes if v.window <= closed.window]
        share = _after(closed, onset)
        told = causes.rank(
            causes.Seen(closed.window, closed.end, closed.verdicts, members, counts, known, quality, share)
        )
    return Alert(
        opened.id, first.contract, first.dataset, SOURCE, state, to_text(wall), to_text(changed), to_text(onset), to_text(low),
        to_text(high), first.window_start, first.window_end, tuple(_ranked(v) for v in ranked[:RANKED]),
        first.reference_version, resolution, opened.provisional, shape, told,
        carried(closed.verdicts) if state == "firing" else (),
    )  # fmt: skip


def beside(alert: Alert, others: Sequence[Told]) -> Alert:
    """With what the alert of the other stream said of the same episode. Inputs that moved explain the scores."""
    if not others:
        return alert
    told, by_rows = others[0], alert.causes if others[0].of_scores else others[0].causes
    foremost = (*told.features[:1], *alert.features[:1])  # a reader of the first few finds both streams
    return replace(
        alert,
        features=(*foremost, *told.features[1:], *alert.features[1:])[:RANKED],
        causes=by_rows or told.causes or alert.causes,
        segments=(*told.segments, *alert.segments)[:RANKED],
    )


def _after(closed: Closed, onset: int) -> float:
    """The share of the window's on-time rows that came after the onset."""
    placed = closed.tally.in_time.placed_of((closed.verdicts[0].feature, WHOLE))
    rows = sum(placed.values())
    return sum(n for pane, n in placed.items() if pane >= onset) / rows if rows else 1.0


def rank(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those in alarm, then those that warn, each by how far the evidence is past its threshold; `*` before segments at a tie."""
    told = [v for v in verdicts if v.state in ("alarm", "warning")]
    return sorted(told, key=lambda v: (v.state != "alarm", -excess(v), v.segment, v.feature))


def carried(verdicts: Sequence[Verdict]) -> tuple[Share, ...]:
    """Which segments carry the shift of each feature in alarm, the strongest features first.

    A segment's part is its rows times its effect beyond sampling noise, as a share of the sum over its grouping: for a shift
    within the segments these parts add up to the whole's, for a changed mix of segments none of them has any.
    """
    alarmed = [v.feature for v in rank(verdicts) if v.state == "alarm"]
    found: list[Share] = []
    for feature in dict.fromkeys(alarmed):
        groups: dict[str, list[Verdict]] = {}
        for v in verdicts:
            if v.feature == feature and v.segment != WHOLE and v.effect is not None:
                groups.setdefault(_grouping(v.segment), []).append(v)
        for own in groups.values():
            rows, parts = sum(v.n for v in own), [v.n * beyond_noise(v) for v in own]
            if not sum(parts) or not rows:
                continue
            shares = [
                Share(feature, v.segment, v.n / rows, part / sum(parts), None if v.e_value is None else excess(v))
                for v, part in zip(own, parts, strict=True)
                if part
            ]
            found += sorted(shares, key=lambda s: (-s.carries, s.segment))[:CARRIED]
    return tuple(found[:RANKED])


def excess(verdict: Verdict) -> float:
    """Evidence past its threshold."""
    if verdict.rule == "ks_alpha":
        return (verdict.statistic or 0.0) / (verdict.critical_value or 1.0)
    return (verdict.e_value or 0.0) - (verdict.threshold or 0.0)


def _grouping(segment: str) -> str:
    return ",".join(part.partition("=")[0] for part in segment.split(","))


def _ranked(v: Verdict) -> RankedFeature:
    return RankedFeature(
        v.feature, v.segment, v.kind, v.statistic, v.p_value, v.n, v.effect, v.psi, v.e_value, v.threshold, v.rule,
        v.change, v.quantiles_reference, v.quantiles_window,
    )  # fmt: skip
