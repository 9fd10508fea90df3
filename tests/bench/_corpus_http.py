"""The corpus against a real prediction server: every record, and what only a connection can do to it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import httpx
import psutil

from pipeline.broker import free_port
from tests.bench._corpus_stream import look_at_metrics, peak_mb
from tests.bench._hops import ROOT, Hops
from tests.corpus.cases import Record, good
from tests.serving.conftest import bundle, promote
from tests.waiting import wait_until

JSON = {"content-type": "application/json"}
BIG = 60 * 1024 * 1024


@dataclass
class Answered:
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    resets: int = 0
    server_errors: int = 0
    slowest_s: float = 0.0
    deaths: int = 0
    peak_mb: float = 0.0
    series: int = 0
    metric_faults: list[str] = field(default_factory=list)


def run(hops: Hops, records: list[Record]) -> Answered:
    found = Answered()
    with _server(hops, found) as base:
        _records(base, records, found)
        _transport(base, found)
        found.series, found.metric_faults = look_at_metrics(httpx.get(f"{base}/metrics", timeout=30).text)
    return found


@contextmanager
def _server(hops: Hops, found: Answered) -> Iterator[str]:
    settings = replace(hops.settings, ports={**hops.settings.ports, "serving": free_port()})
    promote(settings, hops.contract, 1, "1", bundle(settings, hops.contract, "1", 1))
    base = f"http://127.0.0.1:{settings.ports['serving']}"
    environment = {**hops.environment, "DRIFTLINE_SERVING_PORT": str(settings.ports["serving"])}
    with (hops.home / "serve.log").open("w") as log:
        child = subprocess.Popen(hops.command("serve"), env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(lambda: child.poll() is None and _status(base) == 200, 120, "the server to answer with a model", 0.3)
        workers = _workers(child.pid)
        yield base
        found.peak_mb = max((peak_mb(p.pid) for p in _workers(child.pid)), default=0.0)
        found.deaths = len({p.pid for p in workers} - {p.pid for p in _workers(child.pid)})
    finally:
        child.terminate()
        child.wait(30)


def _workers(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children(recursive=True) if "_bentoml_impl.worker" in " ".join(p.cmdline())]


def _status(base: str) -> int:
    try:
        return httpx.post(f"{base}/predict", content=good(), headers=JSON, timeout=5).status_code
    except httpx.HTTPError:
        return 0


def _records(base: str, records: list[Record], found: Answered) -> None:
    with httpx.Client(base_url=base, headers=JSON, timeout=30) as client:
        for r in records:
            if r.http is None:
                continue
            name, batch = f"{r.number} {r.name}", b'{"rows":[' + good() + b"," + (r.value or b"") + b"]}"
            _ask(client, "/predict", r.value or b"", {r.http}, name, found)
            _ask(
                client,
                "/predict_batch",
                batch,
                {200} if r.http == 200 else {400, 413, 422},
                f"{name} in a batch",
                found,
            )


def _ask(client: httpx.Client, path: str, body, wanted: set[int], name: str, found: Answered, **headers: str) -> None:
    found.requests += 1
    began = time.perf_counter()
    try:
        status = client.post(path, content=body, headers=headers).status_code
    except httpx.HTTPError as error:
        found.resets += 1
        found.wrong.append(f"{name}: no answer: {error!r}")
        return
    found.slowest_s = max(found.slowest_s, time.perf_counter() - began)
    found.server_errors += status >= 500
    if status not in wanted:
        found.wrong.append(f"{name}: expected {sorted(wanted)}, got {status}")


def _transport(base: str, found: Answered) -> None:
    with httpx.Client(base_url=base, headers=JSON, timeout=60) as client:
        for kind in (
            "application/x-pickle",
            "application/vnd.bentoml+pickle",
            "text/plain",
            "",
            "multipart/form-data; boundary=x",
        ):
            _ask(
                client, "/predict", good(), {415}, f"101 content type {kind or 'none'}", found, **{"content-type": kind}
            )
        rows = b'{"rows":[' + b",".join([good()] * 10_001) + b"]}"
        _ask(client, "/predict_batch", rows, {413}, "108 10,001 rows", found)
        _ask(client, "/predict_batch", b'{"rows":[' + b"1," * 999_999 + b"1]}", {413}, "108 a million rows", found)
        _ask(client, "/predict_batch", b"[" * 100_000, {400, 422}, "105 100,000 brackets", found)
        _ask(
            client,
            "/predict_batch",
            b'{"rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            {400, 422},
            "105 deep rows",
            found,
        )
        _ask(client, "/predict", _chunks(good()), {200}, "100 chunks without a length", found)
        slowest, found.slowest_s = found.slowest_s, 0.0  # sixty megabytes take their time on the wire
        for path in ("/predict", "/predict_batch"):
            _ask(client, path, b" " * BIG, {413}, f"108 a body of 60 MB to {path}", found)
            _ask(client, path, _chunks(b" " * BIG), {413}, f"108 60 MB in chunks to {path}", found)
        found.slowest_s = slowest
        _ask(client, "/predict", good(), {200}, "a good record after all of it", found)
    host, port = base.removeprefix("http://").split(":")
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for name, sent, wanted in (
        ("100 slow body", head + b"content-length: 300\r\n\r\n{", b"408"),
        ("a length that lies", head + b"content-length: abc\r\n\r\n{}", b"400"),
        ("two lengths", head + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", b"400"),
        ("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        ("expect 100-continue", head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % BIG, b"413"),
    ):
        found.requests += 1
        status = _raw(host, int(port), sent)
        if status != wanted:
            found.wrong.append(f"{name}: expected {wanted!r}, got {status!r}")


def _chunks(body: bytes) -> Iterator[bytes]:
    for i in range(0, len(body), 1 << 16):
        yield body[i : i + (1 << 16)]


def _raw(host: str, port: int, sent: bytes) -> bytes:
    """The status that the server answers these bytes with."""
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(sent)
        try:
            return connection.recv(64)[9:12]
        except OSError as error:
            return repr(error).encode()
