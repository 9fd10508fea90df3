"""PURE. The last 512 panes as dyadic sums, and the multi-scale Kolmogorov-Smirnov scan over them.

    V = max over scales L of  2 n_L max(0, D_L - 1.36 / sqrt(R))**2 / tail + log L,      L = 1, 2, 4 ... 512 panes

D_L is the largest difference of the two cumulative shares over at most 78 groups in the last L panes, n_L their rows. It is
at most the exact D, so Massart's bound P(D > z / sqrt(n)) <= 2 exp(-2 z**2) [1] holds at every n, ties included. The
distance that the reference may itself be off (DKW, 95 % of references) is subtracted, because the same reference judges
every pane. Scale L is looked at every max(1, L/4) panes, and log L makes all scales equally rare; see `budget.scan_threshold`.
Scales with more rows than a tenth of the reference are not looked at, unless the page must be material too.

With a rhythm a stretch holds n_s rows of slot s: they are compared with sum_s n_s/n F_s, whose error has the size of a
reference of 1 / sum_s (n_s/n)**2 / R_s rows. Rows are independent but not alike, for which Bretagnolle's bound
2 e exp(-2 z**2) [2] holds: 1 is taken off V. Under dependence `tail` (`cells.Temper`) divides n D**2.

The last panes are kept four sums to a level: level l holds the last four sums of 2**l panes, aligned: 512 panes in 32 rows.
1. Massart, Ann. Probab. 18 (1990) 1269, doi:10.1214/aop/1176990746. 2. Bretagnolle, Statistique de Kolmogorov-Smirnov pour
un echantillon non equireparti, Colloques CNRS 307 (1980) 39; in Shorack and Wellner, Empirical Processes, 1986, ch. 25.
"""

from __future__ import annotations

from stream_processors.detectors.engine import SCALES


def looks_a_pane() -> float:
    """Sum over scales of L times the looks a pane: what log L weighs them with."""
    return sum(scale / max(1, scale // 4) for scale in SCALES)
