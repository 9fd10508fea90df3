"""Up, down and survival of the local stack: a real supervisor, a real broker, small stand-ins for the workers."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import stand_ins

from monitoring.metrics import PrometheusMeter
from monitoring.watch import Watchdog
from pipeline import leftovers
from pipeline.broker import free_port
from pipeline.errors import UsageError
from pipeline.processes import Process
from pipeline.settings import Settings, from_environment
from pipeline.stack import Stack, socket_path
from pipeline.supervisor_client import Supervisor
from tests.waiting import wait_until

Build = Callable[..., Stack]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Settings:
    ports = {f"DRIFTLINE_{name}_PORT": str(free_port()) for name in ("KAFKA", "KAFKA_CONTROLLER")}
    return from_environment({"DRIFTLINE_HOME": str(home), **ports})


@pytest.fixture
def build(settings: Settings, home: Path) -> Iterator[Build]:
    def make(*processes: Process) -> Stack:
        return Stack(settings, processes, os.environ)

    yield make
    assert Stack(settings, (), os.environ).down() >= 0
    assert leftovers.of(home) == []


def up(stack: Stack, deadline_s: float = 90) -> dict[str, str]:
    rows = stack.up(lambda: None, lambda: None, deadline_s, lambda name, seconds: None)
    return {r.name: r.state for r in rows}


def pid(stack: Stack, name: str) -> int:
    [found] = [r.pid for r in stack.rows() if r.name == name]
    assert found, f"{name} does not run"  # a signal to process 0 would end this test run
    return found


def is_ready(stack: Stack, name: str) -> bool:
    return any(r.name == name and r.ready for r in stack.rows())


def ready_again(stack: Stack, name: str, former: int, deadline_s: float = 60) -> None:
    wait_until(
        lambda: any(r.name == name and r.ready and r.pid != former for r in stack.rows()),
        deadline_s,
        f"{name} to be ready as a new process",
    )


def test_up_returns_when_all_are_ready_and_down_leaves_nothing(build, settings, home):
    stack = build(stand_ins.broker(settings), stand_ins.answering("worker", "reach"))
    assert up(stack) == {"kafka": "ready", "worker": "ready"}
    assert 'a "quoted" 100% value' in (stack.logs / "worker.log").read_text()
    assert stack.down() == 2
    assert [r.state for r in stack.rows()] == ["stopped", "stopped"]
    assert leftovers.of(home) == []


def test_a_second_up_starts_only_what_does_not_run(build):
    stack = build(stand_ins.answering("one"), stand_ins.answering("two"))
    up(stack)
    first = pid(stack, "one")
    Supervisor(stack._supervisor.path).stop("two")
    wait_until(lambda: not is_ready(stack, "two"), 10, "two to stop")
    assert up(stack) == {"one": "ready", "two": "ready"}
    assert pid(stack, "one") == first


def test_a_process_that_dies_is_named_with_its_last_words_and_the_others_run(build):
    stack = build(stand_ins.answering("good"), stand_ins.answering("bad", "dies"))
    assert up(stack, deadline_s=2)["bad"] != "ready"
    wait_until(lambda: is_ready(stack, "good"), 60, "the other process to be ready")
    wait_until(
        lambda: any("dies on purpose" in r.problem for r in stack.rows() if r.name == "bad"), 60, "its last words"
    )


def test_a_crashed_process_is_started_again(build):
    stack = build(stand_ins.answering("worker"))
    up(stack)
    former = pid(stack, "worker")
    # supervisor counts a death within its first seconds as a failed start and waits; either way it starts it again
    os.kill(former, signal.SIGKILL)
    ready_again(stack, "worker", former)


def test_a_process_waits_for_its_broker_and_survives_the_loss_of_it(build, settings, home):
    broker = stand_ins.broker(settings)
    stack = build(broker, stand_ins.answering("worker", "reach", stage=0))
    both = threading.Thread(target=up, args=(stack,))
    both.start()
    both.join(120)
    worker, former = pid(stack, "worker"), pid(stack, "kafka")
    os.kill(former, signal.SIGKILL)
    ready_again(stack, "kafka", former)
    assert (pid(stack, "worker"), is_ready(stack, "worker")) == (worker, True)


def test_a_hung_process_is_killed_by_the_watchdog_and_started_by_supervisor(build, settings):
    worker = stand_ins.answering("worker")
    stack = build(worker)
    up(stack)
    meter = PrometheusMeter()
    watchdog = Watchdog(settings, [worker], meter)
    watchdog._watchman.hang_after_s = 1
    former = pid(stack, "worker")
    watchdog.turn()
    os.kill(former, signal.SIGSTOP)
    wait_until(lambda: watchdog.turn() and b'reason="hung"' in meter.exposition(), 20, "the watchdog to act")
    ready_again(stack, "worker", former)


def test_what_a_killed_supervisor_left_is_ended_by_the_next_up(build, home):
    stack = build(stand_ins.answering("worker"))
    up(stack)
    orphan = psutil.Process(pid(stack, "worker"))
    os.kill(stack._supervisor.pid(), signal.SIGKILL)
    wait_until(lambda: not stack._supervisor.answers(), 5, "supervisor to be gone")
    assert orphan.is_running()
    assert up(stack) == {"worker": "ready"}
    assert not orphan.is_running()


def test_down_ends_what_a_killed_supervisor_left_even_when_it_hangs(build, home):
    stack = build(stand_ins.answering("worker"))
    up(stack)
    orphan = psutil.Process(pid(stack, "worker"))
    os.kill(stack._supervisor.pid(), signal.SIGKILL)
    wait_until(lambda: not stack._supervisor.answers(), 5, "supervisor to be gone")
    orphan.suspend()  # only now: the kernel hangs up on stopped processes whose parent goes
    assert stack.down() >= 1
    assert not orphan.is_running()


def test_a_stranger_is_never_ended(home):
    stranger = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        env={**os.environ, leftovers.MARK: str(home) + "-of-another"},
    )
    try:
        assert leftovers.end(home) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_taken_port_is_named_with_its_holder_and_the_setting_that_moves_it(build):
    worker = stand_ins.answering("worker")
    words = rf"port {worker.port} \(worker\) is taken by pid {os.getpid()}"
    with socket.create_server(("127.0.0.1", worker.port)), pytest.raises(UsageError, match=words) as error:
        up(build(worker))
    assert "DRIFTLINE_EXPORTERS_PORT" in str(error.value)


def test_other_settings_of_a_running_stack_are_refused(build):
    worker = stand_ins.answering("worker")
    up(build(worker))
    with pytest.raises(UsageError, match="down"):
        up(build(replace(worker, stop_s=6)))


def test_a_long_home_gets_a_short_socket_in_a_private_folder(tmp_path):
    path = socket_path(tmp_path / ("x" * 120))
    assert len(str(path)) <= 107
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_commands_say_down_when_nothing_runs(home):
    env = {**os.environ, "DRIFTLINE_HOME": str(home), "DRIFTLINE_KAFKA_PORT": str(free_port())}
    status = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "status", "--json"], env=env, capture_output=True, text=True
    )
    assert status.returncode == 1, status.stderr
    assert {json.loads(line)["state"] for line in status.stdout.splitlines()} == {"stopped"}
    down = subprocess.run(
        shlex.split(f"{sys.executable} -m pipeline.cli down"), env=env, capture_output=True, text=True
    )
    assert (down.returncode, down.stdout) == (0, "nothing was running\n")
