"""EDGE. The local stack: brings up what the process table lists, says how it is, takes it down.

The guarantee is the order. Up: 1. what a killed run left is ended  2. ports are free  3. supervisor  4. broker
5. topics  6. the stages, each begun when the one before is ready  7. wait until every process says that it is ready.
Down: 1. the watchdog  2. everything else at once  3. the broker  4. supervisor  5. whatever is still marked as ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pipeline import leftovers, probe
from pipeline.errors import CheckFailed, Fatal, Unreachable, UsageError
from pipeline.kafka import reach
from pipeline.processes import Place, Process, port_setting, stages
from pipeline.settings import Settings
from pipeline.supervision import configuration
from pipeline.supervisor_client import DOWN, RUNNING, Child, Supervisor

STAGE_PATIENCE_S = 15.0  # the next stage begins then at the latest: one slow process does not hold up the others
SOCKET_LIMIT = 107  # bytes of a Unix socket's path
Report = Callable[[str, float], None]  # a process's name, seconds until it was ready


@dataclass(frozen=True, slots=True)
class Row:
    """One process, as `status` shows it."""

    name: str
    state: str  # ready, starting, not ready, waiting for a restart, given up, stopping, stopped
    pid: int | None
    since_s: float
    problem: str
    url: str

    @property
    def ready(self) -> bool:
        return self.state == "ready"


def local_place(settings: Settings) -> Place:
    alertmanager = _first_found("prometheus-alertmanager", "alertmanager")
    return Place(
        driftline=(sys.executable, "-m", "pipeline.cli"),
        home=str(settings.home),
        ports=settings.ports,
        contract=settings.contract,
        python=(sys.executable,),
        prometheus=_first_found("prometheus"),
        alertmanager=alertmanager,
        scram=settings.security.profile == "scram",
        brokers=settings.brokers,
    )


def _first_found(*names: str) -> str:
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return next((n for n in names if any(os.access(f"{f}/{n}", os.X_OK) for f in folders)), names[0])


def environment(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """What every process of the stack is told; relative names are made absolute, the mark is set, no secret is in it."""
    contract = Path(settings.contract)
    told = {
        "DRIFTLINE_HOME": str(settings.home),
        "DRIFTLINE_BOOTSTRAP": settings.bootstrap,
        "DRIFTLINE_LAKE": settings.lake,
        "DRIFTLINE_MLFLOW": settings.mlflow,
        "DRIFTLINE_SERVING": settings.serving,
        "DRIFTLINE_CONTRACT": str(contract.resolve()) if contract.is_file() else settings.contract,
        "DRIFTLINE_SECURITY": settings.security.profile,
        "DRIFTLINE_BROKERS": str(settings.brokers),
        leftovers.MARK: str(settings.home),
        "PYTHONUNBUFFERED": "1",
        **{f"DRIFTLINE_{name.upper()}_PORT": str(port) for name, port in settings.ports.items()},
    }
    return {**{k: v for k, v in given.items() if k != "DRIFTLINE_METRICS_PORT"}, **told}


class Stack:
    """The processes of one home. `environ` is what its processes inherit beside the settings."""

    def __init__(
        self,
        settings: Settings,
        processes: Sequence[Process],
        environ: Mapping[str, str],
        urls: Mapping[str, str] | None = None,
    ):
        self.settings, self.processes = settings, tuple(processes)
        self._environ, self._urls = environment(settings, environ), urls or {}
        self.folder, self.logs = settings.home / "stack", settings.home / "logs"
        self._supervisor = Supervisor(socket_path(settings.home))

    # up
    def up(
        self, prepare: Callable[[], None], topics: Callable[[], None], deadline_s: float, report: Report
    ) -> list[Row]:
        """Start what does not run; return every row when all are ready or the deadline has passed."""
        with self._locked():
            self._have_supervisor(prepare)
            until = time.monotonic() + deadline_s
            seen: dict[str, float] = {}
            for stage in stages(self.processes):
                for process in stage:
                    self._supervisor.start(process.name)
                first = stage[0].stage == 0
                self._await(stage, until if first else min(until, time.monotonic() + STAGE_PATIENCE_S), seen, report)
                if first and not all(p.name in seen for p in stage):
                    raise Fatal(f"the broker is not ready after {deadline_s:.0f} s; its log: {self.logs / 'kafka.log'}")
                if first:
                    topics()
            self._await(self.processes, until, seen, report)
            rows = self.rows()
            while not all(row.ready for row in rows) and time.monotonic() < until:
                time.sleep(0.2)  # of several workers behind one port one was ready, another is not yet
                rows = self.rows()
            return rows

    def _have_supervisor(self, prepare: Callable[[], None]) -> None:
        text = configuration(
            self.processes, str(self._supervisor.path), str(self.folder), str(self.logs), sys.executable
        )
        file = self.folder / "supervisord.conf"
        if self._supervisor.answers():
            if not file.is_file() or file.read_text() != text:
                raise UsageError("the stack runs with other settings; `driftline down` first, then `up`")
            return
        leftovers.end(self.settings.home)
        self._ports_are_free()
        for folder in (self.folder, self.logs, self.settings.home / "mlflow"):
            folder.mkdir(parents=True, exist_ok=True)
        prepare()
        file.write_text(text)
        self._supervisor.path.unlink(missing_ok=True)
        with (self.folder / "supervisord.out").open("wb") as out:
            started = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # it outlives this command, and a Ctrl-C in its terminal
            )
        until = time.monotonic() + 20
        while not self._supervisor.answers():
            if started.poll() is not None or time.monotonic() > until:
                raise Fatal(f"supervisor did not start: {(self.folder / 'supervisord.out').read_text()[-2000:]}")
            time.sleep(0.05)

    def _ports_are_free(self) -> None:
        for name, port in self._ports():
            holder = leftovers.holder(port)
            if holder:
                variable = f"DRIFTLINE_{port_setting(name).upper()}_PORT"
                raise UsageError(f"port {port} ({name}) is taken by {holder}: end that, or set {variable}")

    def _ports(self) -> list[tuple[str, int]]:
        names = {p.name for p in self.processes}
        second = {"kafka": "kafka_controller", "page": "page"}
        controller = self.settings.ports["kafka_controller"] - self.settings.ports["kafka"]
        copies = [("kafka_controller", p.port + controller) for p in self.processes if p.name.startswith("kafka-")]
        return (
            [(p.name, p.port) for p in self.processes]
            + copies
            + [(setting, self.settings.ports[setting]) for name, setting in second.items() if name in names]
        )

    def _await(self, processes: Sequence[Process], until: float, seen: dict[str, float], report: Report) -> None:
        """Ask those that were not ready yet, until all are or the time is up."""
        while True:
            children = self._supervisor.children()
            for process in processes:  # one that was still stopping when it was asked to start, or was given up
                if children[process.name].state in ("STOPPED", "FATAL"):
                    self._supervisor.start(process.name)
            for row in self._probe([p for p in processes if p.name not in seen], children):
                if row.ready:
                    seen[row.name] = row.since_s
                    report(row.name, row.since_s)
            if all(p.name in seen for p in processes) or time.monotonic() > until:
                return
            time.sleep(0.2)

    # status
    def rows(self) -> list[Row]:
        """Every process of the running stack; the whole table, all stopped, where none runs."""
        if not self._supervisor.answers():
            return self._probe(self.processes, {})
        children = self._supervisor.children()
        return self._probe([p for p in self.processes if p.name in children], children)

    def _probe(self, processes: Sequence[Process], children: Mapping[str, Child]) -> list[Row]:
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(lambda p: self._row(p, children.get(p.name)), processes))

    def _row(self, process: Process, child: Child | None) -> Row:
        url = self._urls.get(process.name, "")
        if child is None or child.state not in RUNNING:
            words = {"BACKOFF": "waiting for a restart", "FATAL": "given up", "STOPPING": "stopping"}
            word = words.get(child.state, "stopped") if child else "stopped"
            return Row(process.name, word, None, 0.0, self._last_words(process) if word != "stopped" else "", url)
        problem = self.problem(process)
        word = "ready" if problem is None else "starting" if child.since < process.start_s else "not ready"
        return Row(process.name, word, child.pid, child.since, problem or "", url)

    def _last_words(self, process: Process) -> str:
        """The last line of its log: supervisor itself only knows that it ended."""
        file = self.logs / f"{process.name}.log"
        lines = file.read_bytes()[-4000:].decode(errors="replace").split("\n") if file.is_file() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it ended and left no log")

    def problem(self, process: Process) -> str | None:
        """Why a running process is not ready; None when it is."""
        address = process.at(process.ready)
        return probe.problem(address) if address else broker_problem(self.settings, process.port)

    # down
    def down(self) -> int:
        """Stop everything of this home; how many processes there were. Nothing to stop is no error."""
        with self._locked():
            ended = self._stop_supervised() if self._supervisor.answers() else 0
            return ended + len(leftovers.end(self.settings.home))

    def _stop_supervised(self) -> int:
        running = [n for n, c in self._supervisor.children().items() if c.state not in ("STOPPED", "EXITED")]
        brokers = [n for n in running if n.startswith("kafka")]
        for group in (["watch"], [n for n in running if n not in ("watch", *brokers)], brokers):
            self._stop([n for n in group if n in running])
        supervisor = psutil.Process(self._supervisor.pid())
        self._supervisor.shutdown()
        psutil.wait_procs([supervisor], timeout=15)
        return len(running)

    def _stop(self, names: Sequence[str]) -> None:
        patience = {p.name: p.stop_s + 5 for p in self.processes}
        for name in names:
            self._supervisor.stop(name)
        _until(
            lambda: all(c.state in DOWN for n, c in self._supervisor.children().items() if n in names),
            max((patience.get(n, 30) for n in names), default=0),
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` at a time; the lock goes with its holder, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CheckFailed(f"another `up` or `down` works on {self.settings.home}; wait for it") from error
            yield


def broker_problem(settings: Settings, port: int) -> str | None:
    """None if the broker answers a metadata request: a hung one still accepts connections."""
    if not leftovers.listening(port):
        return f"nothing listens on port {port}"
    try:
        reach(replace(settings, bootstrap=f"127.0.0.1:{port}"), deadline_s=0.1)
    except Unreachable as error:
        return str(error)
    return None


def socket_path(home: Path) -> Path:
    """In the stack's folder if its path is short enough, else in a private folder of the temporary directory."""
    wanted = home / "stack" / "supervisor.sock"
    if len(str(wanted).encode()) <= SOCKET_LIMIT:
        return wanted
    folder = Path(tempfile.gettempdir()) / f"driftline-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(f"{folder}: expected a folder of this user alone (0700); remove it or use a shorter home")
    return folder / f"{hashlib.sha256(str(home).encode()).hexdigest()[:16]}.sock"


def _until(condition: Callable[[], bool], deadline_s: float) -> bool:
    until = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
