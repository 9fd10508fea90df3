"""EDGE. A backtest as a picture: one row a feature, evidence against its threshold, alarms shaded, pages marked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

from batch.backtested import Backtested
from pipeline.times import to_ms
from stream_processors.judging.panes import WHOLE
from stream_processors.judging.verdict import Verdict

ROW_INCHES, WIDTH_INCHES = 1.7, 11.0
ROWS_DRAWN = 12  # features; with more, those with most evidence
LINEAR_TO = 10.0  # natural log: evidence grows without bound, so the axis is logarithmic beyond
TICKS = (0, 5, 10, 100, 1_000, 10_000)
EVIDENCE, LIMIT, ALARM, PAGE, EFFECT = "#1f5fa8", "#b03030", "#e8a0a0", "#b03030", "0.55"


def draw(found: Backtested, file: Path) -> None:
    figure_of(found).savefig(file, dpi=110)


def figure_of(found: Backtested) -> Figure:
    """Every feature of the whole, in contract order."""
    rows = {f: [v for v in found.verdicts if (v.feature, v.segment) == (f, WHOLE)] for f in _drawn(found)}
    figure = Figure(figsize=(WIDTH_INCHES, 0.9 + ROW_INCHES * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for (feature, verdicts), ax in zip(rows.items(), axes, strict=True):
        _row(ax, feature, verdicts)
        for page in found.pages:
            if feature in {f.feature for f in page.features}:
                ax.axvline(_at(page.event_time), color=PAGE, linewidth=1.6)
    days = sorted({p.event_time[:10] for p in found.pages})
    said = f"{found.contract.name}: {len(found.pages)} page{'s' if len(found.pages) != 1 else ''}"
    said += f", on {', '.join(days[:4])}{' ...' if len(days) > 4 else ''}" if days else ""
    key = "blue: evidence; dashed: threshold; grey: effect (right); shaded: in alarm; vertical: a page that names the feature"
    figure.suptitle(f"{said}\n{key}", fontsize=9.5)
    locator = AutoDateLocator()
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def _drawn(found: Backtested) -> list[str]:
    features = list(dict.fromkeys(v.feature for v in found.verdicts if v.segment == WHOLE))
    if len(features) <= ROWS_DRAWN:
        return features
    most = {f: max((v.e_value or 0.0 for v in found.verdicts if v.feature == f), default=0.0) for f in features}
    chosen = sorted(features, key=lambda f: -most[f])[:ROWS_DRAWN]
    return [f for f in features if f in chosen]


def _row(ax: Axes, feature: str, verdicts: list[Verdict]) -> None:
    ends = [_at(v.window_end) for v in verdicts]
    told = [(e, v) for e, v in zip(ends, verdicts, strict=True) if v.e_value is not None]
    ax.plot([e for e, _ in told], [max(0.0, v.e_value or 0.0) for _, v in told], color=EVIDENCE, linewidth=1.3)
    ax.plot([e for e, _ in told], [v.threshold for _, v in told], color=LIMIT, linewidth=1, linestyle="--")
    for v in verdicts:
        if v.state == "alarm":
            ax.axvspan(_at(v.window_start), _at(v.window_end), color=ALARM, alpha=0.35, linewidth=0)
    ax.set_yscale("symlog", linthresh=LINEAR_TO)
    ax.yaxis.set_major_locator(FixedLocator(TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.set_ylim(bottom=0)
    ax.set_ylabel(feature, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    effects = ax.twinx()
    effects.plot(ends, [v.effect for v in verdicts], color=EFFECT, linewidth=0.8)
    effects.set_ylim(bottom=0)
    effects.tick_params(labelsize=7, colors=EFFECT)
    effects.spines[["top"]].set_visible(False)


def _at(text: str) -> datetime:
    return datetime.fromtimestamp(to_ms(text) / 1000, UTC)
