"""The real sales file through every hop, and a model of its cancellations; no code knows its columns.

driftline bench retail --json            the whole file: DRIFTLINE_RETAIL, or where it lies beside the checkout
driftline bench retail --slice           the committed slice of 23 days: every hop, too little for a model
driftline bench retail --only model      hops: replayed, judged, compacted, watched for drift, verified; model: see `_retail_model.py`
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import polars as pl

from batch import table
from pipeline import kafka, topics
from pipeline.contract import Contract
from pipeline.times import to_text
from tests.bench import _retail_model
from tests.bench._hops import ROOT, Hops, hops
from tests.bench.report import Bar, bar, finish, progress

SHARED = ROOT.parent / "shared" / "data" / "online-retail-2010-12_2011-08.parquet"
SLICE = ROOT / "tests" / "data" / "online-retail-slice.parquet"
PACKAGES = ("pipeline", "monitoring", "producers", "stream_processors", "batch", "serving")
DAY_S = 86_400
VERDICTS_S = 240.0  # deadline for the drift hop


def the_file(small: bool) -> Path:
    """All of it, or the committed slice where that is asked for; FileNotFoundError says what to do where it is not there."""
    chosen = SLICE if small else Path(os.environ.get("DRIFTLINE_RETAIL", SHARED))
    if not chosen.is_file():
        raise FileNotFoundError(
            f"expected the whole file at {chosen}, there is none: say where it lies by DRIFTLINE_RETAIL, "
            "or take the committed slice of 23 days by --slice, which is too little for a model"
        )
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true", help="the same: the default takes the whole file")
    parser.add_argument("--slice", action="store_true", help="only the committed slice")
    parser.add_argument("--only", choices=("hops", "model"))
    args = parser.parse_args()
    try:
        began, file = time.monotonic(), the_file(args.slice)
    except FileNotFoundError as missing:
        parser.error(str(missing))
    bars: list[Bar] = []
    figures: dict[str, object] = {"file": file.name}
    if args.only != "model":
        found = through_every_hop(file)
        bars, figures = bars + found[0], figures | found[1]
    if args.only != "hops":
        found = _retail_model.model(file) if file != SLICE else ([], {"model": "not made: the slice holds 23 days"})
        bars, figures = bars + found[0], figures | found[1]
    return finish("retail", began, bars, figures)


def through_every_hop(file: Path) -> tuple[list[Bar], dict[str, object]]:
    progress(f"replaying {file.name}")
    with hops("online_retail") as run:
        run.run("produce", "--replay", str(file))
        run.run("validate", "--exit-at-end")
        run.run("compact", "--once", "--rows", "100000")
        verdicts, untold = drift(run)
        proof = run.json("verify", "--json", "--wait", "30")
        report = run.json("report", "--json")
        reasons = Counter(
            {f"{f['rule']}: {reason}": n for f in report["findings"] for reason, n in f["reasons"].items()}
        )
        features = [f.name for f in run.contract.drift.features if f.kind == "numeric"]
        named = list(columns_named(run.contract))
        bars = [
            bar("records", proof["consumed"], ">=", 20_000),
            bar("verify_ok", int(proof["ok"]), "==", 1),
            bar("missing", proof["missing_total"], "==", 0),
            bar("duplicated", proof["duplicated_total"], "==", 0),
            bar("lake_minus_valid", proof["lake"] - proof["valid"], "==", 0),
            bar("dead_letters", proof["dead"], ">=", 1),
            bar("dead_letters_with_a_reason", sum(reasons.values()) - proof["dead"], "==", 0),
            bar("kinds_of_defect", len(reasons), ">=", 2),
            bar("modules_naming_its_columns", len(named), "==", 0),
            bar("days_of_which_drift_told_nothing", untold, "==", 0),
            *[bar(f"verdicts_{name}", verdicts.get(name, 0), ">=", 1) for name in features],
        ]
        figures = {
            "valid": proof["valid"],
            "dead": proof["dead"],
            "late": proof["late"],
            "dead_letters_by_reason": dict(reasons.most_common()),
            "quality": report["status"],
            "violated_rules": {
                f["rule"]: f["violations"] for f in report["findings"] if f["kind"] == "dataset" and f["violations"]
            },
            "verdicts_by_feature": verdicts,
            "naming": named,
            "seconds": run.seconds,
        }
    return bars, figures


def drift(run: Hops) -> tuple[dict[str, int], int]:
    """A reference of the first half of the rows, then the drift hop over all blocks, until every day that the log has closed
    is told; judged verdicts by feature, and the days of which nothing was told."""
    middle = middle_day(run)
    run.run("reference", "build", "--to", middle, "--effective-from", middle)
    log = (run.home / "drift.log").open("w")
    process = subprocess.Popen(run.command("drift"), env=run.environment, cwd=ROOT, stdout=log, stderr=log)
    began, due, found = time.monotonic(), days_closed(run, middle), list[dict[str, str]]()
    try:
        while time.monotonic() - began < VERDICTS_S and process.poll() is None:
            found = [json.loads(m.value() or b"{}") for m in kafka.read_all(run.settings, topics.VERDICTS)]
            if not due - {v["window_start"] for v in found}:
                break
            time.sleep(1.0)  # a poll of a live process, with a deadline
        if process.poll() is not None:
            progress("drift ended by itself:\n" + "\n".join((run.home / "drift.log").read_text().splitlines()[-10:]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    run.seconds["drift"] = round(time.monotonic() - began, 1)
    judged = [v for v in found if v["segment"] == "*" and v["state"] in ("ok", "warning", "alarm")]
    return dict(Counter(v["feature"] for v in judged)), len(due - {v["window_start"] for v in found})


def middle_day(run: Hops) -> str:
    """The day that half of the rows lie before."""
    clock = run.contract.time.field
    middle = table.scan(run.settings, run.contract.id).select(pl.col(clock).median()).collect().item()
    return to_text(int(middle.timestamp()) // DAY_S * DAY_S * 1000)


def days_closed(run: Hops, since: str) -> set[str]:
    """Days with rows that the newest row's watermark has passed."""
    clock, lateness = run.contract.time.field, int(run.contract.time.lateness.total_seconds())
    at = table.scan(run.settings, run.contract.id).select(pl.col(clock).dt.epoch("s")).collect().to_series()
    days = (at // DAY_S).unique().to_list()
    closed = (to_text(d * DAY_S * 1000) for d in days if (d + 1) * DAY_S + lateness <= int(at.max()))  # type: ignore[arg-type]
    return {day for day in closed if day >= since}


def columns_named(contract: Contract) -> Iterator[str]:
    """`file:line name` of each place in our packages where code names a column of the contract."""
    names = {f.name for f in contract.fields}
    for file in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            said = {
                ast.Constant: lambda n: n.value,
                ast.Name: lambda n: n.id,
                ast.Attribute: lambda n: n.attr,
                ast.keyword: lambda n: n.arg,
                ast.arg: lambda n: n.arg,
            }.get(type(node), lambda n: None)(node)
            if isinstance(said, str) and said in names:
                yield f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {said}"


if __name__ == "__main__":
    sys.exit(main())
