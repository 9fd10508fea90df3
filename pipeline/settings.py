"""PURE. What a process is told from outside: one frozen object, built from a mapping by the command line only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import UsageError

# name, default, reason: the local ports; every one can be moved by DRIFTLINE_<NAME>_PORT.
PORTS: dict[str, int] = {
    "kafka": 9092,
    "kafka_controller": 9093 + 10000,  # 19093: the Alertmanager owns 9093
    "mlflow": 5000,
    "serving": 3000,
    "prometheus": 9090,
    "alertmanager": 9093,
    "grafana": 3001,
    "page": 3002,
    "exporters": 9400,  # the first of a run of ports, one a process, in process-table order
}


LINEAGE = "kafka"  # a few events a minute; `off` starts nothing


@dataclass(frozen=True, slots=True)
class Security:
    """How a Kafka client shows who it is. `plain` is for loopback only."""

    profile: Literal["plain", "scram"] = "plain"
    username: str = ""
    password_file: str = ""  # a file, so that no secret stands in an environment or a log
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    bootstrap: str
    lake: str  # a path or an object-store URL
    mlflow: str  # tracking and registry URL
    serving: str  # base URL of the prediction service
    contract: str  # name of a shipped contract, or a file
    security: Security
    metrics_port: int | None  # this process's own /metrics, /healthz, /readyz; None = any free port
    metrics_host: str  # 127.0.0.1; 0.0.0.0 in a container
    actor: str  # who does it, for ledgers and audit
    ports: Mapping[str, int]
    memory_mb: int | None = None  # this process's cap; the kernel refuses it more writable memory than twice that
    brokers: int = 1  # of the local stack: 1, or 3 that copy each other
    lineage: str = LINEAGE  # where OpenLineage events go: off, kafka, file, file:PATH, or several by comma

    def describe(self) -> str:
        """`field=value` pairs for the start of a log; holds no secret, only the names of files that do."""
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.name != "ports")


def from_environment(env: Mapping[str, str], contract: str | None = None, cwd: Path | None = None) -> Settings:
    """Settings from `DRIFTLINE_*`; a wrong value is a UsageError that names the variable."""
    home = Path(env.get("DRIFTLINE_HOME", ".driftline"))
    home = home if home.is_absolute() else (cwd or Path.cwd()) / home
    ports = {name: _port(env, f"DRIFTLINE_{name.upper()}_PORT", default) for name, default in PORTS.items()}
    profile = env.get("DRIFTLINE_SECURITY", "plain")
    if profile not in ("plain", "scram"):
        raise UsageError(f"DRIFTLINE_SECURITY={profile} is not one of: plain, scram")
    if env.get("DRIFTLINE_BROKERS", "1") not in ("1", "3"):
        raise UsageError(f"DRIFTLINE_BROKERS={env['DRIFTLINE_BROKERS']} is not one of: 1, 3")
    brokers = int(env.get("DRIFTLINE_BROKERS", "1"))
    metrics = env.get("DRIFTLINE_METRICS_PORT")
    return Settings(
        home=home,
        bootstrap=env.get("DRIFTLINE_BOOTSTRAP", _bootstrap(ports, brokers)),
        lake=env.get("DRIFTLINE_LAKE", str(home / "lake")),
        mlflow=env.get("DRIFTLINE_MLFLOW", f"http://127.0.0.1:{ports['mlflow']}"),
        serving=env.get("DRIFTLINE_SERVING", f"http://127.0.0.1:{ports['serving']}"),
        contract=contract or env.get("DRIFTLINE_CONTRACT", "sales"),
        security=_security(profile, env, home / "kafka" / "security"),
        metrics_port=None if metrics is None else _port(env, "DRIFTLINE_METRICS_PORT", 0),
        metrics_host=env.get("DRIFTLINE_METRICS_HOST", "127.0.0.1"),
        actor=env.get("DRIFTLINE_ACTOR", env.get("USER", "unknown")),
        ports=ports,
        memory_mb=_positive(env, "DRIFTLINE_MEMORY_MB"),
        brokers=brokers,
        lineage=_lineage(env.get("DRIFTLINE_LINEAGE", LINEAGE)),
    )


def _lineage(text: str) -> str:
    places = text.split(",")
    known = all(p in ("kafka", "file") or (p.startswith("file:") and p != "file:") for p in places)
    if known or text == "off":
        return text
    raise UsageError(
        f"DRIFTLINE_LINEAGE={text} is not one of: off, kafka, file, file:PATH (or several by comma); the default is {LINEAGE}"
    )


def _positive(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if text is None or (text.isdigit() and int(text) > 0):
        return None if text is None else int(text)
    raise UsageError(f"{name}={text} is not a number of megabytes above 0; not set, there is no cap")


def with_brokers(settings: Settings, brokers: int) -> Settings:
    """The same for another number of local brokers; a bootstrap address of the user's own stays."""
    own = settings.bootstrap != _bootstrap(settings.ports, settings.brokers)
    bootstrap = settings.bootstrap if own else _bootstrap(settings.ports, brokers)
    return replace(settings, brokers=brokers, bootstrap=bootstrap)


def _bootstrap(ports: Mapping[str, int], brokers: int) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in broker_ports(ports, brokers))


def broker_ports(ports: Mapping[str, int], brokers: int) -> list[int]:
    """The ports of the local brokers: each a hundred above the one before, as their controllers' ports are."""
    return [ports["kafka"] + 100 * n for n in range(brokers)]


def _security(profile: Literal["plain", "scram"], env: Mapping[str, str], keys: Path) -> Security:
    """Who names no user is the operator of this home's own broker, with the development keys that `up` makes."""
    user = env.get("DRIFTLINE_USERNAME", "" if profile == "plain" else "operator")
    made = (
        {"password": "", "ca": ""}
        if profile == "plain"
        else {"password": str(keys / f"{user}.password"), "ca": str(keys / "ca.pem")}
    )
    return Security(
        profile, user, env.get("DRIFTLINE_PASSWORD_FILE", made["password"]), env.get("DRIFTLINE_CA_FILE", made["ca"])
    )


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise UsageError(f"{name}={text} is not a port from 1 to 65535; the default is {default or 'any free port'}")
