"""Question: does the whole stream keep the budget? One quiet month in event time through a real broker, validator and drift process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from pipeline import blocks, contract_file, kafka, times, topics
from producers.sales import BLOCK_ORDERS, CATEGORIES, CHANNELS, REGIONS, World, orders
from tests.bench._drift_answers import Answer, Size, Table
from tests.bench._hops import ROOT, Hops, hops
from tests.bench.report import bar, progress
from tests.contracts import renamed

DAYS = {"short": 1, "default": 30, "full": 30}  # of event time
ROWS = 100  # a pane of a minute, in the mean; the daily cycle moves it
SPEED = 1_440  # event seconds a wall second, were it paced; it is sent flat out
REFERENCE_ROWS, REFERENCE_DAYS = 100_000, 14
DEADLINE_S = 900.0
QUIET_POLLS = 30  # seconds without a new verdict: the end
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


def judged(run: Hops, hours: int) -> float:
    """Drift until it has nothing more to say; seconds from its start to the last verdict."""
    log = (run.home / "drift.log").open("w")
    process = subprocess.Popen(run.command("drift"), env=run.environment, cwd=ROOT, stdout=log, stderr=log)
    began, last, quiet, spoken = time.monotonic(), -1, 0, 0.0
    client = kafka.consumer(run.settings, "bench-verdicts")
    try:
        while time.monotonic() - began < DEADLINE_S and quiet < QUIET_POLLS and process.poll() is None:
            time.sleep(1.0)  # a poll of a live process, with a deadline; it ends when verdicts stop coming
            count = sum(high - low for low, high in kafka.bounds(client, topics.VERDICTS).values())
            quiet = quiet + 1 if count == last and count else 0
            if count != last:
                last, spoken = count, time.monotonic() - began
                if int(spoken) % 20 == 0:
                    progress(f"broker: {count} verdicts of {hours} hours after {spoken:.0f} s")
        if process.poll() is not None:
            raise SystemExit(
                "drift ended by itself:\n" + "\n".join((run.home / "drift.log").read_text().splitlines()[-10:])
            )
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
    return spoken


def run(size: Size) -> Answer:
    days = DAYS[size]
    events = days * 1_440 * ROWS
    start = (int(time.time()) // 86_400 - days - 1) * 86_400_000
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, hops(str(contract_of(Path(folder)))) as run:
        clock = run.contract.time.field
        file = reference_file(Path(folder), clock, start)
        text = str(np.datetime64(start, "ms")) + "Z"
        run.run("reference", "build", "--file", str(file), "--effective-from", text)
        run.run(
            "produce", "--events", str(events), "--flat-out", "--rate", str(ROWS / 60 * SPEED), "--speed", str(SPEED),
            "--start", text, "--seed", "17", "--no-outcomes",
        )  # fmt: skip
        run.run("validate", "--exit-at-end")
        seconds = judged(run, days * 24)
        found = [json.loads(m.value()) for m in kafka.read_all(run.settings, topics.VERDICTS)]
        alerts = [json.loads(m.value()) for m in kafka.read_all(run.settings, topics.ALERTS) if m.value()]
        headers = [
            blocks.from_headers(kafka.headers_of(m))
            for m in kafka.read_all(run.settings, topics.blocks(run.contract.id))
        ]
        newest: dict[int, int] = {}
        for header in headers:
            newest[header.partition] = max(newest.get(header.partition, start), header.max_event_time or start)
        last = min(newest.values())  # the slowest partition's clock is the stream's
        lateness = int(run.contract.time.lateness.total_seconds() * 1_000)
        due = {
            at for at in range(start, last - lateness - 3_600_000 + 1, 3_600_000)
        }  # hours that the log itself has closed
        took = dict(run.seconds)
    latest = {(v["window_start"], v["feature"], v["segment"]): v for v in found}
    paged = {a["episode"] for a in alerts if a["state"] == "firing"}
    windows = {times.to_ms(w) for w, _, _ in latest}
    rows = sum(v["n"] for v in latest.values() if v["feature"] == "price" and v["segment"] == "*")
    states = Counter(v["state"] for v in latest.values())
    mute = states["reference_too_small"] + states["undefined"]
    for a in alerts:
        if a["state"] in ("firing", "resolved"):
            progress(f"broker: {json.dumps(a)}")
    progress(f"broker: {len(windows)} windows, {rows} rows judged, states {dict(states)}, {len(paged)} pages")
    return Answer(
        "End to end on a broker",
        f"{events:,} quiet orders of the generator, {days} day{'s' if days > 1 else ''} of event time with its daily and weekly arrivals, sent flat out "
        f"through producer, validator and drift process on a real broker. The sales contract with panes of a minute and no tolerance: six features, "
        f"`*` and five regions (a reference made from a file knows no rejects); one page in 30 days; a reference of {REFERENCE_ROWS:,} orders of another seed.",
        [
            bar(f"broker: pages in {days} days of event time", len(paged), "<=", 1),
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
        {"states": dict(states), "seconds_by_hop": {**took, "drift": round(seconds, 1)}},
        [Table("Seconds", ("hop", "seconds"), [*took.items(), ("drift, to its last verdict", round(seconds, 1))])],
        [],
        [f"The drift hop took {events / max(seconds, 1e-9):,.0f} events a second, start included."],
    )
