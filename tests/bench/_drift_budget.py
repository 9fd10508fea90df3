"""Question: is the page budget kept? Quiet streams of ten correlated features, a new reference each, 43,200 panes."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from stream_processors.comparing import statistics
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import cells
from stream_processors.reference.cells import WHOLE
from tests.bench._drift_answers import Answer, Picture, Size, Table, shared_out
from tests.bench._drift_streams import TEN, Counter, World, pages, poisson_bound
from tests.bench.report import bar, progress

ROWS = 100  # a pane
DAY = 1_440  # panes
REFERENCE = 100_000
STREAMS = {
    "short": {0.5: (2, 2)},
    "default": {0.5: (200, 30), 0.0: (50, 30), 0.9: (50, 30)},
    "full": {0.5: (200, 30), 0.0: (200, 30), 0.9: (200, 30)},
}  # correlation: (streams, days)
CONTRAST = {"short": 0, "default": 2, "full": 10}  # streams, one day each
HOUR = 60 * ROWS


@dataclass(frozen=True, slots=True)
class Stream:
    correlation: float
    seed: int
    days: int


def one(stream: Stream) -> list[tuple[int, str]]:
    """(pane, feature) of every page of one quiet stream."""
    rng = np.random.Generator(np.random.SFC64([11, int(stream.correlation * 100), stream.seed]))
    world = World(TEN, stream.correlation)
    references = world.references(rng, REFERENCE)
    detectors = Detectors(references, world.plan(1.0, 30 * DAY))
    state, counter, found = detectors.start(), Counter(world, references, detectors), []
    for day in range(stream.days):
        found += pages(detectors, state, counter.panes(rng, DAY, ROWS), day * DAY)
    return [(pane, feature) for pane, (feature, _) in found]


def plainly(seed: int) -> dict[str, float]:
    """Pages in a day of hourly windows when each window's p-value is asked: of any feature, and after Bonferroni; and D > 0.1."""
    rng = np.random.Generator(np.random.SFC64([12, seed]))
    world = World(TEN, 0.5)
    references = world.references(rng, REFERENCE)
    any_feature = corrected = feature_alarms = 0
    for _ in range(24):
        p = []
        for f, (values, null) in zip(TEN, world.rows(rng, HOUR), strict=True):
            reference = references[f.name, WHOLE]
            p.append(statistics.compare(reference, cells.count(reference, f.column(values, null)), 0.05).p_value)
        any_feature += min(p) < 0.05
        corrected += min(p) < 0.05 / len(p)
        feature_alarms += sum(x < 0.05 for x in p)
    return {"any": any_feature, "bonferroni": corrected, "features": feature_alarms}


def run(size: Size) -> Answer:
    bars, rows, by_feature, panes = [], [], Tally(), []
    for correlation, (streams, days) in STREAMS[size].items():
        jobs = [Stream(correlation, seed, days) for seed in range(streams)]
        found = []
        for i, pages_found in enumerate(shared_out(one, jobs), 1):
            found.append(pages_found)
            if i % 10 == 0 or i == streams:
                progress(f"budget: correlation {correlation}, {i} of {streams} streams, {sum(map(len, found))} pages")
        total = sum(map(len, found))
        bound = poisson_bound(total, streams) * 30 / days
        bars.append(
            bar(
                f"budget: pages a stream of 30 days, upper 95 % bound, correlation {correlation}",
                round(bound, 4),
                "<=",
                1.0,
                size != "short",
            )
        )
        rows.append(
            (correlation, streams, total, f"{total / streams:.3f}", f"{bound:.3f}", sum(len(f) > 1 for f in found))
        )
        by_feature.update(feature for f in found for _, feature in f)
        panes += [pane for f in found for pane, _ in f]
    contrast = [plainly(seed) for seed in range(CONTRAST[size])]
    figures: dict[str, object] = {"pages_by_feature": dict(by_feature), "streams": rows}
    tables = [
        Table(
            "Pages in quiet streams of 30 days (budget: 1)",
            ("feature correlation", "streams", "pages", "a stream", "upper 95 % bound", "streams with more than one"),
            rows,
        )
    ]
    if contrast:
        plain = {k: 30 * float(np.mean([c[k] for c in contrast])) for k in contrast[0]}
        figures["plain_rules_pages_in_30_days"] = plain
        tables.append(
            Table(
                "Other quiet streams of a day each under rules that ask each hour's p-values, windows with a page, times 30 days",
                ("rule", "pages"),
                [
                    ("p < 0.05 in any of ten features", round(plain["any"])),
                    ("the same, alarms of single features", round(plain["features"])),
                    ("p < 0.05 / 10 (Bonferroni)", round(plain["bonferroni"])),
                ],
            )
        )
    names = [f.name for f in TEN]

    def draw(axes: Axes) -> None:
        axes.bar(names, [by_feature[n] for n in names])
        axes.set_ylabel("false pages, all streams")
        axes.tick_params(axis="x", rotation=45)

    return Answer(
        "The page budget is kept",
        f"Quiet streams of 43,200 one-minute panes of {ROWS} rows under a budget of 1 page in 30 days over ten features: "
        f"{', '.join(f'{f.name} ({f.sort}' + (', 5 % null' if f.nulls else '') + ')' for f in TEN)}, joined by a Gaussian copula. "
        f"Every stream has a new reference of {REFERENCE:,} rows. After a page the detector starts anew, so one stream can page again; "
        "each page of a feature counts, though the product would join those of one incident.",
        bars,
        figures,
        tables,
        [Picture("budget", "false pages by feature", draw)],
    )
