"""PURE. What would be caught now: the smallest shift that fires within some panes with 90 % chance.

A shift of a number moves its normal scores by so many standard deviations; one of a category moves so much of all shares to
the most frequent one, or where that one holds nine tenths (the rejects beside `valid`) so much of its share to the others. Under the shifted law a pane of n rows adds to alternative j a gain with mean n E[s_j] and covariance
n Cov[s_j, s_k], taken as normal; the Shiryaev-Roberts sum of the eight alternatives with the largest means is walked along
1,024 fixed paths, 24 quiet panes before the shift, and the share of paths over the threshold is the chance. What the other
alternatives and the scan would add is left out. Where the page must be material too, and under the rules without a bank, the
bound of `material` (or of the scan) at the expected counts, less 1.28 standard deviations, has to hold in the largest stretch
of the scan that fits. Cost 35 ms. Chance as simulated with the detectors themselves: see docs/drift.md.
"""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np
from scipy import special

from stream_processors.detectors import engine, material
from stream_processors.detectors.alternatives import mixed, shifted_normal, unit
from stream_processors.detectors.bank import Bank, in_groups
from stream_processors.detectors.budget import Key
from stream_processors.detectors.detector import Detectors
from stream_processors.reference.cells import FeatureReference

PATHS, ALTERNATIVES, QUIET = 1024, 8, 24
LARGEST = {"numeric": 5.0, "categorical": 0.99}
SMALLEST = 1e-3
DOMINANT = 0.9  # share of the most frequent category from which on there is more to lose than to gain
STEPS = 10  # halvings of the ratio of largest to smallest: 0.8 % of the result


def shifted(reference: FeatureReference, size: float, pane_start: int | None = None) -> np.ndarray:
    """float64[cells + 2], the law of rows that have shifted, sum 1; by default the pool's, with a rhythm a pane's."""
    slots = reference.slots
    rows = (
        reference.cell_rows if slots is None or pane_start is None else reference.slot_cell_rows(slots.at(pane_start))
    )
    p = rows / max(1, rows.sum())
    valued = p[:-2].sum()
    if not valued or not size:
        return p
    inner = p[:-2] / valued
    if reference.kind == "numeric":
        moved = shifted_normal(inner, size)
    else:
        top = unit(len(inner), int(np.argmax(reference.cell_rows[:-2])))
        rest = inner * (1 - top)
        moved = mixed(inner, rest / rest.sum() if DOMINANT <= inner @ top < 1 else top, size)
    return np.concatenate((moved * valued, p[-2:]))


def smallest_shift(
    detectors: Detectors, key: Key, rows_a_pane: int, panes: int, chance: float = 0.9, pane_start: int | None = None
) -> float:
    """In sd of the normal scores, or share points of a category; inf where even the largest shift would not be caught."""
    reference = detectors.references[key]
    low, high = SMALLEST, LARGEST[reference.kind]

    if reference.slots and pane_start is not None and reference.slots.at(pane_start) >= reference.slots.judged:
        return inf  # no detector sees this pane

    def caught(size: float) -> bool:
        return _caught(detectors, key, rows_a_pane, panes, chance, shifted(reference, size, pane_start), pane_start)

    if rows_a_pane < 1 or panes < 1 or not caught(high):
        return inf
    for _ in range(STEPS):
        middle = sqrt(low * high)
        low, high = (low, middle) if caught(middle) else (middle, high)
    return high


def _caught(
    detectors: Detectors, key: Key, n: int, panes: int, chance: float, law: np.ndarray, pane_start: int | None
) -> bool:
    limits, bank, reference = detectors.budget.by_key[key], detectors.bank(key), detectors.references[key]
    slot = reference.slots.at(pane_start) if reference.slots and pane_start is not None else 0
    q = in_groups(bank, law)
    by_bank = (
        limits.bank is not None
        and _crossed(bank, slot, n, panes, in_groups(bank, shifted(reference, 0.0, pane_start)), q, limits.bank)
        >= chance
    )
    return (by_bank or _by_stretch(detectors, key, slot, n, panes, q, chance)) and (
        detectors.tolerance(key).value == 0 or _material(detectors, key, slot, n, panes, q, chance)
    )


def _crossed(bank: Bank, slot: int, n: int, panes: int, p: np.ndarray, q: np.ndarray, threshold: float) -> float:
    """Share of the paths whose log M crosses the threshold within `panes`."""
    scores = bank.scores[slot].astype(np.float64) * bank.eta
    best = np.argsort(-(q @ scores), kind="stable")[:ALTERNATIVES]
    if not len(best) or (q @ scores[:, best]).max() <= 0:
        return 0.0
    noise = np.random.default_rng(0).standard_normal((QUIET + panes, PATHS, len(best)))
    before, after = (_gains(law, scores[:, best], n) for law in (p, q))
    r, over = np.zeros((PATHS, len(best))), np.zeros(PATHS, bool)
    for i, z in enumerate(noise):
        mean, root = before if i < QUIET else after
        r = np.minimum(1e100, (r + 1) * np.exp(np.minimum(50.0, mean + z @ root)))
        if i >= QUIET:
            over |= np.log(r @ bank.weights[best]) >= threshold
    return float(over.mean())


def _gains(law: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, root of the covariance) of a pane's gains."""
    mean = law @ scores
    covariance = (scores * law[:, None]).T @ scores - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    return n * mean, (vectors * np.sqrt(n * np.maximum(0.0, values))).T


def _stretch(detectors: Detectors, key: Key, slot: int, n: int, panes: int) -> tuple[int, float, float]:
    """(scale, rows, reference rows behind it) of the largest stretch of the scan that fits."""
    scale = max(s for s in engine.SCALES if s <= panes)
    return scale, float(n * scale), float(detectors.bank(key).rows[slot])


def _by_stretch(detectors: Detectors, key: Key, slot: int, n: int, panes: int, q: np.ndarray, chance: float) -> bool:
    limits, bank, reference = detectors.budget.by_key[key], detectors.bank(key), detectors.references[key]
    scale, rows, behind = _stretch(detectors, key, slot, n, panes)
    if limits.scan is None:
        return False
    away = engine.largest_difference(q * rows, len(q), rows, bank.laws[slot]) - engine.REFERENCE_ERROR / sqrt(behind)
    away = max(0.0, away - special.ndtri(chance) / 2 / sqrt(rows))
    tail = reference.temper.tail if reference.temper else 1.0
    if limits.confseq:
        return bool(engine.confseq_value(rows / tail, away) >= limits.scan)
    small = rows <= engine.LARGEST_SHARE * behind or detectors.tolerance(key).value > 0
    return bool(small and engine.scan_value(rows, away, scale, tail, reference.slots is not None) >= limits.scan)


def _material(detectors: Detectors, key: Key, slot: int, n: int, panes: int, q: np.ndarray, chance: float) -> bool:
    limits, bank, reference = detectors.budget.by_key[key], detectors.bank(key), detectors.references[key]
    tolerance, (scale, rows, behind) = detectors.tolerance(key), _stretch(detectors, key, slot, n, panes)
    tail, law, groups = reference.temper.tail if reference.temper else 1.0, bank.laws[slot], len(q)
    level = limits.material - log(scale) + (reference.slots is not None)
    level = (
        sqrt(level) + special.ndtri(chance) / sqrt(2)
    ) ** 2  # the estimate itself varies: sd of half the band's unit
    error, counts = engine.REFERENCE_ERROR / sqrt(behind), q * rows
    if tolerance.kind == "share":
        return bool(engine.share_moved(counts, 0, groups, rows, law, behind, level, tail) > tolerance.value)
    if tolerance.kind == "distance":
        least = engine.largest_difference(counts, groups, rows, law) - error - engine.band(rows, level, tail)
        return bool(least > tolerance.value)
    wide, place = material.widths(reference)
    one_law = reference.slots is None
    return bool(engine.carried(counts, groups, law, wide, place, one_law, error, level, tail) > tolerance.value)
