"""PURE. What a closed window says about a categorical feature: shares, their moves, tests with small counts handled.

Knows no order of the categories. Everything is finite; where there is nothing to say the reason stands instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from scipy import special

from pipeline.blocks import VALID
from pipeline.contract import REJECTS
from stream_processors.comparing.law import category_law
from stream_processors.comparing.p_values import chi_square_p_value, share_p_value
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.counts import Counts

SMALLEST_EXPECTED = 5.0  # rows expected in a cell of a chi-square test; cells with fewer are taken together
MOST_VANISHED, MOST_MOVES = 10, 5  # named
NEW = "(new)"
FEW_EXPECTED = "fewer than 5 rows expected in all cells but one"
ONE_CATEGORY = "one category in reference and window"


class CategoryFacts(msgspec.Struct, frozen=True, gc=False):
    """See `statistics.WindowStatistics`."""

    rows: int
    undefined: str | None
    null_ratio: float | None
    null_ratio_reference: float
    null_p_value: float | None = None
    reject_p_value: float | None = None
    js: float | None = None
    p_value: float | None = None
    critical_value: float | None = None
    at: str | None = None
    sign: int = 0
    effect: float | None = None
    psi: float | None = None
    g_statistic: float | None = None
    g_p_value: float | None = None
    new_share: float | None = None
    vanished: tuple[str, ...] = ()
    top_moves: tuple[tuple[str, float], ...] = ()
    unsaid: Mapping[str, str] = {}


def compare_categories(
    reference: FeatureReference,
    counts: Counts,
    alpha: float,
    slot_rows: Mapping[int, int] | None,
    reason: str | None,
) -> CategoryFacts:
    """The window's shares beside those of its law; only nulls are compared if there is a `reason` to say no more."""
    was, rows, nulls, ratio = category_law(reference, slot_rows)
    n = counts.rows
    total = n + counts.nulls
    p_null = share_p_value(counts.nulls, total, round(nulls), round(rows + nulls)) if total and rows else None
    dense = np.zeros(len(was), np.int64)
    dense[counts.codes] = counts.n
    p_reject = _reject_p_value(reference, was, dense)
    told = CategoryFacts(round(rows), reason, counts.nulls / total if total else None, ratio, p_null, p_reject)
    if reason:
        return told
    moves = dense / n - was / rows
    order = np.argsort(-np.abs(moves), kind="stable")
    names = [*reference.categories, NEW]
    r, w = _together(was, dense)
    statistic, freedom = chi_square(r, w)
    cells = np.count_nonzero(was + dense) - 1
    js = jensen_shannon(was, dense)
    tested = freedom > 0 or js == 0  # else what has moved lies within the one cell that is left
    g = g_test(r, w)
    gone = np.flatnonzero((dense[:-1] == 0) & (was[:-1] * (n / rows) >= SMALLEST_EXPECTED))
    gone = gone[np.argsort(-was[gone], kind="stable")][:MOST_VANISHED]
    unsaid = {} if tested else dict.fromkeys(("p_value", "g_statistic", "g_p_value"), FEW_EXPECTED)
    unsaid |= {} if cells else {"critical_value": ONE_CATEGORY}
    return CategoryFacts(
        told.rows, None, told.null_ratio, ratio, p_null, p_reject, js, chi_square_p_value(statistic, freedom) if tested else None,
        _js_critical_value(cells, n, rows, alpha), names[order[0]], int(np.sign(moves[order[0]])), float(abs(moves[order[0]])),
        psi(was, dense), g if tested else None, chi_square_p_value(g, freedom) if tested else None, float(max(0.0, moves[-1])), tuple(names[i] for i in gone),
        tuple((names[i], float(moves[i])) for i in order[:MOST_MOVES] if moves[i]), unsaid,
    )  # fmt: skip


def _reject_p_value(reference: FeatureReference, was: np.ndarray, window: np.ndarray) -> float | None:
    """Exact test of rejected records against valid ones; None for any other feature, and without a record in both."""
    if reference.feature != REJECTS.name or VALID not in reference.categories:
        return None
    valid, rows, n = reference.categories.index(VALID), round(was.sum()), int(window.sum())
    if not rows or not n:
        return None
    return share_p_value(n - int(window[valid]), n, rows - round(was[valid]), rows)


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


def g_test(reference: np.ndarray, window: np.ndarray) -> float:
    """G of homogeneity of two samples, 2 sum O log(O / E) over both; chi-square with as many degrees of freedom.

    Twice the log likelihood ratio of two laws against one. Reference: Wilks, Ann. Math. Statist. 9 (1938) 60,
    doi:10.1214/aoms/1177732360.
    """
    rows, n = reference.sum(), window.sum()
    pooled = (reference + window) / (rows + n)
    return float(max(0.0, 2 * np.sum(special.xlogy(reference, reference) - special.xlogy(reference, rows * pooled)
                                     + special.xlogy(window, window) - special.xlogy(window, n * pooled))))  # fmt: skip


def _js_critical_value(freedom: int, n: int, rows: float, alpha: float) -> float | None:
    """The chi-square quantile as a Jensen-Shannon distance: for near samples chi2 = 8 n R / (n + R) * divergence (nats)."""
    if freedom < 1:
        return None
    divergence = special.chdtri(freedom, alpha) * (n + rows) / (8 * n * rows)
    return float(min(1.0, np.sqrt(divergence / np.log(2))))


def _together(reference: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells with fewer than five rows expected in the window taken together, those without a name among them."""
    n, rows = window.sum(), reference.sum()
    small = (reference + window) * (n / (n + rows)) < SMALLEST_EXPECTED
    if not small.any():
        return reference, window
    r = np.append(reference[~small], reference[small].sum())
    w = np.append(window[~small], window[small].sum())
    return r, w
