"""EDGE. A real Kafka broker (KRaft) as a child process, alone or one of three, for the local stack and for the tests.

`Broker` starts, kills and restarts it; `python -m pipeline.broker DIR` becomes it (same process id), for a supervisor.
Three of them are a `Cluster` (`pipeline.broker_cluster`).
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
from pipeline.broker_config import Node, TlsFiles
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
    nodes: Sequence[Node],
    number: int = 1,
    *,
    libs: Path = LIBS,
    tls: TlsFiles | None = None,
    scram: Mapping[str, str] | None = None,
    heap_mb: int = broker_config.HEAP_MB,
) -> list[str]:
    """Write the configuration, format the data folder once, return the command that runs broker `number` of `nodes`.

    A format that was cut off leaves no stamp; its folder is cleared and formatted again, since no broker ran on it.
    The stamp holds the number of brokers: topics keep the copies that they were made with.
    """
    if not list(libs.glob("kafka_*.jar")):
        raise UsageError(f"no broker jars in {libs}; run `make setup`")
    directory.mkdir(parents=True, exist_ok=True)
    data, stamp = directory / "data", directory / "formatted"
    file, logging = directory / "server.properties", directory / "log4j2.properties"
    _write_private(file, broker_config.as_properties(broker_config.properties(data, nodes, number, tls)))
    logging.write_text(broker_config.LOGGING)
    if not stamp.exists():
        shutil.rmtree(data, ignore_errors=True)
        cluster = _new_cluster() if len(nodes) == 1 else _common_cluster(directory.parent / "kafka-cluster.id")
        _format(libs, file, cluster, scram or {})
        stamp.write_text(str(len(nodes)))
    elif (made := stamp.read_text() or "1") != str(len(nodes)):
        raise UsageError(
            f"{directory} was made for {made} brokers, {len(nodes)} were asked for: set DRIFTLINE_BROKERS={made} or take another home"
        )
    return [java(), *broker_config.java(libs, file, logging, heap_mb)]


def _write_private(path: Path, text: str) -> None:
    """The file may hold the broker's own password: nobody else reads it, at no moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _new_cluster() -> str:
    name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return "A" + name[1:] if name.startswith("-") else name  # the tool would take a dash for an option


def _common_cluster(file: Path) -> str:
    """The name that all brokers of a cluster are formatted with: whoever comes first writes it, whole."""
    own = file.with_suffix(f".{os.getpid()}")
    own.write_text(_new_cluster())
    try:
        os.link(own, file)
    except FileExistsError:
        pass
    finally:
        own.unlink()
    return file.read_text()


def _format(libs: Path, file: Path, cluster: str, scram: Mapping[str, str]) -> None:
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
        nodes: Sequence[Node] = (),
        number: int = 1,
        libs: Path = LIBS,
        heap_mb: int = broker_config.HEAP_MB,
    ):
        self.directory = directory
        self.nodes = tuple(nodes) or (Node(port or free_port(), controller_port or free_port()),)
        self.number, own = number, self.nodes[number - 1]
        self.port, self.controller_port = own.port, own.controller_port
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

    @property
    def keys(self) -> Path:
        """The folder of the keys, which all brokers of a cluster share: the first one's."""
        return self.directory.with_name(self.directory.name.removesuffix(f"-{self.number}")) / "security"

    def client(self, principal: str = "operator") -> Security:
        """The security profile with which a client reaches this broker, as one of its principals."""
        if self.security == "plain":
            return Security()
        from pipeline import security

        return security.client_profile(self.keys, principal)

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
            return prepare(self.directory, self.nodes, self.number, libs=self._libs, heap_mb=self._heap_mb)
        from pipeline import security

        keys = security.ensure(self.keys)
        return prepare(
            self.directory,
            self.nodes,
            self.number,
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
        self.signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """An orderly stop; past the deadline a kill."""
        self.signal(signal.SIGTERM)
        try:
            self._wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
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


def _node(text: str) -> Node:
    port, _, controller_port = text.partition(":")
    return Node(int(port), int(controller_port))


def main(argv: Sequence[str] | None = None) -> int:
    """Become the broker: format if that was not done, then replace this process by Java's."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.broker", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--node",
        type=_node,
        action="append",
        required=True,
        metavar="PORT:CONTROLLER_PORT",
        help="once for each broker of the cluster",
    )
    parser.add_argument("--number", type=int, default=1, help="which of them this is, from 1 (default %(default)s)")
    parser.add_argument("--heap-mb", type=int, default=broker_config.HEAP_MB)
    parser.add_argument("--scram", action="store_true", help="SCRAM over TLS with development keys, access by ACL")
    args = parser.parse_args(argv)
    broker = Broker(
        args.directory,
        nodes=args.node,
        number=args.number,
        heap_mb=args.heap_mb,
        security="scram" if args.scram else "plain",
    )
    command = broker._command()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
