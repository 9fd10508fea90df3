"""The `driftline` command itself, whatever the verb."""

from __future__ import annotations

import subprocess
import sys


def test_a_reader_that_leaves_ends_a_verb_without_a_traceback() -> None:
    command = [sys.executable, "-m", "pipeline.cli", "contract", "check", "sales"]
    verb = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert verb.stdout is not None and verb.stderr is not None
    verb.stdout.close()  # as `| head` does
    said = verb.stderr.read().decode()
    assert (verb.wait(60), "Traceback" in said) == (0, False), said
