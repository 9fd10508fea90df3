"""PURE. Lower bounds of an effect: what a change is at least, at the page budget's level, whatever the data's law.

A stretch of n rows under a law G, the reference's law F known up to its own error. At level exp(-l):

    distance     D_n - error - eps                       eps = sqrt(l / 2 n)           DKW, Massart's constant
    share        |g_c - f_c| - error_c, over categories  n kl(share_c, g_c) = l + log C    Chernoff, union over C categories
    wasserstein  sum over cells of width max(0, least |F - G| in the cell - error - eps), in the feature's units

A page asks for a bound above the tolerance over one of the scan's stretches of L panes with l = threshold - log L. While the
true effect is at most the tolerance the chance of that is the scan's, hence within the page budget at every n: D_n <= D +
sup|G_n - G| by the triangle inequality, and likewise for the others. Between two cell edges G is monotone, so the integral
of |F - G| there is at least width times max(G_low - F, F - G_high), F its mean over the cell: exact for F, and G needs the
edges only. Beyond the reference's range F is 0 or 1 and the fences (`outside`) are the edges: a row counts up to the last
fence before it, at least half of its way. What lies beyond is seen once it is more than the bands, eps and error. Of a number
with few values, those never seen may lie anywhere: they widen G_high. Nulls have no place on the axis: with a tolerance in
the feature's units any move of the share of nulls or of values never seen that is proved at the same level is material.
Sources: Massart (see `scan`); Hoeffding, JASA 58 (1963) 13.
"""

from __future__ import annotations

import numpy as np

from stream_processors.reference.cells import FeatureReference

KINDS = ("distance", "share", "wasserstein")  # in the order of the engine's numbers


def widths(reference: FeatureReference) -> tuple[np.ndarray, np.ndarray]:
    """Per coarse value cell of numbers: (distance between its edges, 0 if infinite; where in it F has its mean, 0 to 1)."""
    if reference.kind != "numeric" or not len(reference.values):
        return np.zeros(reference.cells), np.zeros(reference.cells)
    below, above = reference.fences
    of = reference.cell_of[1 : 2 * len(reference.values) : 2]
    last = np.flatnonzero(np.append(of[1:] != of[:-1], True))  # the value at each cell's upper edge
    upper, share = reference.values[last], reference.cumulative[last] / max(1, reference.rows)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        steps = np.diff(reference.values) * reference.cumulative[:-1] / max(1, reference.rows)
        area = np.concatenate(([0.0], np.cumsum(steps)))[last]  # under F, up to each edge
        if len(above):  # the last cell reaches to the first fence, where F is 1
            area[-1] += above[0] - upper[-1]
            upper[-1] = above[0]
        upper = np.concatenate((below, upper, above[1:]))
        wide = np.diff(upper, prepend=-np.inf if len(below) else upper[0])
        area, share = (np.concatenate((np.zeros(len(below)), part)) for part in (area, share))
        mean = np.diff(area, prepend=0.0) / wide[: len(area)]
        place = (mean - np.concatenate(([0.0], share[:-1]))) / np.diff(share, prepend=0.0)
    wide, place = (np.concatenate((part, np.zeros(reference.cells - len(part)))) for part in (wide, place))
    return np.where(np.isfinite(wide), wide, 0.0), np.where(np.isfinite(place), np.clip(place, 0.0, 1.0), 0.0)
