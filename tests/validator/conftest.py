from __future__ import annotations

import itertools
import os
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import kafka, topics
from pipeline.broker import free_port
from pipeline.cli import main
from pipeline.settings import Settings, from_environment
from pipeline.topics import Topic
from tests.contracts import contract_file_named
from tests.validator import corpus, history
from tests.validator.history import Child, History

_numbers = itertools.count()


@dataclass
class Dataset:
    """A dataset of a test's own: topics, contract file, environment of its processes."""

    id: str
    settings: Settings
    environment: dict[str, str]
    contract: Path
    folder: Path
    partitions: int

    def fill(self, records: corpus.Records) -> None:
        corpus.fill(self.settings, topics.events(self.id), records, self.partitions)

    def validate(self, *args: str, name: str = "validate") -> Child:
        return Child(self.environment, self.contract, self.folder / f"{name}.log", *args)

    def to_end(self, *args: str) -> Child:
        child = self.validate("--exit-at-end", *args)
        assert child.wait(90) == 0, child.text()
        return child

    def history(self) -> History:
        return history.read(self.settings, self.id)

    def history_of_outputs(self) -> History:
        """Without the raw topic, which cannot be read whole once a batch of it is broken."""
        return history.read(self.settings, self.id, raw=False)

    def committed(self) -> int:
        return sum(max(0, tp.offset) for tp in history.committed(self.settings, self.id).values())


MakeDataset = Callable[..., Dataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> Iterator[MakeDataset]:
    def make(bootstrap: str, partitions: int = 2, **env: str) -> Dataset:
        id = f"v{os.getpid()}_{next(_numbers)}"
        own = {
            "DRIFTLINE_HOME": str(tmp_path / "home"),
            "DRIFTLINE_BOOTSTRAP": bootstrap,
            "DRIFTLINE_ACTOR": "test",
            **env,
        }
        settings = from_environment(own)
        file = contract_file_named(tmp_path, id=id)
        return Dataset(id, settings, {**os.environ, **own, "DRIFTLINE_CONTRACT": str(file)}, file, tmp_path, partitions)

    yield make


@pytest.fixture
def dataset(broker, make_dataset: MakeDataset) -> Dataset:
    made = make_dataset(broker.bootstrap)
    kafka.create_topics(made.settings, of_the_validator(made))
    return made


@pytest.fixture
def run_verb(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`run_verb("breaker", "list")`: driftline's (exit code, stdout, stderr), in this process."""
    for name, value in dataset.environment.items():
        monkeypatch.setenv(name, value)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--contract", str(dataset.contract), *args])
        return code, *capsys.readouterr()

    return run


def of_the_validator(made: Dataset) -> list[Topic]:
    """What it reads and writes; a broker of a test has enough to do without the other topics of thirty datasets."""
    own = {name(made.id) for name in (topics.events, topics.valid, topics.blocks, topics.dead_letters)}
    shared = topics.shared()
    return [t for t in topics.all_topics(made.id, made.partitions) if t.name in own or t in shared]


@pytest.fixture
def unused_port() -> int:
    return free_port()


def page(port: int, path: str) -> str:
    """What a process answers at its own port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()
