"""PURE. The smallest effect that can alarm under a tolerance, however many rows come: what the reference's size leaves.

A page asks for a lower bound above the tolerance, and a bound lies below the effect by the reference's own error and by
the error of the longest stretch looked at (512 panes of n rows; `material` has the bounds). So the effect must be

    distance     tolerance + error + eps
    share        tolerance + error + eps of the category whose share is known worst
    wasserstein  the shift whose bound reaches the tolerance: the part of |F - G| within error + eps is lost everywhere, and
                 beyond the range what lies past the last fence before a row

About, not exactly: the window's own chance is left out, and a shift is the effect that a bound in units is told for.
"""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np

from stream_processors.detectors.budget import Thresholds
from stream_processors.detectors.engine import REFERENCE_ERROR, REFERENCE_LEVEL, SCALES, band, carried, confseq_radius
from stream_processors.detectors.material import widths
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.grid import edges_of

TOLD = 40  # halvings of the shift


def smallest_effect(
    reference: FeatureReference, kind: str, tolerance: float, limits: Thresholds, pane_rows: int
) -> float:
    """In the tolerance's unit; infinite if no shift up to the last fence is enough."""
    rows, n, level = reference.rows, float(SCALES[-1] * pane_rows), limits.material - log(SCALES[-1])
    if kind == "share":
        p = reference.cell_rows / max(1, reference.cell_rows.sum())
        sure, needed = REFERENCE_LEVEL + log(len(p)), max(0.0, level) + log(len(p))
        errors = [np.sqrt(2 * p * (1 - p) * s / r) + s / (3 * r) for s, r in ((sure, rows), (needed, n))]
        return tolerance + float(max(errors[0] + errors[1]))
    eps = REFERENCE_ERROR / sqrt(rows)
    if kind == "distance":
        return (
            tolerance
            + eps
            + (confseq_radius(n, limits.scan) if limits.confseq and limits.scan else band(n, level, 1.0))
        )
    low, high = 0.0, _furthest(reference)
    if not high or not _shown(reference, high, eps, n, level) > tolerance:
        return inf
    for _ in range(TOLD):
        middle = (low + high) / 2
        low, high = (low, middle) if _shown(reference, middle, eps, n, level) > tolerance else (middle, high)
    return high


def _furthest(reference: FeatureReference) -> float:
    """The largest shift up that the cells can tell."""
    inner = reference.values[np.isfinite(reference.values)]
    if len(inner) < 2:
        return 0.0
    return float((inner if reference.discrete else edges_of(reference))[-1] - inner[0])


def _shown(reference: FeatureReference, shift: float, error: float, n: float, level: float) -> float:
    """The bound where the window is the reference moved up; of few values, as if those between them were known."""
    finite = np.isfinite(reference.values)
    values, law = reference.values[finite], reference.cumulative[finite] / reference.rows
    if reference.discrete:
        moved = np.interp(values - shift, values, law, left=0.0)
        lost = error + band(n, level, 1.0)
        return float(np.sum(np.diff(values) * np.maximum(0.0, (law - moved)[:-1] - lost)))
    rows, moved = np.append(reference.cell_rows[:-2], [0, 0]), np.zeros(reference.cells + 2)
    upto = np.interp(edges_of(reference) - shift, values, law, left=0.0)
    moved[:-2] = np.diff(upto, prepend=0.0, append=1.0)
    return float(carried(n * moved, len(rows), rows / reference.rows, *widths(reference), True, error, level, 1.0))
