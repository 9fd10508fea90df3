"""Bench `alarms`: quiet streams do not page, a price shift pages within two windows, and what a pane costs.

A hundred stationary windows each of 1,000, 10,000 and 100,000 orders of the real generator, twelve panes a window, over
every monitored feature and segment of the sales contract, against a reference of 100,000 orders of another seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow as pa
from scipy import stats

from pipeline.contract import MonitoredFeature
from pipeline.contract_file import load
from producers.sales import BLOCK_ORDERS, CATEGORIES, CHANNELS, REGIONS, World, orders
from producers.scenarios import scenario
from stream_processors.comparing import statistics
from stream_processors.detectors.detector import Detectors
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.grid import coarse_many
from tests.bench.report import bar, finish, progress

PANES = 12  # a window
REFERENCE_ROWS = 100_000
PLAN = load("sales").drift
START_MS = 1_789_948_800_000
MODEST = World(price_by_category=(1.2, 1.0) * 4)  # prices up by a fifth in half of the categories
NAMES = {"category": CATEGORIES, "region": REGIONS, "channel": CHANNELS}
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    pages: list[tuple[int, Key, str]]  # pane, what, rule: first pages of each detector
    panes: int
    seconds: float


def columns(world: World, seed: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The monitored columns of one block of orders after the other, `rows` in all."""
    for block in range(-(-rows // BLOCK_ORDERS)):
        size = min(BLOCK_ORDERS, rows - block * BLOCK_ORDERS)
        times = START_MS + (np.arange(size) + block * BLOCK_ORDERS) * 700
        made = orders({0: world}, seed, block, times)
        yield {
            "price": made.price_cents / 100, "quantity": made.quantity, "discount": made.discount_cents / 100,
            "category": made.category, "region": made.region, "channel": made.channel,
        }  # fmt: skip


def panes(world: World, seed: int, rows: int, number: int) -> Iterator[dict[str, np.ndarray]]:
    """`number` panes that hold `rows` orders together; sizes differ by one at most."""
    edges = np.linspace(0, rows, number + 1).astype(int)
    held: dict[str, np.ndarray] | None = None
    at, i = 0, 0
    for made in columns(world, seed, rows):
        held = made if held is None else {k: np.concatenate((held[k], made[k])) for k in made}
        while i < number and edges[i + 1] - at <= len(held["price"]):
            size = edges[i + 1] - at
            yield {k: v[:size] for k, v in held.items()}
            held, at, i = {k: v[size:] for k, v in held.items()}, edges[i + 1], i + 1


def arrow(feature: MonitoredFeature, values: np.ndarray) -> pa.Array:
    if feature.kind == "numeric":
        return pa.array(values, pa.float64())
    return pa.DictionaryArray.from_arrays(pa.array(values, pa.int8()), list(NAMES[feature.name]))


def segments(held: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield cells.WHOLE, np.ones(len(held["price"]), bool)
    for code, name in enumerate(REGIONS):
        yield f"region={name}", held["region"] == code


def references(seed: int, rows: int) -> dict[Key, FeatureReference]:
    (held,) = panes(World(), seed, rows, 1)
    return {
        (f.name, segment): cells.build(f, segment, arrow(f, held[f.name][mask]), version=1, effective_from=0)
        for segment, mask in segments(held)
        for f in PLAN.features
    }


def watch(source: Iterator[dict[str, np.ndarray]], detectors: Detectors, *, until_page: bool = False) -> Run:
    """Step every detector over the panes."""
    state, pages = detectors.start(), []
    began, number = time.perf_counter(), 0
    fired = detectors.fired(state)
    for number, held in enumerate(source, 1):
        counts = {
            (f.name, segment): cells.count(detectors.references[f.name, segment], arrow(f, held[f.name][mask]))
            for segment, mask in segments(held)
            for f in PLAN.features
            if (f.name, segment) in detectors.references
        }
        detectors.step(state, counts, START_MS + number * 300_000)
        now = detectors.fired(state)
        anew = [detectors.keys[k] for k in np.flatnonzero(now & ~fired)]
        pages += [(number, key, said.rule or "") for key, said in detectors.evidence(state, anew).items()]
        fired = now
        if pages and until_page:
            break
    return Run(pages, number, time.perf_counter() - began)


def speed(detectors: Detectors) -> dict[str, float]:
    """Rows a second of twelve features (the six, twice) at panes of 1,000: counted and stepped; and K-S beside scipy's; CPU seconds."""
    held = list(panes(World(), 5, 200_000, 200))
    ready = [{f.name: arrow(f, h[f.name]) for f in PLAN.features} for h in held]
    whole = {(f.name, cells.WHOLE): detectors.references[f.name, cells.WHOLE] for f in PLAN.features}
    twice = {(f"{name}{again}", s): r for (name, s), r in whole.items() for again in (1, 2)}
    twelve = Detectors(twice, PLAN)
    members, columns_of = tuple(twelve.references.values()), [key[0][:-1] for key in twelve.keys]
    state = twelve.start()
    twelve.step_coarse(state, np.concatenate(coarse_many(members, [ready[0][c] for c in columns_of])), 0)
    began = time.process_time()
    for number, pane in enumerate(ready, 1):
        twelve.step_coarse(state, np.concatenate(coarse_many(members, [pane[c] for c in columns_of])), number)
        if number % PANES == 0:
            twelve.evidence(state)
    monitor = time.process_time() - began
    known = detectors.references["price", cells.WHOLE]
    began = time.process_time()
    for pane in ready:
        statistics.ks(known, cells.count(known, pane["price"]))
    ours = (time.process_time() - began) / len(ready)
    sample = np.repeat(known.values, known.counts)
    began = time.process_time()
    for h in held[:20]:
        stats.ks_2samp(h["price"], sample, method="asymp")
    scipys = (time.process_time() - began) / 20
    return {
        "twelve_features_rows_per_cpu_second": round(200_000 / monitor), "ks_cpu_us_a_window_of_1000": round(ours * 1e6, 1),
        "scipy_ks_2samp_cpu_us": round(scipys * 1e6, 1), "faster_than_scipy": round(scipys / ours, 1),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="ten references instead of one")
    args = parser.parse_args(arguments)
    began, bars, figures = time.monotonic(), [], {}
    repeats = 10 if args.full else 1
    for size in (1_000, 10_000, 100_000):
        pages, panes_seen, false = 0, 0, []
        for repeat in range(repeats):
            known = references(100 + repeat, REFERENCE_ROWS)
            detectors = Detectors(known, PLAN)
            quiet = watch(panes(World(), 10_000 + size + repeat, 100 * size, 100 * PANES), detectors)
            pages, panes_seen = pages + len(quiet.pages), panes_seen + quiet.panes
            false += quiet.pages
        figures[f"quiet_{size}"] = {
            "pages": false,
            "panes": panes_seen,
            "detectors": len(detectors.keys),
            "refused": len(detectors.budget.refused),
        }
        progress(f"quiet windows of {size}: {pages} pages in {panes_seen} panes")
        bars.append(bar(f"pages in a hundred quiet windows of {size:,} rows", pages, "==", 0))
        for name, world, required in (
            ("price-shift", scenario("price-shift")[0].world, True),
            ("price +20 % in half of the categories", MODEST, False),
        ):
            delays, first = [], None
            for seed in range(20 if size < 100_000 else 5):
                shifted = watch(panes(world, 500 + seed, 6 * size, 6 * PANES), detectors, until_page=True)
                delays.append(shifted.panes / PANES if shifted.pages else np.inf)
                first = first or (shifted.pages[0] if shifted.pages else None)
            late = sum(d > 2 for d in delays)
            figures[f"{name}_{size}"] = {
                "windows_median": float(np.median(delays)) if np.isfinite(np.median(delays)) else None,
                "late": late,
                "runs": len(delays),
                "first": first,
            }
            progress(
                f"{name}, windows of {size}: median {np.median(delays):.2f} windows, later than two: {late} of {len(delays)}"
            )
            bars.append(
                bar(f"{name}: runs without a page within two windows of {size:,} rows", late, "==", 0, required)
            )
    figures["speed"] = speed(detectors)
    figures["reference_rows"] = REFERENCE_ROWS
    figures["thresholds"] = {
        "bank": round(detectors.budget.of(("price", "*")).bank or 0, 2),
        "scan": round(detectors.budget.of(("price", "*")).scan or 0, 2),
    }
    return finish("alarms", began, bars, figures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
