"""EDGE. What the drift process says to Prometheus: the last verdict of each feature and segment, watermark, episode."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.meter import Meter
from stream_processors.judging.alert import SOURCE
from stream_processors.judging.judge import Judge, Turn
from stream_processors.judging.verdict import STATES, Verdict

EPISODE_STATES = ("none", "pending", "firing")
_FIGURES = {
    "driftline_drift_statistic": "statistic",
    "driftline_drift_critical_value": "critical_value",
    "driftline_drift_p_value": "p_value",
    "driftline_drift_psi": "psi",
    "driftline_drift_null_ratio": "null_ratio",
    "driftline_drift_window_rows": "n",
    "driftline_drift_evidence": "e_value",
    "driftline_drift_threshold": "threshold",
    "driftline_reference_rows": "reference_n",
}


def progress(meter: Meter, dataset: str, judge: Judge, scores: Judge | None = None) -> None:
    scored = scores.watermark() if scores is not None else None
    if scored is not None:
        meter.set("driftline_scores_watermark_seconds", scored / 1000, dataset=dataset)
    watermark = judge.watermark()
    if watermark is not None:
        meter.set("driftline_watermark_seconds", watermark / 1000, dataset=dataset)
    newest = max((p.maximum for p in judge.partitions.values() if p.maximum is not None), default=None)
    if newest is not None:
        meter.set("driftline_event_time_seconds", newest / 1000, process="drift", dataset=dataset)
        meter.set("driftline_reference_version", judge.timeline.version_at(newest), dataset=dataset)


def turn(meter: Meter, dataset: str, turns: Sequence[Turn], changes: Sequence[str], state: str) -> None:
    """Of every stream its last window; windows are counted by the rows'."""
    for closed in turns[0].closed:
        meter.inc("driftline_windows_closed_total", dataset=dataset, close=closed.cause)
    for said in turns:
        newest = max((c for c in said.closed if c.cause != "revision"), key=lambda c: c.window, default=None)
        for verdict in newest.verdicts if newest else ():
            _verdict(meter, dataset, verdict)
    for change in changes:
        meter.inc("driftline_episodes_total", dataset=dataset, source=SOURCE, state=change)
    episode(meter, dataset, state)


def episode(meter: Meter, dataset: str, state: str) -> None:
    for name in EPISODE_STATES:
        meter.set("driftline_episode_state", float(name == state), dataset=dataset, source=SOURCE, state=name)


def _verdict(meter: Meter, dataset: str, verdict: Verdict) -> None:
    labels = {"dataset": dataset, "feature": verdict.feature, "segment": verdict.segment}
    for metric, figure in _FIGURES.items():
        value = getattr(verdict, figure)
        if value is not None:
            meter.set(metric, float(value), **labels)
    for name in STATES:
        meter.set("driftline_drift_state", float(name == verdict.state), **labels, state=name)
