"""Runs the suites one after the other and says what each took; a suite that collected nothing is a failure.

    python tests/run.py              every suite
    python tests/run.py stack lake   these

A suite is a folder under tests/. One pytest each, so that one suite's broker, imports and crashes are its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
NOT_SUITES = {"bench", "demo", "data"}  # scripts and data
BUDGET_S = 15 * 60  # the bar for the whole run on two quiet cores; said when missed
STOP_S = 60 * 60  # then a suite that still runs is stopped and has failed


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
    return sorted(p.name for p in found)


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
            code = subprocess.run(command, cwd=folder.parent, timeout=max(left_s, 1)).returncode
        except subprocess.TimeoutExpired:
            return Result(suite, 0, 1, 0, time.monotonic() - began, f"stopped: the whole run has {STOP_S} s")
        return judged(suite, code, report, time.monotonic() - began)


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


def table(results: list[Result]) -> str:
    rows = [f"{'suite':<14}{'seconds':>9}{'passed':>8}{'failed':>8}{'skipped':>9}"]
    rows += [
        f"{r.suite:<14}{r.seconds:>9.1f}{r.passed:>8}{r.failed:>8}{r.skipped:>9}  {r.complaint}".rstrip()
        for r in results
    ]
    return "\n".join([*rows, f"{'all':<14}{sum(r.seconds for r in results):>9.1f}"])


def main(chosen: list[str]) -> int:
    unknown = set(chosen) - set(suites())
    if unknown:
        print(f"no such suite: {', '.join(sorted(unknown))}; one of: {', '.join(suites())}", file=sys.stderr)
        return 2
    until, results = time.monotonic() + STOP_S, []
    for suite in chosen or suites():
        print(f"== {suite}", flush=True)
        results.append(run(suite, until - time.monotonic()))
    passed, skipped = sum(r.passed for r in results), sum(r.skipped for r in results)
    failed = sum(r.failed or bool(r.complaint) for r in results)
    spent = sum(r.seconds for r in results)
    if spent > BUDGET_S:
        print(f"\nMISS: {spent:.0f} s; the bar is {BUDGET_S} s on two quiet cores")
    print(f"\n{table(results)}\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
