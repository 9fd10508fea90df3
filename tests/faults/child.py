"""EDGE. A `driftline` verb as a stand-by: imports done, crash points installed, waiting for the word on its standard input.

    python -m tests.faults.child KIND VERB ARGUMENT ...

Lines in: `go ARGUMENT ...` begins the verb with some more arguments, `arm NAME N` arms a crash point. The end of the input ends the process: no harness, no child.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib.metadata import entry_points

from pipeline import cli
from pipeline.logs import log
from tests.faults import points


def main(kind: str, argv: list[str]) -> int:
    next(e for e in entry_points(group="driftline.verbs") if e.name == argv[0]).load()
    armed = points.Points(kind)
    points.install(armed)
    going, late = threading.Event(), list[str]()
    threading.Thread(target=_listen, args=(armed, going, late), daemon=True).start()
    log("stand_by", process=kind, pid=os.getpid())
    going.wait()
    return cli.main([*argv, *late])


def _listen(armed: points.Points, going: threading.Event, late: list[str]) -> None:
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "arm":
            armed.arm(rest[0] if rest else "", int(rest[1]) if rest else 0)
        elif word == "go":
            late.extend(rest)
            going.set()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
