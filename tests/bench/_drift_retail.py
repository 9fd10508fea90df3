"""Question: what does a backtest find in real sales? The shipped contract of the real file, its first quarter as reference."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from tests.bench._drift_answers import Answer, Size, Table
from tests.bench.report import bar, progress
from tests.bench.retail import ROOT, the_file


@dataclass(frozen=True, slots=True)
class Known:
    """What happened in the file, read in its rows: docs/backtest.md."""

    reference: tuple[str, str]
    day: str
    feature: str


WHOLE = Known(("2011-01-01", "2011-04-01"), "2011-08-30", "Quantity")
SLICE = Known(("2011-08-02", "2011-08-20"), "2011-08-23", "Country")


def run(size: Size) -> Answer:
    known, file = (SLICE if size == "short" else WHOLE), the_file(size == "short")
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as home:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "--contract", "online_retail", "backtest", "--file", str(file),
             "--reference-from", known.reference[0], "--reference-to", known.reference[1], "--json"],
            cwd=ROOT, env={"PATH": "", "DRIFTLINE_HOME": home}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    pages = [(p["event_time"][:10], [f["feature"] for f in p["features"]]) for p in found["pages"]]
    progress(f"real-file: {found['windows']} days, pages {pages}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Answer(
        "Real sales, replayed",
        f"{found['rows']:,} valid rows and {found['rejects']:,} rejects of a gift shop's invoices, {found['from'][:10]} to {found['to'][:10]}, "
        f"by `driftline backtest` under the shipped contract, reference {known.reference[0]} to {known.reference[1]}. "
        "What it found, in words and with its plot: [backtest.md](backtest.md#the-real-sales-file).",
        [
            bar("real-file: pages", len(pages), "==", 1),
            bar(
                f"real-file: of them on {known.day}, naming {known.feature} first",
                sum(day == known.day and names[0] == known.feature for day, names in pages),
                "==",
                1,
            ),
            bar("real-file: features or segments that could not page", len(found["cannot_page"]), "==", 0),
            bar("real-file: CPU seconds, records decoded and checked", round(cpu, 1), "<=", 30, required=False),
        ],
        {"windows": found["windows"], "states": found["states"], "pages": found["days"]},
        [
            Table(
                "Features",
                ("feature", "windows", "in alarm", "largest effect (D or share)", "reference rows", "dependence"),
                [
                    (f["feature"], f["windows"], f["alarms"], f"{f['largest_effect']:.3f}", f["reference_rows"], f"{f['dependence']:.1f}")
                    for f in found["features"]
                    if f["segment"] == "*"
                ],
            )
        ],
    )  # fmt: skip
