"""`driftline verify` over a short and a ten times longer log: resident size, speed, verdict.

    python tests/bench/verify.py [--json] [--full]      0.5 M and 5 M records; --full 1 M and 10 M

One dataset on a broker of the bench's own, filled with the generator's sales events (1 % broken), judged by the validator
and written to the lake; then verified by a process of its own, whose peak resident size is what the kernel says.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline import topics  # noqa: E402
from tests.bench._hops import Hops, hops  # noqa: E402
from tests.bench.report import bar, finish, progress  # noqa: E402
from tests.validator import corpus  # noqa: E402

ROWS, FULL_ROWS = (500_000, 5_000_000), (1_000_000, 10_000_000)
UNIQUE, BAD_SHARE = 200_000, 0.01
GROWTH = 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rows", type=int, nargs=2, metavar=("SHORT", "LONG"))
    args = parser.parse_args()
    began = time.monotonic()
    short, long = args.rows or (FULL_ROWS if args.full else ROWS)
    records = corpus.sales(UNIQUE, bad=BAD_SHARE)
    with hops("sales") as run:
        few = verified(run, records, short)
        many = verified(run, records, long - short)
    growth = many["peak_rss_mb"] / few["peak_rss_mb"]
    bars = [
        bar("consumed", many["consumed"], "==", long),
        bar("missing_or_duplicated", many["missing_total"] + many["duplicated_total"], "==", 0),
        bar("verify_ok", int(few["ok"] and many["ok"]), "==", 1),
        bar(f"resident_size_{long // short}_times_the_rows", round(growth, 3), "<=", GROWTH),
        bar("records_a_second", round(long / many["seconds"]), ">=", 50_000, required=False),
    ]
    figures = {
        f"{name}_{n}": {k: one[k] for k in ("peak_rss_mb", "seconds", "valid", "dead", "lake")}
        for name, n, one in (("rows", short, few), ("rows", long, many))
    }
    return finish("verify", began, bars, figures)


def verified(run: Hops, records: corpus.Records, more: int) -> dict:
    """Add so many records to the dataset, bring them to the lake, verify everything: the report and its seconds."""
    began = time.monotonic()
    partitions = run.contract.partitions
    corpus.fill(run.settings, topics.events(run.contract.id), corpus.cycle(records, more), partitions)
    progress(f"{time.monotonic() - began:6.1f} s  {more} records sent")
    run.run("validate", "--exit-at-end")
    run.run("compact", "--once")
    report = run.json("verify", "--json", expect=(0, 1))
    progress(f"          {report['consumed']} consumed, {report['peak_rss_mb']} MB")
    return {**report, "seconds": run.seconds["verify"]}


if __name__ == "__main__":
    sys.exit(main())
