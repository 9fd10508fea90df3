"""PURE. The multi-scale Kolmogorov-Smirnov scan: a backstop for changes that no alternative of the bank resembles.

    V = max over scales L of  2 n_L max(0, D_L - 1.36 / sqrt(R))**2 + log L,      L = 1, 2, 4 ... 512 panes

D_L is the largest difference of the two cumulative shares over at most 66 cells in the last L panes, n_L their rows. It is
at most the exact D, so Massart's bound P(D > z / sqrt(n)) <= 2 exp(-2 z**2) holds at every n, ties included. The
distance that the reference may itself be off (DKW, 95 % of references) is subtracted, because the same reference judges
every pane. Scale L is looked at every max(1, L/4) panes, and log L makes all scales equally rare; see `budget.scan_threshold`.
Scales with more rows than a tenth of the reference are not looked at.

The last panes are kept as dyadic sums, four to a level: level l holds the last four sums of 2**l panes, aligned. That is
512 panes in 32 rows of cells. Reference: Massart, Ann. Probab. 18 (1990) 1269, doi:10.1214/aop/1176990746.
"""

from __future__ import annotations

import numpy as np

LEVELS = 8
SCALES = (1, 2, *(4 << level for level in range(LEVELS)))  # panes
REFERENCE_ERROR = 1.3581  # sqrt(log(2 / 0.05) / 2)
LARGEST_SHARE = 0.1  # of the reference's rows that a scale may hold


def empty(cells: int) -> np.ndarray:
    return np.zeros((LEVELS, 4, cells), np.int64)


def push(levels: np.ndarray, panes: int, pane: np.ndarray) -> np.ndarray:
    """The levels after one more pane, the `panes`-th one."""
    after = levels.copy()
    block = pane
    for level in range(LEVELS):
        if panes % (1 << level):
            break
        if level:
            block = after[level - 1, 2] + after[level - 1, 3]
        after[level, :3] = after[level, 1:]
        after[level, 3] = block
    return after


def stretches(levels: np.ndarray, panes: int) -> list[tuple[int, np.ndarray]]:
    """(scale, counts of the last `scale` panes) for every scale that is looked at after pane number `panes`."""
    found = [(1, levels[0, 3])] if panes else []
    if panes >= 2:
        found.append((2, levels[0, 2] + levels[0, 3]))
    for level in range(LEVELS):
        if panes >= 4 << level and panes % (1 << level) == 0:
            found.append((4 << level, levels[level].sum(0)))
    return found


def looks_a_pane() -> float:
    """Sum over scales of L times the looks a pane: what log L weighs them with."""
    return sum(scale / max(1, scale // 4) for scale in SCALES)


def distance(counts: np.ndarray, cumulative: np.ndarray) -> float:
    """Largest difference from the reference's cumulative shares; 0 without rows."""
    above = np.cumsum(counts)
    return float(np.abs(above / above[-1] - cumulative).max()) if above[-1] else 0.0


def value(found: list[tuple[int, np.ndarray]], cumulative: np.ndarray, rows: int) -> tuple[float, int]:
    """(V, its scale); (0, 0) if no scale is small enough for the reference."""
    best, at = 0.0, 0
    error = REFERENCE_ERROR / np.sqrt(max(1, rows))
    for scale, counts in found:
        n = int(counts.sum())
        if not 0 < n <= LARGEST_SHARE * rows:
            continue
        excess = max(0.0, distance(counts, cumulative) - error)
        if (v := 2 * n * excess * excess + np.log(scale)) > best:
            best, at = float(v), scale
    return best, at
