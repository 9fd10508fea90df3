"""PURE. What the nulls of features say beside their values, in p-values."""

from __future__ import annotations

from collections.abc import Mapping

from stream_processors.comparing import holm
from stream_processors.comparing.statistics import WindowStatistics
from stream_processors.judging.panes import Key
from stream_processors.library.result import title

NAMED = 5  # features of a note


def either(told: WindowStatistics) -> float | None:
    """The p-value of values and nulls together; given that nobody has nulls, that of the values is enough."""
    if told.p_value is None:
        return told.null_p_value
    if told.null_p_value is None or not (told.nulls or told.null_ratio_reference):
        return told.p_value
    return min(1.0, 2 * min(told.p_value, told.null_p_value))


def decided_by_nulls(told: WindowStatistics) -> bool:
    """Whether `either` is the p-value of the nulls."""
    return told.null_p_value is not None and (told.p_value is None or told.null_p_value < told.p_value)


def nulls_moved(told: WindowStatistics) -> str:
    """Their share in the reference and in the window, and how likely that is of one share.

    >>> nulls_moved(WindowStatistics("numeric", 500, 500, 9_000, 0.05, null_ratio=0.5, null_ratio_reference=0.0, null_p_value=1e-9))
    'nulls 0.0% -> 50.0% (p 1e-09)'
    """
    was, now, p = told.null_ratio_reference or 0.0, told.null_ratio or 0.0, told.null_p_value
    digits = 1 if abs(now - was) >= 0.001 else 4
    return f"nulls {was:.{digits}%} -> {now:.{digits}%} (p {p:.2g})"


def beside_values(rule: str, told: Mapping[Key, WindowStatistics], alpha: float) -> str | None:
    """What a rule that looks at values only passes over; None while no share of nulls has moved."""
    p_values = {k: t.null_p_value for k, t in told.items() if t.null_p_value is not None}
    moved = [key for key, p in holm.adjusted(p_values).items() if p <= alpha]
    if not moved:
        return None
    named = "; ".join(f"{title(*k)}: {nulls_moved(told[k])}" for k in moved[:NAMED])
    more = f"; {len(moved) - NAMED} more" if len(moved) > NAMED else ""
    return f"rule {rule} looks at values only, and nulls alarm nobody: {named}{more}"
