"""Validator, drift and compactor at once, each held to its cap by the kernel: behind a backlog, then under a tenfold burst."""

from __future__ import annotations

import json
import subprocess
import sys

from pipeline import contract_file
from tests.bench._hops import ROOT
from tests.bench.backlog import VERBS, table

ROWS = 100_000  # `driftline bench backlog --full` takes ten million


def test_all_three_work_off_a_backlog_and_a_burst_within_their_caps():
    lines = table(contract_file.load("sales"))
    assert {name: int(line.env["DRIFTLINE_MEMORY_MB"]) for name, line in lines.items()} == {
        "validator": 512, "drift": 768, "compactor": 1024
    }  # fmt: skip
    command = [sys.executable, "tests/bench/backlog.py", "--rows", str(ROWS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert all(b["pass"] for b in report["bars"] if b["required"]), done.stderr
    assert report["figures"]["peak_mb"].keys() == VERBS.keys()
