"""PURE. What a monitor says after some rows: frozen, readable as text, as HTML in a notebook, and as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

from stream_processors.comparing.statistics import WindowStatistics
from stream_processors.detectors.detector import Evidence
from stream_processors.judging.panes import WHOLE, Key
from stream_processors.reference.cells import FeatureReference, inside
from stream_processors.reference.counts import Counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

State = Literal["ok", "warning", "alarm", "reference_too_small", "different", "undefined"]
_ORDER = {"alarm": 0, "different": 0, "warning": 1, "ok": 2}
_MUTE: dict[State, str] = {"undefined": "undefined", "reference_too_small": "without a reference that may alarm"}
_HEAD = (
    "feature", "segment", "state", "rows", "distance", "critical", "p", "effect", "evidence", "threshold", "change"
)  # fmt: skip
SHOWN_ROWS = 30
SHOWN_CATEGORIES = 8
LINEAR_TO = 100.0  # natural log: the axis of the evidence is logarithmic beyond
TAILS = 0.005  # share of the reference at each end that a plot leaves out
NAME_LENGTH = 12
WINDOW, REFERENCE, LIMIT = "#1f5fa8", "0.6", "#b03030"


@dataclass(frozen=True, slots=True)
class FeatureResult:
    """One feature in one segment: the window's statistics, and where the detector stands after it."""

    feature: str
    segment: str
    state: State
    statistics: WindowStatistics
    evidence: Evidence | None  # None: no detector, or its reference is too small to alarm
    since_rows: int | None  # rows that the run of evidence lasted
    reference: FeatureReference = field(repr=False)
    counts: Counts = field(repr=False)
    history: tuple[tuple[int, float, float], ...] = field(
        repr=False
    )  # (rows seen, evidence, threshold) of the louder rule
    why: str | None = None  # there is no verdict, or no statistic
    change: str | None = None  # what happened, sized by this window; None while nothing stands out

    @property
    def statistic(self) -> float | None:
        """K-S distance of numbers, Jensen-Shannon distance of categories."""
        return self.statistics.statistic

    @property
    def p_value(self) -> float | None:
        return self.statistics.p_value

    @property
    def critical_value(self) -> float | None:
        return self.statistics.critical_value

    @property
    def effect(self) -> float | None:
        return self.statistics.effect

    def __str__(self) -> str:
        return "  ".join(_cells(self))


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """Every feature and segment after an update, or of one comparison."""

    rows: int  # in this window
    seen: int  # since the monitor began
    run_length: float | None  # rows between two false alarms; None where none is promised
    features: Mapping[Key, FeatureResult]
    new: tuple[Key, ...]  # alarms that began in this window; `notes` tell of those that ended in it, too
    notes: tuple[
        str, ...
    ] = ()  # alarms that are over again, rows not yet judged, nulls that the rule does not look at, columns not watched
    rule: str | None = None  # that alarms; None of a comparison

    @property
    def alarm(self) -> bool:
        """Whether anything is in alarm, was within this window, or differs."""
        return bool(self.new) or any(f.state in ("alarm", "different") for f in self)

    @property
    def ranked(self) -> tuple[FeatureResult, ...]:
        """Alarms first, each by how far its evidence is past the threshold, or by its p-value."""
        return tuple(sorted(self, key=lambda f: (_ORDER.get(f.state, 3), -_excess(f), f.segment != WHOLE)))

    def __getitem__(self, name: str | Key) -> FeatureResult:
        """`result["price"]`, or `result["price", "region=north"]`."""
        key = (name, WHOLE) if isinstance(name, str) else name
        if key not in self.features:
            raise KeyError(f"expected one of {sorted(self.features)}, got {key}")
        return self.features[key]

    def __iter__(self) -> Iterator[FeatureResult]:
        return iter(self.features.values())

    def __len__(self) -> int:
        return len(self.features)

    def plot(self) -> Figure:
        """The features with most to say: the window beside its reference, and evidence against its threshold."""
        from matplotlib.figure import Figure

        shown = self.ranked[:SHOWN_CATEGORIES]
        columns = 2 if any(f.evidence for f in shown) else 1
        figure = Figure(figsize=(5.2 * columns, 2.3 * len(shown) + 0.3), layout="constrained")
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for one, axes in zip(shown, grid, strict=True):
            _draw_law(axes[0], one)
            axes[0].set_title(f"{title(one.feature, one.segment)}: {one.state}", fontsize=10, loc="left")
            if columns == 2:
                _draw_evidence(axes[1], one)
            for ax in axes:
                ax.spines[["top", "right"]].set_visible(False)
                ax.tick_params(labelsize=8)
        return figure

    def __repr__(self) -> str:
        lines = [_HEAD, *(_cells(f) for f in self.ranked[:SHOWN_ROWS])]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        more = [f"... {len(self) - SHOWN_ROWS} more"] if len(self) > SHOWN_ROWS else []
        return "\n".join([self._headline(), *self.notes, *text, *more])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in _HEAD)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in _cells(f))}</tr>" for f in self.ranked[:SHOWN_ROWS]
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<p>{escape(self._headline())}</p>{notes}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _headline(self) -> str:
        states = [f.state for f in self]
        count = states.count("alarm") + states.count("different")
        mute = "".join(f", {states.count(state)} {words}" for state, words in _MUTE.items() if state in states)
        if self.rule is None:
            return f"{self.rows:,} rows: {count or 'none'} of {len(self)} differ from the reference{mute}"
        promise = f"rule {self.rule} promises no run length"
        if self.run_length is not None:
            promise = f"at most one false alarm in {self.run_length:,.0f} rows is to be expected"
        return f"{self.rows:,} rows ({self.seen:,} seen): {count or 'none'} of {len(self)} in alarm{mute}; {promise}"


def title(feature: str, segment: str) -> str:
    return feature if segment == WHOLE else f"{feature} ({segment})"


def _cells(one: FeatureResult) -> tuple[str, ...]:
    e = one.evidence
    return (
        one.feature, one.segment, one.state, f"{one.statistics.n:,}", _figure(one.statistic), _figure(one.critical_value), _figure(one.p_value), _figure(one.effect),
        *(_figure(v) for v in loudest(e)), one.change or one.why or "",
    )  # fmt: skip


def loudest(e: Evidence | None) -> tuple[float | None, float | None]:
    """Evidence and threshold of the rule that is over its own, or nearest to it."""
    if e is None:
        return None, None
    pairs = ((e.e_value, e.threshold), (e.scan_value, e.scan_threshold))
    told = [(v, t) for v, t in pairs if v is not None and t is not None]
    return max(told, key=lambda p: p[0] - p[1], default=(None, pairs[0][1] if pairs[0][1] is not None else pairs[1][1]))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _excess(one: FeatureResult) -> float:
    e = one.evidence
    if e is None:
        return -(one.p_value if one.p_value is not None else 1.0)
    value, threshold = loudest(e)
    return -np.inf if value is None or threshold is None else value - threshold


def _draw_law(ax: Axes, one: FeatureResult) -> None:
    """Cumulative shares of numbers up to each reference value; shares of categories."""
    reference, counts = one.reference, one.counts
    if not reference.rows or not counts.rows:
        ax.text(0.5, 0.5, one.statistics.undefined or "no rows", ha="center", transform=ax.transAxes)
        return
    if reference.kind == "numeric":
        inner = np.isfinite(reference.values)
        counts = inside(reference, counts)
        upto = np.searchsorted(counts.codes, 2 * np.arange(len(reference.values)) + 1, side="right")
        window = np.concatenate(([0], np.cumsum(counts.n)))[upto] / counts.rows
        values, was = reference.values[inner], (reference.cumulative / reference.rows)[inner]
        ax.step(values, was, where="post", color=REFERENCE, label="reference")
        ax.step(values, window[inner], where="post", color=WINDOW, label="window")
        middle = values[(was > TAILS) & (was < 1 - TAILS)]  # long tails would press the rest into one line
        if len(middle) > 1 and middle[0] < middle[-1]:
            margin = 0.1 * (middle[-1] - middle[0])
            ax.set_xlim(max(values[0], middle[0] - margin), min(values[-1], middle[-1] + margin))
        ax.set_ylabel("share up to", fontsize=8)
    else:
        dense = np.bincount(counts.codes, weights=counts.n, minlength=len(reference.counts) + 1) / counts.rows
        was = np.append(reference.counts, reference.other) / reference.rows
        top = np.argsort(-np.maximum(dense, was), kind="stable")[:SHOWN_CATEGORIES]
        names = [*reference.categories, "(other)"]
        place = np.arange(len(top))
        ax.bar(place - 0.2, was[top], 0.4, color=REFERENCE, label="reference")
        ax.bar(place + 0.2, dense[top], 0.4, color=WINDOW, label="window")
        ax.set_xticks(place, [_short(names[i]) for i in top], rotation=20, ha="right")
        ax.set_ylabel("share", fontsize=8)
        ax.set_ylim(0, 1.35 * max(was[top].max(), dense[top].max()))
    ax.legend(fontsize=7, frameon=False, loc="lower right" if reference.kind == "numeric" else "upper right", ncols=2)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _draw_evidence(ax: Axes, one: FeatureResult) -> None:
    """Evidence of the rule that is nearest to its threshold; of two rules the threshold may step."""
    if one.history:
        at, evidence, threshold = (np.array(column) for column in zip(*one.history, strict=True))
        ax.plot(at, np.maximum(0.0, evidence), color=WINDOW, label="evidence")
        ax.step(at, threshold, where="post", color=LIMIT, linestyle="--", linewidth=1, label="threshold")
        if evidence.max() > LINEAR_TO:
            ax.set_yscale("symlog", linthresh=LINEAR_TO)
            ax.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
            ax.yaxis.set_minor_formatter(lambda y, _: "")
        ax.set_ylim(0, 1.4 * max(evidence.max(), threshold.max()))
        ax.legend(fontsize=7, frameon=False, loc="center right")
    else:
        ax.text(0.5, 0.5, "no full pane yet", ha="center", transform=ax.transAxes)
    ax.set_xlabel("rows seen", fontsize=8)
