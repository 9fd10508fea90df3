"""The compactor at every system call of a commit: killed there, or told there that the disk is full or broken.

The calls are counted first, in one undisturbed commit; then one compactor after the other is traced by strace from the
moment at which it is about to commit, and killed as it enters the k-th of them. All that changes the lake is done by
its main thread, and only this is traced: the library's own threads read.
A kill counts only if the process died of it.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from batch import table
from batch.checker import check_commits
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.settings import Settings, from_environment
from tests.contracts import contract_file_named
from tests.lake.log_writer import LogWriter, order
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
CALLS = "%file,%desc"  # of these those that name something in the lake
HANGS_S = 60
CHANGES = ("mkdir", "openat", "write", "fsync", "link", "unlink", "rename", "rmdir", "unlinkat")
Report = Callable[[str], None]
Meanwhile = Callable[[int, Path], None]
_LINE = re.compile(r"^(\w+)\((.*)$")


@dataclass(frozen=True, slots=True)
class Call:
    """The `nth` call of its name in a commit, and what it was about."""

    name: str
    nth: int
    about: str


@dataclass(slots=True)
class Ended:
    """How one traced compactor ended: exit code (below zero: a signal), what strace saw, what the process said."""

    code: int
    seen: list[str]
    said: str


@dataclass(slots=True)
class Warm:
    """The warm process and its compactors."""

    home: Path
    process: subprocess.Popen[str]
    env: Mapping[str, str]
    number: int = field(default=0)

    def compact(self, contract: str, *strace: str, meanwhile: Meanwhile | None = None) -> Ended:
        """One `compact --once`, traced by `strace STRACE` from its commit on; `meanwhile(pid, log)` is called when that begins."""
        self.number += 1
        log, seen = self.home / f"{self.number}.log", self.home / f"{self.number}.strace"
        job = {"argv": ["--contract", contract, "compact", "--once"], "env": dict(self.env), "log": str(log)}
        self._send(json.dumps({**job, "stop": bool(strace or meanwhile)}))
        word, pid, *rest = self._hear()
        tracer = None
        if word == "stopped":
            stat = Path(f"/proc/{pid}/stat")
            wait_until(lambda: " T " in stat.read_text(), 10, "the compactor to stop", every_s=0.001)
            if strace:
                tracer = _attach(int(pid), seen, strace)
            helping = threading.Thread(target=meanwhile, args=(int(pid), log)) if meanwhile else None
            if helping is not None:
                helping.start()
            os.kill(int(pid), signal.SIGCONT)
            word, pid, *rest = self._hear()
            if helping is not None:
                helping.join()
        assert word == "ended", word
        if tracer is not None:
            tracer.wait(10)
        lines = seen.read_text(errors="replace").splitlines() if seen.exists() else []
        return Ended(int(rest[0]), lines, log.read_text() if log.exists() else "")

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _hear(self) -> list[str]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], HANGS_S)[0], f"nothing heard for {HANGS_S} s"
        line = self.process.stdout.readline()
        assert line, "the warm process is gone"
        return line.split()


@contextmanager
def warm(home: Path, env: Mapping[str, str]) -> Iterator[Warm]:
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    made = Warm(home, process, env)
    try:
        assert made._hear() == ["ready"]
        yield made
    finally:
        process.kill()
        process.wait()


def refused() -> str:
    """Why strace cannot attach to a process here; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "30"]) as target:
        try:
            command = ["strace", "-p", str(target.pid), "-o", os.devnull]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            said = tracer.stderr.readline().strip()
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
            return "" if "attached" in said else f"strace cannot attach: {said}"
        finally:
            target.kill()


def recorded(ended: Ended, lake: Path, names: tuple[str, ...] = ()) -> list[Call]:
    """The calls of a traced commit that name something in the lake, numbered as strace counts them."""
    counts, found = Counter[str](), []
    for line in ended.seen:
        match = _LINE.match(line)
        if match is None:
            continue
        name, rest = match.groups()
        counts[name] += 1
        if str(lake) in rest and (not names or name in names):
            found.append(Call(name, counts[name], rest[:200].replace(str(lake), "LAKE")))
    return found


def kill_at(call: Call) -> tuple[str, ...]:
    return ("-y", "-e", f"trace={call.name}", "-e", f"inject={call.name}:signal=KILL:when={call.nth}")


def fail_at(call: Call, error: str) -> tuple[str, ...]:
    """From this call on three times (a write: once, for the process writes its log too): it tries again, and meets a healthy disk at last."""
    last = call.nth + (0 if call.name == "write" else 2)
    return ("-y", "-e", f"trace={call.name}", "-e", f"inject={call.name}:error={error}:when={call.nth}..{last}")


@dataclass(slots=True)
class Shop:
    """A dataset of its own, its compactors, and what its log holds."""

    settings: Settings
    contract: Contract
    file: str
    writer: LogWriter
    warm: Warm
    blocks: int = field(default=0)
    held: list[tuple[int, int]] = field(default_factory=list)  # coordinates of the valid rows in the log
    dead: int = field(default=0)

    @property
    def lake(self) -> Path:
        return Path(self.settings.lake)

    def block(self, rows: int = 5) -> None:
        """One block more: valid rows of a date of their own, and one dead letter."""
        first, day = self.writer.ends.get(0, 0), 86_400 * self.blocks
        self.writer.write(0, [*(order(i - day) for i in range(rows)), b"{"])
        self.held += [(0, first + i) for i in range(rows)]
        self.dead, self.blocks = self.dead + 1, self.blocks + 1

    def compact(self, *strace: str, **more: Any) -> Ended:
        return self.warm.compact(self.file, *strace, **more)

    def rows(self) -> list[tuple[int, int]]:
        if not table.exists(self.settings, self.contract.id):
            return []
        return sorted(
            table.scan(self.settings, self.contract.id).select("raw_partition", "raw_offset").collect().rows()
        )

    def letters(self) -> int:
        there = table.exists(self.settings, self.contract.id, table.DEAD_LETTERS)
        return table.count(self.settings, self.contract.id, table.DEAD_LETTERS) if there else 0

    def whole(self) -> str:
        """What is wrong with a lake that should hold the whole log; empty if nothing."""
        if self.rows() != self.held:
            return f"expected {len(self.held)} rows as in the log, got {len(self.rows())}"
        if self.letters() != self.dead:
            return f"expected {self.dead} dead letters, got {self.letters()}"
        commits = [
            json.loads(v.metadata["ranges"])
            for v in reversed(table.versions(self.settings, self.contract.id))
            if "ranges" in v.metadata
        ]
        return "; ".join(e.message for e in check_commits("table", commits))

    def prefix(self, before: list[tuple[int, int]]) -> str:
        """What is wrong with a lake after a kill: it must be the one before the commit or the one after."""
        rows = self.rows()
        return (
            ""
            if rows in (before, self.held)
            else f"neither before ({len(before)}) nor after ({len(self.held)}): {len(rows)} rows"
        )


@contextmanager
def shop(folder: Path, bootstrap: str, name: str, **more: str) -> Iterator[Shop]:
    file = contract_file_named(folder, "sales", name)
    env = {"DRIFTLINE_HOME": str(folder / "home"), "DRIFTLINE_BOOTSTRAP": bootstrap, **more}
    settings, contract = from_environment(env, str(file)), contract_file.load(str(file))
    kafka.create_topics(settings, topics.all_topics(name, 1))
    with warm(folder / "warm", env) as compactors:
        made = Shop(settings, contract, str(file), LogWriter(settings, contract), compactors)
        made.block()
        assert made.compact().code == 0
        yield made


def calls_of_a_commit(of: Shop, names: tuple[str, ...] = CHANGES) -> list[Call]:
    """Every call of one undisturbed commit that names something in the lake."""
    of.block()
    ended = of.compact("-y", "-e", f"trace={CALLS}")
    assert ended.code == 0, ended.said
    return recorded(ended, of.lake, names)


@dataclass(slots=True)
class Outcome:
    """Of a series of disturbed commits: how many were disturbed, where, and what was wrong afterwards."""

    fired: Counter[str] = field(default_factory=Counter)
    missed: list[Call] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def kill_each(of: Shop, calls: Sequence[Call], report: Report) -> Outcome:
    """A compactor killed at each of the calls; after each a new one, and the table must be the log."""
    outcome = Outcome()
    for number, call in enumerate(calls, 1):
        before = of.rows()
        of.block()
        ended = of.compact(*kill_at(call))
        if ended.code == -signal.SIGKILL:
            outcome.fired[call.name] += 1
        else:
            outcome.missed.append(call)
        left = of.prefix(before)
        again = of.compact()
        said = left or (again.said[-300:] if again.code else "") or of.whole()
        if said:
            outcome.wrong.append(f"killed at {call.name} {call.nth} {call.about}: {said}")
        if number % 10 == 0:
            report(f"{number} of {len(calls)} kills, {len(outcome.wrong)} wrong")
    return outcome


def fail_each(of: Shop, calls: Sequence[Call], errors: Sequence[str], report: Report) -> Outcome:
    """The disk fails three times from each of the calls on, then is well: the same compactor must bring the table up to the log."""
    outcome = Outcome()
    for number, (call, error) in enumerate(product(calls, errors), 1):
        of.block()
        ended = of.compact(*fail_at(call, error))
        outcome.fired[error] += any("INJECTED" in line for line in ended.seen)
        said = of.whole() if ended.code == 0 else f"exit {ended.code}: {ended.said[-300:]}"
        if said:
            outcome.wrong.append(f"{error} at {call.name} {call.nth} {call.about}: {said}")
            of.compact()
        if number % 10 == 0:
            report(f"{number} errors, {len(outcome.wrong)} wrong")
    return outcome


def spread(calls: Sequence[Call], n: int) -> list[Call]:
    """`n` of the calls: each kind at its first and its last, the others evenly."""
    ends = {
        c
        for name in {c.name for c in calls}
        for own in [[c for c in calls if c.name == name]]
        for c in (own[0], own[-1])
    }
    rest = [c for c in calls if c not in ends]
    more = rest[:: max(1, len(rest) // max(1, n - len(ends)))][: max(0, n - len(ends))]
    return [c for c in calls if c in ends or c in more]


def _attach(pid: int, seen: Path, options: tuple[str, ...]) -> subprocess.Popen[str]:
    command = ["strace", "-p", str(pid), "-o", str(seen), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    assert "attached" in said, said
    return tracer
