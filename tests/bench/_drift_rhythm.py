"""Question: do a daily cycle and autocorrelation stay quiet, and is a true shift on top of them still found?

References are fitted by the product's own code from rows with their event times: whether there is a rhythm or dependence is for
it to find out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from numba import njit

from pipeline.contract import DriftPlan, MonitoredFeature
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import fit as reference_fit
from stream_processors.reference.cells import WHOLE, FeatureReference
from tests.bench._drift_answers import Answer, Picture, Size, Table, shared_out
from tests.bench._drift_streams import cells_of, packed_panes, poisson_bound
from tests.bench.report import bar, progress

X = MonitoredFeature("x", "numeric")
DAY_MS = 86_400_000
START = 4 * DAY_MS  # a Monday, 00:00 UTC
LIVE_DAYS = 30  # the budget: one page in 30 days
SHIFTS = (0.25, 0.5)
STREAMS = {"short": 1, "default": 40, "full": 200}
BLIND = {"short": 0, "default": 4, "full": 20}  # streams watched without rhythm and dependence, for contrast
QUICK = ("AR(1), phi 0.5", "daily cycle of 0.5 sd")  # laws of the short form, beside the independent ones
TRIALS = 5  # shifts a stream, each planted at another time of day
CALM, MOST = 150, 400  # panes before a planted shift, and after it


@dataclass(frozen=True, slots=True)
class Law:
    """x = A sin(2 pi t / day) + a rise on Mondays from 9 to 11 + an AR(1) process of variance 1."""

    name: str
    phi: float
    amplitude: float
    rows: int  # a pane
    panes: int  # a day
    mondays: float = 0.0
    reference_days: int = 14

    @property
    def independent(self) -> bool:
        return not (self.phi or self.amplitude or self.mondays)

    @property
    def allowed(self) -> float:
        """Delay over the independent one's that is within the bar."""
        return 2 * (1 + self.phi) / (1 - self.phi) if self.phi else 2.0

    @property
    def pane_ms(self) -> int:
        return DAY_MS // self.panes


PLAIN = {
    rows: Law(f"independent, panes of {rows:,}", 0, 0, rows, panes, reference_days=days)
    for rows, panes, days in ((1_000, 96, 14), (100, 288, 14), (25, 288, 21))
}
LAWS = (
    PLAIN[1_000],
    *(Law(f"AR(1), phi {phi}", phi, 0, 1_000, 96) for phi in (0.2, 0.5, 0.8)),
    PLAIN[100],
    *(Law(f"daily cycle of {a} sd", 0, a, 100, 288) for a in (0.1, 0.25, 0.5)),
    PLAIN[25],
    *(Law(f"+{a} sd on Mondays 09-11", 0, 0, 25, 288, mondays=a, reference_days=21) for a in (0.3, 0.6, 1.2)),
)


@dataclass(frozen=True, slots=True)
class Stream:
    law: int
    seed: int
    fitted: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    pages: int
    delays: dict[float, list[int]]  # rows, by shift
    slots: int
    tempered: bool


def rows(rng: np.random.Generator, law: Law, start: int, panes: int) -> np.ndarray:
    """Rows evenly spaced in event time from `start` (ms)."""
    n = panes * law.rows
    x = rng.standard_normal(n)
    if law.phi:
        _follow(x, law.phi)
    if law.independent:
        return x
    when = times(law, start, panes)
    hour = (when - START) % (7 * DAY_MS) / 3_600_000
    return x + law.amplitude * np.sin(2 * np.pi * when / DAY_MS) + law.mondays * ((hour >= 9) & (hour < 11))


def times(law: Law, start: int, panes: int) -> np.ndarray:
    return start + np.arange(panes * law.rows) * (law.pane_ms / law.rows)


@njit(cache=True)
def _follow(x, phi):
    """White noise into a stationary AR(1) process of variance 1, in place."""
    scale = np.sqrt(1 - phi * phi)
    for i in range(1, x.size):
        x[i] = phi * x[i - 1] + scale * x[i]


def fitted(rng: np.random.Generator, law: Law, auto: bool) -> FeatureReference:
    panes = law.reference_days * law.panes
    column, at = pa.array(rows(rng, law, START, panes)), times(law, START, panes).astype(np.int64)
    mode = "auto" if auto else "none"
    wish = reference_fit.Wish(law.pane_ms, rhythm=mode, dependence=mode)
    return reference_fit.fit(X, WHOLE, column, at, wish, version=1, effective_from=0)


def one(stream: Stream) -> Found:
    law = LAWS[stream.law]
    rng = np.random.Generator(np.random.SFC64([81, stream.law, stream.seed]))
    known = fitted(rng, law, stream.fitted)
    detectors = Detectors(
        {known.key: known},
        DriftPlan((X,), pane=timedelta(milliseconds=law.pane_ms), pages=1.0, pages_per=timedelta(days=LIVE_DAYS)),
    )
    state, pages = detectors.start(), 0
    for day in range(law.reference_days, law.reference_days + LIVE_DAYS):
        start = START + day * DAY_MS
        pages += paged(detectors, state, law, known, rows(rng, law, start, law.panes), start, first_only=False)
    delays: dict[float, list[int]] = {shift: [] for shift in SHIFTS if stream.fitted}
    for shift in delays:
        for _ in range(TRIALS):
            day, pane = law.reference_days + int(rng.integers(7)), int(rng.integers(law.panes))
            start = START + day * DAY_MS + pane * law.pane_ms
            fresh, made = detectors.start(), rows(rng, law, start, CALM + MOST)
            if paged(detectors, fresh, law, known, made[: CALM * law.rows], start, first_only=True):
                continue
            after = made[CALM * law.rows :] + shift
            at = paged(detectors, fresh, law, known, after, start + CALM * law.pane_ms, first_only=True)
            delays[shift].append((at or MOST + 1) * law.rows)
    return Found(pages, delays, len(known.slots.names) if known.slots else 0, known.temper is not None)


def paged(
    detectors: Detectors,
    state: object,
    law: Law,
    known: FeatureReference,
    values: np.ndarray,
    start: int,
    *,
    first_only: bool,
) -> int:
    """How often it paged; or the number of the pane that paged first, 0 if none did."""
    packed = packed_panes(detectors, known, cells_of(known, values), law.rows)
    starts = start + np.arange(len(packed), dtype=np.int64) * law.pane_ms
    at = pages = 0
    while at < len(packed):
        at += detectors.step_panes(state, packed[at:], starts[at:])
        if detectors.fired(state).any():
            if first_only:
                return at
            pages += 1
            detectors.reset(state, known.key)
    return pages


def run(size: Size) -> Answer:
    streams, bars, table, plain = STREAMS[size], [], [], {}
    medians: dict[tuple[str, float], float] = {}
    rates: dict[str, float] = {}
    for index, law in enumerate(LAWS):
        if size == "short" and not law.independent and law.name not in QUICK:
            continue
        found = list(shared_out(one, [Stream(index, seed) for seed in range(streams)]))
        total = sum(f.pages for f in found)
        rates[law.name] = total / streams
        for shift in SHIFTS:
            medians[law.name, shift] = float(np.median([d for f in found for d in f.delays[shift]]))
        blind = list(shared_out(one, [Stream(index, seed, False) for seed in range(BLIND[size])]))
        plain[law.name] = float(np.mean([f.pages for f in blind])) if blind else float("nan")
        like = PLAIN[law.rows]
        ratio = {s: medians[law.name, s] / medians[like.name, s] for s in SHIFTS}
        bars.append(
            bar(
                f"rhythm: pages / nominal in {LIVE_DAYS} quiet days, {law.name}",
                round(rates[law.name], 3),
                "<=",
                1.5,
            )
        )
        seen = np.mean([d <= MOST * law.rows for f in found for d in f.delays[SHIFTS[-1]]])
        bars.append(bar(f"rhythm: planted shifts of +{SHIFTS[-1]} sd that page, {law.name}", float(seen), ">=", 0.95))
        if law is not like:
            bars += [
                bar(
                    f"rhythm: delay of +{s} sd over the independent one's, {law.name}",
                    round(r, 2),
                    "<=",
                    round(law.allowed, 2),
                )
                for s, r in ratio.items()
            ]
        table.append(
            (
                law.name, f"{plain[law.name]:.2f}", f"{rates[law.name]:.2f}", f"{poisson_bound(total, streams):.2f}",
                *(f"{medians[law.name, s]:,.0f}" for s in SHIFTS), f"{np.median([f.slots for f in found]):.0f}", f"{np.mean([f.tempered for f in found]):.0%}",
            )
        )  # fmt: skip
        progress(
            f"rhythm: {law.name}: {total} pages in {streams} streams, without matching {plain[law.name]:.1f} a stream; delays {[medians[law.name, s] for s in SHIFTS]}"
        )

    def draw(axes: Axes) -> None:
        names = list(rates)
        at = np.arange(len(names))
        axes.barh(at - 0.2, [max(plain[n], 0.01) for n in names], 0.4, label="rhythm: none, dependence: none")
        axes.barh(at + 0.2, [max(rates[n], 0.01) for n in names], 0.4, label="found by itself (default)")
        axes.set_yticks(at, names)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.axvline(1.0, linestyle=":", color="grey")
        axes.set_xlabel("false pages in 30 days (budget: 1)")
        axes.legend(fontsize="small")

    return Answer(
        "Rhythm and dependence do not page",
        "x = A sin(2 pi t / day) + a rise on Mondays from 9 to 11 + an AR(1) process, variance 1. The reference is fitted from 14 days of rows "
        "with event times, 21 for the Mondays, "
        f"nothing said about their law; then {LIVE_DAYS} quiet days under a budget of one page, {streams} streams a law, each with its own reference. "
        f"Then {TRIALS} shifts a stream and size are planted at random times of day after {CALM} quiet panes.",
        bars,
        {"pages_a_stream": rates, "without_matching": plain},
        [
            Table(
                "False pages in 30 days (budget: 1), and median rows until a shift pages",
                (
                    "law",
                    "without matching",
                    "default",
                    "upper 95 % bound",
                    *(f"+{s} sd" for s in SHIFTS),
                    "slots (median)",
                    "tempered",
                ),
                table,
            )
        ],
        [Picture("rhythm", "false pages by law", draw)],
        [
            "With dependence the run length is measured, not a theorem: the temper is fitted to the reference's own panes."
        ],
    )
