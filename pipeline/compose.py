"""PURE. docker-compose.yml, made from the process table: one container a process, hardened, on loopback ports only.

What the containers cannot show on a machine without an engine is shown by running the same commands as processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import broker_config
from pipeline.contract import Contract
from pipeline.processes import Place, Process, table
from pipeline.settings import PORTS

Document = dict[str, object]

OURS = "driftline:0.1.0"
BASE = "python:3.11.14-slim-bookworm"  # of the Dockerfile
IMAGES: Mapping[str, str] = {
    "kafka": "apache/kafka:4.2.2",
    "prometheus": "prom/prometheus:v3.13.3",
    "alertmanager": "prom/alertmanager:v0.34.1",
    "grafana": "grafana/grafana:13.2.3",
}
USERS: Mapping[str, str] = {"kafka": "1000:1000", "prometheus": "65534:65534", "alertmanager": "65534:65534"}
OUR_USER, GRAFANA_USER = "10001:10001", "472:0"
PUBLISHED = ("serve", "page", "grafana")  # a person's browser or a client needs these; the rest stays inside
INSIDE, FRONT = "inside", "front"  # `inside` has no way out; a published port needs a network that has one
CLUSTER_ID = "ZHJpZnRsaW5lLWxvY2FsMQ"  # 16 bytes in base64, of our choice: the data folder keeps it


def container_place(contract: str) -> Place:
    return Place(("driftline",), "/data", PORTS, contract, containers=True)


def document(contract: Contract, digests: Mapping[str, str] | None = None) -> Document:
    """The whole file. `digests`: image with tag -> sha256:..., as looked up by `make pin`; none is invented."""
    place, pins = container_place(contract.id), digests or {}
    processes = table(place, contract)
    services = {p.name: _service(p, place, pins) for p in processes}
    services["topics"] = _topics(place, pins)
    services["grafana"] = _grafana(pins)
    return {
        "name": "driftline",
        "services": services,
        "networks": {INSIDE: {"internal": True}, FRONT: {}},
        "volumes": {name: {} for name in ("data", "kafka", "mlflow", "prometheus", "alertmanager", "grafana")},
    }


def _service(process: Process, place: Place, pins: Mapping[str, str]) -> Document:
    if process.name == "kafka":
        return _kafka(process, pins)
    if process.name in IMAGES:
        return _foreign(process, pins)
    return _own(process, place, pins)


def pinned(image: str, pins: Mapping[str, str]) -> str:
    return f"{image}@{pins[image]}" if image in pins else image


def _hardened(user: str, memory_mb: int, *, tmpfs: Sequence[str] = ("/tmp",), front: bool = False) -> Document:
    return {
        "user": user,
        "read_only": True,
        "tmpfs": list(tmpfs),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_limit": f"{memory_mb}m",
        "cpus": 2.0,
        "pids_limit": 512,
        "networks": [INSIDE, FRONT] if front else [INSIDE],
        "logging": {"driver": "json-file", "options": {"max-size": "20m", "max-file": "3"}},
    }


def _health(test: Sequence[str], start_s: int) -> Document:
    return {"test": list(test), "interval": "10s", "timeout": "10s", "retries": 3, "start_period": f"{start_s}s"}


def _build(pins: Mapping[str, str]) -> Document:
    return {"context": ".", "args": {"BASE": pinned(BASE, pins)}}


def _environment(place: Place) -> dict[str, str]:
    return {
        "DRIFTLINE_HOME": place.home,
        "DRIFTLINE_BOOTSTRAP": f"{place.host('kafka')}:{place.ports['kafka']}",
        "DRIFTLINE_MLFLOW": f"http://{place.host('mlflow')}:{place.ports['mlflow']}",
        "DRIFTLINE_SERVING": f"http://{place.host('serve')}:{place.ports['serving']}",
        "DRIFTLINE_CONTRACT": place.contract,
        "DRIFTLINE_METRICS_HOST": place.bind,
        "DRIFTLINE_ACTOR": "stack",
    }


def _own(process: Process, place: Place, pins: Mapping[str, str]) -> Document:
    """A `driftline` verb or MLflow, in the image of our Dockerfile."""
    mlflow = process.name == "mlflow"
    after: Document = {
        "kafka": {"condition": "service_healthy"},
        "topics": {"condition": "service_completed_successfully"},
    }
    published = place.ports["page"] if process.name == "page" else process.port
    return {
        "image": OURS,
        "build": _build(pins),
        "command": list(process.command),
        "environment": {**({} if mlflow else _environment(place)), **process.env},
        **_hardened(OUR_USER, process.memory_mb, front=process.name in PUBLISHED),
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": f"{process.stop_s}s",
        "volumes": ["mlflow:/data/mlflow"] if mlflow else ["data:/data"],
        "healthcheck": _health(
            ["CMD", "python", "-m", "pipeline.probe", str(process.at(process.ready))], process.start_s
        ),
        **({"ports": [f"127.0.0.1:{published}:{published}"]} if process.name in PUBLISHED else {}),
        **({"depends_on": after} if process.depends else {}),
    }


def _topics(place: Place, pins: Mapping[str, str]) -> Document:
    """Runs once: the topics with their settings; the broker creates none by itself."""
    return {
        "image": OURS,
        "build": _build(pins),
        "command": [*place.driftline, "topics", "create"],
        "environment": _environment(place),
        **_hardened(OUR_USER, 256),
        "restart": "on-failure",
        "volumes": ["data:/data"],
        "depends_on": {"kafka": {"condition": "service_healthy"}},
    }


def _kafka(process: Process, pins: Mapping[str, str]) -> Document:
    """The same settings as the local broker's, in the spelling of the image: KAFKA_ and capitals."""
    controller = PORTS["kafka_controller"]
    entries = broker_config.properties(Path("/var/lib/kafka/data"), [broker_config.Node(process.port, controller)])
    entries["listeners"] = f"CLIENT://:{process.port},CONTROLLER://127.0.0.1:{controller}"
    entries["advertised.listeners"] = f"CLIENT://{process.name}:{process.port}"
    check = f"/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server {process.name}:{process.port} > /dev/null"
    own = ("/opt/kafka/config", "/opt/kafka/logs", "/mnt/shared/config", "/etc/kafka/secrets")
    return {
        "image": pinned(IMAGES["kafka"], pins),
        "environment": {
            "CLUSTER_ID": CLUSTER_ID,
            "KAFKA_HEAP_OPTS": f"-Xms256m -Xmx{broker_config.HEAP_MB}m -XX:+ExitOnOutOfMemoryError",
            **{f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in entries.items()},
        },
        **_hardened(USERS["kafka"], process.memory_mb, tmpfs=["/tmp", *(f"{f}:uid=1000,gid=1000" for f in own)]),
        "restart": "unless-stopped",
        "stop_grace_period": f"{process.stop_s}s",
        "volumes": ["kafka:/var/lib/kafka/data"],
        "healthcheck": _health(["CMD-SHELL", f"KAFKA_HEAP_OPTS=-Xmx64m {check}"], process.start_s),
    }


def _foreign(process: Process, pins: Mapping[str, str]) -> Document:
    """Prometheus and Alertmanager: their image's entry point is the program, so the command is its options."""
    mounts = {
        "prometheus": ["./monitoring/prometheus:/etc/prometheus:ro", "prometheus:/prometheus"],
        "alertmanager": [
            "./monitoring/prometheus/alertmanager.yml:/etc/alertmanager/alertmanager.yml:ro",
            "alertmanager:/alertmanager",
        ],
    }
    return {
        "image": pinned(IMAGES[process.name], pins),
        "command": list(process.command[1:]),
        **_hardened(USERS[process.name], process.memory_mb),
        "restart": "unless-stopped",
        "stop_grace_period": f"{process.stop_s}s",
        "volumes": mounts[process.name],
        "healthcheck": _health(["CMD", "wget", "-q", "--spider", str(process.at(process.ready))], process.start_s),
    }


def _grafana(pins: Mapping[str, str]) -> Document:
    return {
        "image": pinned(IMAGES["grafana"], pins),
        "environment": {
            "GF_SECURITY_ADMIN_PASSWORD": "${GRAFANA_ADMIN_PASSWORD:?set GRAFANA_ADMIN_PASSWORD first}",
            "GF_AUTH_ANONYMOUS_ENABLED": "false",
            "GF_USERS_ALLOW_SIGN_UP": "false",
            "GF_PUBLIC_DASHBOARDS_ENABLED": "false",
            "GF_FEATURE_TOGGLES_SQLEXPRESSIONS": "false",  # a remote execution went through it
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",  # there is no way out to fetch any
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        },
        **_hardened(GRAFANA_USER, 512, front=True),
        "restart": "unless-stopped",
        "volumes": [
            "./monitoring/grafana/provisioning:/etc/grafana/provisioning:ro",
            "./monitoring/grafana/dashboards:/var/lib/grafana/dashboards:ro",
            "grafana:/var/lib/grafana",
        ],
        "healthcheck": _health(["CMD", "wget", "-q", "--spider", "http://127.0.0.1:3000/api/health"], 60),
        "ports": [f"127.0.0.1:{PORTS['grafana']}:3000"],
        "depends_on": {"prometheus": {"condition": "service_healthy"}},
    }
