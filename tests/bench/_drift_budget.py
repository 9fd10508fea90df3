"""Question: is the page budget kept? Quiet streams of ten correlated features, a new reference each, 43,200 panes."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes

from pipeline.contract import Contract, DriftPlan, Field, TimePlan
from stream_processors.detectors.detector import Detectors
from stream_processors.judging.episodes import Episode, follow, scene_of
from stream_processors.judging.judge import Judge
from stream_processors.judging.panes import clock_of
from stream_processors.judging.partial import PaneCounts, PanePart, Partial
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.reference import cells
from stream_processors.reference.cells import WHOLE
from tests.bench._drift_answers import Answer, Picture, Size, Table, shared_out
from tests.bench._drift_streams import TEN, Counter, Feature, World, pages, poisson_bound
from tests.bench.report import bar, progress

ROWS = 100  # a pane
DAY = 1_440  # panes
REFERENCE = 100_000
STREAMS = {
    "short": {0.5: (2, 2, 150)},
    "default": {0.5: (200, 30, 1), 0.0: (50, 30, 1), 0.9: (50, 30, 1)},
    "full": {0.5: (200, 30, 1), 0.0: (200, 30, 1), 0.9: (200, 30, 1)},
}  # correlation: (streams, days, pages allowed in 30 days); the short form allows so many that two streams can tell
SHIFT, SOON = 0.5, 60  # sd of every feature once the quiet days are over; panes in which it has to page
CONTRAST = {"short": (1, 1), "default": (10, 10), "full": (10, 30)}  # streams and days under the papers' rule
HOUR, HOUR_MS = 60 * ROWS, 3_600_000
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Stream:
    correlation: float
    seed: int
    days: int
    pages: float = 1.0  # allowed in 30 days


@dataclass(frozen=True, slots=True)
class Watched:
    pages: list[tuple[int, str]]  # (pane, feature) of each while nothing moved
    seen: bool  # every feature moved, and one paged


def one(stream: Stream) -> Watched:
    rng = np.random.Generator(np.random.SFC64([11, int(stream.correlation * 100), stream.seed]))
    world = World(TEN, stream.correlation)
    references = world.references(rng, REFERENCE)
    detectors = Detectors(references, world.plan(stream.pages, 30 * DAY))
    state, counter, found = detectors.start(), Counter(world, references, detectors), []
    for day in range(stream.days):
        found += pages(detectors, state, counter.panes(rng, DAY, ROWS), day * DAY)
    moved = Counter(World([_moved(f) for f in TEN], stream.correlation), references, detectors)
    seen = pages(detectors, detectors.start(), moved.panes(rng, SOON, ROWS))
    return Watched([(pane, feature) for pane, (feature, _) in found], bool(seen))


def _moved(feature: Feature) -> Feature:
    return replace(feature, value=lambda z: feature.value(z + np.float32(SHIFT)))


@dataclass(frozen=True, slots=True)
class Quiet:
    """What hourly windows of one quiet stream came to, through judge and episodes."""

    pages: Mapping[str, int]  # episodes that fired, by the contract's rule
    windows: int
    loud: int  # windows in which a feature is above its critical value
    features: int  # features that are, over all windows
    corrected: int  # windows with p < alpha / features somewhere


def judged(stream: Stream) -> Quiet:
    """The same rows under `rule: ks_alpha` and under the page budget."""
    rng = np.random.Generator(np.random.SFC64([12, int(stream.correlation * 100), stream.seed]))
    world = World(TEN, stream.correlation)
    references = world.references(rng, REFERENCE)
    known = Timeline((ReferenceSet(1, 0, lambda: references),))
    judges = {rule: Judge(hourly(rule), clock_of(hourly(rule)), [0], 0.0) for rule in ("ks_alpha", "bank")}
    episodes, told = {rule: Episode() for rule in judges}, Tally()
    for judge in judges.values():
        judge.know(known)
    for number in range(24 * stream.days):
        start = number * HOUR_MS
        counts = [
            PaneCounts(f.name, WHOLE, cells.count(references[f.name, WHOLE], f.column(*column)).to_bytes(), b"")
            for f, column in zip(TEN, world.rows(rng, HOUR), strict=True)
        ]
        part = PanePart(start, 1, HOUR, 0, number * HOUR, (number + 1) * HOUR, tuple(sorted(counts, key=lambda c: c.key)))  # fmt: skip
        counted = Partial("quiet", 0, part.first, part.last, number, True, 1, None, start + HOUR_MS, 0, (part,))
        for rule, judge in judges.items():
            judge.feed(number, counted, 0.0)
            for closed in judge.turn(0.0).closed:
                episodes[rule], alert = follow(episodes[rule], closed, judge.clock, scene_of(judge, closed), 0)
                told[rule] += alert is not None and alert.state == "firing"
                if rule == "ks_alpha":
                    loud = sum(v.state == "alarm" for v in closed.verdicts)
                    told["windows"] += 1
                    told["loud"] += loud > 0
                    told["features"] += loud
                    told["corrected"] += min(v.p_value for v in closed.verdicts) < ALPHA / len(TEN)
    return Quiet(
        {rule: told[rule] for rule in judges}, *(told[n] for n in ("windows", "loud", "features", "corrected"))
    )


@lru_cache
def hourly(rule: str) -> Contract:
    """Ten features, hourly windows of one pane, one page in 30 days."""
    hour, kinds = timedelta(hours=1), {"numeric": "number", "categorical": "string"}
    features = tuple(f.monitored for f in TEN)
    fields = (*(Field(f.name, kinds[f.kind]) for f in features), Field("at", "timestamp"))
    plan = DriftPlan(features, window=hour, pane=hour, rule=rule, alpha=ALPHA, rejects=False)
    return Contract("quiet", "1.0.0", fields, None, TimePlan("at", lateness=timedelta(0)), drift=plan)


def run(size: Size) -> Answer:
    bars, rows, by_feature, panes = [], [], Tally(), []
    seen = []
    for correlation, (streams, days, allowed) in STREAMS[size].items():
        jobs = [Stream(correlation, seed, days, allowed) for seed in range(streams)]
        found = []
        for i, watched in enumerate(shared_out(one, jobs), 1):
            found.append(watched.pages)
            seen.append(watched.seen)
            if i % 10 == 0 or i == streams:
                progress(f"budget: correlation {correlation}, {i} of {streams} streams, {sum(map(len, found))} pages")
        total = sum(map(len, found))
        bound = poisson_bound(total, streams) * 30 / days / allowed
        bars.append(
            bar(
                f"budget: pages a stream of 30 days, upper 95 % bound, correlation {correlation}",
                round(bound, 4),
                "<=",
                1.0,
            )
        )
        rows.append(
            (correlation, streams, total, f"{total / streams:.3f}", f"{bound:.3f}", sum(len(f) > 1 for f in found))
        )
        by_feature.update(feature for f in found for _, feature in f)
        panes += [pane for f in found for pane, _ in f]
    bars.append(
        bar(f"budget: streams that page within an hour once all moves by {SHIFT} sd", float(np.mean(seen)), ">=", 0.95)
    )
    streams, days = CONTRAST[size]
    quiet = list(shared_out(judged, [Stream(0.5, seed, days) for seed in range(streams)]))
    plain = {
        "ks_alpha: pages": sum(q.pages["ks_alpha"] for q in quiet),
        "ks_alpha: windows with an alarm": sum(q.loud for q in quiet),
        "ks_alpha: alarms of single features": sum(q.features for q in quiet),
        "p < 0.05 / 10 (Bonferroni): windows with an alarm": sum(q.corrected for q in quiet),
        "bank, the default: pages": sum(q.pages["bank"] for q in quiet),
    }
    windows = sum(q.windows for q in quiet)
    in_a_month = {name: round(count * 720 / windows, 2) for name, count in plain.items()}
    progress(f"budget: in 30 days of the same {windows} hourly windows: {in_a_month}")
    figures: dict[str, object] = {
        "pages_by_feature": dict(by_feature), "streams": rows, "in_30_quiet_days": in_a_month, "windows": windows,
    }  # fmt: skip
    tables = [
        Table(
            "Pages in quiet streams of 30 days (budget: 1)",
            ("feature correlation", "streams", "pages", "a stream", "upper 95 % bound", "streams with more than one"),
            rows,
        ),
        Table(
            f"Other quiet streams, correlation 0.5, through judge and episodes: {windows:,} hourly windows of {HOUR:,} rows, the same under each rule",
            ("rule", f"counted in {windows / 24:.0f} days", "in 30 days"),
            [(name, count, f"{in_a_month[name]:,.4g}") for name, count in plain.items()],
        ),
    ]
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
