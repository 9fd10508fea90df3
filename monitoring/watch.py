"""EDGE. `driftline watch`: the watchdog of the local stack. It kills what hangs; the supervisor starts it again."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, probe
from pipeline.errors import Unreachable
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.processes import Process, table
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stack import broker_problem, local_place, socket_path
from pipeline.supervisor_client import RUNNING, Child, Supervisor
from pipeline.watching import Event, Seen, Watched, Watchman

EVERY_S = 2.0


class Watch:
    summary = "Restart what hangs or was given up (a process of the local stack)."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        processes = [
            p for p in table(local_place(settings), contract_file.load(settings.contract)) if p.name != "watch"
        ]
        meter = PrometheusMeter()
        with Service("watch", settings, meter.exposition) as service:
            watchdog = Watchdog(settings, processes, meter)
            while not service.stopped.is_set():
                if watchdog.turn():
                    service.ready()
                service.beat()
                service.stopped.wait(EVERY_S)
        return 0


class Watchdog:
    """One turn = look at every child of the supervisor, then act. `processes` is the table without the watchdog."""

    def __init__(self, settings: Settings, processes: list[Process], meter: Meter):
        self._settings, self._meter = settings, meter
        self._processes = {p.name: p for p in processes}
        self._supervisor = Supervisor(socket_path(settings.home))
        self._watchman = Watchman(tuple(Watched(p.name, p.depends, p.start_s) for p in processes))

    def turn(self) -> bool:
        """Whether the supervisor answered; without it there is nothing to look at, and nobody to start anything."""
        try:
            children = self._supervisor.children()
            for event in self._watchman.look(time.monotonic(), self._look(children)):
                self._act(event, children[event.name])
        except Unreachable as error:
            log("supervisor_unreachable", "warning", error=error)
            return False
        return True

    def _look(self, children: Mapping[str, Child]) -> dict[str, Seen]:
        listed = [(self._processes[n], c) for n, c in children.items() if n in self._processes]
        with ThreadPoolExecutor(max_workers=8) as pool:
            problems = list(pool.map(lambda pair: self._problem(*pair), listed))
        return {p.name: Seen(c.state, c.pid, c.since, why) for (p, c), why in zip(listed, problems, strict=True)}

    def _problem(self, process: Process, child: Child) -> str | None:
        if child.state not in RUNNING:
            return child.said
        address = process.at(process.health)
        return probe.problem(address) if address else broker_problem(self._settings, process.port)

    def _act(self, event: Event, child: Child) -> None:
        log("process_restart", "warning", process=event.name, reason=event.reason, detail=event.detail, pid=child.pid)
        self._meter.inc("driftline_process_restarts_total", process=event.name, reason=event.reason)
        if event.do == "start":
            self._supervisor.start(event.name)
        elif event.do == "kill":
            kill_group(child.pid)


def kill_group(pid: int) -> None:
    """SIGKILL to the process and the workers it started: supervisor makes each child the leader of a group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
