"""PURE. Attribution drift for people: what moved, what changed answers, and in which windows most."""

from __future__ import annotations

from batch.attribution import Attributed, Feature, Look
from batch.card_figures import Interval
from pipeline.times import to_text

SHOWN_WINDOWS = 12  # those whose answers moved most; JSON and the plot have all of them


def text(look: Look) -> str:
    reference, whole = look.reference, look.whole
    head = (
        f"{look.model} version {look.version}: {whole.rows:,} sampled rows, {_when(whole.start)} to {_when(whole.end)}, beside "
        f"{reference.rows:,} that it was measured on, {_when(reference.start)} to {_when(reference.end)}"
    )
    if whole.score is None or whole.log_odds is None:
        return f"{head}\ntoo few rows to compare"
    lines = [
        head,
        f"mean answer {reference.score:.4f} then, {whole.score:.4f} now; log odds {whole.log_odds - reference.log_odds:+.4f}, "
        f"the sum of the features' differences; nDCG of their ranking {whole.ndcg:.3f}",
        "",
        f"{'feature':<24}{'input':>7}{'then':>9}{'now':>9}{'difference (interval)':>31}{'answer':>9}{'size':>16}  ",
        *(_row(f) for f in whole.features),
        "",
        f"{'window from':<18}{'rows':>7}{'answer':>9}{'nDCG':>7}  what moved the mean answer most",
        *(_window(w) for w in _shown(look.windows)),
    ]
    hidden = len(look.windows) - SHOWN_WINDOWS
    return "\n".join([*lines, *([f"... and {hidden} windows that moved less; --json has them"] if hidden > 0 else [])])


def said(feature: Feature) -> str:
    """What to make of a feature."""
    if feature.changed:
        return "moved, and changed answers" if feature.moved else "did not move, yet changed answers"
    return "moved; no change of answers is shown" if feature.moved else ""


def _row(f: Feature) -> str:
    sizes = f"{f.size_reference:.3f} -> {f.size:.3f}"
    numbers = f"{f.input:>7.3f}{f.mean_reference:>+9.4f}{f.mean:>+9.4f}{_interval(f.difference):>31}{f.score:>+9.4f}{sizes:>16}"
    return f"{f.feature:<24}{numbers}  {said(f)}".rstrip()


def _shown(windows: tuple[Attributed, ...]) -> list[Attributed]:
    most = sorted(windows, key=lambda w: -max((abs(f.difference.value) for f in w.features), default=0.0))
    return sorted(most[:SHOWN_WINDOWS], key=lambda w: w.start)


def _window(w: Attributed) -> str:
    if w.score is None:
        return f"{_when(w.start):<18}{w.rows:>7}  too few rows"
    parts = ", ".join(f"{f.feature} {f.difference.value:+.3f}" for f in w.features if f.changed) or "nothing shown"
    return f"{_when(w.start):<18}{w.rows:>7}{w.score:>9.4f}{w.ndcg:>7.3f}  {parts}"


def _interval(i: Interval) -> str:
    return f"{i.value:+.4f} ({i.low:+.4f}, {i.high:+.4f})"


def _when(ms: int) -> str:
    return to_text(ms)[:16].replace("T", " ")
