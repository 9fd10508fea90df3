"""EDGE. Records that may kill the process, tried one by one in a child process; `python -m stream_processors.validator.trial CONTRACT`.

The child decodes a record, makes a block of it, writes one byte, and goes on. The record behind the last byte is the one
that it died of, or hung on; a new child goes on behind that one. The child has a memory limit of its own.
"""

from __future__ import annotations

import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import BinaryIO

from pipeline import contract_file, decode
from pipeline.blocks import cut
from pipeline.errors import Fatal

START_WITHIN_S = 60.0  # imports on a busy machine
RECORD_WITHIN_S = 10.0  # a good record takes 100 us
MEMORY_BYTES = 1 << 30  # writable memory; the child starts with some 200 MB
_FRAME = struct.Struct(">qi")  # append time; length, -1 for a null value
_PASSED = b"."


def culprits(
    contract: str, values: Sequence[bytes | None], append_ms: Sequence[int], alive: Callable[[], None]
) -> dict[int, str]:
    """Position -> how the child ended on it; {} if every record can be decoded alone."""
    found: dict[int, str] = {}
    with tempfile.TemporaryFile() as records:
        starts = []
        for value, at in zip(values, append_ms, strict=True):
            starts.append(records.tell())
            records.write(_FRAME.pack(at, -1 if value is None else len(value)) + (value or b""))
        records.flush()
        at = 0
        while at < len(values):
            records.seek(starts[at])
            passed, ended = _run(contract, records, len(values) - at, alive)
            at += passed
            if at < len(values):
                found[at] = ended
                at += 1
    return found


def _run(contract: str, records: BinaryIO, wanted: int, alive: Callable[[], None]) -> tuple[int, str]:
    """How many records a new child passed, and how it ended on the next one."""
    command = [sys.executable, "-m", "stream_processors.validator.trial", contract]
    child = subprocess.Popen(command, stdin=records, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    try:
        assert child.stdout is not None
        passed, within = -1, START_WITHIN_S  # the first byte says that it is ready
        while passed < wanted:
            alive()
            if not select.select([child.stdout], [], [], within)[0]:
                if passed < 0:
                    raise Fatal(f"the trial of suspected records did not start within {START_WITHIN_S:.0f} s")
                return passed, f"the decoder did not return within {RECORD_WITHIN_S:.0f} s"
            got = child.stdout.read(1 << 16)
            if not got:
                code = child.wait()
                if passed < 0:
                    raise Fatal(f"the trial of suspected records could not start: it ended with {code}")
                return passed, f"the decoder ended its process: {ended_by(code)}"
            passed, within = passed + len(got), RECORD_WITHIN_S
        return passed, ""
    finally:
        child.kill()
        child.wait()


def ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _frames(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    while head := stream.read(_FRAME.size):
        at, size = _FRAME.unpack(head)
        yield at, None if size < 0 else stream.read(size)


def main(contract: str) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    decoder = decode.compile(contract_file.load(contract))
    out = sys.stdout.buffer
    for at, value in chain([(0, b"{}")], _frames(sys.stdin.buffer)):
        list(cut(decoder.decode_batch([value], [0], [at]).batch))
        out.write(_PASSED)
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
