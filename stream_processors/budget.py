"""PURE. From "at most one false page in 30 days" to a threshold for every detector.

H panes fit into the budget's time, `pages` false pages may be expected in it, over every feature and segment (weight w,
sum 1) and both detectors (share s). The Shiryaev-Roberts sum M is a martingale minus the number of panes, so Ville's
inequality gives P(M >= A within H panes) <= H / A; and the scan's looks add up by the union bound:

    bank   log A = log(H / (pages * s_bank * w))
    scan   v     = log(2 * looks * H / (pages * s_scan * w)),   looks = sum over scales of L per max(1, L/4) panes

Both hold for independent rows and any marginal law, ties included, and under any dependence between features. They treat the
reference as the truth; `bank` and `scan` say how its own error is kept out. Reference: Shin, Ramdas, Rinaldo,
"E-detectors", New England J. Stat. Data Sci., 2023, https://nejsds.nestat.org/journal/NEJSDS/article/59.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from pipeline.contract import DriftPlan
from pipeline.errors import UsageError
from stream_processors import scan
from stream_processors.cells import WHOLE, FeatureReference

Key = tuple[str, str]

BANK_SHARE = 0.8  # of the page budget; the rest is the scan's. Each costs its logarithm only.
SMALLEST_REFERENCE = 10_000  # rows with a value
SMALLEST_SEGMENT = 2_000


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Natural logs; None = this detector raises nothing under the contract's rule."""

    bank: float | None
    scan: float | None
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class Budget:
    panes: float  # in the budget's time
    pages: float
    by_key: Mapping[Key, Thresholds]  # those that may page
    refused: Mapping[Key, str]  # reference too small: why

    def too_small(self, key: Key) -> bool:
        return key in self.refused

    def of(self, key: Key) -> Thresholds:
        return self.by_key[key]


def smallest(segment: str) -> int:
    """Rows that a reference needs before it may page."""
    return SMALLEST_REFERENCE if segment == WHOLE else SMALLEST_SEGMENT


def thresholds(plan: DriftPlan, references: Mapping[Key, FeatureReference]) -> Budget:
    """The thresholds of every reference that is large enough, sharing one page budget."""
    if plan.rule == "confseq":
        raise UsageError(
            "drift rule: expected bank, scan or ks_alpha, got confseq, which is not built; choose another in the contract"
        )
    panes = plan.pages_per / plan.pane
    refused = {
        key: f"reference of {r.rows} rows is below {smallest(r.segment)}"
        for key, r in references.items()
        if r.rows < smallest(r.segment)
    }
    weight = {f.name: f.weight for f in plan.features}
    weights = {key: weight.get(key[0], 1.0) for key in references if key not in refused}
    total = sum(weights.values())
    by_key = {key: _one(plan, panes, w / total) for key, w in sorted(weights.items())}
    return Budget(panes, plan.pages, by_key, refused)


def bank_threshold(panes: float, pages: float) -> float:
    """
    >>> round(bank_threshold(panes=8640, pages=1), 2)
    9.06
    """
    return log(max(2.0, panes / pages))


def scan_threshold(panes: float, pages: float) -> float:
    """
    >>> round(scan_threshold(panes=8640, pages=1), 2)
    13.31
    """
    return log(max(2.0, 2 * scan.looks_a_pane() * panes / pages))


def _one(plan: DriftPlan, panes: float, weight: float) -> Thresholds:
    """`ks_alpha` keeps both detectors beside it, for the charts."""
    pages = plan.pages * weight
    if plan.rule == "scan":
        return Thresholds(None, scan_threshold(panes, pages), plan.alpha)
    return Thresholds(
        bank_threshold(panes, pages * BANK_SHARE), scan_threshold(panes, pages * (1 - BANK_SHARE)), plan.alpha
    )
