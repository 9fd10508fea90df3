"""The demo's pictures, drawn by matplotlib from what the run left in Kafka and in the lake."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np

from pipeline import topics
from pipeline.contract import Contract, OutcomeLabel
from pipeline.kafka import json_of, read_all
from pipeline.settings import Settings
from pipeline.times import to_ms

Json = dict[str, object]
BLUE, PINK, GREY = "#2563eb", "#db2777", "#6b7280"


def ecdfs(path: Path, feature: str, reference: np.ndarray, window: np.ndarray, subtitle: str) -> Path:
    """Both empirical distribution functions, and the gap where the K-S distance is reached."""
    a, b = np.sort(reference), np.sort(window)
    grid = np.unique(np.concatenate([a, b]))
    fa, fb = np.searchsorted(a, grid, "right") / a.size, np.searchsorted(b, grid, "right") / b.size
    at = int(np.argmax(np.abs(fa - fb)))
    figure, axes = plt.subplots(figsize=(8, 4.2))
    axes.step(grid, fa, color=BLUE, where="post", label=f"reference, n = {a.size:,}")
    axes.step(grid, fb, color=PINK, where="post", label=f"window, n = {b.size:,}")
    axes.vlines(
        grid[at],
        *sorted((fa[at], fb[at])),
        color="black",
        lw=2,
        label=f"D = {abs(fa[at] - fb[at]):.3f} at {grid[at]:,.2f}",
    )
    if a.min() > 0 and np.quantile(a, 0.99) > 20 * np.median(a) / 2:
        axes.set_xscale("log")
    axes.set(
        xlabel=feature,
        ylabel="share of rows at or below",
        title=f"{feature}: reference against the window that paged\n{subtitle}",
    )
    return _save(figure, axes, path)


def over_time(path: Path, windows: dict[str, Sequence[Json]], marks: Sequence[tuple[str, str]]) -> Path:
    """Statistic and evidence of every closed window, each against its own limit; marks are (event time, label)."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), sharex=True)
    for name, verdicts in windows.items():
        x = [_when(str(v["window_end"])) for v in verdicts]
        top.plot(x, [_or_nan(v["statistic"]) for v in verdicts], lw=1.3, label=name)
        bottom.plot(x, [_or_nan(v["e_value"]) for v in verdicts], lw=1.3, label=name)
    longest = max(windows.values(), key=len, default=[])
    x = [_when(str(v["window_end"])) for v in longest]
    top.plot(x, [_or_nan(v["critical_value"]) for v in longest], "--", color=GREY, lw=1, label="critical value (0.05)")
    bottom.plot(
        x, [_or_nan(v["threshold"]) for v in longest], "--", color="black", lw=1, label="threshold of the page budget"
    )
    for axes in (top, bottom):
        for when, _ in marks:
            axes.axvline(_when(when), color=GREY, lw=0.8, ls=":")
    for when, label in marks:
        _name(top, when, label)
    top.set(ylabel="distance from the reference")
    bottom.set(ylabel="evidence (natural log)", yscale="symlog", xlabel="event time")
    _dates(bottom)
    top.legend(fontsize=7, ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


class Hour(NamedTuple):
    """Mean log loss of an hour's labelled predictions, and the mean entropy of their scores: the loss that they promise."""

    loss: float
    promised: float


def losses(settings: Settings, contract: Contract) -> dict[str, dict[int, Hour]]:
    """Of the labelled stream predictions by model version and event hour (ms), first prediction of each row."""
    assert isinstance(contract.label, OutcomeLabel)
    key, name = contract.label.key, contract.label.name
    truth = {o[key]: bool(o[name]) for o in _values(settings, topics.outcomes(contract.id))}
    seen: set[tuple[object, ...]] = set()
    sums: dict[str, dict[int, list[float]]] = {}
    for p in _values(settings, topics.predictions(contract.id)):
        raw = p["raw"]
        if raw is None or p[key] not in truth:
            continue
        place = (raw["partition"], raw["offset"], p["version"])  # type: ignore[index]
        if place in seen:
            continue
        seen.add(place)
        score = min(max(float(p["score"]), 1e-9), 1 - 1e-9)  # type: ignore[arg-type]
        hour = to_ms(str(p[contract.time.field])) // 3_600_000 * 3_600_000
        costs = -math.log(1 - score), -math.log(score)  # of the answers "no" and "yes" to it
        cell = sums.setdefault(str(p["version"]), {}).setdefault(hour, [0.0, 0.0, 0.0])
        cell[0] += costs[truth[p[key]]]
        cell[1] += (1 - score) * costs[0] + score * costs[1]
        cell[2] += 1
    return {
        v: {h: Hour(s / n, e / n) for h, (s, e, n) in sorted(hours.items()) if n >= 100}
        for v, hours in sorted(sums.items())
    }


def loss_by_version(path: Path, by_version: dict[str, dict[int, Hour]], marks: Sequence[tuple[str, str]]) -> Path:
    figure, axes = plt.subplots(figsize=(9, 3.8))
    for version, hours in by_version.items():
        axes.plot(
            [mdates.num2date(h / 86_400_000) for h in hours],
            [hour.loss for hour in hours.values()],
            marker=".",
            label=f"version {version}",
        )
    for when, label in marks:
        axes.axvline(_when(when), color=GREY, lw=0.8, ls=":")
        _name(axes, when, label)
    axes.set(xlabel="event time", ylabel="mean log loss an hour")
    _dates(axes)
    return _save(figure, axes, path)


def _name(axes: plt.Axes, when: str, label: str) -> None:
    """The mark's name above the picture."""
    place, system = (_when(when), 1.01), ("data", "axes fraction")
    axes.annotate(label, place, xycoords=system, rotation=30, fontsize=8, ha="left", va="bottom")


def _dates(axes: plt.Axes) -> None:
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=3, maxticks=8))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%d %b\n%H:%M"))


def _values(settings: Settings, topic: str) -> Iterator[Json]:
    """A story's worth of records, while the stream may still run."""
    return (json_of(m) for m in read_all(settings, topic, deadline_s=300))


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _or_nan(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _save(figure: plt.Figure, axes: plt.Axes, path: Path) -> Path:
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
