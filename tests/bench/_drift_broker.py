"""Question: does the whole stream keep the budget, and page when it must? A quiet month in event time and a day of dearer goods through a real broker."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from pipeline import contract_file, times
from producers.sales import BLOCK_ORDERS, CATEGORIES, CHANNELS, REGIONS, World, orders
from tests.bench._drift_answers import Answer, Size, Table
from tests.bench._hops import hops
from tests.bench.report import bar, progress
from tests.contracts import renamed

DAYS = {"short": 1, "default": 30, "full": 30}  # of quiet event time
SHIFT, SHIFTED = "price-move", "price"  # 15 % dearer, 0.08 standard deviations of the prices; what moves
SHIFT_HOURS = {"short": 6, "default": 24, "full": 24}  # that it lasts, behind the quiet days
LATEST_MIN = 120  # event minutes from the shift to the end of the window that pages
ROWS = 100  # a pane of a minute, in the mean; the daily cycle moves it
SPEED = 1_440  # event seconds a wall second, were it paced; it is sent flat out
REFERENCE_ROWS, REFERENCE_DAYS = 100_000, 14
DATASET = "quiet_month"


def contract_of(folder: Path) -> Path:
    """The shipped sales contract with panes of a minute, one page in 30 days, and no tolerance: whatever is significant would page."""
    text = renamed(contract_file.shipped_text("sales"), DATASET)
    text = re.sub(r"pane: 5 min", "pane: 1 min", text)
    text = re.sub(r", tolerance: [0-9.]+", "", text)
    file = folder / f"{DATASET}.yaml"
    file.write_text(text, encoding="utf-8")
    plan = contract_file.load(str(file)).drift
    assert plan.pane.total_seconds() == 60 and not any(f.tolerance.value for f in plan.features)
    return file


def reference_file(folder: Path, clock: str, before_ms: int) -> Path:
    """Orders of another seed, evenly over the days before."""
    span = REFERENCE_DAYS * 86_400_000
    times = before_ms - span + np.arange(REFERENCE_ROWS) * (span // REFERENCE_ROWS)
    parts = []
    for block in range(-(-REFERENCE_ROWS // BLOCK_ORDERS)):
        own = times[block * BLOCK_ORDERS : (block + 1) * BLOCK_ORDERS]
        made = orders({0: World()}, 4_242, block, own)
        parts.append(
            pl.DataFrame(
                {
                    clock: pl.Series(own).cast(pl.Datetime("ms", "UTC")),
                    "price": made.price_cents / 100,
                    "quantity": made.quantity.astype(np.int64),
                    "discount": made.discount_cents / 100,
                    "category": np.array(CATEGORIES)[made.category],
                    "region": np.array(REGIONS)[made.region],
                    "channel": np.array(CHANNELS)[made.channel],
                }
            )
        )
    file = folder / "reference.parquet"
    pl.concat(parts).write_parquet(file)
    return file


def run(size: Size) -> Answer:
    days, hours = DAYS[size], SHIFT_HOURS[size]
    events = (days * 24 + hours) * 60 * ROWS
    start = (int(time.time()) // 86_400 - days - 2) * 86_400_000
    shift = start + days * 86_400_000
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, hops(str(contract_of(Path(folder)))) as run:
        file = reference_file(Path(folder), run.contract.time.field, start)
        run.run("reference", "build", "--file", str(file), "--effective-from", times.to_text(start))
        run.run(
            "produce", "--events", str(events), "--flat-out", "--rate", str(ROWS / 60 * SPEED), "--speed", str(SPEED),
            "--start", times.to_text(start), "--schedule", f"baseline@0,{SHIFT}@{days}d", "--seed", "17", "--no-outcomes",
        )  # fmt: skip
        run.run("validate", "--exit-at-end")
        clocks = run.clocks()
        run.judge(clocks)
        found, alerts = run.verdicts(), run.alerts()
        lateness = int(run.contract.time.lateness.total_seconds() * 1_000)
        closed = min(clocks.values()) - lateness  # the slowest partition's clock is the stream's
        due = set(range(start, closed - 3_600_000 + 1, 3_600_000))  # hours that the log itself has closed
        took = dict(run.seconds)
    latest = {(v["window_start"], v["feature"], v["segment"]): v for v in found}
    windows = {times.to_ms(w) for w, _, _ in latest}
    rows = sum(v["n"] for v in latest.values() if v["feature"] == "price" and v["segment"] == "*")
    states = Counter(v["state"] for v in latest.values())
    mute = states["reference_too_small"] + states["undefined"]
    fired = [a for a in alerts if a["state"] == "firing"]
    false = {a["episode"] for a in fired if times.to_ms(a["window_end"]) <= shift}
    pages = [a for a in fired if a["episode"] not in false]
    delay = (times.to_ms(pages[0]["window_end"]) - shift) / 60_000 if pages else float("nan")
    moved = sorted({f["feature"] for f in pages[0]["features"]}) if pages else []
    causes = [c["kind"] for c in pages[0]["causes"]] if pages else []
    for a in alerts:
        if a["state"] in ("firing", "resolved"):
            progress(f"broker: {json.dumps(a)}")
    progress(f"broker: {len(windows)} windows, {rows} rows judged, states {dict(states)}, {len(false)} false pages")
    return Answer(
        "End to end on a broker",
        f"{events:,} orders of the generator, {days} quiet day{'s' if days > 1 else ''} of event time with daily and weekly arrivals and {hours} hours "
        f"in which all goods are 15 % dearer (`{SHIFT}`), sent flat out through producer, validator and drift process on a real broker. The sales "
        f"contract with panes of a minute and no tolerance: six features, `*` and five regions (a reference made from a file knows no rejects); "
        f"one page in 30 days; a reference of {REFERENCE_ROWS:,} orders of another seed.",
        [
            bar(f"broker: pages in {days} quiet days of event time", len(false), "<=", 1),
            bar("broker: pages of the shift behind them, at least", len({a["episode"] for a in pages}), ">=", 1),
            bar("broker: event minutes from the shift to the end of the window that pages", delay, "<=", LATEST_MIN),
            bar(f"broker: that page names `{SHIFTED}`", int(SHIFTED in moved), "==", 1),
            bar(
                "broker: share of the rows sent that the latest verdicts of `price` count",
                round(rows / events, 4),
                ">=",
                0.99,
            ),
            bar(
                "broker: share of verdicts by detectors that may page",
                round(1 - mute / max(1, len(latest)), 4),
                ">=",
                0.99,
            ),
            bar(f"broker: of {len(due)} hours that the log has closed, not judged", len(due - windows), "==", 0),
        ],
        {"states": dict(states), "seconds_by_hop": took, "page": {"features": moved, "causes": causes}},
        [Table("Seconds", ("hop", "seconds"), list(took.items()))],
        [],
        [
            f"The page names {', '.join(f'`{name}`' for name in moved) or 'nothing'}, and as its cause {causes[0] if causes else 'nothing'}.",
            f"The drift hop took {events / max(took['drift'], 1e-9):,.0f} events a second, start included.",
        ],
    )
