"""PURE. From "at most one false page in 30 days" to a threshold for every detector.

H panes fit into the budget's time, `pages` false pages may be expected in it, over every feature and segment (weight w,
sum 1) and both detectors (share s). The Shiryaev-Roberts sum M is a martingale minus the number of panes, so Ville's
inequality gives P(M >= A within H panes) <= H / A; and the scan's looks add up by the union bound:

    bank     log A = log(H / (pages * s_bank * w))
    scan     v     = log(2 * looks * H / (pages * s_scan * w)),   looks = sum over scales of L per max(1, L/4) panes
    confseq  v     = log(H / (pages * w)),                        a sequence starts at every pane

All hold for independent rows and any marginal law, ties included, and under any dependence between features, so hundreds
of segments share one budget; a rhythm's slots change nothing, for a pane lies in one. A page must also be material: that
has a bound of its own at the scan's form and the whole of pages * w, since where nothing moves and where what moves is
within tolerance are different worlds. All treat the reference as the truth; `bank` and `scan` say how its own error is kept out.
Reference: Shin, Ramdas, Rinaldo, "E-detectors", New England J. Stat. Data Sci., 2023,
https://nejsds.nestat.org/journal/NEJSDS/article/59.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from pipeline.contract import DriftPlan
from stream_processors.detectors import confseq, scan
from stream_processors.reference.cells import WHOLE, FeatureReference
from stream_processors.reference.slots import UNMATCHED

Key = tuple[str, str]
Segments = Mapping[str, bool]  # by name: whether its rows count in the grouping's pool, too

BANK_SHARE = 0.8  # of the page budget; the rest is the scan's. Each costs its logarithm only.
SMALLEST_REFERENCE = 10_000  # rows with a value
SMALLEST_SEGMENT = 2_000  # values of a grouping with fewer page together, as its pool
SEGMENT_ROWS = 200  # from which they are charted by themselves
SEGMENTS_A_GROUPING = 500  # values of a grouping with references of their own: 0.1 MB each and feature in the judge


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Natural logs; None = this detector raises nothing under the contract's rule."""

    bank: float | None
    scan: float | None  # of the confidence sequences where `confseq`
    alpha: float = 0.05
    material: float = 0.0  # of the lower bound of the effect
    confseq: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    panes: float  # in the budget's time
    pages: float
    by_key: Mapping[Key, Thresholds]  # those that may page
    shares: Mapping[Key, float]  # of the pages; sum 1
    refused: Mapping[Key, str]  # reference too small: why

    def too_small(self, key: Key) -> bool:
        return key in self.refused

    def of(self, key: Key) -> Thresholds:
        return self.by_key[key]

    def false_pages(self, key: Key) -> float:
        """Expected in the budget's time, at most."""
        return self.pages * self.shares[key]

    def run_length(self, key: Key) -> float:
        """Panes between two false pages of this key, at least."""
        return self.panes / self.false_pages(key)

    def told(self, key: Key) -> str:
        """For a person."""
        limits = self.of(key)
        parts = [
            f"{n} {v:.2f}"
            for n, v in (("bank", limits.bank), ("confseq" if limits.confseq else "scan", limits.scan))
            if v
        ]
        return (
            f"threshold {', '.join(parts)}; one false page in {self.run_length(key):,.0f} panes, "
            f"{self.false_pages(key):.3f} in {self.panes:,.0f}"
        )


def smallest(segment: str) -> int:
    """Rows that a reference needs before it may page."""
    return SMALLEST_REFERENCE if segment == WHOLE else SMALLEST_SEGMENT


def segments_of(references: Mapping[Key, FeatureReference]) -> Segments:
    """The segments of a reference set; those whose rows are too few to page alone count in their grouping's pool, too."""
    return {s: r.source_rows + r.nulls < smallest(s) for (_, s), r in references.items()}


def _rows(reference: FeatureReference) -> int:
    """Those that a law rests on, or that chose its categories."""
    rows = reference.rows if reference.kind == "numeric" else reference.source_rows
    if reference.slots is None:
        return rows
    judged = int(reference.slots.judged_rows.sum())
    return rows * judged // max(1, reference.rows)


def refusal(reference: FeatureReference) -> str | None:
    """Why this reference may not page; None if it may."""
    rows, needed = _rows(reference), smallest(reference.segment)
    if rows < needed:
        where = " in hours that are judged" if reference.slots and reference.slots.some_apart else ""
        return f"reference {_counted(rows)}{where}, {needed:,} needed"
    if UNMATCHED in reference.evidence:
        return f"reference {_counted(rows)}, too few to follow its rhythm"
    return None


def _counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def thresholds(plan: DriftPlan, references: Mapping[Key, FeatureReference]) -> Budget:
    """The thresholds of every reference that is large enough, sharing one page budget.

    What another stream judges (`plan.beside`) has its share, and no threshold here.
    """
    panes = plan.pages_per / plan.pane
    refused = {key: reason for key, r in references.items() if (reason := refusal(r))}
    weight = {f.name: f.weight for f in (*plan.watched, *plan.beside)}
    others = {f.name for f in plan.beside}
    weights = {key: weight.get(key[0], 1.0) for key in sorted(references) if key not in refused}
    total = sum(weights.values())
    shares = {key: w / total for key, w in weights.items()}
    own = {key: limits(plan, s) for key, s in shares.items() if key[0] not in others}
    return Budget(panes, plan.pages, own, shares, refused)


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


def limits(plan: DriftPlan, share: float) -> Thresholds:
    """The thresholds of a feature and segment with this share of the pages; `ks_alpha` keeps both detectors for the charts."""
    panes, pages = plan.pages_per / plan.pane, plan.pages * share
    material = scan_threshold(panes, pages)
    if plan.rule == "confseq":
        return Thresholds(None, confseq.threshold(panes, pages), plan.alpha, material, True)
    if plan.rule == "scan":
        return Thresholds(None, material, plan.alpha, material)
    bank, rest = bank_threshold(panes, pages * BANK_SHARE), scan_threshold(panes, pages * (1 - BANK_SHARE))
    return Thresholds(bank, rest, plan.alpha, material)
