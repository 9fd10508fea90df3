"""PURE. The process table: what runs, how, on which port, after what, and how one sees that it is ready or hangs.

The supervisor's configuration (`supervision`), docker-compose.yml (`compose`) and `driftline status` are made from it.
It knows no process's code: a process is a command line and a few URLs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.contract import Contract
from pipeline.settings import broker_ports


@dataclass(frozen=True, slots=True)
class Place:
    """Where the table is laid out: on one machine, or one container a process."""

    driftline: tuple[str, ...]  # the command `driftline`
    home: str
    ports: Mapping[str, int]
    contract: str
    containers: bool = False
    python: tuple[str, ...] = ("python",)
    prometheus: str = "prometheus"
    alertmanager: str = "prometheus-alertmanager"
    scram: bool = False
    brokers: int = 1

    def host(self, process: str) -> str:
        """The name by which the others reach a process."""
        return process if self.containers else "127.0.0.1"

    def configured(self, process: str) -> str:
        """The folder of the configuration that `driftline render` writes."""
        return f"/etc/{process}" if self.containers else f"{self.home}/monitoring"

    def state(self, process: str) -> str:
        """The folder where a process that is not ours keeps its data."""
        return f"/{process}" if self.containers else f"{self.home}/{process}"

    def credentials(self, principal: str) -> dict[str, str]:
        """How a process of a secured stack shows who it is: names of files, never a secret."""
        if not self.scram:
            return {}
        return {
            "DRIFTLINE_USERNAME": principal,
            "DRIFTLINE_PASSWORD_FILE": f"{self.home}/kafka/security/{principal}.password",
            "DRIFTLINE_CA_FILE": f"{self.home}/kafka/security/ca.pem",
        }

    @property
    def bind(self) -> str:
        return "0.0.0.0" if self.containers else "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table.

    `ready` answers 200 when the process does its work; `health` answers anything but 200 when it hangs. None of both:
    a broker, asked by its own protocol. `stage` orders the start: all of one stage at once, the next when it is ready.
    """

    name: str
    command: tuple[str, ...]
    purpose: str
    port: int
    stage: int
    ready: str | None = None  # path
    health: str | None = None
    metrics: str | None = "/metrics"
    env: Mapping[str, str] = field(default_factory=dict)
    depends: tuple[str, ...] = ()
    start_s: int = 60  # it may take so long to be ready on two busy cores; a watchdog is patient until then
    stop_s: int = 25  # SIGTERM to SIGKILL
    memory_mb: int = 512  # its cap: the container's limit; measured use stands in docs/operations.md
    url: bool = False  # a person opens its port in a browser
    forks: bool = False  # has children that can outlive it: a successor ends them first
    ours: bool = True  # answers on /metrics with the catalogue's names, and keeps the contract's Kafka client

    def at(self, path: str | None, host: str = "127.0.0.1") -> str | None:
        return None if path is None else f"http://{host}:{self.port}{path}"


BROKER, WORKERS, FRONT, SLOW = 0, 1, 2, 3  # stages; MLflow alone takes most of a core for 18 s, so it comes last


def table(place: Place, contract: Contract) -> tuple[Process, ...]:
    """Every process of one dataset's stack, in start order. A worker's exporter port is the first one plus its rank."""
    every = (*(kafka(place, n) for n in range(1, place.brokers + 1)), *_workers(place), *_services(place))
    lacking = (NEED_LABEL if contract.label is None else ()) + (NEED_HISTORY if contract.history is None else ())
    rolls = contract.drift.reference.kind != "training"  # by `control`, with or without a label
    return tuple(p for p in every if p.name not in lacking or (p.name == "control" and rolls))


def kafka(place: Place, number: int = 1) -> Process:
    ports, controller = place.ports, place.ports["kafka_controller"] - place.ports["kafka"]
    nodes = broker_ports(ports, place.brokers)
    name = broker_names(place.brokers)[number - 1]
    return Process(
        name,
        (
            *place.python,
            "-m",
            "pipeline.broker",
            f"{place.home}/{name}",
            *(word for port in nodes for word in ("--node", f"{port}:{port + controller}")),
            *(("--number", str(number)) if place.brokers > 1 else ()),
            *(("--scram",) if place.scram else ()),
        ),
        "the broker: every topic"
        if place.brokers == 1
        else f"broker {number} of {place.brokers}: a copy of every topic",
        nodes[number - 1],
        BROKER,
        metrics=None,
        stop_s=30,
        memory_mb=1024,
        ours=False,
    )


def broker_names(brokers: int) -> tuple[str, ...]:
    return ("kafka", *(f"kafka-{n}" for n in range(2, brokers + 1)))


@dataclass(frozen=True, slots=True)
class _Worker:
    name: str
    verb: tuple[str, ...]
    purpose: str
    stage: int = WORKERS
    start_s: int = 60
    memory_mb: int = 512
    capped: bool = False  # holds its cap on any machine: the kernel refuses it more (pipeline/service.py)


# The order is the order of the exporter ports from 9400: append, never insert.
_WORKERS = (
    _Worker("validator", ("validate",), "judges every record against the contract", capped=True),
    _Worker("drift", ("drift",), "counts panes, judges windows, raises alerts", memory_mb=768, capped=True),
    _Worker("compactor", ("compact",), "writes valid rows to the lake", memory_mb=1024, capped=True),
    _Worker("score", ("score",), "sends the stream to the prediction service"),
    _Worker("evaluate", ("evaluate",), "joins predictions with outcomes"),
    _Worker("control", ("control",), "answers alerts: retrain, promote, accept", memory_mb=2048, start_s=90),
    _Worker("page", ("page",), "the live drift page"),
    _Worker("watch", ("watch",), "restarts what hangs", memory_mb=256),
    _Worker("features", ("features",), "folds what models know of each entity's past"),
)


NEED_LABEL = ("score", "evaluate", "control", "serve")  # without a label there is no model to use, judge or replace

NEED_HISTORY = ("features",)


def _workers(place: Place) -> list[Process]:
    if place.containers:  # a port of its own address each; the engine's restart policy does the watchdog's work
        return [_process(w, place, place.ports["exporters"]) for w in _WORKERS if w.name != "watch"]
    return [_process(w, place, place.ports["exporters"] + rank) for rank, w in enumerate(_WORKERS)]


def _process(worker: _Worker, place: Place, port: int) -> Process:
    return Process(
        worker.name,
        (*place.driftline, *worker.verb, *(("--host", place.bind) if worker.name == "page" else ())),
        worker.purpose,
        port,
        worker.stage,
        ready="/readyz",
        health="/healthz",
        env={
            "DRIFTLINE_METRICS_PORT": str(port),
            **(_capped(worker.memory_mb) if worker.capped else {}),
            **place.credentials(worker.name),
        },
        depends=broker_names(place.brokers),
        start_s=worker.start_s,
        memory_mb=worker.memory_mb,
        forks=worker.name == "control",  # its trainings
    )


THREADS = ("POLARS_MAX_THREADS", "TOKIO_WORKER_THREADS", "OMP_NUM_THREADS")  # pools of one thread a core, as they come


def _capped(memory_mb: int) -> dict[str, str]:
    """What keeps a process within a cap that the kernel counts by what was asked for: no pool of a gigabyte, no stack a core."""
    threads = dict.fromkeys(THREADS, "4")
    return {"DRIFTLINE_MEMORY_MB": str(memory_mb), "ARROW_DEFAULT_MEMORY_POOL": "system", **threads}


def _services(place: Place) -> list[Process]:
    home, ports, bind = place.home, place.ports, place.bind
    return [
        Process(
            "serve",
            (*place.driftline, "serve", "--host", bind),
            "answers predictions over HTTP",
            ports["serving"],
            FRONT,
            ready="/readyz",
            health="/livez",
            env=place.credentials("serve"),
            depends=broker_names(place.brokers),
            start_s=90,
            memory_mb=1536,
            forks=True,
            url=True,
        ),
        Process(
            "prometheus",
            (
                place.prometheus,
                f"--config.file={place.configured('prometheus')}/prometheus.yml",
                f"--storage.tsdb.path={place.state('prometheus')}",
                "--storage.tsdb.retention.time=15d",
                f"--web.listen-address={bind}:{ports['prometheus']}",
            ),
            "collects metrics, evaluates alert rules",
            ports["prometheus"],
            FRONT,
            ready="/-/ready",
            health="/-/healthy",
            url=True,
            ours=False,
        ),
        Process(
            "alertmanager",
            (
                place.alertmanager,
                f"--config.file={place.configured('alertmanager')}/alertmanager.yml",
                f"--storage.path={place.state('alertmanager')}",
                f"--web.listen-address={bind}:{ports['alertmanager']}",
                "--cluster.listen-address=",  # one instance: no gossip port
            ),
            "tells people, once an incident",
            ports["alertmanager"],
            FRONT,
            ready="/-/ready",
            health="/-/healthy",
            memory_mb=256,
            url=True,
            ours=False,
        ),
        Process(
            "mlflow",
            (
                *place.python,
                "-m",
                "mlflow",
                "server",
                "--workers",
                "1",
                "--host",
                bind,
                "--port",
                str(ports["mlflow"]),
                "--backend-store-uri",
                f"sqlite:///{home}/mlflow/mlflow.db",
                "--artifacts-destination",
                f"{home}/mlflow/artifacts",
                "--allowed-hosts",
                allowed_hosts(ports["mlflow"]),
                "--x-frame-options",
                "DENY",
            ),
            "runs and registry",
            ports["mlflow"],
            SLOW,
            ready="/health",
            health="/health",
            metrics=None,
            # Twelve processes and 2.4 GB less; the job and scorer routes had an unauthenticated remote execution.
            env={
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            },
            start_s=180,
            memory_mb=1024,
            forks=True,
            url=True,
            ours=False,
        ),
    ]


def allowed_hosts(port: int) -> str:
    """MLflow compares the Host header as text, port included; its own list is replaced by this one."""
    return ",".join(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "mlflow"))


def scrape_targets(processes: Sequence[Process], place: Place) -> dict[str, str]:
    """Job name -> host:port of every process that has metrics, Prometheus and Alertmanager included."""
    return {p.name: f"{place.host(p.name)}:{p.port}" for p in processes if p.metrics is not None}


def urls(processes: Sequence[Process], place: Place) -> dict[str, str]:
    """What a person opens; a page is not on its exporter's port."""
    pages = {p.name: place.ports["page"] for p in processes if p.name == "page"}
    ports = {**{p.name: p.port for p in processes if p.url}, **pages}
    return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


_SETTINGS = {
    "serve": "serving",
    **{n: n for n in ("kafka", "kafka_controller", "page", "prometheus", "alertmanager", "mlflow")},
}


def port_setting(process: str) -> str:
    """Which entry of `settings.PORTS` moves a process's port."""
    if process.startswith("kafka-"):
        return "kafka"
    return _SETTINGS.get(process, "exporters")


def stages(processes: Sequence[Process]) -> list[list[Process]]:
    return [[p for p in processes if p.stage == s] for s in sorted({p.stage for p in processes})]
