"""PURE. Repeated confidence sequences for the distribution function: the checked alternative to the bank.

Howard and Ramdas [1]: for independent rows of law F, ties included, with probability at least 1 - alpha, at all n >= 1 at once,

    sup |F_n - F| <= 0.85 sqrt((log log(e n) + 0.8 log(1612 / alpha)) / n)

A sequence is started at every pane and alarms as soon as the lower bound of D since its start exceeds the reference's error
(`engine.REFERENCE_ERROR` / sqrt(R)) and the tolerance. Each start has the chance alpha of ever alarming falsely, so with
alpha = pages / panes at most `pages` false alarms are expected in as many panes: the repeated detector of Shekhar and
Ramdas [2]. Solved for alpha, the evidence of n rows with an excess x = D - error - tolerance is

    v = (n (x / 0.85)**2 - log log(e n)) / 0.8 - log 1612,   alarm when v >= log(1 / alpha)      (`engine.confseq_value`)

Only starts of the dyadic stretches of `scan` are looked at, which can lose alarms but add none. With a rhythm rows are not
alike; the bound is then used all the same and is not proved.
1. Howard and Ramdas, Sequential estimation of quantiles, Bernoulli 28 (2022) 1704, doi:10.3150/21-BEJ1388.
2. Shekhar and Ramdas, Reducing sequential change detection to sequential estimation, 2023, arXiv:2309.09111.
"""

from __future__ import annotations

from math import log


def threshold(panes: float, pages: float) -> float:
    """log(1 / alpha), so that `pages` of the sequences started in as many panes ever alarm falsely.

    >>> round(threshold(panes=8640, pages=1), 2)
    9.06
    """
    return log(max(2.0, panes / pages))
