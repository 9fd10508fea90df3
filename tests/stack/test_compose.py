"""docker-compose.yml: valid by the specification's schema, hardened throughout, and made of commands that run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline import compose, compose_file, contract_file
from pipeline.broker import LIBS
from pipeline.processes import Process, allowed_hosts, table
from pipeline.settings import PORTS

ROOT = compose_file.ROOT
DOCUMENT = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = DOCUMENT["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"] == compose.OURS}


def test_the_file_is_what_the_process_table_gives():
    assert (ROOT / "docker-compose.yml").read_text() == compose_file.text()


def test_it_keeps_the_compose_specifications_schema():
    [file] = [f for f in importlib.metadata.files("check-jsonschema") or [] if f.name == "compose-spec.json"]
    jsonschema.validate(DOCUMENT, json.loads(Path(str(file.locate())).read_text()))


def test_every_process_of_the_table_has_its_container():
    contract = contract_file.load("sales")
    names = {p.name for p in table(compose.container_place(contract.id), contract)}
    assert set(SERVICES) == names | {"topics", "grafana"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("0", "root", "")
    assert all(limit in service for limit in ("mem_limit", "cpus", "pids_limit"))
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in str(v) for v in service.get("volumes", []))
    assert service["restart"] in ("unless-stopped", "on-failure")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"topics"}))
def test_every_lasting_container_has_a_health_check_with_patience(name):
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["start_period"].endswith("s")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_port_is_published_on_loopback_only(name):
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in compose.PUBLISHED)


def test_only_what_is_published_has_a_network_with_a_way_out():
    assert DOCUMENT["networks"]["inside"] == {"internal": True}
    assert {n for n, s in SERVICES.items() if "front" in s["networks"]} == set(compose.PUBLISHED)


@pytest.mark.parametrize("image", sorted({*compose.IMAGES.values(), compose.BASE, compose.OURS}))
def test_an_image_has_an_exact_tag_and_no_host(image):
    assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+\.\d+(-[a-z]+)*", image)


def test_a_digest_is_written_only_when_it_was_looked_up(tmp_path):
    assert compose_file.digests(tmp_path / "images.lock") == {}
    pins = {"apache/kafka:4.2.2": "sha256:" + "0" * 64}
    services = compose.document(contract_file.load("sales"), pins)["services"]
    assert services["kafka"]["image"] == f"apache/kafka:4.2.2@sha256:{'0' * 64}"
    assert "@" not in services["grafana"]["image"]


def test_no_password_is_in_the_file():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN", key):
                assert value.startswith("${"), (name, key)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_command_of_a_container_is_understood_by_the_program_that_it_names(name):
    """Each command runs here as a process, up to its option parser: `--help` behind the very same words."""
    words = OURS[name]["command"]
    program = {"driftline": [sys.executable, "-m", "pipeline.cli"], "python": [sys.executable]}[words[0]]
    done = subprocess.run([*program, *words[1:], "--help"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_prometheus_and_alertmanager_take_their_options(tmp_path):
    """The distribution's binaries, with the container's options and folders of this machine, up to an unusable file."""
    for name in ("prometheus", "alertmanager"):
        program = shutil.which(name) or shutil.which(f"prometheus-{name}")
        assert program, f"{name}: run `make setup`"
        options = [
            o.replace(f"=/{name}", f"={tmp_path}").replace(f"/etc/{name}/", f"{tmp_path}/absent-")
            for o in SERVICES[name]["command"]
        ]
        done = subprocess.run([program, *options], capture_output=True, text=True, timeout=30)
        assert "absent-" in done.stderr, done.stderr  # it complains about the file, not about an option


def test_what_is_mounted_exists_in_the_checkout():
    mounted = [v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if v.startswith("./")]
    assert mounted
    assert [m for m in mounted if not (ROOT / m).exists()] == []


def test_the_brokers_settings_are_those_of_the_local_broker():
    environment = SERVICES["kafka"]["environment"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert SERVICES["kafka"]["image"].split(":")[1] in next(LIBS.glob("kafka_2.13-*.jar")).name


def test_mlflow_answers_to_the_name_that_the_others_call_it_by():
    assert f"mlflow:{PORTS['mlflow']}" in allowed_hosts(PORTS["mlflow"]).split(",")
    assert OURS["score"]["environment"]["DRIFTLINE_MLFLOW"] == f"http://mlflow:{PORTS['mlflow']}"


def test_the_health_check_tells_a_ready_process_from_one_that_is_not(tmp_path):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Half(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Half)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def check(path: str) -> int:
        process = Process("x", (), "", server.server_address[1], 1, ready=path)
        command = compose._own(process, compose.container_place("sales"), {})["healthcheck"]["test"]  # type: ignore[index]
        assert command[0] == "CMD"
        return subprocess.run([sys.executable, *command[2:]], cwd=ROOT, capture_output=True).returncode

    assert (check("/readyz"), check("/healthz")) == (0, 1)
    server.shutdown()


def test_the_dockerfile_runs_as_the_user_that_compose_names_and_copies_every_room():
    lines = (ROOT / "Dockerfile").read_text()
    assert f"USER {compose.OUR_USER}" in lines
    assert f"ARG BASE={compose.BASE}" in lines
    for room in ("pipeline", "monitoring", "producers", "stream_processors", "batch", "serving"):
        assert f"COPY {room} {room}" in lines
        assert f"!{room}" in (ROOT / ".dockerignore").read_text()
