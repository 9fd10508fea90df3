"""Question: does the monitor tell the truth about itself? Its false-alarm rate, a broken threshold, its gauges and canaries, day by day."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes

from stream_processors.detectors.budget import Budget, thresholds
from stream_processors.detectors.null_stream import NullStream, Rate, stated
from stream_processors.detectors.sensitivity import Sensitivity
from tests.bench._drift_answers import Answer, Picture, Size, Table, shared_out
from tests.bench._drift_streams import PANE_MS, TEN, World
from tests.bench.report import bar, progress

ROWS, PANES_A_WINDOW = 100, 60  # hourly windows of one-minute panes
WINDOWS = {"short": 3, "default": 24, "full": 24}
REFERENCE = 100_000
REFERENCES = 5  # drawn; the days share them in turn
BROKEN = (10.0, 100.0)  # times the rate that the budget allows
RULE_STATED = 1.01  # the alert rule of the monitor's own false pages: stated above this, or the interval above 1
DAYS = {"short": 1, "default": 40, "full": 200}
PLAIN_PANES = {
    "short": 1_000,
    "default": 200_000,
    "full": 1_000_000,
}  # quiet panes counted one by one, at an easier threshold
EASY = 500  # panes a page there


@dataclass(frozen=True, slots=True)
class Day:
    seed: int
    windows: int
    times: float  # what the thresholds let through, over what the budget allows


@dataclass(frozen=True, slots=True)
class Seen:
    interval: tuple[float, float, float]  # share of the budget: low, estimate, high
    alarms: int  # of the null stream itself
    canaries: tuple[int, int]  # caught, sent


def watched(reference: int, times: float, pages: float = 1.0, panes: int = 43_200, name: str = "bench") -> NullStream:
    """A null stream whose thresholds allow `times` what the budget says."""
    world = World(TEN, 0.0)
    references = world.references(np.random.default_rng([91, reference]), REFERENCE)
    plan = world.plan(pages, panes)
    return NullStream(references, thresholds(plan, references), replace(plan, pages=times * plan.pages), name)


def one(day: Day) -> Seen:
    stream = watched(day.seed % REFERENCES, day.times, name=f"day {day.seed}")
    rate, gauges = Rate(stream.allowed), Sensitivity(stream)
    rows = {key: ROWS for key in stream.references}
    alarms, caught, sent = 0, 0, 0
    for window in range(day.windows):
        starts = [(window * PANES_A_WINDOW + i) * PANE_MS for i in range(PANES_A_WINDOW)]
        walked = stream.walk(starts, rows)
        rate.add(walked)
        alarms += walked.alarms
        if day.times == 1.0:
            found = gauges.canaries(starts, rows)
            caught, sent = caught + sum(found.values()), sent + len(found)
    assert rate.interval is not None
    return Seen(rate.interval, alarms, (caught, sent))


def tilted_beside_counted(panes: int) -> tuple[float, float]:
    """(pages a pane counted one by one in a long quiet stream, the same rate from tilted runs): both of one easy threshold."""
    stream = watched(0, 1.0, pages=float(len(TEN)), panes=EASY, name="easy")
    rows = {key: ROWS for key in stream.references}
    counted, rates = 0, []
    for first in range(0, panes, 1_000):
        walked = stream.walk(range(first * PANE_MS, (first + 1_000) * PANE_MS, PANE_MS), rows, runs=4)
        counted += walked.alarms
        rates += [r for found in walked.rates.values() for r in found]
    return counted / (panes * len(rows)), float(np.mean(rates))


def run(size: Size) -> Answer:
    days, windows = DAYS[size], WINDOWS[size]
    whole = list(shared_out(one, [Day(seed, windows, 1.0) for seed in range(days)]))
    loose = {
        times: list(shared_out(one, [Day(seed, windows, times) for seed in range(max(1, days // 2))]))
        for times in BROKEN
    }
    truth = [
        float(np.mean([s.interval[1] for s in whole[r::REFERENCES]])) for r in range(REFERENCES) if whole[r::REFERENCES]
    ]
    covers = float(np.mean([s.interval[0] <= truth[i % REFERENCES] <= s.interval[2] for i, s in enumerate(whole)]))
    within = float(np.mean([s.interval[0] <= 1.0 for s in whole]))
    nominal = float(np.mean([s.interval[0] <= 1.0 <= s.interval[2] for s in whole]))
    by_rate = {times: float(np.mean([s.interval[0] > 1.0 for s in found])) for times, found in loose.items()}
    caught = sum(s.canaries[0] for s in whole) / max(1, sum(s.canaries[1] for s in whole))
    said = stated(_loose_budget(BROKEN[0]))
    exposed = 1.0 if said > RULE_STATED else by_rate[BROKEN[0]]
    counted, tilted = next(shared_out(tilted_beside_counted, [PLAIN_PANES[size]]))
    progress(
        f"self-monitoring: {days} days, covers {covers}, within {within}, exposed by rate {by_rate}, canaries {caught:.3f}, counted {counted:.2e}, tilted {tilted:.2e}"
    )
    required = size != "short"
    shown = {"as stated": whole, **{f"{times:.0f} times too loose": found for times, found in loose.items()}}
    ratio = tilted / max(counted, 1 / (PLAIN_PANES[size] * len(TEN)))
    bars = (
        ("days whose interval covers the rate of all days together", covers, ">=", 0.95, False),
        ("days whose interval does not lie above the nominal rate", within, ">=", 0.95, True),
        ("days whose interval covers the nominal rate, a bound that is not reached", nominal, ">=", 0.95, False),
        ("days on which the alert rule exposes thresholds 10 times too loose", exposed, ">=", 0.95, True),
        (
            "days whose measured rate alone exposes thresholds 100 times too loose",
            by_rate[BROKEN[1]],
            ">=",
            0.95,
            required,
        ),
        ("canaries of the gauge's size caught, at least", caught, ">=", 0.85, required),
        ("canaries of the gauge's size caught, at most", caught, "<=", 0.95, required),
        ("tilted rate / counted rate, least", ratio, ">=", 0.8, False),
        ("tilted rate / counted rate, most", ratio, "<=", 1.25, False),
    )

    def draw(axes: Axes) -> None:
        for label, found in shown.items():
            at = np.arange(len(found))
            low, middle, high = (np.array([s.interval[i] for s in found]) for i in range(3))
            axes.errorbar(at, middle, (middle - low, high - middle), fmt=".", label=label)
        axes.axhline(1, linestyle=":", color="grey")
        axes.set_yscale("log")
        axes.set_xlabel("simulated day")
        axes.set_ylabel("false pages / budget, 95 % interval")
        axes.legend(fontsize="small")

    return Answer(
        "The monitor monitors itself",
        f"{days} days of {windows} hourly windows of {PANES_A_WINDOW} panes of {ROWS} rows, {len(TEN)} features ({', '.join(f.name for f in TEN)}), "
        "one page in 30 days: what the process publishes about itself after each of them. Then the same with thresholds that let "
        f"{BROKEN[0]:.0f} and {BROKEN[1]:.0f} times as many pages through as stated. The published rate comes from tilted runs, whose mean is the false-alarm rate exactly; "
        f"it is checked against a count of false alarms one by one at one page in {EASY} panes.",
        [bar(f"self-monitoring: {name}", round(value, 3), *wanted) for name, value, *wanted in bars],
        {
            "rate_by_reference": truth,
            "exposed_by_rate": {str(k): v for k, v in by_rate.items()},
            "stated_when_10_times_too_loose": said,
            "null_alarms": sum(s.alarms for s in whole),
            "canaries": sum(s.canaries[1] for s in whole),
        },
        [
            Table(
                "Published false-alarm rate over the budget",
                ("thresholds", "median estimate", "5 % of days below", "95 % of days below"),
                [
                    (name, f"{np.median(e):.3f}", f"{np.quantile(e, 0.05):.3f}", f"{np.quantile(e, 0.95):.3f}")
                    for name, e in ((name, [s.interval[1] for s in found]) for name, found in shown.items())
                ],
            )
        ],
        [Picture("self", "published false-alarm rate by day", draw)],
        [
            "The nominal rate is an upper bound, so the interval lies below it and does not cover it, which a bar asks all the same; what it must cover is the true rate, known here from all days together.",
            "Thresholds that are wrong are exposed at once by what they state; the measured rate exposes what errs elsewhere, once it passes the budget itself.",
        ],
    )


def _loose_budget(times: float) -> Budget:
    """The budget of one page, with thresholds made for `times` as many."""
    world = World(TEN, 0.0)
    references = world.references(np.random.default_rng([91, 0]), REFERENCE)
    return replace(thresholds(world.plan(times, 43_200), references), pages=1.0)
