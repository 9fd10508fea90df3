"""PURE. Lower bounds of an effect: what a change is at least, at the page budget's level, whatever the data's law.

A stretch of n rows under a law G, the reference's law F known up to its own error. At level exp(-l):

    distance     D_n - error - eps                       eps = sqrt(l / 2 n)           DKW, Massart's constant
    share        |g_c - f_c| - error_c, over categories  n kl(share_c, g_c) = l + log C    Chernoff, union over C categories
    wasserstein  sum over cells of width max(0, least |F - G| in the cell - error - eps), in the feature's units

A page asks for a bound above the tolerance over one of the scan's stretches of L panes with l = threshold - log L. While the
true effect is at most the tolerance the chance of that is the scan's, hence within the page budget at every n: D_n <= D +
sup|G_n - G| by the triangle inequality, and likewise for the others. Between two cell edges G is monotone, so the integral
of |F - G| there is at least width times max(G_low - F, F - G_high), F its mean over the cell: exact for F, and G needs the
edges only. Rows beyond the reference's range count at its end, so the bound is at most the distance to there: a tolerance
that reaches beyond the range is never exceeded. Values never seen may lie anywhere: they widen G_high. Nulls have no place on the axis: with a tolerance in
the feature's units any move of their share that is proved at the same level is material. Sources: Massart (see `scan`); Hoeffding, JASA 58 (1963) 13.
"""

from __future__ import annotations

import numpy as np

from stream_processors.reference.cells import FeatureReference

KINDS = ("distance", "share", "wasserstein")  # in the order of the engine's numbers


def widths(reference: FeatureReference) -> tuple[np.ndarray, np.ndarray]:
    """Per coarse value cell of numbers: (distance between its edges, 0 if infinite; where in it F has its mean, 0 to 1)."""
    if reference.kind != "numeric" or not len(reference.values):
        return np.zeros(reference.cells), np.zeros(reference.cells)
    of = reference.cell_of[1::2]
    last = np.flatnonzero(np.append(of[1:] != of[:-1], True))  # the value at each cell's upper edge
    first = np.concatenate((last[:1], last[:-1]))  # at its lower edge
    below = np.where(np.arange(len(last)) > 0, reference.cumulative[first], 0) / max(1, reference.rows)
    mass = reference.cumulative[last] / max(1, reference.rows) - below
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        area = np.concatenate(
            ([0.0], np.cumsum(np.diff(reference.values) * reference.cumulative[:-1] / max(1, reference.rows)))
        )
        wide = reference.values[last] - reference.values[first]
        place = ((area[last] - area[first]) / wide - below) / mass
    good = np.isfinite(wide) & np.isfinite(place)
    return np.where(good, wide, 0.0), np.where(good, np.clip(place, 0.0, 1.0), 0.0)
