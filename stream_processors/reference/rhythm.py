"""PURE. Whether a feature has a daily or weekly rhythm, and which stretches of the week get a law of their own.

Knows the coarse cell and the event time of each reference row, nothing of the stream. The arrival rate is no rhythm: only
what the values are by the hour counts.

Test. The cells are scored with up to 16 functions that are orthonormal under the pool (numbers: Legendre polynomials of the
rank, of order 1 to 4; categories: one a cell; nulls: one). For each score, hours of one day are compared with the same hours
of other days: F = (variation between hours of day) / (variation of one hour between days), whose denominator holds
whatever makes rows of an hour alike, so that dependence within hours is not taken for a rhythm. Fisher's law of F, Bonferroni
over scores, features and segments: SIZE in all. It takes three days. Weekdays likewise: means and first harmonics of the
days, without the hours' effect, F between weekdays over days of one weekday; it takes fourteen days.

Size. The same scores say how far the slots' laws lie from the pool: the root of the sum over scores of the variance of slot
means without noise is, for a shift, its size in standard deviations (the chi distance). Below SMALLEST, rms over the day,
a rhythm is left alone: it is a wave of 0.035 sd, and half the bank's smallest alternative gathers no evidence. Weekdays
that do not differ share their slots from the start (`plans`). What a law of several weekdays or hours hides is found afterwards
(`departures`); where that sets hours apart, weekdays are kept and hours merged instead if it loses fewer rows,
and where the rest of the week has no rhythm without them, it has one law.

Cost O(rows) + O(stretches * cells * scores). Reference: Scheffe, The Analysis of Variance, 1959.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from stream_processors.reference import departures, plans
from stream_processors.reference.plans import ALIKE, FLOOR
from stream_processors.reference.slots import MONDAY, UNMATCHED, Slots

SIZE = 0.01  # chance of a rhythm found anywhere, where there is none
SMALLEST = 0.025  # rms over the day, in standard deviations of a shift
STEEP = 0.03  # rms of a shift within an hour above which quarters of an hour are told apart
QUARTER_ROWS = 8_000  # rows of a slot of a quarter of an hour; fewer cost more than they mend
DAYS, WEEK_DAYS = 3, 14  # that a daily and a weekly rhythm take to be seen
HOUR, DAY = 3_600_000, 86_400_000
CUTS = (24, 12, 8, 6, 4, 3, 2, 1)  # stretches of a day
ORDERS, MOST_SCORES = (1, 2, 3, 4), 16


@dataclass(frozen=True, slots=True)
class Found:
    """A plan of slots, not yet counted, or None; and what was measured, found or not."""

    plan: Slots | None
    evidence: Mapping[str, float]


def find(
    codes: np.ndarray,
    shares: np.ndarray,
    ordered: bool,
    times: np.ndarray,
    *,
    pane: int,
    asked: str = "auto",
    tests: int = 1,
) -> Found:
    """The rhythm of one feature: `codes` are the coarse cells of its rows, `times` their event times (ms).

    `asked` is the contract's word: `auto` decides by test, `hour` and `week` take slots without one, `none` none. A pane is
    judged by the slot that it begins in, so no stretch is shorter than a pane.
    """
    if asked == "none" or not len(codes):
        return Found(None, {})
    phi = scores(shares, ordered)
    whole = _shape(codes, times, phi, asked, tests)
    valued = codes < len(shares) - 1
    fine = 4 if whole.steep >= STEEP and valued.sum() >= 96 * QUARTER_ROWS else 1
    cuts = [c for c in (24 * fine, *CUTS) if DAY // c % pane == 0 or 4 * pane <= DAY // c]
    if not cuts:
        return Found(None, whole.evidence)
    ways, merged = [None], {}
    if whole.rhythmic:
        ways, merged = plans.ways(times[valued], cuts[0] if whole.hourly else 1, whole.finest)
    if UNMATCHED in merged or whole.evidence["days"] <= 7 or not phi.shape[1] or valued.sum() < FLOOR:
        return Found(ways[0], {**whole.evidence, **merged})
    weeks = departures.weeks_of(codes, times, phi, cuts[0])
    plan, lost = min((departures.split(weeks, way, FLOOR, tests) for way in ways), key=lambda found: found[1])
    if whole.rhythmic and asked == "auto":  # perhaps those that depart are all there is
        alone, less = departures.split(weeks, None, FLOOR, tests)
        if alone is not None and plan is not None and less <= lost and len(alone.names) < len(plan.names):
            rest = alone.at_each(times) == 0
            if not _shape(codes[rest], times[rest], phi, asked, tests).rhythmic:
                return Found(alone, whole.evidence)
    return Found(plan, {**whole.evidence, **merged})


@dataclass(frozen=True, slots=True)
class _Shape:
    """By what the rows' law goes: the hour, weekdays at most as `finest` parts them."""

    hourly: bool
    finest: int
    steep: float
    evidence: Mapping[str, float]

    @property
    def rhythmic(self) -> bool:
        return self.hourly or self.finest != ALIKE


def _shape(codes: np.ndarray, times: np.ndarray, phi: np.ndarray, asked: str, tests: int) -> _Shape:
    day = times // DAY
    days = int(day.max() - day.min()) + 1
    evidence: dict[str, float] = {"days": days}
    hourly, finest, steep = asked in ("hour", "week"), 0 if asked == "week" else ALIKE, 0.0
    if days >= DAYS and phi.shape[1]:
        p, size, steep = _hours(codes, times, phi)
        evidence |= {"hour_p_value": min(1.0, p * tests), "hour_size": size, "hour_steepness": steep}
        hourly = hourly or (asked == "auto" and p * tests < SIZE / 2 and size >= SMALLEST)
    if days >= WEEK_DAYS and phi.shape[1]:
        weekdays = _Weekdays(codes, times, phi)
        p, size = weekdays.test(range(7))
        evidence |= {"week_p_value": min(1.0, p * tests), "week_size": size}
        if asked == "auto" and p * tests < SIZE / 2 and size >= SMALLEST:
            finest = weekdays.partition(SIZE / 2 / tests)
            hourly = hourly or weekdays.shaped
    return _Shape(hourly, finest, steep, evidence)


def scores(shares: np.ndarray, ordered: bool) -> np.ndarray:
    """float64[cells, S]: functions of the cell with mean 0 and variance 1 under the shares, uncorrelated.

    The shares are those of all cells, `unseen` and `null` the last two.
    """
    values, size = shares[:-2], len(shares)
    columns = []
    if ordered:
        held = max(float(values.sum()), 1e-300)
        rank = (np.cumsum(values) - values / 2) / held
        columns += [np.append(special.eval_legendre(k, 2 * rank - 1), (0.0, 0.0)) for k in ORDERS]
        if len(values) <= MOST_SCORES // 2:
            columns = [np.eye(size)[k] for k in range(len(values))]
    else:
        top = np.argsort(-values, kind="stable")[:MOST_SCORES]
        columns += [np.eye(size)[k] for k in np.sort(top)]
    columns += [np.eye(size)[size - 2], np.eye(size)[size - 1]]
    kept: list[np.ndarray] = []
    for column in columns:  # Gram-Schmidt under the shares
        left = column - shares @ column
        for one in kept:
            left = left - (shares * one) @ left * one
        spread = np.sqrt(shares @ np.square(left))
        if spread > 1e-6 * max(1.0, np.sqrt(shares @ np.square(column))) and spread > 1e-4:
            kept.append(left / spread)
    return np.stack(kept, 1) if kept else np.empty((size, 0))


def _sums(codes: np.ndarray, of: np.ndarray, number: int, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, sums of each score) by group."""
    size = len(phi)
    held = np.bincount(of * size + codes, minlength=number * size).reshape(number, size)
    return held.sum(1), held @ phi


def _hours(codes: np.ndarray, times: np.ndarray, phi: np.ndarray) -> tuple[float, float, float]:
    """(p-value, size, steepness within an hour) of the daily rhythm."""
    first = int(times.min()) // DAY
    days = int(times.max()) // DAY - first + 1
    n, total = _sums(codes, (times - first * DAY) // HOUR, days * 24, phi)
    group = np.arange(days * 24) % 24
    p, size, means = _nested(n, total, group, 24)
    slope = (np.roll(means, -1, 0) - np.roll(means, 1, 0)) / 2
    held = np.bincount(group, weights=n, minlength=24)
    noise = means.shape[1] / (2 * max(1.0, float(held.mean())))
    steep = np.sqrt(max(0.0, float(np.square(slope).sum(1).max()) - 3 * noise) / 12)
    return p, size, float(steep)


class _Weekdays:
    """What weekdays add to the hours: by day, the mean of each score without the hours' effect, and its first harmonic."""

    def __init__(self, codes: np.ndarray, times: np.ndarray, phi: np.ndarray):
        first = int(times.min()) // DAY
        days = int(times.max()) // DAY - first + 1
        n, total = _sums(codes, (times - first * DAY) // HOUR, days * 24, phi)
        hour = np.arange(days * 24) % 24
        held = np.bincount(hour, weights=n, minlength=24)
        means = np.stack([np.bincount(hour, weights=column, minlength=24) for column in total.T], 1)
        left = total - n[:, None] * (means / np.maximum(1, held)[:, None])[hour]
        wave = 2 * np.pi * np.arange(24) / 24
        parts = [np.ones(24), np.sqrt(2) * np.cos(wave), np.sqrt(2) * np.sin(wave)]
        self._daily = [(left.reshape(days, 24, -1) * part[:, None]).sum(1) for part in parts]
        self._n = n.reshape(days, 24).sum(1)
        self._weekday = (first + np.arange(days) - MONDAY // DAY) % 7
        self.shaped = False  # whether the difference is one of the hours' profile

    def test(self, among: range) -> tuple[float, float]:
        """(p-value, size) of differences among these weekdays."""
        days = np.isin(self._weekday, among)
        found = [_nested(self._n[days], daily[days], self._weekday[days], 7)[:2] for daily in self._daily]
        p = [f[0] for f in found]
        if len(among) == 7:
            self.shaped = min(p[1:]) < p[0]
        return min(1.0, min(p) * len(p)), float(np.sqrt(sum(f[1] ** 2 for f in found)))

    def partition(self, alpha: float) -> int:
        """The finest partition of the weekdays that shows; some difference among all seven has been found."""
        if self.test(range(5))[0] < alpha:
            return 0
        return 1 if self.test(range(5, 7))[0] < alpha else 2


def _nested(n: np.ndarray, total: np.ndarray, group: np.ndarray, groups: int) -> tuple[float, float, np.ndarray]:
    """(p-value by Bonferroni over scores, size without noise, means by group) of groups over bins within groups."""
    held = np.bincount(group, weights=n, minlength=groups)
    sums = np.stack([np.bincount(group, weights=column, minlength=groups) for column in total.T], 1)
    used = held > 0
    means = np.where(used[:, None], sums / np.maximum(1, held)[:, None], 0.0)
    whole = total.sum(0) / max(1, n.sum())
    between = (held[:, None] * np.square(means - whole))[used].sum(0)
    bins = n > 0
    own = total[bins] / n[bins, None]
    within = (n[bins, None] * np.square(own - means[group[bins]])).sum(0)
    top, bottom = int(used.sum()) - 1, int(bins.sum()) - int(used.sum())
    if top < 1 or bottom < 1:
        return 1.0, 0.0, means
    noise = within / bottom
    ratio = between / top / np.maximum(noise, 1e-300)
    p = float(special.fdtrc(top, bottom, ratio).min()) * total.shape[1]
    size = float(np.sqrt(max(0.0, float((between - top * noise).sum()) / n.sum())))
    return min(1.0, p), size, means
