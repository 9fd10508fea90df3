"""Alibi Detect's online Cramer-von Mises: events until it alarms, in quiet streams and after shifts.

Runs in its own environment (`make peers`). stdin: {"folder", "ert", "windows", "bootstraps", "processes", "seed"}; in the folder
reference.npy[P, rows], quiet.npy[P, events] and shifted.npy[P, shifts, events]. stdout: {"version", "quiet": [by P], "shifted": [by P [by
shift]], both events read at the alarm or null, "configured", "updates", "updating"}; the last three are seconds, a count, and CPU seconds.

It is configured once: its thresholds depend on the sizes alone, for the statistic is one of ranks, and are found by simulating them.
The references drawn after the first are put in their place.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path

import alibi_detect
import numpy as np
from alibi_detect.cd import CVMDriftOnline

HELD = {}  # what every process of the pool has


def hold(held):
    HELD.update(held)


def against(detector, reference):
    """The detector with another reference of the same size, at its start."""
    detector.x_ref = reference.reshape(-1, 1)
    detector._configure_ref()
    detector.reset_state()
    return detector


def first_alarm(detector, values):
    """How many of the values had been read when it alarmed; None if it did not."""
    for read, value in enumerate(values, 1):
        if detector.predict(np.array([value]), return_test_stat=False)["data"]["is_drift"]:
            return read
    return None


def one(at):
    """(events read at the alarm of the quiet stream, of each that shifts; updates; their CPU seconds) of one reference."""
    detector, reference = HELD["detector"], HELD["reference"][at]
    began, updates = time.process_time(), 0
    found = []
    for values in (HELD["quiet"][at], *HELD["shifted"][at]):
        found.append(first_alarm(against(detector, reference), values))
        updates += found[-1] or len(values)
    return found[0], found[1:], updates, time.process_time() - began


def main():
    told = json.load(sys.stdin)
    held = {name: np.load(Path(told["folder"]) / f"{name}.npy") for name in ("reference", "quiet", "shifted")}
    np.random.seed(told["seed"])
    began = time.monotonic()
    held["detector"] = CVMDriftOnline(
        held["reference"][0].reshape(-1, 1),
        told["ert"],
        told["windows"],
        n_bootstraps=told["bootstraps"],
        verbose=False,
    )
    configured = time.monotonic() - began
    # not forked: numba's threads, which found the thresholds, would hang in the copies
    with multiprocessing.get_context("spawn").Pool(told["processes"], hold, (held,)) as pool:
        found = pool.map(one, range(len(held["reference"])), chunksize=1)
    quiet, shifted, updates, seconds = zip(*found, strict=True)
    print(
        json.dumps(
            {
                "version": alibi_detect.__version__,
                "quiet": quiet,
                "shifted": shifted,
                "configured": configured,
                "updates": sum(updates),
                "updating": sum(seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
