"""EDGE. Gauges of worker processes that are gone.

Each worker keeps its metrics in files of its own, and the exposition adds up all files. A killed worker leaves its gauges
behind, among them the model version it served: without this the alert on a worker behind the ledger would never end.
Counters and histograms stay, as they must: what a dead worker counted did happen.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_GAUGES = re.compile(r"gauge_[a-z]+_([0-9]+)\.db")


def forget_dead_workers(directory: Path) -> list[int]:
    """Remove the gauge files of processes that no longer run; their process ids."""
    gone = []
    for path in sorted(directory.glob("gauge_*.db")):
        match = _GAUGES.fullmatch(path.name)
        if match and not _runs(int(match[1])):
            path.unlink(missing_ok=True)
            gone.append(int(match[1]))
    return gone


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
