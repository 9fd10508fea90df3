"""A broker of the bench's own and `driftline` verbs against it, one after another; each verb's log is kept in a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRIFT_DEADLINE_S = 900.0
QUIET_S = 3.0  # without another window, behind the newest one: the end
sys.path.insert(0, str(ROOT))

from pipeline import blocks, contract_file, kafka, topics  # noqa: E402
from pipeline.broker import Broker  # noqa: E402
from pipeline.contract import Contract  # noqa: E402
from pipeline.settings import Settings, from_environment  # noqa: E402
from pipeline.times import to_text  # noqa: E402
from stream_processors.judging.panes import clock_of  # noqa: E402
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

    def clocks(self) -> dict[int, int]:
        """By partition the newest event time that stands in a block, ms."""
        newest: dict[int, int] = {}
        for message in kafka.read_all(self.settings, topics.blocks(self.contract.id)):
            header = blocks.from_headers(kafka.headers_of(message))
            if header.max_event_time is not None:
                newest[header.partition] = max(newest.get(header.partition, 0), header.max_event_time)
        return newest

    def judge(self, clocks: Mapping[int, int]) -> None:
        """`drift` until it has told the newest window that these clocks close; its seconds are those to its last word."""
        clock = clock_of(self.contract)
        reached = max(clocks.values()) - clock.lateness  # when every partition is idle the highest counts
        last = to_text((reached // clock.window - 1) * clock.window)
        log, began, spoken, told = self.home / "drift.log", time.monotonic(), 0.0, 0
        with self._drift(log) as process:
            while (now := time.monotonic() - began) < DRIFT_DEADLINE_S:
                windows = re.findall(r" window_closed .*?window=(\S+)", log.read_text())
                if len(windows) > told:
                    told, spoken = len(windows), now
                if last in windows and now - spoken > QUIET_S:
                    break
                if process.poll() is not None:
                    raise SystemExit("drift ended by itself:\n" + "\n".join(log.read_text().splitlines()[-10:]))
                time.sleep(0.5)  # a poll of a live process, with a deadline
        self.seconds["drift"] = round(spoken, 1)
        progress(f"{spoken:6.1f} s  driftline drift: {told} windows told")

    @contextmanager
    def _drift(self, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("w") as out:
            process = subprocess.Popen(self.command("drift"), env=self.environment, cwd=ROOT, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def alerts(self) -> list[dict]:
        """Every alert of this dataset, oldest first."""
        return [a for a in self._said(topics.ALERTS) if a["dataset"] == self.contract.id]

    def verdicts(self) -> list[dict]:
        """Every verdict of this dataset, revisions too, oldest first."""
        return [v for v in self._said(topics.VERDICTS) if v["dataset"] == self.contract.id]

    def _said(self, topic: str) -> list[dict]:
        return [json.loads(m.value()) for m in kafka.read_all(self.settings, topic) if m.value()]

    def json(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> dict:
        """The last line of the verb's output, as JSON."""
        return json.loads(self.run(*arguments, expect=expect).strip().splitlines()[-1])


@contextmanager
def hops(contract: str) -> Iterator[Hops]:
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, Broker(Path(folder) / "broker") as broker:
        yield Hops(Path(folder) / "home", broker, contract)
