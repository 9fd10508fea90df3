"""A real MLflow server for the whole run of this folder; about 15 s to start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from batch import registry
from pipeline.errors import Unreachable
from pipeline.settings import from_environment
from tests.conftest import start_early
from tests.waiting import wait_until


def _answers(url: str) -> bool:
    try:
        registry.wait(from_environment({"DRIFTLINE_MLFLOW": url}), deadline_s=0)
    except Unreachable:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def _mlflow_early(request: pytest.FixtureRequest) -> None:
    start_early(request, "mlflow_url", "mlflow_server")


@pytest.fixture(scope="session")
def mlflow_url(mlflow_server: str) -> str:
    wait_until(lambda: _answers(mlflow_server), 120, "the MLflow server", every_s=0.3)
    return mlflow_server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, from before it answers."""
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", port]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=home, start_new_session=True)
        try:
            yield url
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # its own session: the server and its one worker
            server.wait()
