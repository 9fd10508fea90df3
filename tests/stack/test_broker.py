"""The broker as a child process: it answers when it says so, keeps its data when killed, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import broker_config
from pipeline.broker import LIBS, Broker, free_port, prepare
from pipeline.broker_config import Node
from pipeline.errors import Fatal, UsageError
from pipeline.kafka import create_topics, producer, read_all
from pipeline.settings import Settings
from pipeline.topics import Topic
from tests.waiting import wait_until


def send(settings: Settings, topic: str, *values: bytes) -> None:
    client = producer(settings, "test")
    for value in values:
        client.produce(topic, value)
    assert client.flush(20) == 0


def values(settings: Settings, topic: str) -> list[bytes]:
    return [m.value() for m in read_all(settings, topic)]


def test_a_killed_broker_comes_back_with_what_it_acknowledged(own_broker):
    settings = own_broker.settings()
    create_topics(settings, [Topic("kept", 1)])
    send(settings, "kept", b"before")
    own_broker.kill()
    assert not own_broker.running
    own_broker.start()
    send(settings, "kept", b"after")
    assert values(settings, "kept") == [b"before", b"after"]


def test_fresh_topics_are_empty_even_when_a_former_test_filled_them(fresh_topics):
    settings = fresh_topics("sales", 2)
    send(settings, "sales.events", b"{}")
    fresh_topics("sales", 3)
    assert values(settings, "sales.events") == []


def test_a_format_that_was_cut_off_is_done_again(tmp_path):
    half = tmp_path / "broker" / "data"
    half.mkdir(parents=True)
    (half / "meta.properties").write_text("version=1\n")  # no cluster id: a broker refuses such a folder
    prepare(tmp_path / "broker", [Node(free_port(), free_port())])
    assert "cluster.id" in (half / "meta.properties").read_text()


def test_a_broker_that_ends_at_once_says_its_last_words(tmp_path):
    broken = Broker(tmp_path / "broker")
    prepare(broken.directory, broken.nodes)
    (broken.directory / "data" / "meta.properties").write_text("version=1\n")
    with pytest.raises(Fatal, match=r"meta\.properties"):
        broken.start()


def test_missing_jars_are_a_usage_error_that_names_the_command(tmp_path):
    with pytest.raises(UsageError, match="make setup"):
        prepare(tmp_path / "broker", [Node(1, 2)], libs=tmp_path)


def test_the_broker_dies_with_the_process_that_started_it(tmp_path):
    script = (
        "import pathlib, sys, os, signal; from pipeline.broker import Broker\n"
        "b = Broker(pathlib.Path(sys.argv[1])).start(wait=False); print(b.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "b")], capture_output=True, text=True)
    pid = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "the broker to be gone")


def test_the_command_becomes_the_broker_in_the_same_process(tmp_path):
    words = [str(tmp_path / "b"), "--node", f"{free_port()}:{free_port()}"]
    child = subprocess.Popen([sys.executable, "-m", "pipeline.broker", *words], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: b"kafka.Kafka" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), 30, "Java to take over")
    finally:
        child.kill()
        child.wait()


def test_everything_listens_on_loopback_only():
    config = broker_config.properties(Path("/data"), [Node(1, 2)])
    assert config["listeners"] == "CLIENT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"
    assert config["auto.create.topics.enable"] == "false"


def test_the_jars_are_of_the_version_without_a_published_vulnerability():
    assert [p.name for p in LIBS.glob("kafka_2.13-*.jar")] == ["kafka_2.13-4.2.2.jar"]
    assert os.environ.get("CLASSPATH", "") == ""
