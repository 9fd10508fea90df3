"""EDGE. `driftline serve`: becomes a BentoML server of `serving.service`, on loopback unless told otherwise."""

from __future__ import annotations

import argparse
import os
import sys

from pipeline.settings import Settings

KEEP_ALIVE_S = 75  # longer than clients keep an idle connection: else both end it at once, and a request is lost


class Serve:
    summary = "Answer predictions over HTTP with the ledger's champion (BentoML)."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        home = settings.home / "bentoml"  # one home a server: two in one share, and erase, their metrics
        home.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            "DRIFTLINE_CONTRACT": settings.contract,
            "DRIFTLINE_HOME": str(settings.home),
            "DRIFTLINE_SERVING_WORKERS": str(args.workers),
        }
        command = [
            "-m",
            "bentoml",
            "serve",
            "serving.service:Serving",
            "--host",
            args.host,
            "--port",
            str(settings.ports["serving"]),
            "--timeout-keep-alive",
            str(KEEP_ALIVE_S),
        ]
        os.execve(sys.executable, [sys.executable, *command], environment)
