"""EDGE. A running supervisor, asked over its Unix socket: who runs, start this, stop that."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import Unreachable

RUNNING = ("RUNNING", "STARTING")
DOWN = ("STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN")
_NOT_RUNNING, _ALREADY_STARTED = 70, 60  # supervisor's fault codes
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    state: str  # supervisor's words: STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL
    pid: int
    since: float  # seconds since it was started; 0 when it does not run
    said: str


class Supervisor:
    def __init__(self, path: Path):
        self.path = path
        self._rpc = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_OverUnixSocket(path)).supervisor

    def answers(self) -> bool:
        try:
            self._call("getState")
        except Unreachable:
            return False
        return True

    def pid(self) -> int:
        return int(str(self._call("getPID")))

    def children(self) -> dict[str, Child]:
        infos = self._call("getAllProcessInfo")
        assert isinstance(infos, list)
        return {i["name"]: _child(i) for i in infos}

    def start(self, name: str) -> None:
        """Ask for a start and return at once; a process that runs already is left alone."""
        self._call("startProcess", name, False, accept=_ALREADY_STARTED)

    def stop(self, name: str) -> None:
        """Ask for a stop (SIGTERM, later SIGKILL) and return at once; one that does not run is left alone."""
        self._call("stopProcess", name, False, accept=_NOT_RUNNING)

    def shutdown(self) -> None:
        self._call("shutdown")

    def _call(self, method: str, *arguments: object, accept: int | None = None) -> object:
        try:
            return getattr(self._rpc, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == accept:
                return None
            raise Unreachable(f"supervisor: {method}{arguments} refused: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise Unreachable(f"no supervisor answers on {self.path}: {error}") from error


def _child(info: dict[str, object]) -> Child:
    state, now, start = str(info["statename"]), float(str(info["now"])), float(str(info["start"]))
    since = now - start if state in RUNNING else 0.0
    return Child(str(info["name"]), state, int(str(info["pid"])), since, str(info["spawnerr"] or info["description"]))


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path):
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _OverUnixSocket(xmlrpc.client.Transport):
    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        return _Connection(self._path)
