"""`driftline bench fuzz`: any bytes into decoder, block codec, contract loader, header parsers and the prediction request.

Two engines, each target in a process of its own: hypothesis (edits of good inputs and of the corpus), and atheris, which
is guided by coverage. Bars: no input unclassified, no process that ends, none that takes a second of processor time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.report import bar, finish, progress  # noqa: E402

NAMES = ("decoder", "block", "contract", "headers", "request")
# Contracts are 5 kB of YAML, a millisecond and more each; a tenth of the others' runs is as long.
RUNS = {"hypothesis": 5_000, "atheris": 100_000}
LIMIT_S = 1500.0


@dataclass(frozen=True)
class Result:
    engine: str
    name: str
    tried: int
    outcomes: dict[str, int]
    unclassified: list[str]
    slowest_s: float
    ended: int  # exit code of the process
    peak_mb: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="driftline bench fuzz", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the report is JSON in any case")
    parser.add_argument("--full", action="store_true", help="ten times the inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="times the inputs")
    args = parser.parse_args()
    began = time.monotonic()
    scale = args.scale * (10 if args.full else 1)
    engines = ["hypothesis", *(["atheris"] if importlib.util.find_spec("atheris") else [])]
    if "atheris" not in engines:
        progress("atheris is not installed: nothing here is guided by coverage")
    jobs = [(e, n, _runs(e, n, scale), args.seed) for e in engines for n in NAMES]
    with ThreadPoolExecutor(2) as two:
        results = list(two.map(lambda job: run(*job), jobs))
    for r in results:
        for text in r.unclassified:
            progress(f"UNCLASSIFIED {r.engine} {r.name}: {text}")
    bars = [
        bar("inputs", sum(r.tried for r in results), ">=", sum(runs for _, _, runs, _ in jobs)),
        bar("unclassified", sum(r.outcomes.get("unclassified", 0) for r in results), "==", 0),
        bar("processes that ended", sum(r.ended != 0 for r in results), "==", 0),
        bar("longest input, CPU seconds", max(r.slowest_s for r in results if r.name != "contract"), "<=", 1.0),
        # YAML of 12 kB, read once at start, from a file of the operator's own
        bar("longest contract, CPU seconds", max(r.slowest_s for r in results if r.name == "contract"), "<=", 5.0),
    ]
    figures = {
        "coverage_guided": "atheris" in engines,
        "seed": args.seed,
        "targets": {
            f"{r.engine} {r.name}": {
                "tried": r.tried,
                "slowest_s": r.slowest_s,
                "peak_mb": r.peak_mb,
                "outcomes": r.outcomes,
            }
            for r in results
        },
    }
    return finish("fuzz", began, bars, figures)


def _runs(engine: str, name: str, scale: float) -> int:
    return max(100, int(RUNS[engine] * scale / (10 if name == "contract" else 1)))


def run(engine: str, name: str, runs: int, seed: int) -> Result:
    """One target under one engine; what ended the process is in `unclassified`."""
    with tempfile.TemporaryDirectory(prefix="driftline-fuzz-") as scratch:
        folder, out = Path(scratch), Path(scratch) / "out.json"
        command = [
            sys.executable,
            "-m",
            "tests.bench._fuzz_child",
            engine,
            name,
            str(runs),
            str(seed),
            str(out),
            scratch,
        ]
        began = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=LIMIT_S)
            code, said = done.returncode, done.stderr[-500:]
        except subprocess.TimeoutExpired:
            code, said = 124, f"not through within {LIMIT_S:.0f} s"
        found = json.loads(out.read_text()) if out.exists() else {}
        progress(
            f"{time.monotonic() - began:6.1f} s  {engine} {name}: {found.get('tried', 0)} inputs, ended with {code}"
        )
        unclassified = list(found.get("unclassified", []))
        if code != 0 or not found:
            current = folder / "current"
            last = current.read_bytes() if current.exists() else b""
            unclassified.append(f"the process ended with {code} at {last[:300]!r}: {said}")
        return Result(
            engine, name, found.get("tried", 0), found.get("outcomes", {"unclassified": 1}), unclassified,
            found.get("slowest_s", 0.0), code if found else code or 1, found.get("peak_mb", 0),
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
