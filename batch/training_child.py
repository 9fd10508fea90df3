"""EDGE. A training, or a look at the champion, in a process of its own: started, watched, its one line of JSON read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from pipeline.errors import DriftlineError
from pipeline.settings import Settings
from pipeline.times import to_text

ACTOR = "control"  # who asked for the training, for the ledger
CANDIDATES = 12  # of the search: 2 s of one core, for an episode waits meanwhile
LONGEST_S = 600.0  # then it hangs: a training of 100,000 rows takes 20 s, imports included


class ChildFailed(DriftlineError):
    """The child ended with an exit code; the message is its last line on stderr."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


def run(
    settings: Settings,
    *,
    start: int | None,
    since: int | None,
    episode: str | None,
    reason: str,
    beat: Callable[[], None],
    stopped: threading.Event,
) -> dict[str, object]:
    """Train and return the report; ChildFailed if it did not end with 0, was stopped, or took too long."""
    verb = ["train", "--json", "--reason", reason, "--search", str(CANDIDATES)]
    for option, value in (("--from", start), ("--since", since)):
        verb += [option, to_text(value)] if value is not None else []
    verb += ["--episode", episode] if episode else []
    return ask(settings, verb, beat=beat, stopped=stopped)


def ask(
    settings: Settings, verb: list[str], *, beat: Callable[[], None], stopped: threading.Event
) -> dict[str, object]:
    """The JSON object that a `driftline` verb prints as its last line; ChildFailed as for `run`."""
    command = [sys.executable, "-m", "pipeline.cli", "--contract", settings.contract, *verb]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environment(settings))
        until = time.monotonic() + LONGEST_S
        while child.poll() is None:
            beat()
            if stopped.wait(0.2) or time.monotonic() > until:
                child.kill()
                child.wait()
                raise ChildFailed(-9, "stopped" if stopped.is_set() else f"no end after {LONGEST_S:.0f} s")
        said, report = _text(err), _text(out)
        sys.stderr.write(said)
        sys.stderr.flush()
        if child.returncode:
            raise ChildFailed(child.returncode, (said.strip().splitlines() or [f"exit {child.returncode}"])[-1])
        return json.loads(report.strip().splitlines()[-1])


def environment(settings: Settings) -> dict[str, str]:
    """The parent's environment, with every setting as the parent has it."""
    security = settings.security
    return {
        **os.environ,
        "DRIFTLINE_HOME": str(settings.home),
        "DRIFTLINE_BOOTSTRAP": settings.bootstrap,
        "DRIFTLINE_LAKE": settings.lake,
        "DRIFTLINE_MLFLOW": settings.mlflow,
        "DRIFTLINE_ACTOR": ACTOR,
        "DRIFTLINE_LINEAGE": settings.lineage,
        "DRIFTLINE_SECURITY": security.profile,
        "DRIFTLINE_USERNAME": security.username,
        "DRIFTLINE_PASSWORD_FILE": security.password_file,
        "DRIFTLINE_CA_FILE": security.ca_file,
    }


def _text(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return file.read().decode("utf-8", "replace")  # type: ignore[attr-defined]
