"""Question: how fast, and how much memory? CPU time of one thread, fresh data in every call, best of several rounds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from scipy import stats

from pipeline.contract import MonitoredFeature
from stream_processors.comparing import statistics
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import cells
from stream_processors.reference.cells import WHOLE, FeatureReference
from stream_processors.reference.grid import coarse_counts, coarse_many
from tests.bench._drift_answers import Answer, Size, Table
from tests.bench._drift_streams import PANE_MS, plan_of
from tests.bench.report import bar, progress

ROUNDS = {"short": 1, "default": 5, "full": 9}
VALUES = 1_000_000  # a call of the grid
REFERENCE, WINDOW = 1_000_000, 100_000  # against scipy
MEMORY = {
    "short": (10_000,),
    "default": (10_000, 100_000, 1_000_000),
    "full": (10_000, 100_000, 1_000_000, 10_000_000),
}  # rows of the reference
FEATURES, PANE, PANES, A_WINDOW = 12, 1_000, 400, 12
KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda r, n: r.standard_normal(n),
    "lognormal": lambda r, n: r.lognormal(1, 1, n),
    "cents": lambda r, n: np.round(r.lognormal(3, 1, n), 2),
    "Poisson(3)": lambda r, n: r.poisson(3, n).astype(float),
}


def reference(values: np.ndarray, name: str = "x") -> FeatureReference:
    return cells.build(MonitoredFeature(name, "numeric"), WHOLE, pa.array(values), version=1, effective_from=0)


def cpu(call: Callable[[np.ndarray], object], inputs: list[np.ndarray]) -> float:
    """Seconds of this thread's CPU a call; each call has data of its own."""
    began = time.thread_time()
    for x in inputs:
        call(x)
    return (time.thread_time() - began) / len(inputs)


def counting(rounds: int, values: int) -> dict[str, float]:
    """Million values a second through `coarse_counts`, by kind."""
    rng, found = np.random.default_rng(61), {}
    for name, draw in KINDS.items():
        known = reference(draw(rng, 200_000))
        coarse_counts(known, draw(rng, 1_000))  # compiled, tables built
        count = partial(coarse_counts, known)
        best = min(cpu(count, [draw(rng, values) for _ in range(3)]) for _ in range(rounds))
        found[name] = values / best / 1e6
    return found


def against_scipy(rounds: int, m: int, n: int) -> tuple[float, float, float]:
    """(scipy's, the exact form's, the grid's) seconds a window of n against m rows: the distance, and p-value where scipy gives one."""
    rng = np.random.default_rng(62)
    sample = rng.standard_normal(m)
    known = reference_of_all(sample)
    statistics.ks(known, cells.count(known, pa.array(rng.standard_normal(1_000))))
    coarse_counts(known, rng.standard_normal(1_000))

    def exact(x: np.ndarray) -> float:
        found = statistics.ks(known, cells.count(known, pa.array(x)))
        return statistics.ks_p_value(found.statistic, n, known.rows)

    def grid(x: np.ndarray) -> float:
        low, _ = statistics.bracket(known, coarse_counts(known, x))
        return statistics.ks_p_value(low, n, known.rows)

    times = [[], [], []]
    for _ in range(rounds):
        x = [rng.standard_normal(n) for _ in range(5)]
        times[0].append(cpu(lambda x: stats.ks_2samp(sample, x, method="asymp"), x[:1]))
        times[1].append(cpu(exact, x[1:3]))
        times[2].append(cpu(grid, x[3:]))
    return tuple(min(t) for t in times)


def reference_of_all(sample: np.ndarray) -> FeatureReference:
    """Every row kept, not only the 200,000 that are kept unasked."""
    return cells.build(
        MonitoredFeature("x", "numeric"), WHOLE, pa.array(sample), version=1, effective_from=0, kept=len(sample)
    )


def monitor(rounds: int, rows: int, panes: int) -> float:
    """Rows a second of the whole monitor: twelve features counted and stepped a pane, evidence at every twelfth."""
    rng = np.random.default_rng(63)
    draws = [list(KINDS.values())[i % len(KINDS)] for i in range(FEATURES)]
    known = {(f"f{i}", WHOLE): reference(draw(rng, 100_000), f"f{i}") for i, draw in enumerate(draws)}
    detectors = Detectors(known, plan_of([MonitoredFeature(f"f{i}", "numeric") for i in range(FEATURES)], 1.0, 43_200))
    references = [known[key] for key in detectors.keys]
    by_key = dict(zip(known, draws, strict=True))

    def watched() -> float:
        held = [[by_key[key](rng, rows) for key in detectors.keys] for _ in range(panes)]
        state = detectors.start()
        began = time.thread_time()
        for number, columns in enumerate(held):
            packed = coarse_many(references, columns)[0].base
            detectors.step_coarse(state, packed, number * PANE_MS)
            if number % A_WINDOW == A_WINDOW - 1:
                detectors.evidence(state)
        return time.thread_time() - began

    watched()
    return rows * panes / min(watched() for _ in range(rounds))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a feature."""

    rows: int
    reference: int  # in memory, tables included
    exact_pane: int  # of 1,000 rows, as sent
    coarse_pane: int  # in memory
    state: int  # of the detectors after 600 panes, as saved


def memory(m: int) -> Memory:
    rng = np.random.default_rng([64, m])
    known = reference_of_all(rng.standard_normal(m))
    detectors = Detectors({known.key: known}, plan_of([MonitoredFeature("x", "numeric")], 1.0, 43_200))
    state = detectors.start()
    detectors.step_panes(
        state, rng.multinomial(1_000, known.cell_rows / known.cell_rows.sum(), 600), np.arange(600) * PANE_MS
    )
    pane = cells.count(known, pa.array(rng.standard_normal(1_000)))
    table = known.lookup.table.nbytes + known.lookup.values.nbytes if known.lookup else 0
    held = known.values.nbytes + known.counts.nbytes + known.cumulative.nbytes + known.cell_of.nbytes + table
    return Memory(m, held, len(pane.to_bytes()), cells.coarse(known, pane).nbytes, len(state.to_bytes()))


def run(size: Size) -> Answer:
    rounds, short = ROUNDS[size], size == "short"
    rates = counting(rounds, VALUES // (10 if short else 1))
    progress("speed: million values a second: " + ", ".join(f"{k} {v:.0f}" for k, v in rates.items()))
    m, n = (REFERENCE // 10, WINDOW // 10) if short else (REFERENCE, WINDOW)
    scipys, exact, grid = against_scipy(rounds, m, n)
    progress(f"speed: scipy {scipys * 1e3:.1f} ms, exact {exact * 1e3:.2f}, grid {grid * 1e3:.3f}")
    whole = monitor(rounds, PANE, PANES // (4 if short else 1))
    small = monitor(rounds, 100, PANES)
    progress(f"speed: whole monitor {whole / 1e6:.2f} M rows/s at panes of 1,000, {small / 1e6:.2f} at 100")
    held = [memory(m) for m in MEMORY[size]]
    required = not short
    return Answer(
        "Speed and memory",
        f"CPU time of one thread, data drawn anew for every call, the best of {rounds} rounds; ratios are taken in this run. "
        f"Python {sys.version.split()[0]}, numpy {np.__version__}. The whole monitor: {FEATURES} features, coarse counts, bank and scan "
        f"stepped at every pane, evidence at every {A_WINDOW}th.",
        [
            bar(
                "speed: grid counting, million values a second, slowest kind",
                round(min(rates.values()), 1),
                ">=",
                50,
                required,
            ),
            bar(
                "speed: whole monitor of 12 features, million rows a second, panes of 1,000",
                round(whole / 1e6, 2),
                ">=",
                5,
                required,
            ),
            bar(
                f"speed: exact form, times scipy.stats.ks_2samp at m = {m:,}, n = {n:,}",
                round(scipys / exact, 1),
                ">=",
                15,
                required,
            ),
            bar(
                f"speed: grid, times scipy.stats.ks_2samp at m = {m:,}, n = {n:,}",
                round(scipys / grid, 1),
                ">=",
                100,
                required,
            ),
        ],
        {
            "million_values_a_second": {k: round(v, 1) for k, v in rates.items()},
            "ms_a_window": {"scipy": scipys * 1e3, "exact": exact * 1e3, "grid": grid * 1e3},
            "million_rows_a_second_at_panes_of_100": round(small / 1e6, 2),
            "bytes_a_feature": [asdict(one) for one in held],
        },
        [
            Table(
                "Grid counting, one thread", ("values", "million a second"), [(k, f"{v:.0f}") for k, v in rates.items()]
            ),
            Table(
                f"Distance and p-value of a window of {n:,} against {m:,} rows",
                ("form", "ms", "times faster than scipy"),
                [
                    ("scipy.stats.ks_2samp (asymp)", f"{scipys * 1e3:.1f}", 1),
                    ("exact counts", f"{exact * 1e3:.2f}", f"{scipys / exact:.0f}"),
                    ("grid, certified bracket", f"{grid * 1e3:.3f}", f"{scipys / grid:.0f}"),
                ],
            ),
            Table(
                "Whole monitor, 12 features",
                ("rows a pane", "million rows a second"),
                [("1,000", f"{whole / 1e6:.1f}"), ("100", f"{small / 1e6:.1f}")],
            ),
            Table(
                "Bytes a feature",
                (
                    "reference rows",
                    "reference in memory",
                    "exact pane of 1,000, as sent",
                    "coarse pane in memory",
                    "detector state after 600 panes, as saved",
                ),
                [tuple(f"{x:,}" for x in astuple(one)) for one in held],
            ),
        ],
    )
