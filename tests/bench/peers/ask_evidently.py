"""Evidently's column drift, default or by a named method: how many windows of each column alarm.

Runs in its own environment (`make peers`). stdin: {"folder", "asked": [{"reference", "windows", "method"}]}, names of .npy files in the
folder: reference[rows, columns], windows[count, rows, columns]. stdout: {"version", "alarms": [by question by window [by column]], "seconds"}.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report, __version__
from evidently.legacy.tests.base_test import TestStatus
from evidently.metrics import ValueDrift


def alarms(reference, windows, method):
    """0 or 1 by window and column: whether Evidently's own test fails."""
    names = [f"c{i}" for i in range(reference.shape[1])]
    defined = DataDefinition(numerical_columns=names)
    known = Dataset.from_pandas(pd.DataFrame(reference, columns=names), defined)
    report = Report([ValueDrift(column=name, method=method) for name in names], include_tests=True)
    found = []
    for window in windows:
        current = Dataset.from_pandas(pd.DataFrame(window, columns=names), defined)
        tests = report.run(current, known).dict()["tests"]
        found.append([int(test["status"] == TestStatus.FAIL) for test in tests])
    return found


def main():
    told = json.load(sys.stdin)
    folder, found = Path(told["folder"]), []
    began = time.process_time()
    for one in told["asked"]:
        reference, windows = (np.load(folder / f"{one[part]}.npy") for part in ("reference", "windows"))
        found.append(alarms(reference, windows, one["method"]))
    print(json.dumps({"version": __version__, "alarms": found, "seconds": time.process_time() - began}))


main()
