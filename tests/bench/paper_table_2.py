"""The published table of data-quality checks, through a real broker: 10,000 orders with known faults in, the same figures out."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline import kafka, topics
from tests.bench._hops import ROOT, hops
from tests.bench.report import bar, finish

OUT = ROOT / ".driftline" / "bench" / "paper-table-2"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="the same: the run is the whole table")
    parser.parse_args()
    began = time.monotonic()
    with hops("paper") as run:
        run.run("produce", "--scenario", "paper-table-2")
        run.run("validate", "--exit-at-end")
        run.run("compact", "--once")
        proof = run.json("verify", "--json")
        found = run.json("report", "--json")
        quality = run.json("quality", "--json")
        live = {
            v["rule"]: v
            for v in map(lambda m: json.loads(m.value()), kafka.read_all(run.settings, topics.quality("paper")))
        }
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(Path(found["html"]).parent, OUT)
        violations = {f["rule"]: f["violations"] for f in found["findings"] if f["violations"]}
        shares = {f["rule"]: f["share"] for f in found["findings"]}
        bars = [
            bar("dead_letters", proof["dead"], "==", 12),
            bar("valid", proof["valid"], "==", 9_988),
            bar("lake", proof["lake"], "==", 9_988),
            bar("verify_ok", int(proof["ok"]), "==", 1),
            bar("quantity_violations", violations.get("quantity", 0), "==", 12),
            bar("quantity_share", round(shares["quantity"], 6), "==", 0.0012),
            bar("duplicate_order_ids", violations.get("unique_order_id", 0), "==", 36),
            bar("duplicate_share", round(shares["unique_order_id"], 6), "==", 0.0036),
            bar("other_rules_violated", len(set(violations) - {"quantity", "unique_order_id"}), "==", 0),
            bar("records", found["records"], "==", 10_000),
            bar("status_degraded", int(found["status"] == quality["status"] == "degraded"), "==", 1),
            bar("live_duplicates", live["unique_order_id"]["violations"], "==", 36),
            bar("live_rows", live["row_count"]["rows"], "==", 10_000),
            bar("chart", int((OUT / "violations.png").stat().st_size > 1_000), "==", 1),
        ]
        figures = {
            "violations": violations,
            "status": found["status"],
            "chart": str(OUT / "violations.png"),
            "report": str(OUT / "report.html"),
            "seconds": run.seconds,
        }
    return finish("paper-table-2", began, bars, figures)


if __name__ == "__main__":
    sys.exit(main())
