"""OpenLineage events of a real stream: produced, validated, compacted; one links to the next, and the counts are the log's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch import table
from pipeline import topics
from pipeline.broker import Broker
from pipeline.kafka import read_all
from pipeline.settings import Settings, from_environment
from tests.conftest import environment_for
from tests.contracts import contract_file_named
from tests.shared.lineage_oracle import as_the_client_writes_it

NAME, EVENTS = "lineage_shop", 3_000


@dataclass(frozen=True, slots=True)
class Told:
    settings: Settings
    events: list[dict]
    produced: int

    def of(self, job: str) -> dict:
        """The one COMPLETE of a job, after its START."""
        start, complete = [e for e in self.events if e["job"]["name"] == f"{NAME}.{job}"]
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"]["runId"] == complete["run"]["runId"] and start["eventTime"] <= complete["eventTime"]
        return complete


@pytest.fixture(scope="module")
def told(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    home = tmp_path_factory.mktemp("lineage")
    contract = contract_file_named(home, id=NAME)
    env = environment_for(broker, home, DRIFTLINE_LINEAGE="kafka,file", PATH="/usr/bin:/bin")

    def run(*argv: str) -> str:
        command = [sys.executable, "-m", "pipeline.cli", "--contract", str(contract), *argv]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    start = ["--start", "2026-09-21T00:00:00Z", "--flat-out", "--rate", "1", "--scenario", "bad-records"]
    run("topics", "create")
    said = json.loads(run("produce", "--events", str(EVENTS), *start, "--json").splitlines()[-1])
    run("validate", "--exit-at-end", "--reject-ratio", "1", "--reject-run", "100000")
    run("compact", "--once")
    settings = from_environment(env)
    events = [json.loads(m.value()) for m in read_all(settings, topics.LINEAGE)]
    yield Told(settings, [e for e in events if e["job"]["name"].startswith(NAME)], said["events"])


def test_every_event_is_one_that_the_client_could_have_written(told: Told) -> None:
    assert told.events and all(as_the_client_writes_it(e) == e for e in told.events)


def test_the_file_has_the_same_events_as_the_topic(told: Told) -> None:
    lines = [json.loads(line) for line in (told.settings.home / "lineage.jsonl").read_text().splitlines()]
    assert lines == told.events


def test_a_jobs_output_is_the_next_ones_input(told: Told) -> None:
    def names(side: str, job: str) -> set[tuple[str, str]]:
        return {(d["namespace"], d["name"]) for d in told.of(job)[side]}

    assert names("inputs", "validate") <= names("outputs", "produce")
    assert names("inputs", "compact.events") | names("inputs", "compact.dead_letters") <= names("outputs", "validate")


def test_rows_and_assertions_are_the_logs_own(told: Told) -> None:
    validated = told.of("validate")
    [raw] = validated["inputs"]
    letters = list(read_all(told.settings, topics.dead_letters(NAME)))
    written = {d["name"]: d["outputFacets"]["outputStatistics"]["rowCount"] for d in validated["outputs"]}
    assert written[topics.dead_letters(NAME)] == len(letters) > 0
    assert written[topics.valid(NAME)] == told.produced - len(letters)
    assert raw["inputFacets"]["inputStatistics"]["rowCount"] == told.produced
    checked = raw["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert sum(int(a["actual"].partition(" ")[0]) for a in checked) == len(letters)
    assert {a["success"] for a in checked} == {True, False}
    ranges = raw["facets"]["datasetVersion"]["datasetVersion"].split(",")
    ends = [tuple(map(int, r.partition("@")[2].split("-"))) for r in ranges]
    assert sum(end - start for start, end in ends) == told.produced
    assert "price" in {f["name"] for f in raw["facets"]["schema"]["fields"]}


def test_a_table_is_named_by_the_version_that_its_commit_has(told: Told) -> None:
    compacted = told.of("compact.events")
    [written] = compacted["outputs"]
    assert written["name"] == str(table.location(told.settings, NAME))
    now = table.Table(table.location(told.settings, NAME))
    assert written["facets"]["datasetVersion"]["datasetVersion"] == str(now.version)
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == table.count(told.settings, NAME)
    [read] = compacted["inputs"]
    rules = read["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert {"row_count", "mean"} <= {a["assertion"] for a in rules} and all(a["name"] for a in rules)
