"""A broker of the bench's own and `driftline` verbs against it, one after another; each verb's log is kept in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline import contract_file, kafka, topics  # noqa: E402
from pipeline.broker import Broker  # noqa: E402
from pipeline.contract import Contract  # noqa: E402
from pipeline.settings import Settings, from_environment  # noqa: E402
from tests.bench.report import progress  # noqa: E402


class Hops:
    def __init__(self, home: Path, broker: Broker, contract: str):
        self.environment = {**os.environ, "DRIFTLINE_HOME": str(home), "DRIFTLINE_BOOTSTRAP": broker.bootstrap}
        self.environment.pop("DRIFTLINE_METRICS_PORT", None)
        self.settings: Settings = from_environment(self.environment, contract)
        self.contract: Contract = contract_file.load(contract)
        self.home, self.seconds = home, {}
        home.mkdir(parents=True, exist_ok=True)
        kafka.create_topics(self.settings, topics.all_topics(self.contract.id, self.contract.partitions))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", "--contract", self.settings.contract, *arguments]

    def run(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> str:
        """The verb's standard output; SystemExit with its log's end if it ended otherwise than expected."""
        log, began = self.home / f"{arguments[0]}.log", time.monotonic()
        with log.open("w") as errors:
            done = subprocess.run(
                self.command(*arguments),
                env=self.environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.seconds[arguments[0]] = round(time.monotonic() - began, 1)
        progress(f"{self.seconds[arguments[0]]:6.1f} s  driftline {' '.join(arguments)}")
        if done.returncode not in expect:
            raise SystemExit(
                f"driftline {' '.join(arguments)} ended with {done.returncode}:\n"
                + "\n".join(log.read_text().splitlines()[-15:])
            )
        return done.stdout

    def json(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> dict:
        """The last line of the verb's output, as JSON."""
        return json.loads(self.run(*arguments, expect=expect).strip().splitlines()[-1])


@contextmanager
def hops(contract: str) -> Iterator[Hops]:
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, Broker(Path(folder) / "broker") as broker:
        yield Hops(Path(folder) / "home", broker, contract)
