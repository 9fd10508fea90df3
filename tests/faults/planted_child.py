"""A process with our verbs' imports done, that forks one verb a line of stdin, with bugs planted into it.

{"bugs": [...], "argv": [...], "env": {...}, "log": PATH}  ->  "ended PID STATUS"
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batch.compact  # noqa: F401
import stream_processors.dead_letters.verb  # noqa: F401
from pipeline.cli import main
from stream_processors.validator import validate
from tests.faults.planted_bugs import BUGS

BATCH_RECORDS = 100  # several batches in a short history


def verb(job: dict) -> int:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.dup2(log, 1)
    os.environ.update(job["env"])
    sys.argv = ["driftline", *job["argv"]]
    validate.BATCH_RECORDS = BATCH_RECORDS
    for name in job["bugs"]:
        BUGS[name]()
    try:
        return main(job["argv"])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 99


def serve() -> None:
    importlib.import_module("pandas")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.close(0)
            code = verb(json.loads(line))
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        os.write(1, f"ended {pid} {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    serve()
