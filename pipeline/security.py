"""EDGE. Development keys of the secured local broker: an authority, the broker's certificate, a password a principal.

Everything lies in one private folder (0700, files 0600) that is made once; a certificate near its end is made anew, a
password never, since the broker was formatted with it. For production, use your own authority and secret store: the
processes only read a user name, a password file and a CA file from their settings.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.access import SUPER_USERS, Grant, principals
from pipeline.broker_config import TlsFiles
from pipeline.errors import UsageError
from pipeline.kafka import admin
from pipeline.settings import Security, Settings

VALID_FOR = datetime.timedelta(days=365)
RENEW_BEFORE = datetime.timedelta(days=7)
HOSTS = ("localhost", "kafka")
CONTROLLER_PRINCIPAL = "CN=broker"  # the broker itself, on the controller's port, known by its certificate


@dataclass(frozen=True, slots=True)
class Keys:
    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def server(self) -> Path:
        return self.folder / "server.pem"

    def password_file(self, principal: str) -> Path:
        return self.folder / f"{principal}.password"


def ensure(folder: Path, dataset: str = "sales") -> Keys:
    """The keys of this folder; what is missing is made."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    keys = Keys(folder)
    if not _fresh(keys.server) or not keys.authority.exists():
        _certify(keys)
    for principal in principals(dataset):
        if not keys.password_file(principal).exists():
            _write(keys.password_file(principal), secrets.token_urlsafe(24).encode())
    return keys


def passwords(keys: Keys) -> dict[str, str]:
    return {p.stem: p.read_text() for p in sorted(keys.folder.glob("*.password"))}


def broker_files(keys: Keys) -> TlsFiles:
    return TlsFiles(
        key_and_certificate=keys.server,
        authority=keys.authority,
        broker_user="broker",
        broker_password=keys.password_file("broker").read_text(),
        super_users=(*SUPER_USERS, CONTROLLER_PRINCIPAL),
    )


def client_profile(folder: Path, principal: str) -> Security:
    """Settings of one principal; UsageError where it has no password here."""
    keys = Keys(folder)
    if not keys.password_file(principal).exists():
        raise UsageError(f"no principal {principal!r} in {folder}; there are: {', '.join(passwords(keys)) or 'none'}")
    return Security("scram", principal, str(keys.password_file(principal)), str(keys.authority))


def grant(operator: Settings, wanted: Iterable[Grant]) -> int:
    """Write the access list; settings are those of a super user. Granting twice is granting once."""
    bindings = [_binding(g) for g in wanted]
    client = admin(operator)  # held until the answers are there: a collected client aborts its requests
    for future in client.create_acls(bindings, request_timeout=15).values():
        future.result(20)
    return len(bindings)


_KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {"read": AclOperation.READ, "write": AclOperation.WRITE, "describe": AclOperation.DESCRIBE}


def _binding(given: Grant) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if given.prefixed else ResourcePatternType.LITERAL
    who, operation = f"User:{given.principal}", _OPERATIONS[given.operation]
    return AclBinding(_KINDS[given.kind], given.name, pattern, who, "*", operation, AclPermissionType.ALLOW)


def _fresh(server: Path) -> bool:
    if not server.exists():
        return False
    certificate = x509.load_pem_x509_certificate(server.read_bytes())
    return certificate.not_valid_after_utc - RENEW_BEFORE > datetime.datetime.now(datetime.UTC)


def _certify(keys: Keys) -> None:
    """An authority and a certificate signed by it; the authority's own key is not kept, so it signs nothing else."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("driftline development authority", authority_key, None, authority_key)
    server = _certificate("broker", server_key, authority, authority_key)
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(keys.authority, authority.public_bytes(serialization.Encoding.PEM))
    _write(keys.server, private + server.public_bytes(serialization.Encoding.PEM))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
    )
    if issuer is not None:
        hosts = [x509.DNSName(h) for h in HOSTS] + [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), False).add_extension(
            x509.ExtendedKeyUsage(uses), False
        )
    return builder.sign(signer, hashes.SHA256())


def _write(path: Path, content: bytes) -> None:
    """Private from its first byte, whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)
