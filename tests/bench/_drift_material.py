"""Question: does an effect below the owner's tolerance stay quiet at every pane size, and does one of twice it page?

Rows that are independent given their law fall into fixed cells as a multinomial draw, so panes of a million rows are drawn as
counts: the same law as drawing the rows and counting them, at the cost of 500 binomial numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from scipy import special, stats

from pipeline.contract import MonitoredFeature, Tolerance
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import cells
from stream_processors.reference.cells import WHOLE, FeatureReference
from stream_processors.reference.grid import edges_of
from tests.bench._drift_answers import Answer, Picture, Size, Table, shared_out
from tests.bench._drift_changes import CATEGORIES, ranks
from tests.bench._drift_streams import pages, plan_of
from tests.bench.report import bar, progress

REFERENCE = 100_000
HORIZON = 1_000  # panes: the budget's time
BELOW = 0.97  # "just below tolerance"
LONGEST = 512  # panes that a change of twice the tolerance may take
SIZES = {
    "short": (50, 1_000_000),
    "default": (50, 200, 1_000, 10_000, 100_000, 1_000_000),
    "full": (50, 100, 200, 500, 1_000, 10_000, 100_000, 1_000_000),
}
STREAMS = {"short": 2, "default": 30, "full": 200}
QUIET_SHIFT, QUIET_TOLERANCE, QUIET_ROWS = 0.01, 0.02, 1_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to move by `size` in the tolerance's own unit; `law` gives the share of each coarse cell."""

    name: str
    tolerance: Tolerance
    law: Callable[[FeatureReference, float], np.ndarray]
    categorical: bool = False


def cumulative_law(known: FeatureReference, cdf: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Shares of the coarse cells under a continuous law."""
    return np.concatenate((np.diff(cdf(edges_of(known)), prepend=0.0, append=1.0), [0.0, 0.0]))


def _shift_of_distance(known: FeatureReference, size: float) -> np.ndarray:
    """N(t, 1) with D = 2 Phi(t / 2) - 1 = size."""
    t = 2 * special.ndtri((1 + size) / 2)
    return cumulative_law(known, lambda x: special.ndtr(x - t))


def _lump(known: FeatureReference, size: float) -> np.ndarray:
    """G = (1 - s) F + s U with U even over the ranks .5 to .6: the largest difference is s / 2, at rank .5."""
    share = 2 * size
    return cumulative_law(
        known, lambda x: (1 - share) * special.ndtr(x) + share * np.clip((special.ndtr(x) - 0.5) / 0.1, 0, 1)
    )


def _shift(known: FeatureReference, size: float) -> np.ndarray:
    """N(size, 1): Wasserstein-1 is the shift."""
    return cumulative_law(known, lambda x: special.ndtr(x - size))


def _share(known: FeatureReference, size: float) -> np.ndarray:
    """The third category gains `size`, the others lose in proportion."""
    p = CATEGORIES * (1 - size / (1 - CATEGORIES[2]))
    p[2] = CATEGORIES[2] + size
    return np.concatenate((p, [0.0, 0.0]))


KINDS = (
    Kind("distance, all shifted", Tolerance("distance", 0.05), _shift_of_distance),
    Kind("distance, a lump in the middle", Tolerance("distance", 0.05), _lump),
    Kind("Wasserstein, all shifted", Tolerance("wasserstein", 0.15), _shift),
    Kind("share of one category", Tolerance("share", 0.03), _share, True),
)


@dataclass(frozen=True, slots=True)
class Case:
    kind: int
    rows: int  # a pane
    times: float  # of the tolerance
    panes: int
    seed: int


def prepared(rng: np.random.Generator, kind: Kind, rows: int = REFERENCE) -> tuple[FeatureReference, Detectors]:
    feature = MonitoredFeature("x", "categorical" if kind.categorical else "numeric", kind.tolerance)
    if kind.categorical:
        names = pa.array([f"v{i:02}" for i in range(len(CATEGORIES))])
        column = pa.DictionaryArray.from_arrays(ranks(rng, REFERENCE, CATEGORIES).astype(np.int8), names)
    else:
        column = pa.array(rng.standard_normal(rows))
    known = cells.build(feature, WHOLE, column, version=1, effective_from=0, kept=rows)
    return known, Detectors({known.key: known}, plan_of([feature], 1.0, HORIZON))


def one(case: Case) -> list[int]:
    """The panes that paged in one stream against a new reference."""
    kind = KINDS[case.kind]
    rng = np.random.default_rng([51, case.kind, case.rows, round(case.times * 100), case.seed])
    known, detectors = prepared(rng, kind)
    law = kind.law(known, case.times * kind.tolerance.value)
    panes = rng.multinomial(case.rows, law, size=case.panes)
    return [pane for pane, _ in pages(detectors, detectors.start(), panes)]


def tiny_shift(seed: int) -> tuple[int, float]:
    """(pages of a 0.01-sd shift in 200 panes of a million rows, tolerance 0.02; its D in the first pane)."""
    rng = np.random.default_rng([52, seed])
    kind = Kind("", Tolerance("distance", QUIET_TOLERANCE), _shift)
    known, detectors = prepared(rng, kind, QUIET_ROWS)
    panes = rng.multinomial(QUIET_ROWS, _shift(known, QUIET_SHIFT), size=200)
    grown = np.cumsum(panes[0, :-2]) / QUIET_ROWS - np.cumsum(known.cell_rows[:-2]) / known.rows
    return len(pages(detectors, detectors.start(), panes)), float(np.abs(grown).max())


def run(size: Size) -> Answer:
    streams, bars, rows = STREAMS[size], [], []
    rates: dict[str, list[float]] = {k.name: [] for k in KINDS}
    for index, kind in enumerate(KINDS):
        for n in SIZES[size]:
            quiet = [len(f) for f in shared_out(one, [Case(index, n, BELOW, HORIZON, s) for s in range(streams)])]
            firsts = [
                f[0] + 1 if f else LONGEST + 1
                for f in shared_out(one, [Case(index, n, 2.0, LONGEST, s) for s in range(streams)])
            ]
            rate, power = sum(quiet) / streams, float(np.mean([f <= LONGEST for f in firsts]))
            rates[kind.name].append(rate)
            bars.append(
                bar(
                    f"material: pages / nominal just below tolerance, {kind.name}, panes of {n:,}",
                    round(rate, 3),
                    "<=",
                    1.0,
                )
            )
            bars.append(
                bar(
                    f"material: share paged within {LONGEST} panes at twice the tolerance, {kind.name}, panes of {n:,}",
                    power,
                    ">=",
                    0.9,
                )
            )
            rows.append(
                (
                    kind.name,
                    kind.tolerance.value,
                    f"{n:,}",
                    f"{rate:.2f}",
                    f"{power:.0%}",
                    f"{np.median(firsts):,.0f}",
                    f"{np.median(firsts) * n:,.0f}",
                )
            )
        progress(f"material: {kind.name}: pages / nominal {rates[kind.name]}")
    tiny = list(shared_out(tiny_shift, range(max(2, streams // 3))))
    bars.append(
        bar(
            "material: pages of a 0.01-sd shift at a million rows a pane, tolerance 0.02",
            sum(t[0] for t in tiny),
            "==",
            0,
        )
    )
    distance = float(np.mean([t[1] for t in tiny]))
    p = float(stats.kstwobign.sf(distance * np.sqrt(QUIET_ROWS / 2)))

    def draw(axes: Axes) -> None:
        for name, found in rates.items():
            axes.plot(SIZES[size], found, "o-", label=name)
        axes.axhline(1, linestyle=":", color="grey")
        axes.set_xscale("log")
        axes.set_xlabel("rows a pane")
        axes.set_ylabel(f"pages / nominal at {BELOW} of the tolerance")
        axes.legend(fontsize="small")

    return Answer(
        "Significant and material",
        f"One feature, a tolerance, a budget of one page in {HORIZON:,} panes, references of {REFERENCE:,} rows (a new one each of {streams} streams). "
        f"Quiet: the law stands at {BELOW} of the tolerance for {HORIZON:,} panes. Loud: at twice the tolerance for {LONGEST} panes.",
        bars,
        {"mean_D_of_a_0.01_sd_shift": distance, "p_value_of_it_alone": p, "streams": streams},
        [
            Table(
                "Pages just below the tolerance, and at twice it",
                (
                    "effect",
                    "tolerance",
                    "rows a pane",
                    "pages / nominal below",
                    "paged at twice it",
                    "median panes",
                    "median rows",
                ),
                rows,
            )
        ],
        [Picture("material", "pages over nominal by pane size", draw)],
        [
            f"A 0.01-sd shift at a million rows a pane, against a reference of a million, moves D by {distance:.4f} (K-S p = {p:.1e} in one pane) and never paged."
        ],
    )
