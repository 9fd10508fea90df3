"""EDGE. `driftline page`: the drift page as a small web server that follows verdicts, alerts and the ledger."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from confluent_kafka import Message

from monitoring.metrics import PrometheusMeter
from monitoring.page import drift_page, html
from pipeline import contract_file, topics
from pipeline.contract import Contract
from pipeline.kafka import follow, reach
from pipeline.service import Service
from pipeline.settings import Settings

WINDOWS_KEPT = 200
ENTRIES_KEPT = 100
Json = dict[str, object]


class Board:
    """What the page shows: the latest revision of the newest windows, the newest alerts and ledger entries."""

    def __init__(self, contract: Contract):
        self._contract = contract
        self._lock = threading.Lock()
        self._verdicts: dict[str, dict[tuple[str, str], Json]] = {}
        self._alerts: list[Json] = []
        self._ledger: list[Json] = []

    def verdict(self, message: Message) -> None:
        verdict = json.loads(message.value())
        if verdict["dataset"] != self._contract.id:
            return
        with self._lock:
            window = self._verdicts.setdefault(verdict["window_end"], {})
            key = (verdict["feature"], verdict["segment"])
            if key not in window or window[key]["revision"] <= verdict["revision"]:
                window[key] = verdict
            for old in sorted(self._verdicts)[:-WINDOWS_KEPT]:
                del self._verdicts[old]

    def alert(self, message: Message) -> None:
        entry = json.loads(message.value())
        if entry["contract"] == self._contract.name:
            with self._lock:
                self._alerts = [*self._alerts, entry][-ENTRIES_KEPT:]

    def decision(self, message: Message) -> None:
        entry = json.loads(message.value())
        if str(entry["model"]).startswith(f"{self._contract.id}-"):
            with self._lock:
                self._ledger = [*self._ledger, entry][-ENTRIES_KEPT:]

    def html(self) -> str:
        with self._lock:
            verdicts = [v for end in sorted(self._verdicts) for v in self._verdicts[end].values()]
            return html(drift_page(self._contract.id, verdicts, list(self._alerts), list(self._ledger)))


class Page:
    summary = "Serve the live drift page of a dataset."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        board = Board(contract)
        with Service("page", settings, meter.exposition) as service:
            server = ThreadingHTTPServer((args.host, settings.ports["page"]), _handler(board))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, name="page", daemon=True).start()
            reach(settings, deadline_s=None, stopped=service.stopped)
            followed: list[tuple[str, Callable[[Message], None]]] = [
                (topics.VERDICTS, board.verdict),
                (topics.ALERTS, board.alert),
                (topics.LEDGER, board.decision),
            ]
            for topic, handle in followed:
                threading.Thread(
                    target=follow, args=(settings, topic, service.stopped, handle), name=topic, daemon=True
                ).start()
            service.ready()
            while not service.stopped.wait(5):
                service.beat()
            server.shutdown()
        return 0


def _handler(board: Board) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = board.html().encode() if self.path in ("/", "/index.html") else b"not here; the page is at /\n"
            self.send_response(200 if self.path in ("/", "/index.html") else 404)
            self.send_header(
                "Content-Type", "text/html; charset=utf-8" if self.path in ("/", "/index.html") else "text/plain"
            )
            self.send_header("Content-Length", str(len(body)))
            self.send_header(
                "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:"
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler
