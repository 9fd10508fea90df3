"""EDGE. `python -m pipeline.alone COMMAND ...`: ends what a killed predecessor left running, then becomes the command.

A server that forks workers can be killed alone; its workers then hold the port, and every successor would die of that.
Who belongs to the same process of the same stack is read from the environment that the supervisor gave it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

from pipeline import leftovers
from pipeline.logs import log
from pipeline.supervision import PROCESS


def main(command: list[str]) -> None:
    home, name = os.environ.get(leftovers.MARK), os.environ.get(PROCESS)
    if home and name:
        left = [p for p in leftovers.of(Path(home)) if _name(p) == name]
        for process in left:
            log("leftover_ended", "warning", process=name, pid=process.pid)
            process.kill()
        psutil.wait_procs(left, timeout=5)
    os.execvp(command[0], command)


def _name(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(PROCESS)
    except psutil.Error:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
