"""A process with the compactor's imports done, that forks one compactor a line of stdin; a fork takes milliseconds, an import two seconds.

    {"argv": [...], "env": {...}, "log": PATH, "stop": true}  ->  "stopped PID" once it is about to commit  ->  "ended PID STATUS"

If asked, the compactor stops itself (SIGSTOP) before its first commit of events, so that a tracer can be put on it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batch.compact  # noqa: F401
from batch import landing
from pipeline.cli import main


def compactor(job: dict) -> int:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.environ.update(job["env"])
    commit = landing.EventsLanding._try

    def stopping(self, *args):
        landing.EventsLanding._try = commit
        tell(f"stopped {os.getpid()}")
        os.kill(os.getpid(), signal.SIGSTOP)
        return commit(self, *args)

    if job["stop"]:
        landing.EventsLanding._try = stopping
    try:
        return main(job["argv"])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 99


def tell(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def serve() -> None:
    importlib.import_module("pandas")  # pyarrow imports it at a first use, and a trace would be full of it
    tell("ready")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.close(0)
            code = compactor(json.loads(line))
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        tell(f"ended {pid} {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    serve()
