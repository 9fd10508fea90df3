"""EDGE. A real Kafka broker (KRaft, one node) as a child process, for the local stack and for the tests.

`Broker` starts, kills and restarts it; `python -m pipeline.broker DIR` becomes it (same process id), for a supervisor.
Its jars are put into `.driftline/kafka/libs` by `make setup`. It knows no topic and no client but the readiness call.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from pipeline import broker_config
from pipeline.broker_config import TlsFiles
from pipeline.errors import Fatal, Unreachable, UsageError
from pipeline.kafka import reach
from pipeline.leftovers import listening
from pipeline.settings import Security, Settings, from_environment

ROOT = Path(__file__).resolve().parent.parent
LIBS = ROOT / ".driftline" / "kafka" / "libs"
READY_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0


def free_port() -> int:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        raise UsageError("no Java runtime: expected `java` in PATH or JAVA_HOME; run `make setup`")
    return found


def prepare(
    directory: Path,
    port: int,
    controller_port: int,
    *,
    libs: Path = LIBS,
    tls: TlsFiles | None = None,
    scram: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    heap_mb: int = broker_config.HEAP_MB,
) -> list[str]:
    """Write the configuration, format the data folder once, return the command that runs the broker.

    A format that was cut off leaves no stamp; its folder is cleared and formatted again, since no broker ran on it.
    """
    if not list(libs.glob("kafka_*.jar")):
        raise UsageError(f"no broker jars in {libs}; run `make setup`")
    directory.mkdir(parents=True, exist_ok=True)
    data, stamp = directory / "data", directory / "formatted"
    file, logging = directory / "server.properties", directory / "log4j2.properties"
    _write_private(file, broker_config.as_properties(broker_config.properties(data, port, controller_port, tls, host)))
    logging.write_text(broker_config.LOGGING)
    if not stamp.exists():
        shutil.rmtree(data, ignore_errors=True)
        _format(libs, file, scram or {})
        stamp.write_text("")
    return [java(), *broker_config.java(libs, file, logging, heap_mb)]


def _write_private(path: Path, text: str) -> None:
    """The file may hold the broker's own password: nobody else reads it, at no moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _format(libs: Path, file: Path, scram: Mapping[str, str]) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    if cluster.startswith("-"):
        cluster = "A" + cluster[1:]  # the tool would take it for an option
    command = [java(), "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", "kafka.tools.StorageTool", "format"]
    command += ["--cluster-id", cluster, "--config", str(file)]
    for user, password in scram.items():
        command += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise Fatal(f"formatting {file.parent / 'data'} ended with {done.returncode}: {said}")


class Broker:
    """One broker on its own folder. `with Broker(folder) as broker:` starts it, waits until it answers, stops it.

    `kill` is SIGKILL, `stop` is SIGTERM, `pause`/`resume` are SIGSTOP/SIGCONT; `start` again runs on the same data and
    ports. It dies with the thread that started it (Linux's parent-death signal): start it from the main thread.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        security: Literal["plain", "scram"] = "plain",
        libs: Path = LIBS,
        heap_mb: int = broker_config.HEAP_MB,
    ):
        self.directory, self.port = directory, port or free_port()
        self.controller_port = controller_port or free_port()
        self.security, self._libs, self._heap_mb = security, libs, heap_mb
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self.directory / "broker.log"

    def client(self, principal: str = "operator") -> Security:
        """The security profile with which a client reaches this broker, as one of its principals."""
        if self.security == "plain":
            return Security()
        from pipeline import security

        return security.client_profile(self.directory / "security", principal)

    def settings(self, principal: str = "operator", **env: str) -> Settings:
        """Settings of a client of this broker; `env` adds DRIFTLINE_* variables."""
        profile = self.client(principal)
        given = {
            "DRIFTLINE_HOME": str(self.directory.parent / "home"),
            "DRIFTLINE_BOOTSTRAP": self.bootstrap,
            "DRIFTLINE_SECURITY": profile.profile,
            "DRIFTLINE_USERNAME": profile.username,
            "DRIFTLINE_PASSWORD_FILE": profile.password_file,
            "DRIFTLINE_CA_FILE": profile.ca_file,
        }
        return from_environment({**given, **env})

    def start(self, *, wait: bool = True, deadline_s: float = READY_DEADLINE_S) -> Broker:
        assert not self.running, "the broker is already running"
        command = self._command()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_die_with_parent
            )
        if wait:
            self.wait_ready(deadline_s)
        return self

    def _command(self) -> list[str]:
        if self.security == "plain":
            return prepare(self.directory, self.port, self.controller_port, libs=self._libs, heap_mb=self._heap_mb)
        from pipeline import security

        keys = security.ensure(self.directory / "security")
        return prepare(
            self.directory,
            self.port,
            self.controller_port,
            libs=self._libs,
            heap_mb=self._heap_mb,
            tls=security.broker_files(keys),
            scram=security.passwords(keys),
        )

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Return once the broker answers a metadata request; its last words in the error if it ended instead."""
        until = time.monotonic() + deadline_s
        while not listening(self.port):
            if not self.running:
                raise Fatal(f"the broker ended with {self._process and self._process.returncode}: {self._last_words()}")
            if time.monotonic() > until:
                raise Unreachable(f"nothing listens on {self.bootstrap} after {deadline_s:.0f} s: {self._last_words()}")
            time.sleep(0.05)
        reach(self.settings(), deadline_s=max(1.0, until - time.monotonic()))

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "no log"

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """An orderly stop; past the deadline a kill."""
        self._signal(signal.SIGTERM)
        try:
            self._wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _wait(self, timeout: float | None = None) -> None:
        if self._process is not None:
            self._process.wait(timeout)

    def __enter__(self) -> Broker:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        self.stop()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed test run leaves no broker behind


def main(argv: Sequence[str] | None = None) -> int:
    """Become the broker: format if that was not done, then replace this process by Java's."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.broker", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--controller-port", type=int, required=True)
    parser.add_argument("--heap-mb", type=int, default=broker_config.HEAP_MB)
    parser.add_argument("--scram", action="store_true", help="SCRAM over TLS with development keys, access by ACL")
    args = parser.parse_args(argv)
    broker = Broker(
        args.directory,
        port=args.port,
        controller_port=args.controller_port,
        heap_mb=args.heap_mb,
        security="scram" if args.scram else "plain",
    )
    command = broker._command()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
