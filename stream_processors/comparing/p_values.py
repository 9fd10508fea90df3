"""PURE. p-values and critical values of the published statistics, from integers, without scipy.stats (4.5 s to import).

Each is for reading. Repeated window after window and feature after feature they page all the time; see `budget`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import special

EXACT_PATHS = 200_000  # n * R up to which the two-sample law is counted path by path (0.4 ms)
EXACT_ROWS = 200  # effective rows up to which the one-sample law is exact


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


def cramer_von_mises_p_value(statistic: float, n: int, rows: int) -> float:
    """p-value of Anderson's two-sample statistic T, by its limit after matching mean and variance.

    E T = (1 + 1/N) / 6 and Var T = (N + 1)(4 n R N - 3 (n^2 + R^2) - 2 n R) / (180 N^2 n R) with N = n + R are exact;
    1/6 + (T - E T) / sqrt(45 Var T) follows the limit of Csorgo and Faraway (J. R. Stat. Soc. B 58 (1996) 221).
    Reference: Anderson, Ann. Math. Statist. 33 (1962) 1148, doi:10.1214/aoms/1177704477. For untied values.
    """
    n, rows = float(n), float(rows)
    total, product = n + rows, n * rows
    mean = (1 + 1 / total) / 6
    variance = (
        (total + 1) * (4 * product * total - 3 * (n * n + rows * rows) - 2 * product) / (180 * total**2 * product)
    )
    place = 1 / 6 + (statistic - mean) / np.sqrt(45 * variance)
    if place < 0.003:
        return 1.0
    return float(min(1.0, max(0.0, 1.0 - _cramer_von_mises_limit(place))))


def chi_square_p_value(statistic: float, freedom: int) -> float:
    """P(chi2 >= statistic); 1 without a degree of freedom."""
    return float(min(1.0, max(0.0, special.chdtrc(freedom, statistic)))) if freedom > 0 else 1.0


def share_p_value(hits: int, n: int, reference_hits: int, rows: int) -> float:
    """Two-sided p-value that two shares are equal: Fisher's exact conditional test, twice the smaller tail.

    Given hits + reference_hits, the hits are hypergeometric if both samples follow one law, whatever the share. The tail
    is summed from the observed number outwards until a term no longer counts; cost O(standard deviation). For rows that
    are independent of each other: what comes in bursts scatters more. References: Fisher, J. R. Stat. Soc. 98 (1935) 39,
    doi:10.2307/2342435; doubling: Agresti, Stat. Sci. 7 (1992) 131, doi:10.1214/ss/1177011454.

    >>> round(share_p_value(12, 1_000, 500, 100_000), 5)
    0.01132
    """
    marked, total = hits + reference_hits, n + rows
    if not marked or marked == total or not n or not rows:
        return 1.0
    low, high = max(0, marked - rows), min(marked, n)
    upwards = hits * total >= marked * n
    far = high if upwards else low
    reach = int(min(abs(far - hits), 60 + 40 * np.sqrt(n * (marked / total) * (1 - marked / total))))
    at = hits + (1 if upwards else -1) * np.arange(reach + 1, dtype=np.float64)
    terms = (
        special.gammaln(marked + 1) - special.gammaln(at + 1) - special.gammaln(marked - at + 1)
        + special.gammaln(total - marked + 1) - special.gammaln(n - at + 1) - special.gammaln(total - marked - n + at + 1)
        - special.gammaln(total + 1) + special.gammaln(n + 1) + special.gammaln(total - n + 1)
    )  # fmt: skip
    return float(min(1.0, 2 * np.exp(terms).sum()))


def _cramer_von_mises_limit(x: float) -> float:
    """P(W^2 <= x) of the limit law; the series stops where its terms no longer count."""
    total = 0.0
    for k in range(40):
        y = 4 * k + 1
        q = y * y / (16 * x)
        weight = np.exp(special.gammaln(k + 0.5) - special.gammaln(k + 1)) / (np.pi**1.5 * np.sqrt(x))
        term = weight * np.sqrt(y) * np.exp(-q) * special.kv(0.25, q)
        total += term
        if term < 1e-12:
            break
    return float(total)


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
