"""PURE. What a contract's page budget means before there is a reference: detectors, thresholds, the fewest rows, by feature.

A family is the whole or a grouping of columns; where a grouping's values are not listed in the contract, as many as a
reference may have are counted, so the thresholds are those of the fullest case. Rows: a reference below its floor never
pages, and on one at the floor fewer rows of a window than `rows` cannot page even if every one of them lies where no row
of the reference does. For a K-S distance of 1 - e, e = 1.36 / sqrt(R) the reference's error and t a tolerance in D,

    scan      2 n (1 - e)^2 >= v              material   n > l / 2 (1 - e - t)^2 (in units: t = 0)
    confseq   `confseq_value` of n rows and 1 - e - t     share      n kl(1, t + error of a category) >= l + log 64

The bank may need fewer rows, by alternatives that depend on the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log, prod, sqrt

from pipeline.contract import REJECT, Contract, MonitoredFeature
from stream_processors.detectors.budget import SEGMENTS_A_GROUPING, Thresholds, limits, smallest
from stream_processors.detectors.engine import REFERENCE_ERROR, REFERENCE_LEVEL, confseq_value
from stream_processors.reference.cells import SEGMENT_CELLS, WHOLE

MOST_ROWS = 10**7
MOST_SEGMENTS = SEGMENTS_A_GROUPING + 1  # where the contract does not list a grouping's values; one is the pool


@dataclass(frozen=True, slots=True)
class Promise:
    """One feature in one family; natural logs, None = not used under the contract's rule."""

    feature: str
    family: str  # `*` or the grouping's columns
    detectors: int
    listed: bool  # the contract lists the values; else at most as many
    bank: float | None
    scan: float | None
    confseq: float | None
    material: float | None  # of the lower bound of the effect, where there is a tolerance
    reference_rows: int  # that page at all
    rows: int | None  # of a window, the fewest that can page, but for the bank; None = no number of them does
    tolerance: str


def promises(contract: Contract) -> list[Promise]:
    """By feature and family, in contract order; together they spend the page budget once."""
    plan = contract.drift
    found = [(f, family, _detectors(contract, f, family)) for f in plan.watched for family in ((), *plan.segments)]
    total = sum(f.weight * size for f, _, size in found)
    return [_promise(contract, f, family, size, f.weight / total) for f, family, size in found if size]


def plan_lines(contract: Contract) -> list[str]:
    """One line each, for `driftline contract check`."""
    plan, made = contract.drift, promises(contract)
    if not made:
        return []
    panes = plan.pages_per / plan.pane
    by = f"a page where D is above its critical value at alpha {plan.alpha:g}, whatever the budget; the detectors' thresholds are for the charts" if plan.rule == "ks_alpha" else f"{sum(p.detectors for p in made)} detectors share {plan.pages:g} false page in {panes:,.0f} panes"  # fmt: skip
    return [f"- Page budget: {by}. Thresholds are natural logarithms.", *(f"  - {_line(p)}" for p in made)]


def _line(p: Promise) -> str:
    limits = (("bank", p.bank), ("scan", p.scan), ("confseq", p.confseq), ("material", p.material))
    thresholds = ", ".join(f"{name} {value:.2f}" for name, value in limits if value is not None)
    if p.rows is None:
        can = f"WARNING: no number of rows can page on a reference of {p.reference_rows:,} rows"
    else:
        few = " by the scan, perhaps fewer by the bank" * (p.bank is not None)
        can = f"a reference of {p.reference_rows:,} rows, then {p.rows:,} rows can page{few}"
    many = f"{p.detectors} detector{'s' * (p.detectors != 1)}{' at most' * (not p.listed)}"
    return f"{p.feature} {p.family}: {many}; threshold {thresholds}; {can}; tolerance {p.tolerance}"


def _detectors(contract: Contract, feature: MonitoredFeature, family: tuple[str, ...]) -> int:
    """A feature has none within a segment of its own, rejects only over the whole."""
    if not family:
        return 1
    if feature.name in family or feature.name == REJECT:
        return 0
    return min(MOST_SEGMENTS, prod(len(contract.field(c).allowed or ()) or MOST_SEGMENTS for c in family))


def _promise(contract: Contract, f: MonitoredFeature, family: tuple[str, ...], size: int, share: float) -> Promise:
    own, tolerance = limits(contract.drift, share), f.tolerance
    rows = smallest(",".join(family) or WHOLE)
    unit = {"distance": " in D", "wasserstein": " in its units", "share": " of the rows"}[tolerance.kind]
    return Promise(
        f.name,
        ",".join(family) or WHOLE,
        size,
        all(contract.field(c).allowed for c in family),
        own.bank,
        None if own.confseq else own.scan,
        own.scan if own.confseq else None,
        own.material if tolerance.value else None,
        rows,
        _fewest(own, f, rows),
        f"{tolerance.value:g}{unit}" if tolerance.value else "none",
    )


def _fewest(own: Thresholds, f: MonitoredFeature, reference_rows: int) -> int | None:
    away = 1 - REFERENCE_ERROR / sqrt(reference_rows)
    least, within = away - f.tolerance.value * (f.tolerance.kind == "distance"), f.tolerance.value > 0
    if least <= 0 or own.scan is None:
        return None
    if own.confseq:
        return next(n for n in range(1, MOST_ROWS) if confseq_value(float(n), least) >= own.scan)
    needed = [own.scan / (2 * away * away)]
    if within and f.tolerance.kind == "share":
        sure = REFERENCE_LEVEL + log(SEGMENT_CELLS)
        edge = f.tolerance.value + sure / (3 * reference_rows)
        needed.append((own.material + log(SEGMENT_CELLS)) / -log(edge) if edge < 1 else inf)
    elif within:
        needed.append(own.material / (2 * least * least))
    return None if max(needed) == inf else ceil(max(needed))
