"""PURE. What a closed window says beside its reference, for people: distances, p-values, critical values, quantiles.

Everything comes from the counts, so it is the same whatever way the rows came. None and a reason where there is nothing to
say, never NaN. Nothing here raises an alarm under the default rule: at a p-value of 5 % twelve features would page 666
times a day of one-minute windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from scipy import special

from stream_processors.cells import Counts, FeatureReference

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALLEST_WINDOW = 5  # rows with a value
PSI_BINS = 10
SMALLEST_EXPECTED = 5.0  # rows expected in a cell of the chi-square test; cells with fewer are taken together
EXACT_PATHS = 200_000  # n * R up to which the two-sample law is counted path by path (0.4 ms)
EXACT_ROWS = 200  # effective rows up to which the one-sample law is exact


@dataclass(frozen=True, slots=True)
class WindowStatistics:
    """One feature of one window against its reference; every float is finite."""

    kind: Literal["numeric", "categorical"]
    n: int  # rows with a value
    nulls: int
    reference_n: int
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
    quantiles_window: tuple[float, ...] | None = None  # to the nearest reference value


@dataclass(frozen=True, slots=True)
class KsResult:
    statistic: float
    sign: int  # +1: the window's values are larger there
    at: float


def compare(reference: FeatureReference, counts: Counts, alpha: float = 0.05) -> WindowStatistics:
    """Everything that is published about one window."""
    n, rows = counts.rows, reference.rows
    total = n + counts.nulls
    nulls = counts.nulls / total if total else None
    facts = {"null_ratio": nulls, "null_ratio_reference": reference.null_ratio}
    reason = (
        "reference without values" if not rows
        else "no rows" if not total
        else "only nulls" if not n
        else f"{n} rows with a value, fewer than {SMALLEST_WINDOW}" if n < SMALLEST_WINDOW
        else None
    )  # fmt: skip
    if reason:
        return WindowStatistics(reference.kind, n, counts.nulls, rows, alpha, reason, **facts)
    if reference.kind == "categorical":
        return _compare_categories(reference, counts, alpha, facts)
    found = ks(reference, counts)
    window, was = _deciles(reference, counts)
    return WindowStatistics(
        "numeric", n, counts.nulls, rows, alpha, None, found.statistic, ks_p_value(found.statistic, n, rows),
        ks_critical_value(n, rows, alpha), _finite(found.at), found.sign, found.statistic, psi(was, window), jensen_shannon(was, window),
        **facts, mean_shift=_mean_shift(reference, counts), quantiles_reference=quantiles_reference(reference),
        quantiles_window=quantiles_window(reference, counts),
    )  # fmt: skip


def ks(reference: FeatureReference, counts: Counts) -> KsResult:
    """Two-sample Kolmogorov-Smirnov distance sup |F - G|, exact under ties.

    F is constant between reference values and G is monotone, so the supremum over a gap lies at its ends: it is enough to
    know how many values fell into each gap and on each reference value. In integers, max |R G - n F| / (n R); one division.
    Cost O(cells that hold a value). Reference: Smirnov 1948, doi:10.1214/aoms/1177730256.
    """
    n, rows, codes = counts.rows, reference.rows, counts.codes.astype(np.int64)
    after = np.cumsum(counts.n)
    place = codes >> 1
    padded = np.concatenate((np.zeros(1, np.int64), reference.cumulative))
    below = padded[place]  # reference rows before the value, or before its gap
    upto = np.where(codes & 1, padded[np.minimum(place + 1, len(reference.cumulative))], below)
    left = rows * (after - counts.n) - n * below  # R G - n F just before the value
    right = rows * after - n * upto
    both = np.concatenate((left, right))
    best = int(np.argmax(np.abs(both)))
    where = int(place[best % len(place)])
    values = reference.values
    at = values[min(max(0, where - (best < len(place))), len(values) - 1)]
    return KsResult(abs(int(both[best])) / (n * rows), -int(np.sign(both[best])), float(at))


def ks_p_value(distance: float, n: int, rows: int) -> float:
    """Two-sided p-value of the two-sample K-S distance.

    Exact by counting paths for small samples; by Marsaglia, Tsang and Wang (J. Stat. Softw. 8 (2003),
    doi:10.18637/jss.v008.i18) up to 200 effective rows nR / (n + R); above, Kolmogorov's limit with Stephens' correction
    (J. R. Stat. Soc. B 32 (1970) 115), which is within 0.01 of scipy's.

    >>> round(ks_p_value(0.05, 1_000, 100_000), 4)
    0.0136
    """
    if n * rows <= EXACT_PATHS:
        return float(min(1.0, max(0.0, 1.0 - _paths_inside(distance, min(n, rows), max(n, rows)))))
    effective = n * rows / (n + rows)
    if effective <= EXACT_ROWS:
        return _one_sample_p(distance, round(effective))
    root = np.sqrt(effective)
    return float(min(1.0, special.kolmogorov((root + 0.12 + 0.11 / root) * distance)))


def ks_critical_value(n: int, rows: int, alpha: float) -> float:
    """The distance whose p-value is alpha, by Kolmogorov's limit with Stephens' correction."""
    root = np.sqrt(n * rows / (n + rows))
    return float(min(1.0, special.kolmogi(alpha) / (root + 0.12 + 0.11 / root)))


def psi(reference: np.ndarray, window: np.ndarray) -> float:
    """Population stability index sum (g - f) log(g / f) over cells, half a row added to each."""
    f = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    g = (window + 0.5) / (window.sum() + 0.5 * len(window))
    return float(np.sum((g - f) * np.log(g / f)))


def jensen_shannon(reference: np.ndarray, window: np.ndarray) -> float:
    """Jensen-Shannon distance: the square root of the divergence to base 2; 0 = equal, 1 = nothing in common."""
    f, g = reference / reference.sum(), window / window.sum()
    middle = (f + g) / 2
    divergence = float(np.sum(special.rel_entr(f, middle) + special.rel_entr(g, middle)) / 2 / np.log(2))
    return float(np.sqrt(min(1.0, max(0.0, divergence))))


def chi_square(reference: np.ndarray, window: np.ndarray) -> tuple[float, int]:
    """(Pearson's statistic of homogeneity of two samples, degrees of freedom); cells without a row in both are skipped."""
    used = (reference + window) > 0
    r, w = reference[used].astype(np.float64), window[used].astype(np.float64)
    rows, n = r.sum(), w.sum()
    statistic = np.sum(np.square(np.sqrt(rows / n) * w - np.sqrt(n / rows) * r) / (r + w))
    return float(statistic), int(used.sum()) - 1


def quantiles_reference(reference: FeatureReference) -> tuple[float, ...] | None:
    at = np.searchsorted(reference.cumulative, np.array(QUANTILES) * reference.rows)
    return _all_finite(reference.values[np.minimum(at, len(reference.values) - 1)])


def quantiles_window(reference: FeatureReference, counts: Counts) -> tuple[float, ...] | None:
    """Read from the cells: a value in a gap stands at the gap's middle, one beyond the reference at its end."""
    at = np.searchsorted(np.cumsum(counts.n), np.array(QUANTILES) * counts.rows)
    return _all_finite(_places(reference, counts)[np.minimum(at, len(counts.n) - 1)])


def _compare_categories(
    reference: FeatureReference, counts: Counts, alpha: float, facts: dict[str, float | None]
) -> WindowStatistics:
    dense = np.zeros(len(reference.counts) + 1, np.int64)
    dense[counts.codes] = counts.n
    was = np.append(reference.counts, 0)
    n, rows = counts.rows, reference.rows
    moves = dense / n - was / rows
    most = int(np.argmax(np.abs(moves)))
    r, w = _together(was, dense)
    statistic, freedom = chi_square(r, w)
    distance = jensen_shannon(r, w)
    p_value = float(special.chdtrc(freedom, statistic)) if freedom > 0 else 1.0
    return WindowStatistics(
        "categorical", n, counts.nulls, rows, alpha, None, distance, min(1.0, max(0.0, p_value)),
        _js_critical_value(freedom, n, rows, alpha), reference.categories[most] if most < len(reference.categories) else "(new)",
        int(np.sign(moves[most])), float(abs(moves[most])), psi(r, w), distance, **facts,
    )  # fmt: skip


def _js_critical_value(freedom: int, n: int, rows: int, alpha: float) -> float | None:
    """The chi-square quantile as a Jensen-Shannon distance: for near samples chi2 = 8 n R / (n + R) * divergence (nats)."""
    if freedom < 1:
        return None
    divergence = special.chdtri(freedom, alpha) * (n + rows) / (8 * n * rows)
    return float(min(1.0, np.sqrt(divergence / np.log(2))))


def _together(reference: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells with fewer than five rows expected in the window taken together, the never seen value among them."""
    n, rows = window.sum(), reference.sum()
    small = (reference + window) * (n / (n + rows)) < SMALLEST_EXPECTED
    if not small.any():
        return reference, window
    r = np.append(reference[~small], reference[small].sum())
    w = np.append(window[~small], window[small].sum())
    return r, w


def _deciles(reference: FeatureReference, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """(window, reference) counts between the reference's deciles; fewer cells under ties."""
    edges = np.unique(np.searchsorted(reference.cumulative, np.arange(1, PSI_BINS) / PSI_BINS * reference.rows))
    edges = edges[edges < len(reference.values) - 1]  # cell = up to and with the edge's value
    cell = np.searchsorted(2 * edges + 1, counts.codes, side="left")
    window = np.bincount(cell, weights=counts.n, minlength=len(edges) + 1)
    was = np.diff(np.concatenate(([0], reference.cumulative[edges], [reference.rows])))
    return window, was


def _places(reference: FeatureReference, counts: Counts) -> np.ndarray:
    """The value that each code stands for."""
    values = reference.values
    place = (counts.codes >> 1).astype(np.int64)
    above, below = values[np.minimum(place, len(values) - 1)], values[np.maximum(place - 1, 0)]
    with np.errstate(invalid="ignore", over="ignore"):
        middle = below / 2 + above / 2
    gap = np.where(place == 0, values[0], np.where(place >= len(values), values[-1], middle))
    return np.where(counts.codes & 1, above, gap)


def _mean_shift(reference: FeatureReference, counts: Counts) -> float | None:
    with np.errstate(all="ignore"):
        mean = float(np.sum(reference.values * (reference.counts / reference.rows)))
        spread = float(np.sqrt(np.sum(np.square(reference.values - mean) * (reference.counts / reference.rows))))
        window = float(np.sum(_places(reference, counts) * (counts.n / counts.rows)))
        return _finite((window - mean) / spread) if spread > 0 else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _all_finite(values: np.ndarray) -> tuple[float, ...] | None:
    return tuple(float(v) for v in values) if np.isfinite(values).all() else None


@njit(cache=True)
def _paths_inside(distance, n, m):
    """P(D < distance) of two samples of n <= m distinct values: the share of lattice paths that stay inside."""
    bound = (0.5 + np.floor(distance * n * m - 1e-7)) / (np.float64(n) * m)
    u = np.empty(m + 1)
    for j in range(m + 1):
        u[j] = 0.0 if j / m > bound else 1.0
    for i in range(1, n + 1):
        w = i / (i + m)
        u[0] = 0.0 if i / n > bound else w * u[0]
        for j in range(1, m + 1):
            u[j] = 0.0 if abs(i / n - j / m) > bound else w * u[j] + u[j - 1]
    return u[m]


def _one_sample_p(distance: float, n: int) -> float:
    """P(D_n >= distance) of one sample of n, exact; the one-sided law doubled where the two sides exclude each other."""
    if distance >= 0.5 or 2 * special.smirnov(n, distance) < 0.02:
        return float(min(1.0, 2 * special.smirnov(n, distance)))
    return float(min(1.0, max(0.0, 1.0 - _inside(distance, n))))


def _inside(distance: float, n: int) -> float:
    """P(D_n < distance) by a power of Marsaglia, Tsang and Wang's matrix; n <= 200, so float64 does without scaling."""
    if n * distance <= 0.5:
        return 0.0
    k = int(n * distance) + 1
    size, h = 2 * k - 1, k - n * distance
    rows, columns = np.indices((size, size))
    matrix = (rows - columns + 1 >= 0).astype(np.float64)
    powers = h ** np.arange(1, size + 1)
    matrix[:, 0] -= powers
    matrix[-1, :] -= powers[::-1]
    matrix[-1, 0] += (2 * h - 1) ** size if 2 * h > 1 else 0.0
    matrix /= special.gamma(np.maximum(rows - columns + 2, 1))
    power = np.linalg.matrix_power(matrix * np.exp(1) / n, n)  # n! / n**n is about e**-n: both factors stay in range
    return float(power[k - 1, k - 1] * np.exp(special.gammaln(n + 1) - n))
