"""PURE. server.properties and the log settings of the local brokers, one or three, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.topics import MIB

HEAP_MB = 512
CLIENT, CONTROLLER = "CLIENT", "CONTROLLER"  # listener names


@dataclass(frozen=True, slots=True)
class Node:
    """The ports of one broker, which is a controller too."""

    port: int
    controller_port: int


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a secured broker reads: its own key with its certificate, and the authority it trusts. Both PEM."""

    key_and_certificate: Path
    authority: Path
    broker_user: str
    broker_password: str
    super_users: tuple[str, ...]


# Few partitions of the internal topics, because each is a folder to open at
# start (50 each by default). Its own 128 MB of log-cleaner buffer would be a quarter of the heap.
LOCAL: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "auto.create.topics.enable": "false",
    "unclean.leader.election.enable": "false",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A producer that was killed leaves its transaction open; readers of committed data wait until it is timed out.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A broker that was killed may not register again before its former session has run out: 14 s with the usual 9 s,
    # 5 s with 2 s (measured). One process is broker and controller, so a pause stops both sides of the heartbeat.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "message.max.bytes": str(MIB),
    "log.cleaner.dedupe.buffer.size": str(16 * MIB),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "background.threads": "2",
}


def properties(
    data: Path, nodes: Sequence[Node], number: int = 1, tls: TlsFiles | None = None, host: str = "127.0.0.1"
) -> dict[str, str]:
    """Broker `number` (from 1) of `nodes`. Everything listens on loopback.

    With `tls`, clients come by SCRAM over TLS, the controllers by mutual TLS.
    """
    own = nodes[number - 1]
    return {
        **LOCAL,
        **_replicated(len(nodes)),
        "node.id": str(number),
        "log.dirs": str(data),
        "controller.quorum.voters": ",".join(f"{n}@{host}:{node.controller_port}" for n, node in enumerate(nodes, 1)),
        "listeners": f"{CLIENT}://{host}:{own.port},{CONTROLLER}://{host}:{own.controller_port}",
        "advertised.listeners": f"{CLIENT}://{host}:{own.port}",
        "controller.listener.names": CONTROLLER,
        "inter.broker.listener.name": CLIENT,
        "listener.security.protocol.map": f"{CLIENT}:PLAINTEXT,{CONTROLLER}:PLAINTEXT",
        **(_secured(tls) if tls else {}),
    }


def _replicated(brokers: int) -> dict[str, str]:
    """Three copies where there are three brokers; what is acknowledged is then in two, so one may die at any moment."""
    copies, least = str(min(3, brokers)), str(2 if brokers >= 3 else 1)
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": least,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": least,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": least,
    }


def _secured(tls: TlsFiles) -> dict[str, str]:
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    login = f'{scram} username="{tls.broker_user}" password="{tls.broker_password}";'
    return {
        "listener.security.protocol.map": f"{CLIENT}:SASL_SSL,{CONTROLLER}:SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        f"listener.name.{CLIENT.lower()}.scram-sha-512.sasl.jaas.config": login,
        f"listener.name.{CONTROLLER.lower()}.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(tls.key_and_certificate),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tls.authority),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": ";".join(f"User:{name}" for name in tls.super_users),
    }


def as_properties(entries: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in entries.items())


LOGGING = """status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
"""


def java(libs: Path, properties_file: Path, logging_file: Path, heap_mb: int = HEAP_MB) -> list[str]:
    """The broker's command line after `java`; it ends itself when memory is gone, so that it is restarted."""
    return [
        f"-Xms{heap_mb // 2}m",
        f"-Xmx{heap_mb}m",
        "-XX:+UseG1GC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={logging_file}",
        "-cp",
        f"{libs}/*",
        "kafka.Kafka",
        str(properties_file),
    ]
