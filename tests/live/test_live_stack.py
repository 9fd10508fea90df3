"""The whole stack as a user runs it, secured by TLS, SCRAM and ACLs: a model trained by itself, every panel fed, two processes killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from monitoring.dashboards import DASHBOARDS
from monitoring.rules import ALERTS, RECORDINGS
from pipeline.settings import PORTS
from tests.waiting import wait_until

# Panels that show something only when something is wrong, or after an event that this test does not cause.
MAY_BE_EMPTY = {"Late rows", "Restarts by the watchdog"}
VARIABLES = {"$__rate_interval": "20s", "$dataset": ".*", "$feature": ".*", "$segment": ".*"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("live") / "home"
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    ports["exporters"] = 21400  # a run of ports
    running = Stack(home, ports)
    try:
        running.driftline("up", timeout=300)
        yield running
    finally:
        running.stop_producer()
        running.driftline("down", check=False)


class Stack:
    def __init__(self, home: Path, ports: dict[str, int]):
        self.home, self.ports = home, ports
        self.environment = {
            **os.environ,
            "DRIFTLINE_HOME": str(home),
            "DRIFTLINE_SECURITY": "scram",
            "DRIFTLINE_FIRST_ROWS": "12000",
            **{f"DRIFTLINE_{name.upper()}_PORT": str(port) for name, port in ports.items()},
        }
        self.producer: subprocess.Popen[bytes] | None = None

    def driftline(self, *words: str, check: bool = True, timeout: float = 120) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, f"driftline {words}: {done.returncode}\n{done.stderr[-3000:]}"
        return done.stdout

    def start_producer(self) -> None:
        log = (self.home / "producer.log").open("wb")
        words = ["produce", "--scenario", "defects", "--rate", "600", "--speed", "1440", "--seed", "3"]
        self.producer = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *words], env=self.environment, stdout=log, stderr=log
        )

    def stop_producer(self) -> None:
        if self.producer and self.producer.poll() is None:
            self.producer.terminate()
            assert self.producer.wait(30) == 0

    def query(self, promql: str) -> list[object]:
        for name, value in VARIABLES.items():
            promql = promql.replace(name, value)
        answer = httpx.get(
            f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/query", params={"query": promql}, timeout=20
        ).json()
        assert answer["status"] == "success", f"{promql}: {answer}"
        return answer["data"]["result"]

    def processes(self) -> dict[str, dict[str, object]]:
        return {
            row["name"]: row for row in map(json.loads, self.driftline("status", "--json", check=False).splitlines())
        }


@pytest.fixture(scope="module")
def flowing(stack) -> Stack:
    """The stack with events, a champion, and closed windows under its reference."""
    stack.start_producer()
    wait_until(lambda: stack.query("max(driftline_champion_version)"), 150, "a first champion")
    wait_until(
        lambda: stack.query('driftline_drift_state{state="ok"} == 1'), 90, "a window judged ok under its reference"
    )
    wait_until(lambda: stack.query('driftline_model_figure{figure="log_loss"}'), 90, "labelled predictions")
    body = json.dumps({"order_id": "o-1", "customer_id": "C000123", "product_id": "P0001", "category": "books", "region": "north", "channel": "web", "quantity": 2, "price": 12.5, "discount": 0.1, "order_date": "2026-01-02", "event_time": "2026-01-02T03:04:05.678Z"})  # fmt: skip
    for content in (body, body, "{"):
        httpx.post(
            f"http://127.0.0.1:{stack.ports['serving']}/predict",
            content=content,
            headers={"content-type": "application/json"},
        )
    return stack


PANELS = [pytest.param(panel, id=f"{d.title}: {panel.title}") for d in DASHBOARDS for panel in d.panels]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_shows_data_of_the_live_stack(flowing, panel):
    for promql, _ in panel.queries:
        if panel.title in MAY_BE_EMPTY:
            flowing.query(promql)
        else:
            wait_until(lambda promql=promql: flowing.query(promql), 120, f"data for {promql}", 0.5)


def test_every_rule_evaluates(flowing):
    for expression in [a.expr for a in ALERTS] + [r.expr for r in RECORDINGS]:
        flowing.query(expression)
    answer = httpx.get(f"http://127.0.0.1:{flowing.ports['prometheus']}/api/v1/rules").json()
    rules = [r for g in answer["data"]["groups"] for r in g["rules"]]
    assert {r["name"] for r in rules if r["type"] == "alerting"} == {a.name for a in ALERTS}
    assert not [r["name"] for r in rules if r["health"] == "err"]


def test_every_target_answers(flowing):
    wait_until(lambda: not flowing.query("up == 0"), 30, "every target to answer")


@pytest.mark.parametrize("name", ["validator", "drift"])
def test_a_process_held_to_its_cap_has_room_below_it(flowing, name):
    """At the limit threads can no longer start, and the process dies wherever it wanted one."""
    process = psutil.Process(int(flowing.processes()[name]["pid"]))
    limit, _ = process.rlimit(psutil.RLIMIT_DATA)
    assert limit != psutil.RLIM_INFINITY
    assert process.memory_info().data < 0.8 * limit


def test_the_drift_page_shows_the_last_window_and_the_decision(flowing):
    text = httpx.get(f"http://127.0.0.1:{flowing.ports['page']}/").text
    assert "price" in text and "promote" in text and "polyline" in text


def test_a_killed_server_comes_back_although_its_workers_hold_its_port(flowing):
    """Its workers outlive it and answer its probe; the successor ends them, or it would die of the taken port for ever."""
    before = flowing.processes()["serve"]
    workers = {p.pid for p in psutil.Process(int(before["pid"])).children(recursive=True)}
    os.kill(int(before["pid"]), signal.SIGKILL)

    def settled() -> bool:
        now = flowing.processes()["serve"]
        return now["ready"] and now["pid"] != before["pid"] and float(now["since_s"]) > 10

    wait_until(settled, 180, "a successor that stays", 0.5)
    assert not [pid for pid in workers if psutil.pid_exists(pid)]


def test_a_killed_process_comes_back_and_nothing_is_lost_or_doubled(flowing):
    before = flowing.processes()
    for name in ("validator", "compactor"):
        os.kill(int(before[name]["pid"]), signal.SIGKILL)

    def back() -> bool:
        now = flowing.processes()
        return all(now[n]["ready"] and now[n]["pid"] != before[n]["pid"] for n in ("validator", "compactor"))

    wait_until(back, 90, "both to be ready again", 0.5)
    flowing.stop_producer()
    report = json.loads(flowing.driftline("verify", "--json", "--wait", "90").splitlines()[-1])
    assert report["ok"] and report["lake"] == report["valid"] and report["consumed"] == report["valid"] + report["dead"]
    assert (report["missing"], report["duplicated"], report["lag"]) == ([], [], 0)
    assert report["dead"] > 0


def test_no_secret_is_in_a_log(flowing):
    secrets = {p.read_text().strip() for p in (flowing.home / "kafka" / "security").rglob("*password*") if p.is_file()}
    assert secrets
    for log in (flowing.home / "logs").glob("*.log"):
        text = log.read_text(errors="replace")
        assert not [1 for s in secrets if s in text], log.name
