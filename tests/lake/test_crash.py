"""A commit that is killed at each of its steps: the table is the one before or the one after, and the next commit fits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from batch import table as lake
from pipeline.settings import from_environment
from tests.lake.lake_samples import commit, new_table, pending

# The k-th fsync of a commit into a new date: 1 data file, 2 its directory, 3 the table's directory, 4 log entry, 5 log directory.
# The log entry is created between 3 and 4, so 3 is the last point before the commit and 4 the first one after it.
CHILD = """
import os, signal, sys
from pathlib import Path
from batch import table as lake
from tests.lake.lake_samples import commit, pending
table, calls, real = lake.Table(Path(sys.argv[1])), 0, os.fsync
def fsync(handle):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(handle)
os.fsync = fsync
commit(table, [pending(10, 20, step=86_400_000 // 10)])
"""


@pytest.mark.parametrize(("step", "committed"), [(1, False), (3, False), (4, True)])
def test_killed_at_a_step_the_table_is_the_one_before_or_the_one_after(tmp_path, step, committed):
    table = new_table(tmp_path / "shop" / "events")
    commit(table, [pending(0, 10)])
    root = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(table.path), str(step)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert child.returncode == -signal.SIGKILL
    after = lake.Table(table.path)
    assert after.position("shop/0") == (20 if committed else 10)
    end = after.position("shop/0") or 0
    commit(after, [pending(end, 30, step=86_400_000 // 10)])
    settings = from_environment({"DRIFTLINE_HOME": str(tmp_path), "DRIFTLINE_LAKE": str(tmp_path)})
    rows = lake.scan(settings, "shop").select(pl.col("raw_offset").sort()).collect()["raw_offset"].to_list()
    assert rows == list(range(30))
