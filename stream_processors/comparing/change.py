"""PURE. What happened, in a few words: the kind that a window's own statistics show, and its size by them.

The bank's best alternative is the nearest of a short list of small changes; beyond the list's ends it may be any of them. So
numbers are named by their quantiles: with m the reference's median, s its 5 to 95 % range / 3.29 (1 sd of a normal law), the
window's five quantiles are fitted by m + a s + b (q - m), least squares.

    all values x100 (shift +495 sd)      ratios of the quantiles agree within 10 %, a factor of 1.5 or more; nearer
                                         to 1 where a shift alone does not say it
    shift +0.52 sd (+5.2)                a, where it is beyond noise and b says less
    scale x1.8, shift -3 sd, scale x2    b, both
    60.0% of the rows above 2.26e+10     half of D or more lies beyond the last fence, infinities too: how far is not known
    90% or more near 0 (shift -5 sd)     quantiles that differ in the reference are one value: rows stuck at it
    60.0% or more other than 5           the reference holds one value; rows on both sides of it, or some of them still on it
    upper tail +2.1%, lower tail +2.1%   the quantiles do not show it and the list's best one is a tail: the share is D
    excess ..., shape ...                likewise; the place is that of the list, the size D
    nulls 0.1% -> 12.3%, new values 4.0% their shares
    web +12.1%                           categories: the share that moved most

Noise is 2.5 / sqrt(n) of s, and as much again of the reference. A quantile beyond the reference's range is known to 4.5 % of
the way there, so a scale is told only where it is more than that. Where D is beyond its critical
value but no shift or scale explains the quantiles, it is a tail if D is attained in the reference's last 5 % on that side,
else a shape. What no statistic shows keeps the list's name: a window is an hour, say, and the evidence may come from its
last minutes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from math import copysign, exp, inf, isfinite, log, sqrt

from stream_processors.comparing.categories import NEW
from stream_processors.comparing.law import QUANTILES
from stream_processors.comparing.statistics import WindowStatistics

SPREAD = 3.29  # 95 % quantile - 5 % quantile of a normal law, in sd
LONG = 1e6  # no more digits than three from here
NOISE = 2.5  # sd of a quantile at 5 or 95 % times sqrt(n), rounded up
RESOLUTION = 0.15  # of the way: differences between two quantiles beyond the range
ALIKE = 0.1  # logarithms of ratios differ by less from the median of the five and are one factor
FACTORS = 700.0  # the largest logarithm of a factor that is told
FACTOR, FAR_FACTOR = 1.5, 5.0  # the least that is told of five; of four, for one may lie in a wide gap of few values
STUCK = 0.3  # of the rows at one value that are told if they are no tail: three of the five quantiles
ALL_MOVED = 0.9  # distance from which on no part of the rows has stayed where it was
FARTHEST = 1e100  # sd; no fit beyond
FITTING, CLOSE = 0.3, 0.25  # what a fit may leave of the quantiles' moves; by how much of itself one factor may differ
_NULLS = re.compile(r"nulls (\+\d+%|x[\d.]+)")


def named(told: WindowStatistics, nearest: str | None) -> str | None:
    """The change between reference and window; None where nothing stood out (`nearest`, the bank's best alternative).

    >>> told = WindowStatistics("numeric", 400, 0, 9_000, 0.05, quantiles_reference=(34.0, 43.0, 50.0, 57.0, 66.0),
    ...                         quantiles_window=(3400.0, 4300.0, 5000.0, 5700.0, 6600.0))
    >>> named(told, "scale x1.5")
    'all values x100 (shift +509 sd)'
    """
    if nearest is None:
        return None
    nulls = _nulls(told) if told.undefined is not None or _NULLS.fullmatch(nearest) else None
    if nulls or told.undefined is not None:
        return nulls or nearest
    if told.kind == "categorical":
        return _moved_share(told) or nearest
    return _off_scale(told) or _moved_numbers(told) or _sized(told, nearest)


def _nulls(told: WindowStatistics) -> str | None:
    was, now = told.null_ratio_reference, told.null_ratio
    if was is None or now is None:
        return None
    if told.kind == "categorical" and (told.effect or 0.0) > abs(now - was):
        return _moved_share(told)  # a category may be called "nulls"
    return None if was == now else f"nulls {was:.1%} -> {now:.1%}"


def _moved_share(told: WindowStatistics) -> str | None:
    if not told.top_moves:
        return None
    name, moved = told.top_moves[0]
    return f"new values {told.new_share or 0.0:.1%}" if name == NEW else f"{name} {moved:+.1%}"


def _off_scale(told: WindowStatistics) -> str | None:
    """Rows beyond the last fence, where they are what the distance is made of."""
    for name, beyond in (("above", told.above_scale), ("below", told.below_scale)):
        if beyond is not None and beyond[0] >= (told.effect or 0.0) / 2:
            return f"{beyond[0]:.1%} of the rows {name} {_short(beyond[1])}"
    return None


def _moved_numbers(told: WindowStatistics) -> str | None:
    """None where the quantiles show no move of all values, or one that no shift and scale explain."""
    was, now = told.quantiles_reference, told.quantiles_window
    if was is None or now is None or not told.n:
        return None
    middle, spread = was[2], (was[4] - was[0]) / SPREAD
    far = (now[2] - middle) / spread if spread > 0 else inf
    by = f" (shift {_signed(far)} sd)" if isfinite(far) and isfinite(spread) else ""
    if stuck := _stuck(was, now):
        share, value = stuck
        if share == QUANTILES[-1] - QUANTILES[0]:
            return f"{share:.0%} or more near {_short(value)}{by}"
        if (told.effect or 0.0) < ALL_MOVED and _tail(told):
            return None
        if (told.effect or 0.0) < ALL_MOVED and share > STUCK:
            return f"{share:.0%} or more near {_short(value)}"
    if factor := _factor(was, now):
        return f"all values x{_short(factor)}{by}"
    if not (spread > 0 and isfinite(spread)):
        return _from_one_value(told, middle, now)
    place, moves = [(q - middle) / spread for q in was], [(b - a) / spread for a, b in zip(was, now, strict=True)]
    if not max(map(abs, moves)) < FARTHEST:
        return None
    shift, scale, left = _fitted(place, moves)
    noise = _noise(told)
    size = sqrt(sum(m * m for m in moves) / len(moves))
    if size <= noise or left > max(noise, FITTING * size):
        return None
    wide = abs(scale) * SPREAD > max(2 * noise, RESOLUTION * abs(shift)) and abs(scale) > 0.1 * abs(shift)
    if wide and (factor := _proportion(was, now, noise)):
        return f"all values x{_short(factor)}{by}"
    moved = abs(shift) > max(noise, 0.2 * abs(scale))
    parts = [f"shift {_signed(shift)} sd ({_signed(shift * spread)})"] if moved or not wide else []
    return ", ".join([*parts, f"scale x{_short(max(0.0, 1 + scale))}"] if wide else parts)


def _stuck(was: Sequence[float], now: Sequence[float]) -> tuple[float, float] | None:
    """(share at least, value) where quantiles that differed are one value now, by more than the width between fences."""
    runs = [(i, j) for i in range(4) for j in range(i + 1, 5) if now[i] == now[j]]
    i, j = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    apart = all(a < b for a, b in pairwise(was[i : j + 1])) and was[j] - was[i] > RESOLUTION * abs(now[i] - was[2])
    return (QUANTILES[j] - QUANTILES[i], now[i]) if j and apart else None


def _from_one_value(told: WindowStatistics, value: float, now: Sequence[float]) -> str | None:
    if (now[0] > value or now[4] < value) and isfinite(now[2] - value):
        return f"shift {_signed(now[2] - value)}"
    moved = told.effect is not None and told.critical_value is not None and told.effect > told.critical_value
    return f"{told.effect:.1%} or more other than {_short(value)}" if moved and isfinite(value) else None


def _factor(was: Sequence[float], now: Sequence[float]) -> float | None:
    """The one factor between all quantiles, if there is one far from 1."""
    if not (logs := _logs(was, now)) or abs(middle := sorted(logs)[2]) > FACTORS:
        return None
    alike, size = sum(abs(one - middle) <= ALIKE for one in logs), exp(abs(middle))
    return exp(middle) if (alike == 5 and size >= FACTOR) or (alike == 4 and size >= FAR_FACTOR) else None


def _proportion(was: Sequence[float], now: Sequence[float], noise: float) -> float | None:
    """The factor, however near to 1, if the quantiles' ratios agree for what they are."""
    if not (logs := _logs(was, now)) or abs(middle := sorted(logs)[2]) > FACTORS:
        return None
    spread = abs(log(abs(was[4])) - log(abs(was[0]))) / SPREAD
    alike = max(abs(one - middle) for one in logs) <= max(noise * spread, CLOSE * abs(middle))
    return exp(middle) if alike else None


def _logs(was: Sequence[float], now: Sequence[float]) -> list[float]:
    """Of the ratios; none if a quantile is 0 or has changed its sign, or not all have the same."""
    same = len({copysign(1, q) for q in (*was, *now)}) == 1 and 0 not in (*was, *now)
    return [log(abs(b)) - log(abs(a)) for a, b in zip(was, now, strict=True)] if same else []


def _fitted(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(a, b, what is left, rms) of y = a + b x."""
    n, mean_x, mean_y = len(x), sum(x) / len(x), sum(y) / len(y)
    b = sum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True)) / sum((u - mean_x) ** 2 for u in x)
    a = mean_y - b * mean_x
    return a, b, sqrt(sum((v - a - b * u) ** 2 for u, v in zip(x, y, strict=True)) / n)


def _sized(told: WindowStatistics, nearest: str) -> str:
    """The list's kind and place, with the window's own size."""
    d = told.effect
    if nearest.startswith("new values"):
        return nearest if told.new_share is None else f"new values {told.new_share:.1%}"
    if d is None:
        return nearest
    if nearest.startswith("upper tail" if told.sign >= 0 else "lower tail"):
        return f"{nearest[:10]} +{d:.1%}"
    place = re.fullmatch(r"excess \d+% in (quantiles .*)", nearest)
    if place:
        return f"excess of {d:.1%} or more in {place[1]}"
    if nearest.startswith("shape"):
        return f"shape, distance {d:.3f}"
    shown = told.critical_value is not None and d > told.critical_value
    if shown and (tail := _tail(told)):
        return f"{tail} +{d:.1%}"
    if (
        nearest.startswith("shift")
        and told.mean_shift is not None
        and (told.mean_shift > 0) == ("+" in nearest)
        and not (shown and abs(told.mean_shift) < _noise(told))
    ):
        return f"shift {_signed(told.mean_shift)} sd"
    return f"shape, distance {d:.3f}" if shown or _NULLS.fullmatch(nearest) else nearest


def _noise(told: WindowStatistics) -> float:
    return NOISE * sqrt(1 / told.n + 1 / max(1, told.reference_n))


def _tail(told: WindowStatistics) -> str | None:
    """The side on which rows lie farther out than the reference's, if the distance is attained in its last 5 %."""
    was, at = told.quantiles_reference, told.at
    if was is None or not isinstance(at, float) or was[0] == was[4]:
        return None
    upper, lower = told.sign > 0 and at >= was[4], told.sign < 0 and at <= was[0]
    return "upper tail" if upper else "lower tail" if lower else None


def _signed(value: float) -> str:
    return f"{value:+.0f}" if 1000 <= abs(value) < LONG else f"{value:+.3g}"


def _short(value: float) -> str:
    return f"{value:.0f}" if 1000 <= value < LONG else f"{value:.3g}"
