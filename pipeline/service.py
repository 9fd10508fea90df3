"""EDGE. What every long-running process has: /metrics, /healthz, /readyz on its own port, and an orderly stop.

/readyz is 200 once `ready()` was called. /healthz is 503 when `beat()` has not been called for `stall_after` seconds:
a process that hangs answers HTTP from this thread, so it is the beat that counts, and the supervisor restarts on it.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType, TracebackType

from pipeline.logs import log
from pipeline.settings import Settings

STALL_AFTER_S = 60.0
WRITABLE_OF_CAP = 2  # a validator of 376 MB resident has asked for 700
STOP_DEADLINE_S = 20.0  # then the process ends itself: a librdkafka close can take longer than anybody waits


class Service:
    """Use as a context manager around the process's loop; `stopped` is set by SIGTERM and SIGINT."""

    def __init__(
        self, name: str, settings: Settings, exposition: Callable[[], bytes], *, stall_after: float = STALL_AFTER_S
    ):
        self.name, self.stall_after = name, stall_after
        self.stopped = threading.Event()
        self._exposition, self._settings = exposition, settings
        self._ready, self._beat = False, time.monotonic()
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.server_address[1]

    def ready(self) -> None:
        if not self._ready:
            log("ready", process=self.name)
        self._ready = True
        self.beat()

    def beat(self) -> None:
        """Call on every turn of the loop that made progress or found nothing to do."""
        self._beat = time.monotonic()

    def __enter__(self) -> Service:
        log("start", process=self.name, pid=os.getpid(), **{"settings": self._settings.describe()})
        if self._settings.memory_mb:
            _cap(self._settings.memory_mb)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        address = (self._settings.metrics_host, self._settings.metrics_port or 0)
        self._server = ThreadingHTTPServer(address, _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        log("stop", process=self.name, error=repr(error) if error else "none")
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped.set()
        timer = threading.Timer(STOP_DEADLINE_S, lambda: os._exit(0))
        timer.daemon = True
        timer.start()

    def answer(self, path: str) -> tuple[int, bytes]:
        if path == "/metrics":
            return 200, self._exposition()
        if path == "/readyz":
            return (200, b"ready\n") if self._ready else (503, b"starting\n")
        if path == "/healthz":
            still = time.monotonic() - self._beat
            return (200, b"ok\n") if still < self.stall_after else (503, f"no progress for {still:.0f} s\n".encode())
        return 404, b"try /metrics, /healthz, /readyz\n"


def _cap(memory_mb: int) -> None:
    """Writable memory (RLIMIT_DATA) of twice the cap: the kernel counts what was asked for, stacks of threads included.

    Not RLIMIT_AS, which counts mapped files and code too; not a resident limit, which Linux has in control groups only.
    The soft limit alone, so that a child may set its own.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = WRITABLE_OF_CAP * memory_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = service.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler
