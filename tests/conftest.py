"""One real broker for the whole run, settings that point to it, topics made afresh for a test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import hypothesis
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `from tests.waiting import wait_until`, whatever folder pytest was started from

from tests import fast_starts  # noqa: E402

fast_starts.apply()  # before the imports below

from pipeline.broker import Broker  # noqa: E402
from pipeline.kafka import admin, create_topics  # noqa: E402
from pipeline.settings import Settings, from_environment  # noqa: E402
from pipeline.topics import Topic, all_topics  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

hypothesis.settings.register_profile("driftline", deadline=None)  # no test is timed: machines are shared
hypothesis.settings.load_profile("driftline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"broker", "own_broker", "fresh_topics"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The run's broker. Never kill it: a test that needs a broker to die takes `own_broker`."""
    with Broker(tmp_path_factory.mktemp("kafka") / "broker") as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A started broker of this test alone, to be killed, stopped, paused and started again."""
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def settings_for(broker: Broker, tmp_path: Path) -> Callable[..., Settings]:
    """`settings_for(DRIFTLINE_CONTRACT="paper")`: settings with a home of their own and the run's broker."""

    def build(**env: str) -> Settings:
        return from_environment(environment_for(broker, tmp_path, **env))

    return build


@pytest.fixture
def settings(settings_for: Callable[..., Settings]) -> Settings:
    return settings_for()


@pytest.fixture
def environment(broker: Broker, tmp_path: Path) -> dict[str, str]:
    """The environment of a `driftline` child process that uses the run's broker and this test's home."""
    return {**os.environ, **environment_for(broker, tmp_path)}


@pytest.fixture
def fresh_topics(settings: Settings) -> Callable[..., Settings]:
    """`fresh_topics("sales", 4)`: a dataset's topics (or those given) without a record, and no others; the settings."""

    def make(dataset: str = "sales", partitions: int = 2, wanted: Iterable[Topic] | None = None) -> Settings:
        asked = tuple(all_topics(dataset, partitions) if wanted is None else wanted)
        delete_topics(settings, keep=asked)
        create_topics(settings, asked)
        return settings

    return make


def start_early(request: pytest.FixtureRequest, wanted: str, server: str) -> None:
    """Make the fixture `server` now if any test to come asks for `wanted`, which waits for its answer: those before it run meanwhile."""
    if any(wanted in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue(server)


def environment_for(broker: Broker, tmp_path: Path, **env: str) -> dict[str, str]:
    return {
        "DRIFTLINE_HOME": str(tmp_path / "home"),
        "DRIFTLINE_BOOTSTRAP": broker.bootstrap,
        "DRIFTLINE_ACTOR": "test",
        **env,
    }


def delete_topics(settings: Settings, keep: Iterable[Topic] = ()) -> None:
    """Delete every topic that is not Kafka's own, and wait until the broker no longer names one.

    Of those to keep one stays that never had a record: most topics of a test are such, and each costs to delete and to make.
    """
    client = admin(settings)
    there = client.list_topics(timeout=10).topics
    alike = [t for t in keep if t.name in there and len(there[t.name].partitions) == t.partitions]
    ends = {TopicPartition(t.name, p): OffsetSpec.latest() for t in alike for p in range(t.partitions)}
    found = client.list_offsets(ends, request_timeout=10) if ends else {}
    used = {place.topic for place, end in found.items() if end.result(10).offset}
    kept = {t.name for t in alike} - used

    def ours() -> list[str]:
        return [t for t in client.list_topics(timeout=10).topics if not t.startswith("__") and t not in kept]

    names = ours()
    if names:
        for future in client.delete_topics(names, operation_timeout=10).values():
            future.result(10)
        wait_until(lambda: not ours(), 10, "the topics to be gone")
