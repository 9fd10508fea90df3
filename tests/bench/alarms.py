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
from stream_processors import budget, cells, detector, statistics
from stream_processors.budget import Budget
from stream_processors.cells import FeatureReference
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


def watch(
    source: Iterator[dict[str, np.ndarray]],
    known: Mapping[Key, FeatureReference],
    limits: Budget,
    *,
    until_page: bool = False,
) -> Run:
    """Step every detector over the panes."""
    states = {key: detector.start(known[key], limits) for key in limits.by_key}
    pages: list[tuple[int, Key, str]] = []
    began, number = time.perf_counter(), 0
    for number, held in enumerate(source, 1):
        for segment, mask in segments(held):
            for f in PLAN.features:
                key = f.name, segment
                if key not in states:
                    continue
                counts = cells.count(known[key], arrow(f, held[f.name][mask]))
                fired = states[key].fired
                states[key] = detector.step(states[key], known[key], counts)
                if fired < 0 <= states[key].fired:
                    pages.append((number, key, detector.evidence(states[key]).rule or ""))
        if pages and until_page:
            break
    return Run(pages, number, time.perf_counter() - began)


def speed(known: Mapping[Key, FeatureReference], limits: Budget) -> dict[str, float]:
    """Rows a second of twelve features (the six, twice) at panes of 1,000: counted and stepped; and K-S beside scipy's; CPU seconds."""
    held = list(panes(World(), 5, 200_000, 200))
    ready = [{f.name: arrow(f, h[f.name]) for f in PLAN.features} for h in held]
    keys = [(f.name, cells.WHOLE) for f in PLAN.features] * 2
    states = [detector.start(known[key], limits) for key in keys]
    began = time.process_time()
    for pane in ready:
        for i, key in enumerate(keys):
            states[i] = detector.step(states[i], known[key], cells.count(known[key], pane[key[0]]))
    monitor = time.process_time() - began
    key = "price", cells.WHOLE
    began = time.process_time()
    for pane in ready:
        statistics.ks(known[key], cells.count(known[key], pane["price"]))
    ours = (time.process_time() - began) / len(ready)
    sample = np.repeat(known[key].values, known[key].counts)
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
            limits = budget.thresholds(PLAN, known)
            quiet = watch(panes(World(), 10_000 + size + repeat, 100 * size, 100 * PANES), known, limits)
            pages, panes_seen = pages + len(quiet.pages), panes_seen + quiet.panes
            false += quiet.pages
        figures[f"quiet_{size}"] = {
            "pages": false,
            "panes": panes_seen,
            "detectors": len(limits.by_key),
            "refused": len(limits.refused),
        }
        progress(f"quiet windows of {size}: {pages} pages in {panes_seen} panes")
        bars.append(bar(f"pages in a hundred quiet windows of {size:,} rows", pages, "==", 0))
        for name, world, required in (
            ("price-shift", scenario("price-shift")[0].world, True),
            ("price +20 % in half of the categories", MODEST, False),
        ):
            delays, first = [], None
            for seed in range(20 if size < 100_000 else 5):
                shifted = watch(panes(world, 500 + seed, 6 * size, 6 * PANES), known, limits, until_page=True)
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
    figures["speed"] = speed(known, limits)
    figures["reference_rows"] = REFERENCE_ROWS
    figures["thresholds"] = {
        "bank": round(limits.of(("price", "*")).bank or 0, 2),
        "scan": round(limits.of(("price", "*")).scan or 0, 2),
    }
    return finish("alarms", began, bars, figures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
