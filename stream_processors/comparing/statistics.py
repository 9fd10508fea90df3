"""PURE. What a closed window says beside its reference, for people: distances, p-values, critical values, quantiles.

Everything comes from the counts, so it is the same whatever way the rows came. None and a reason where there is nothing to
say, never NaN: `undefined` for the whole window (too few rows, empty), `unsaid` for one figure of it (a constant reference
has no deciles and no spread; infinite values have no mean). Nothing here raises an alarm under the default rule: at a p-value of 5 % twelve features would page 666
times a day of one-minute windows. Categories are compared in `categories`, p-values are in `p_values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import msgspec
import numpy as np
from numba import njit

from stream_processors.comparing.categories import CategoryFacts, compare_categories, jensen_shannon, psi
from stream_processors.comparing.law import QUANTILES, Law, law_of
from stream_processors.comparing.p_values import (
    cramer_von_mises_p_value,
    ks_critical_value,
    ks_p_value,
    share_p_value,
)
from stream_processors.reference.cells import FeatureReference, inside
from stream_processors.reference.counts import Counts

SMALLEST_WINDOW = 5  # rows with a value
SCALED = ("psi", "js", "mean_shift")  # against the reference's own spread
FIGURES = (
    *("at", *SCALED, "quantiles_reference", "quantiles_window", "quantile_shifts"),
    *("cramer_von_mises", "cvm_p_value", "wasserstein"),
)  # of numbers, that one window may have and another not
CONSTANT = "the reference holds one value"
INFINITE = "infinite values, or too large ones"


class WindowStatistics(msgspec.Struct, frozen=True, gc=False):
    """One feature of one window against its reference; every float is finite."""

    kind: Literal["numeric", "categorical"]
    n: int  # rows with a value
    nulls: int
    reference_n: int  # rows of the law that the window was compared with
    alpha: float
    undefined: str | None = None  # why there is no statistic
    statistic: float | None = None  # K-S distance; Jensen-Shannon distance (base 2, in [0, 1]) of categories
    p_value: float | None = None  # K-S; chi-square of homogeneity for categories
    critical_value: float | None = None  # of `statistic` at alpha
    at: float | str | None = None  # where the distance is attained: a value; the category whose share moved most
    sign: int = 0  # +1: the window lies above the reference (larger values; a larger share), -1 below
    effect: float | None = None  # D; the largest move of a share
    psi: float | None = None
    js: float | None = None
    null_ratio: float | None = None
    null_ratio_reference: float | None = None
    mean_shift: float | None = None  # in standard deviations of the reference
    quantiles_reference: tuple[float, ...] | None = None  # at 5, 25, 50, 75, 95 %
    quantiles_window: tuple[float, ...] | None = (
        None  # to the nearest reference value; beyond the range to 4.5 % of the way
    )
    cramer_von_mises: float | None = None
    cvm_p_value: float | None = None
    wasserstein: float | None = None  # in units of the feature
    quantile_shifts: tuple[float, ...] | None = None  # window - reference, in units of the feature
    g_statistic: float | None = None  # likelihood-ratio test of homogeneity of categories
    g_p_value: float | None = None
    null_p_value: float | None = None  # of the share of nulls, exact
    reject_p_value: float | None = None  # of the share of rejected records, exact; of the rejects alone
    new_share: float | None = None  # categories, few-valued numbers: never seen; other numbers: out of the range seen
    above_scale: tuple[float, float] | None = None  # (share of the rows beyond the last fence, which it is)
    below_scale: tuple[float, float] | None = None
    vanished: tuple[str, ...] = ()  # categories that the window should hold five of and lacks; the 10 most frequent
    top_moves: tuple[tuple[str, float], ...] = ()  # (category, share of the window - share of the reference)
    unsaid: Mapping[str, str] = {}  # figure that is None although others are not -> why

    @property
    def reasons(self) -> Mapping[str, str]:
        """Figure -> why it is None; of a window without any statistic under `statistic`."""
        return {"statistic": self.undefined} if self.undefined else self.unsaid


@dataclass(frozen=True, slots=True)
class KsResult:
    statistic: float
    sign: int  # +1: the window's values are larger there
    at: float


def compare(
    reference: FeatureReference, counts: Counts, alpha: float = 0.05, slot_rows: Mapping[int, int] | None = None
) -> WindowStatistics:
    """Everything that is published about one window; `slot_rows` = its rows by slot, if the reference has slots."""
    if reference.kind == "categorical":
        n = counts.rows
        reason = undefined(n, n + counts.nulls, reference.rows)
        return _of_categories(compare_categories(reference, counts, alpha, slot_rows, reason), counts, alpha)
    law, every = law_of(reference, slot_rows), counts
    counts = inside(reference, every)
    n, total, rows = counts.rows, counts.rows + counts.nulls, round(law.rows)
    null_p = share_p_value(counts.nulls, total, law.nulls, law.source_rows + law.nulls) if total and rows else None
    nulls = {
        "null_ratio": counts.nulls / total if total else None,
        "null_ratio_reference": law.null_ratio,
        "null_p_value": null_p,
    }
    if reason := undefined(n, total, rows):
        return WindowStatistics("numeric", n, counts.nulls, rows, alpha, reason, **nulls)
    found = ks(reference, counts, law)
    window, was = _deciles(law, counts)
    places, held = _places(reference, every)
    constant = len(law.values) == 1
    cvm = cramer_von_mises(counts, law) if not (constant and found.statistic == 0) else None
    own = places[np.searchsorted(np.cumsum(held.n), np.array(QUANTILES) * n)]
    above, below = _off_scale(reference, every)
    with np.errstate(invalid="ignore", over="ignore"):
        shifts = own - law.quantiles
    told = WindowStatistics(
        "numeric", n, counts.nulls, rows, alpha, None, found.statistic, ks_p_value(found.statistic, n, rows),
        ks_critical_value(n, rows, alpha), _finite(found.at), found.sign, found.statistic,
        None if constant else psi(was, window), None if constant else jensen_shannon(was, window),
        mean_shift=_mean_shift(law, held, places), quantiles_reference=_all_finite(law.quantiles), quantiles_window=_all_finite(own),
        cramer_von_mises=cvm, cvm_p_value=None if cvm is None else cramer_von_mises_p_value(cvm, n, rows), wasserstein=wasserstein(law, held, places),
        quantile_shifts=_all_finite(shifts), new_share=_new_share(reference, counts), above_scale=above, below_scale=below, **nulls,
    )  # fmt: skip
    unsaid = {name: _why(name, constant) for name in FIGURES if getattr(told, name) is None}
    return msgspec.structs.replace(told, unsaid=unsaid) if unsaid else told


def _why(figure: str, constant: bool) -> str:
    """Why this figure of numbers is None."""
    if constant and figure.startswith(("cramer", "cvm")):
        return "reference and window hold the same one value, so ranks say nothing"
    return CONSTANT if constant and figure in SCALED else INFINITE


def undefined(n: int, total: int, rows: int) -> str | None:
    """Why a window of `total` rows, `n` of them with a value, cannot be compared with a reference of `rows`."""
    return (
        "reference without values" if not rows
        else "no rows" if not total
        else "only nulls" if not n
        else f"{n} row{'s' * (n != 1)} with a value, fewer than {SMALLEST_WINDOW}" if n < SMALLEST_WINDOW
        else None
    )  # fmt: skip


def ks(reference: FeatureReference, counts: Counts, law: Law | None = None) -> KsResult:
    """Two-sample Kolmogorov-Smirnov distance sup |F - G|, exact under ties.

    F is constant between reference values and G is monotone, so the supremum over a gap lies at its ends: it is enough to
    know how many values fell into each gap and on each reference value. In integers, max |R G - n F| / (n R); one division.
    Cost O(cells that hold a value). Reference: Smirnov 1948, doi:10.1214/aoms/1177730256.
    """
    law, counts = law_of(reference, None) if law is None else law, inside(reference, counts)
    n, rows, codes = counts.rows, law.rows, counts.codes
    if law.codes is None:
        best, numerator = _largest_of_all(counts.codes, counts.n, law.upto_each, len(law.values) == rows, n, rows)
    else:
        best, numerator = _largest(counts.n, law.before(codes), law.upto(codes), n, rows)
    where, values = int(codes[best % len(codes)] >> 1), reference.values
    at = values[min(max(0, where - (best < len(codes))), len(values) - 1)]
    return KsResult(float(abs(numerator) / (n * rows)), -int(np.sign(numerator)), float(at))


@njit(cache=True, nogil=True)
def _largest(counts, before, upto, n, rows):
    """(index of the largest |R G - n F|, that number): an index below len(counts) is just before a value, others on one."""
    at, best, seen = 0, 0 * rows, 0
    for i in range(counts.size):
        left = rows * seen - n * before[i]
        seen += counts[i]
        right = rows * seen - n * upto[i]
        if abs(left) > abs(best):
            at, best = i, left
        if abs(right) > abs(best):
            at, best = counts.size + i, right
    return at, best


@njit(cache=True, nogil=True)
def _largest_of_all(codes, counts, upto_each, untied, n, rows):
    """The same where the law gives mass to every value of the reference; without ties their index is their rank."""
    at, best, seen = 0, 0 * rows, 0
    for i in range(counts.size):
        before, upto = np.int64(codes[i]) >> 1, (np.int64(codes[i]) + 1) >> 1
        if not untied:
            before, upto = upto_each[before], upto_each[upto]
        left = rows * seen - n * before
        seen += counts[i]
        right = rows * seen - n * upto
        if abs(left) > abs(best):
            at, best = i, left
        if abs(right) > abs(best):
            at, best = counts.size + i, right
    return at, best


def bracket(reference: FeatureReference, coarse: np.ndarray, slot: int | None = None) -> tuple[float, float]:
    """(low, high) that hold the exact K-S distance for certain, from the coarse counts alone.

    Both distribution functions are known at the cells' upper ends; inside a cell both are monotone, so |F - G| is at most
    max(F before the upper end - G at the lower, G at the upper end - F at the lower). With R rows in cells of about R/512,
    high - low is at most about 1/512. Of a feature with few values, rows between them (unseen) may lie anywhere.
    Cost O(cells).
    """
    was = reference.cell_rows if slot is None else reference.slot_cell_rows(slot)
    f, g, unseen = was[:-2], coarse[:-2], int(coarse[-2])
    rows, n = int(f.sum()), int(g.sum()) + unseen
    if not rows or not n:
        return 0.0, 1.0
    upto_f, upto_g = np.cumsum(f), np.cumsum(g)
    before_f, before_g = upto_f - f, upto_g - g
    # G at an end lies between upto_g and upto_g + unseen
    above, below = rows * upto_g - n * upto_f, n * upto_f - rows * (upto_g + unseen)
    low = max(0, int(above.max()), int(below.max()))
    ends = max(0, int((above + rows * unseen).max()), int((n * upto_f - rows * upto_g).max()))
    inside = np.maximum(n * upto_f - rows * before_g, rows * (upto_g + unseen) - n * before_f)
    wide = (f > 0) & (g > 0) if not reference.discrete else _several(reference)
    if unseen:
        wide = np.ones(len(f), bool)
    high = max(ends, int(inside[wide].max(initial=0)))
    return low / (n * rows), min(1.0, high / (n * rows))


def cramer_von_mises(counts: Counts, law: Law) -> float:
    """Two-sample Cramer-von Mises statistic T = nR / N^2 * sum over the pooled rows of (F - G)^2, N = n + R.

    Anderson's T, equal to scipy's where values are distinct. Among t equal rows, a of them the window's and b the
    reference's, F - G is a bridge from d to d + e; its mean over all orders enters, in closed form,
    t d^2 + d e (t + 1) + e^2 (t + 1)(2t + 1) / (6t) + (1/n + 1/R)^2 a b (t + 1) / (6t): the p-value errs to the safe side.
    Rows of the window in a gap, or of the reference between two window rows, are such a group too, and exact: O(cells
    that hold a value). Reference: Anderson 1962, doi:10.1214/aoms/1177704477.
    """
    n, rows, codes = float(counts.rows), float(law.rows), counts.codes.astype(np.int64)
    total = _bridges(law.before(codes), law.upto(codes), counts.n, n, rows)
    return float(total * n * rows / (n + rows) ** 2)


@njit(cache=True, nogil=True)
def _bridges(before, upto, counts, n, rows):
    """Sum of (F - G)^2 over the groups that the window's places cut the pooled rows into."""
    total, seen, left = 0.0, 0.0, 0.0
    for i in range(counts.size):
        total += _bridge(seen / n, left, before[i] - left, 0.0, n, rows)
        total += _bridge(seen / n, before[i], upto[i] - before[i], counts[i], n, rows)
        seen, left = seen + counts[i], np.float64(upto[i])
    return total + _bridge(1.0, left, rows - left, 0.0, n, rows)


@njit(cache=True, inline="always")
def _bridge(g, start, b, a, n, rows):
    """Of one group of a + b rows in any order, F and G being start / rows and g before it."""
    t, d, e = a + b, start / rows - g, b / rows - a / n
    if not t > 0:
        return 0.0
    inner = (t + 1) * (e * e * (2 * t + 1) + (1 / n + 1 / rows) ** 2 * a * b) / (6 * t)
    return t * d * d + d * e * (t + 1) + inner


def wasserstein(law: Law, counts: Counts, places: np.ndarray) -> float | None:
    """Wasserstein-1 distance, the integral of |F - G|, in units of the feature; None where it is not finite.

    Exact but for where a row lies within its gap: it is put in the middle, beyond the reference's range in the middle
    between two fences, that is to 4.5 % of the way, and at the last fence beyond it. `counts` are in the order of `places`,
    with the codes that there are without fences. Between two rows of the window G is constant and F monotone: the integral
    is split where they cross. Cost O(cells that hold a value).
    """
    codes = counts.codes.astype(np.int64)
    index = law.index_upto(codes)
    with np.errstate(all="ignore"):
        found = _area_between(places, counts.n, index, law.values, law.upto_each, law.area, float(law.rows))
    return None if np.isnan(found) else _finite(max(0.0, found))


@njit(cache=True, nogil=True)
def _area_between(places, counts, index, values, upto_each, area, rows):
    """Integral of |F - G|; `index` values of the law lie at or below each place of the window."""
    last, n, total, seen = places.size - 1, counts.sum(), 0.0, 0
    if index[0] > 0:
        total += area[index[0] - 1] + upto_each[index[0]] / rows * (places[0] - values[index[0] - 1])
    for i in range(last):
        seen += counts[i]
        g, a, b, low, high = seen / n, places[i], places[i + 1], index[i], index[i + 1]
        if high > low and values[high - 1] == b:
            high -= 1  # F just before b
        whole = (
            _upto(b, high, values, upto_each, area, rows) - _upto(a, low, values, upto_each, area, rows) - g * (b - a)
        )
        if upto_each[low] / rows < g < upto_each[high] / rows:  # they cross
            while high - low > 1:
                middle = (low + high) >> 1
                if upto_each[middle] / rows < g:
                    low = middle
                else:
                    high = middle
            c = values[high - 1]
            early = (
                g * (c - a)
                - _upto(c, high, values, upto_each, area, rows)
                + _upto(a, index[i], values, upto_each, area, rows)
            )
            total += whole + 2 * early
        else:
            total += abs(whole)
    if index[last] < values.size:
        end = values[values.size - 1]
        total += (end - places[last]) - (
            area[values.size - 1] - _upto(places[last], index[last], values, upto_each, area, rows)
        )
    return total


@njit(cache=True, inline="always")
def _upto(x, index, values, upto_each, area, rows):
    """Integral of F up to x, `index` values at or below it."""
    return area[index - 1] + upto_each[index] / rows * (x - values[index - 1]) if index > 0 else 0.0


def _several(reference: FeatureReference) -> np.ndarray:
    """Which cells hold more than one value."""
    return np.bincount(reference.cell_of[1 : 2 * len(reference.values) : 2], minlength=reference.cells) > 1


def _of_categories(found: CategoryFacts, counts: Counts, alpha: float) -> WindowStatistics:
    return WindowStatistics(
        "categorical", counts.rows, counts.nulls, found.rows, alpha, found.undefined, found.js, found.p_value,
        found.critical_value, found.at, found.sign, found.effect, found.psi, found.js, found.null_ratio,
        found.null_ratio_reference, g_statistic=found.g_statistic, g_p_value=found.g_p_value, null_p_value=found.null_p_value,
        reject_p_value=found.reject_p_value, new_share=found.new_share, vanished=found.vanished, top_moves=found.top_moves, unsaid=found.unsaid,
    )  # fmt: skip


def _deciles(law: Law, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """(window, reference) counts between the law's deciles; fewer cells under ties, two at least if there are two values."""
    edges = law.tenths  # a cell goes up to and with its edge's value
    ends = 2 * edges + 1 if law.codes is None else law.codes[edges]
    cell = np.searchsorted(ends, counts.codes, side="left")
    window = np.bincount(cell, weights=counts.n, minlength=len(edges) + 1)
    return window, np.diff(np.concatenate(([0], law.upto_each[edges + 1], [law.rows])))


def _places(reference: FeatureReference, counts: Counts) -> tuple[np.ndarray, Counts]:
    """(the value that each code stands for, ascending: a gap's middle, the end for what lies just beyond it; the counts in that order)."""
    outside = reference.outside
    assert outside is not None
    if counts.codes[-1] > outside.inner:
        beyond, place = counts.codes > outside.inner, np.empty(len(counts.codes))
        place[beyond] = outside.places(counts.codes[beyond])
        place[~beyond] = _within(reference, counts.codes[~beyond])
        order = np.argsort(place, kind="stable")
        codes = outside.inside(counts.codes.astype(np.int64))[order]
        return place[order], Counts(codes.astype(np.uint32), counts.n[order], counts.nulls)
    return _within(reference, counts.codes), counts


def _off_scale(reference: FeatureReference, counts: Counts) -> list[tuple[float, float] | None]:
    """(share, fence) of the rows above and of those below the last fence."""
    outside, found = reference.outside, []
    assert outside is not None
    code = outside.inner
    if counts.codes[-1] <= code:
        return [None, None]
    for fences in (outside.above, outside.below):
        code += len(fences)
        at = int(np.searchsorted(counts.codes, np.uint32(code)))
        there = len(fences) and at < len(counts.codes) and counts.codes[at] == code
        found.append((int(counts.n[at]) / counts.rows, float(fences[-1])) if there else None)
    return found


def _within(reference: FeatureReference, codes: np.ndarray) -> np.ndarray:
    places = np.empty(len(codes))
    _stand(reference.values, codes, places)
    return places


@njit(cache=True, nogil=True)
def _stand(values, codes, places):
    """The value of each code; of a gap its middle, or the end that it lies beyond."""
    for i in range(codes.size):
        at = np.int64(codes[i]) >> 1
        if codes[i] & 1 or at == 0:
            places[i] = values[at]
        elif at == values.size:
            places[i] = values[at - 1]
        else:
            places[i] = values[at - 1] / 2 + values[at] / 2


def _mean_shift(law: Law, counts: Counts, places: np.ndarray) -> float | None:
    with np.errstate(all="ignore"):
        window = float(np.sum(places * (counts.n / counts.rows)))
        return _finite((window - law.mean) / law.spread) if law.spread > 0 else None


def _new_share(reference: FeatureReference, counts: Counts) -> float:
    gap = (counts.codes & 1) == 0
    if not reference.discrete:
        gap &= (counts.codes == 0) | (counts.codes == 2 * len(reference.values))
    return float(counts.n[gap].sum() / counts.rows)


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _all_finite(values: np.ndarray) -> tuple[float, ...] | None:
    told = tuple(values.tolist())
    return told if all(map(isfinite, told)) else None
