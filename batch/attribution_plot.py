"""EDGE. Attribution drift as a picture: one row a feature, how far its mean contribution lies from the reference's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from batch.attribution import Attributed, Look

ROW_INCHES, WIDTH_INCHES = 1.5, 11.0
ROWS_DRAWN = 8  # features: those that moved answers most, in any window
ADDED, INPUT, CHANGED = "#1f5fa8", "0.55", "#e8a0a0"


def draw(look: Look, file: Path) -> None:
    figure_of(look).savefig(file, dpi=110)


def figure_of(look: Look) -> Figure:
    told = [w for w in look.windows if w.features]
    names = _most(told)
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + ROW_INCHES * (len(names) + 1)), layout="constrained")
    axes = figure.subplots(len(names) + 1, 1, sharex=True, squeeze=False)[:, 0]
    _answers(axes[0], told, look.reference.score)
    for name, ax in zip(names, axes[1:], strict=True):
        _feature(ax, told, name)
    for ax in axes[2:]:
        ax.sharey(axes[1])  # so that a feature that matters little looks like it
    figure.suptitle(
        f"{look.model} version {look.version}: what each feature adds to the mean log odds, less what it adds in the reference\n"
        "band: interval; shaded: shown to differ; grey: distance of the input (right)",
        fontsize=9.5,
    )
    locator = AutoDateLocator()
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def _most(windows: list[Attributed]) -> list[str]:
    most: dict[str, float] = {}
    for w in windows:
        for f in w.features:
            most[f.feature] = max(most.get(f.feature, 0.0), abs(f.difference.value))
    return sorted(most, key=lambda name: -most[name])[:ROWS_DRAWN]


def _answers(ax: Axes, windows: list[Attributed], reference: float) -> None:
    ax.axhline(reference, color="0.7", linewidth=1)
    ax.plot([_middle(w) for w in windows], [w.score for w in windows], color="black", linewidth=1.3, marker=".")  # type: ignore[misc]
    ax.set_ylabel("mean answer", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _feature(ax: Axes, windows: list[Attributed], name: str) -> None:
    found = [(w, next(f for f in w.features if f.feature == name)) for w in windows]
    middles = [_middle(w) for w, _ in found]
    ax.axhline(0, color="0.7", linewidth=1)
    ax.fill_between(middles, [f.difference.low for _, f in found], [f.difference.high for _, f in found], color=ADDED, alpha=0.2, linewidth=0)  # fmt: skip
    ax.plot(middles, [f.difference.value for _, f in found], color=ADDED, linewidth=1.3, marker=".")
    for w, f in found:
        if f.changed:
            ax.axvspan(_at(w.start), _at(w.end), color=CHANGED, alpha=0.35, linewidth=0)
    ax.set_ylabel(name, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    inputs = ax.twinx()
    inputs.plot(middles, [f.input for _, f in found], color=INPUT, linewidth=0.8)
    inputs.set_ylim(0, 1)
    inputs.tick_params(labelsize=7, colors=INPUT)
    inputs.spines[["top"]].set_visible(False)


def _middle(w: Attributed) -> datetime:
    return _at((w.start + w.end) // 2)


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
