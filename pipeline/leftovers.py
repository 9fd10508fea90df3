"""EDGE. Finds and ends the processes of one stack, whoever started them, and nobody else's.

Every process of a stack carries its home in the environment variable DRIFTLINE_STACK, and so do the processes it
starts. That is looked up in the process itself: a pid file can name a stranger who got the number later, this cannot.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import psutil

MARK = "DRIFTLINE_STACK"
KILL_AFTER_S = 10.0


def of(home: Path) -> list[psutil.Process]:
    """Living processes marked with this home, oldest first; this process and its ancestors are never among them."""
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found = [p for p in psutil.process_iter() if p.pid not in spared and _mark(p) == str(home)]
    return sorted(found, key=lambda p: p.create_time())


def _mark(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK)
    except (psutil.Error, OSError):  # gone, or another user's
        return None


def end(home: Path, patience_s: float = KILL_AFTER_S) -> list[str]:
    """End them: the supervisor first, so that it restarts nothing, the broker last; then kill what stayed. Names."""
    found = of(home)
    kinds = {p: _kind(p) for p in found}
    for kind in ("supervisor", "worker", "broker"):
        _terminate([p for p in found if kinds[p] == kind], patience_s, hard=kind == "supervisor")
    return [kinds[p] for p in found]


def _kind(process: psutil.Process) -> str:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return "worker"
    if "supervisor.supervisord" in words:
        return "supervisor"
    return "broker" if "kafka.Kafka" in words else "worker"


def _terminate(processes: Sequence[psutil.Process], patience_s: float, *, hard: bool) -> None:
    """A supervisor is killed at once: asked kindly it would stop its children one by one, the broker before the rest."""
    for process in processes:
        _send(process, kill=hard)
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        _send(process, kill=True)
    psutil.wait_procs(alive, timeout=5)


def _send(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
            process.resume()  # a stopped process (SIGSTOP) acts on SIGTERM only when it goes on
    except psutil.NoSuchProcess:
        return


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def holder(port: int) -> str | None:
    """Who listens on a local TCP port: `pid 123 (java)`; None if nobody does."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return f"pid {connection.pid} ({_name(connection.pid)})" if connection.pid else "another user's process"
    return None


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "gone"
