"""One target under one engine, in a process of its own: `python -m tests.bench._fuzz_child ENGINE TARGET RUNS SEED OUT FOLDER`.

It writes the input that is being tried into FOLDER before it tries it, so that one that ends the process is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

SLOW_S = 1.0


class Trials:
    """Runs a target, counts what comes of it, writes the counts when all runs are done."""

    def __init__(self, target, runs: int, out: Path, folder: Path, warm: bytes):
        self._target, self._runs, self._out = target, runs, out
        self._current = os.open(folder / "current", os.O_RDWR | os.O_CREAT)
        self.tried, self.outcomes, self.slowest = 0, Counter(), 0.0
        with contextlib.suppress(Exception):
            target(warm)  # first uses import and compile; they are not what is timed
        self.unclassified: list[str] = []

    def __call__(self, data: bytes) -> None:
        if self.tried >= self._runs:
            return
        os.ftruncate(self._current, len(data))
        os.pwrite(self._current, data, 0)
        began = time.process_time()  # a busy machine is no stall of ours
        try:
            self.outcomes[self._target(data)] += 1
        except BaseException as error:
            self.outcomes["unclassified"] += 1
            if len(self.unclassified) < 10:
                last = traceback.extract_tb(error.__traceback__)[-1]
                self.unclassified.append(f"{error!r} at {last.filename}:{last.lineno} on {data[:2000]!r}")
        spent = time.process_time() - began
        if spent > self.slowest:
            self.slowest = spent
            if spent > SLOW_S and len(self.unclassified) < 10:
                self.unclassified.append(f"{spent:.1f} s on {data[:2000]!r}")
        self.tried += 1
        if self.tried == self._runs:
            self.write()

    def write(self) -> None:
        found = {
            "tried": self.tried,
            "outcomes": dict(self.outcomes),
            "unclassified": self.unclassified,
            "slowest_s": round(self.slowest, 3),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        self._out.write_text(json.dumps(found))


def main(engine: str, name: str, runs: int, seed: int, out: Path, folder: Path) -> None:
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(
            include=["pipeline", "stream_processors", "serving"], enable_loader_override=False
        ):
            from tests.bench import _fuzz_targets as targets
        trials = Trials(targets.TARGETS[name], runs, out, folder, targets.seeds(name)[0])
        start = folder / "corpus"
        start.mkdir()
        for i, data in enumerate(targets.seeds(name)):
            (start / str(i)).write_bytes(data)
        arguments = [
            sys.argv[0],
            str(start),
            f"-runs={runs + 10_000}",
            f"-seed={seed}",
            "-max_len=8192",
            "-verbosity=0",
            "-rss_limit_mb=4096",
        ]
        atheris.Setup(arguments, trials)
        atheris.Fuzz()
        return
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    from tests.bench import _fuzz_targets as targets

    trials = Trials(targets.TARGETS[name], runs, out, folder, targets.seeds(name)[0])
    begin = targets.seeds(name)
    edits = st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 40), st.binary(max_size=24)), max_size=6)

    @seeded(seed)
    @settings(max_examples=runs, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=400) | st.tuples(st.sampled_from(begin), edits).map(lambda drawn: _edited(*drawn)))
    def explore(data: bytes) -> None:
        trials(data)

    explore()
    rng = random.Random(seed)
    while trials.tried < runs:  # hypothesis ends early where it finds nothing new
        cuts = [
            (rng.randrange(4096), rng.randrange(40), rng.randbytes(rng.randrange(24))) for _ in range(rng.randrange(6))
        ]
        trials(_edited(rng.choice(begin), cuts))


def _edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, inserted in edits:
        at %= len(data) + 1
        data = data[:at] + inserted + data[at + length :]
    return data


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), Path(sys.argv[6]))
