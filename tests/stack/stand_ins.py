"""Small processes for a process table of a test: they answer on a port, crash, or wait for the broker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline.broker import free_port
from pipeline.kafka import reach
from pipeline.processes import BROKER, WORKERS, Process
from pipeline.service import Service
from pipeline.settings import Settings, from_environment

HERE = str(Path(__file__).resolve())


def answering(name: str, mode: str = "answer", **more: object) -> Process:
    """A process that is ready at once; `reach` = only once the broker answers; `dies` = ends at once."""
    port = free_port()
    defaults = {"start_s": 20, "stop_s": 5, "stage": WORKERS, "ready": "/readyz", "health": "/healthz"}
    return Process(
        name=name,
        command=(sys.executable, HERE, name, mode),
        purpose="a stand-in",
        port=port,
        env={"DRIFTLINE_METRICS_PORT": str(port), "SAID": 'a "quoted" 100% value'},
        **{**defaults, **more},  # type: ignore[arg-type]
    )


def broker(settings: Settings) -> Process:
    ports = settings.ports
    node = f"{ports['kafka']}:{ports['kafka_controller']}"
    command = (
        sys.executable,
        "-m",
        "pipeline.broker",
        str(settings.home / "kafka"),
        "--node",
        node,
        "--heap-mb",
        "256",
    )
    return Process("kafka", command, "the broker", ports["kafka"], BROKER, metrics=None, stop_s=20)


def main() -> int:
    name, mode = sys.argv[1:]
    if mode == "dies":
        print("this stand-in dies on purpose")
        return 3
    settings = from_environment(os.environ)
    with Service(name, settings, lambda: b"driftline_stand_in_total 1\n") as service:
        if mode == "reach":
            reach(settings, deadline_s=None, stopped=service.stopped)
        service.ready()
        print(os.environ["SAID"], flush=True)
        while not service.stopped.wait(0.2):
            service.beat()
    return 0


if __name__ == "__main__":
    sys.exit(main())
