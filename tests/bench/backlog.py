"""`driftline bench backlog`: a backlog, then a tenfold burst, before validator, drift and compactor under their memory caps.

    driftline bench backlog [--full]      1 M records; --full 10 M

All three run at once, as the process table says, with their cap enforced by the kernel (DRIFTLINE_MEMORY_MB). They find
the backlog at their start; when it is worked off the load is steady for a while and then tenfold. What they hold at most
is what the kernel says. Bars: no process ends, none passes its cap, every record is judged and every valid one in the lake.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from batch import table as lake
from pipeline import kafka, probe, processes, topics
from pipeline.broker import free_port
from pipeline.contract import Contract
from pipeline.processes import Process
from pipeline.settings import PORTS
from tests.bench._corpus_stream import peak_mb
from tests.bench._drift_broker import reference_file
from tests.bench._hops import ROOT, Hops, hops
from tests.bench.report import bar, finish, progress

ROWS, FULL_ROWS = 1_000_000, 10_000_000
EVENTS_A_SECOND = 100  # of event time, in the backlog
STEADY, STEADY_S, BURST_S = 2_000, 5, 10
DEADLINE_S = 1_800.0
VERBS = {"validator": "validate", "compactor": "compact", "drift": "drift"}


def table(contract: Contract) -> dict[str, Process]:
    place = processes.Place(("driftline",), "/", PORTS, contract.id)
    return {p.name: p for p in processes.table(place, contract) if p.name in VERBS}


class Live:
    """One process, with the environment that its line of the table gives it."""

    def __init__(self, run: Hops, name: str, line: Process):
        self.name, self.port, self.done_s = name, free_port(), 0.0
        environment = {**run.environment, **line.env, "DRIFTLINE_METRICS_PORT": str(self.port)}
        with (run.home / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(run.command(VERBS[name]), env=environment, cwd=ROOT, stdout=log, stderr=log)

    def lag(self) -> float | None:
        """As it says itself; None before it says anything."""
        lines = [x for x in probe.text(f"http://127.0.0.1:{self.port}/metrics").splitlines() if "_lag_records{" in x]
        return sum(float(x.rsplit(" ", 1)[1]) for x in lines) if lines else None

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="driftline bench backlog", description=__doc__)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rows", type=int, metavar="N")
    args = parser.parse_args()
    began, rows = time.monotonic(), args.rows or (FULL_ROWS if args.full else ROWS)
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, hops("sales") as run:
        _fill(run, Path(folder), rows)
        lines = table(run.contract)
        live = [Live(run, name, lines[name]) for name in VERBS]
        try:
            caught_up = _drained(run, live)
            speed = {one.name: round(rows / one.done_s) for one in live}
            progress(f"caught up: {speed} records/s each, all at once on {os.cpu_count()} cores")
            for rate, seconds in ((STEADY, STEADY_S), (10 * STEADY, BURST_S)):
                run.run("produce", "--events", str(rate * seconds), "--rate", str(rate), "--no-outcomes")
            after_burst = _drained(run, live)
            peaks = {one.name: round(peak_mb(one.process.pid)) for one in live if not one.ended}
        finally:
            ended = sum(one.ended for one in live)
            for one in live:
                one.process.kill()
                one.process.wait()
        found = run.json("verify", "--json", expect=(0, 1))
    sent = rows + STEADY * (STEADY_S + 10 * BURST_S)
    bars = [
        bar("processes that ended", ended, "==", 0),
        *(
            bar(f"{name}: resident memory, MB", peaks.get(name, float("nan")), "<=", line.memory_mb)
            for name, line in lines.items()
        ),
        bar("records consumed", found["consumed"], "==", sent),
        bar("lost or repeated, by verify", found["missing_total"] + found["duplicated_total"], "==", 0),
        bar("valid records that are not in the lake", found["valid"] - found["lake"], "==", 0),
        bar(
            "seconds from the end of the burst until all had caught up", round(after_burst, 1), "<=", 60, required=False
        ),
    ]
    figures = {
        "backlog": rows,
        "catch_up_seconds": round(caught_up, 1),
        "catch_up_records_a_second": speed,
        "peak_mb": peaks,
    }
    return finish("backlog", began, bars, figures)


def _fill(run: Hops, folder: Path, rows: int) -> None:
    start_ms = round(time.time() * 1000) - (rows // EVENTS_A_SECOND + 600) * 1000
    text = str(np.datetime64(start_ms, "ms")) + "Z"
    file = reference_file(folder, run.contract.time.field, start_ms)
    run.run("reference", "build", "--file", str(file), "--effective-from", text)
    speed = 1_000
    run.run(
        "produce", "--events", str(rows), "--flat-out", "--rate", str(EVENTS_A_SECOND * speed), "--speed", str(speed),
        "--start", text, "--no-outcomes",
    )  # fmt: skip


def _drained(run: Hops, live: list[Live]) -> float:
    """Wait until each has come to the end of what is there; seconds. Each one's own stand in `done_s`."""
    began = said = time.monotonic()
    for one in live:
        one.done_s = 0.0
    while not all(one.done_s for one in live):
        for one in live:
            if one.ended:
                raise SystemExit(f"{one.name} ended with {one.process.returncode}: {_end_of_log(run, one)}")
            if not one.done_s and _at_end(run, one):
                one.done_s = time.monotonic() - began
                progress(f"{one.done_s:6.1f} s  {one.name} at the end, {peak_mb(one.process.pid):.0f} MB at most")
        if time.monotonic() - began > DEADLINE_S:
            raise SystemExit(f"not at the end after {DEADLINE_S:.0f} s: { {o.name: o.lag() for o in live} }")
        if time.monotonic() - said > 20:
            said = time.monotonic()
            progress(f"{said - began:6.1f} s  lag { {o.name: o.lag() for o in live} }")
        time.sleep(0.2)  # a poll of live processes, with a deadline
    return time.monotonic() - began


def _at_end(run: Hops, one: Live) -> bool:
    client = kafka.consumer(run.settings, topics.group(run.contract.id, "validate"))
    try:
        raw = {p: high for p, (_, high) in kafka.bounds(client, topics.events(run.contract.id)).items()}
        judged = {p: tp.offset for p, tp in kafka.committed(client, topics.events(run.contract.id), raw).items()}
    finally:
        client.close()
    if judged != raw:
        return False
    if one.name == "validator":
        return True
    if one.name == "compactor":
        there = lake.positions(run.settings, run.contract.id) if lake.exists(run.settings, run.contract.id) else {}
        return {p: end for p, (_, end) in there.items()} == raw
    lag = one.lag()  # in blocks and partials: the marker of a transaction may be left
    return lag is not None and lag <= 2 * len(raw)


def _end_of_log(run: Hops, one: Live) -> str:
    return "\n".join((run.home / f"{one.name}.log").read_text().splitlines()[-10:])


if __name__ == "__main__":
    sys.exit(main())
