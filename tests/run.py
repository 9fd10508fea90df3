"""Runs the suites, two at a time, and says what each took; a suite that collected nothing is a failure.

    python tests/run.py              every suite
    python tests/run.py stack lake   these

A suite is a folder under tests/. One pytest each, so that one suite's broker, imports and crashes are its own. Suites mostly
wait for brokers and processes, so two share two cores well (904 to 1,105 s; three at a time took 781 to 1,016, and missed
deadlines); what a suite prints is shown as one piece when it has ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))

from tests import fast_starts  # noqa: E402

NOT_SUITES = {"bench", "demo", "data"}  # scripts and data
BUDGET_S = 15 * 60  # the bar for the whole run on two quiet cores; said when missed
STOP_S = 60 * 60  # then a suite that still runs is stopped and has failed
LANES = 2  # suites at a time
LONG = (
    "model",
    "live",
    "validator",
    "faults",
    "drift_stream",
    "stack",
    "lake",
)  # first, so that no long one is left alone at the end


@dataclass(frozen=True, slots=True)
class Result:
    suite: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    complaint: str = ""  # why the suite failed though no test did


def suites(folder: Path = TESTS) -> list[str]:
    found = (
        p for p in folder.iterdir() if p.is_dir() and p.name not in NOT_SUITES and not p.name.startswith(("_", "."))
    )
    return sorted((p.name for p in found), key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))


def run(suite: str, left_s: float, folder: Path = TESTS) -> Result:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(folder / suite),
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
        ]
        try:
            done = subprocess.run(
                command,
                cwd=folder.parent,
                timeout=max(left_s, 1),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except subprocess.TimeoutExpired as stopped:
            said = (
                stopped.stdout.decode(errors="replace") if isinstance(stopped.stdout, bytes) else stopped.stdout or ""
            )
            print(f"== {suite}\n{said}", flush=True)
            return Result(suite, 0, 1, 0, time.monotonic() - began, f"stopped: the whole run has {STOP_S} s")
        print(f"== {suite}\n{done.stdout}", flush=True)
        return judged(suite, done.returncode, report, time.monotonic() - began)


def judged(suite: str, code: int, report: Path, seconds: float) -> Result:
    """Counts from pytest's report; what pytest calls an error counts as failed."""
    if not report.is_file():
        return Result(suite, 0, 1, 0, seconds, f"pytest ended with {code} and left no report")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for node in ElementTree.parse(report).getroot().iter("testsuite"):
        counts = {name: total + int(node.get(name, "0")) for name, total in counts.items()}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    complaint = ""
    if counts["tests"] == 0 or code == 5:
        complaint = "collected nothing"
    elif code != 0 and failed == 0:
        complaint = f"pytest ended with {code}"
    return Result(suite, passed, failed, counts["skipped"], seconds, complaint)


def table(results: list[Result], seconds: float) -> str:
    rows = [f"{'suite':<14}{'seconds':>9}{'passed':>8}{'failed':>8}{'skipped':>9}"]
    rows += [
        f"{r.suite:<14}{r.seconds:>9.1f}{r.passed:>8}{r.failed:>8}{r.skipped:>9}  {r.complaint}".rstrip()
        for r in results
    ]
    return "\n".join([*rows, f"{'all':<14}{seconds:>9.1f}"])


def main(chosen: list[str]) -> int:
    unknown = set(chosen) - set(suites())
    if unknown:
        print(f"no such suite: {', '.join(sorted(unknown))}; one of: {', '.join(suites())}", file=sys.stderr)
        return 2
    began, wanted = time.monotonic(), chosen or suites()
    fast_starts.share_classes()
    print(f"{len(wanted)} suites, {LANES} at a time: {' '.join(wanted)}", flush=True)
    with ThreadPoolExecutor(LANES) as lanes:
        results = list(lanes.map(lambda suite: run(suite, began + STOP_S - time.monotonic()), wanted))
    passed, skipped = sum(r.passed for r in results), sum(r.skipped for r in results)
    failed = sum(r.failed or bool(r.complaint) for r in results)
    spent = time.monotonic() - began
    if spent > BUDGET_S:
        print(f"\nMISS: {spent:.0f} s; the bar is {BUDGET_S} s on two quiet cores")
    print(f"\n{table(results, spent)}\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
