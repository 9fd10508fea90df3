"""EDGE. The processes under fire: each kept up in its slot, with an imported stand-by that takes over when it ends."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.times import to_text
from tests.faults.load import Load
from tests.faults.points import FIRED
from tests.faults.schedule import Kind

ROOT = Path(__file__).resolve().parents[2]
UP = {"validator": "placed", "compactor": "ready", "drift": "assigned", "producer": "ready"}  # the log's word for it
UP_S, END_S = 90.0, 60.0
NAMED_ENDS = (0, 3, 70)  # stopped, a dependency stayed away, "start me again": what the supervisor is for
_EVENT = re.compile(rb"^\S+ \S+ (\w+)(?: name=(\S+))?")


class Child:
    """One verb in a process of its own. What it logs goes to a file, and its events are counted."""

    def __init__(self, kind: Kind, argv: Sequence[str], environment: Mapping[str, str], log: Path):
        self.kind, self.log = kind, log
        self.fired = ""  # the crash point at which it ended itself
        self.said: Counter[str] = Counter()
        self.last_words = ""
        self._heard = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child", kind, *argv],
            cwd=ROOT, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._listen, args=(log.open("ab"),), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def up(self) -> bool:
        return self.said[UP[self.kind]] > 0 and self.code is None

    def go(self, arguments: Sequence[str] = ()) -> None:
        self._tell(" ".join(["go", *arguments]))

    def arm(self, point: str, at: int) -> None:
        self._tell(f"arm {point} {at}")

    def disarm(self) -> None:
        self._tell("arm")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def await_up(self, deadline_s: float) -> bool:
        """Whether it has taken its place; False if it ended before, or the time is over."""
        until = time.monotonic() + deadline_s
        with self._heard:
            while not self.said[UP[self.kind]] and self.code is None and time.monotonic() < until:
                self._heard.wait(0.05)
        return self.up

    def await_end(self, deadline_s: float) -> bool:
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(5)  # its last words are in the pipe
        return True

    def kill(self) -> bool:
        """SIGKILL; whether it was alive to be hit."""
        if self.code is not None:
            return False
        self._process.kill()
        return self.await_end(END_S) and self.code == -signal.SIGKILL

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def _listen(self, log: BinaryIO) -> None:
        assert self._process.stderr is not None
        with log:
            for line in self._process.stderr:
                log.write(line)
                self.last_words = line.decode(errors="replace").strip()
                if found := _EVENT.match(line):
                    self._hear(found[1].decode(), (found[2] or b"").decode())

    def _hear(self, event: str, name: str) -> None:
        with self._heard:
            self.said[event] += 1
            if event == FIRED:
                self.fired = name
            self._heard.notify_all()


class Slot:
    """A place in the pipeline that is kept taken."""

    def __init__(self, kind: Kind, number: int, environment: Mapping[str, str], logs: Path):
        self.kind, self.name = kind, f"{kind}-{number}"
        self._environment, self._logs, self._number = environment, logs, number
        self._stand_by: Child | None = None
        self._all: list[Child] = []
        self._lock = threading.RLock()
        self.live: Child | None = None
        self.wanted = False  # whether it is to be started again when it ends
        self.busy = False  # a kill or a pause is going on: whoever does that starts it again
        self.restarts: Counter[int] = Counter()  # by exit code, of ends that nobody had asked for
        self.crashes: list[str] = []  # of those, the ones that no named error ended: exit code and last words
        self.beyond = 0  # ends at a crash point beyond those of the schedule

    def argv(self) -> list[str]:
        return {
            "validator": ["validate", "--instance", str(self._number)],
            "compactor": ["compact", "--interval", "1"],
            "drift": ["drift"],
        }[self.kind]

    def late_arguments(self) -> list[str]:
        """What is known only when a stand-by gets the word."""
        return []

    def prepare(self) -> None:
        """Start the stand-by, if there is none."""
        with self._lock:
            if self._stand_by is None or self._stand_by.code is not None:
                self._all = [c for c in self._all if c.code is None]
                self._stand_by = Child(self.kind, self.argv(), self._environment, self._logs / f"{self.name}.log")
                self._all.append(self._stand_by)

    def start(self, armed: tuple[str, int] | None = None) -> Child:
        """The stand-by takes the place; the next one is made ready."""
        with self._lock:
            self.prepare()
            child, self._stand_by = self._stand_by, None
            assert child is not None
            if armed:
                child.arm(*armed)
            child.go(self.late_arguments())
            self.live, self.wanted = child, True
            self.prepare()
            return child

    def keep(self) -> None:
        """Start it again if it ended by itself, and remember how."""
        with self._lock:
            child = self.live
            if self.wanted and not self.busy and child is not None and child.code is not None:
                if child.fired:  # of two that were armed with one point the second was as fast as the word to let it be
                    self.beyond += 1
                else:
                    self.restarts[child.code] += 1
                    if child.code not in NAMED_ENDS:
                        self.crashes.append(f"{self.name} {child.code}: {child.last_words}")
                self.start()

    def stop(self) -> int | None:
        """SIGTERM, and no successor; the exit code."""
        with self._lock:
            self.wanted, child = False, self.live
        if child is None:
            return None
        child.signal(signal.SIGCONT)
        child.signal(signal.SIGTERM)
        if not child.await_end(END_S):
            child.kill()
        return child.code

    def close(self) -> None:
        """End all that was ever started in this slot and still is there, paused ones too."""
        with self._lock:
            self.wanted = False
            for child in self._all:
                child.kill()


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the producer: what its records can be made from again."""

    seed: int
    start_ms: int


class Producer(Slot):
    """`driftline produce` at a compressed clock: each start goes on where event time has come to, under a seed of its own."""

    def __init__(self, environment: Mapping[str, str], logs: Path, began_ms: int, load: Load):
        super().__init__("producer", 0, environment, logs)
        self._began_ms, self._load = began_ms, load
        self._began: float | None = None  # monotonic, of the first start
        self.runs: list[Run] = []

    def argv(self) -> list[str]:
        return ["produce", *self._load.arguments]

    def late_arguments(self) -> list[str]:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        start_ms = self._began_ms + round((now - self._began) * 1000 * self._load.speed)
        self.runs.append(Run(self._load.seed * 1000 + len(self.runs) + 1, start_ms))
        return ["--seed", str(self.runs[-1].seed), "--start", to_text(start_ms)]
