"""A rolling reference follows the stream by the controller's turns, and not while an episode fires or where it would mute the monitor."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batch.control import Control
from batch.controller import Controller
from batch.decisions import Episode, Policy, Step, Wait
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file
from pipeline.contract import Contract
from pipeline.errors import UsageError
from pipeline.settings import Settings, from_environment
from stream_processors.reference.store import read_store
from tests.contracts import renamed
from tests.model import lake, sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS
from tests.waiting import wait_until

DAY_MS = 24 * HOUR_MS
ROWS = 16_000  # a day
ROLLING = "    value:\n      reference: {kind: rolling, span: 1 d, every: 1 d}\n"


def contract_text(reference: str = ROLLING, label: bool = True) -> str:
    text = renamed(contract_file.shipped_text("sales"), "rolling")
    if not label:
        text = text[: text.index("  - property: label")] + text[text.index("  - property: partitions") :]
    before, found, after = text.partition("property: drift\n    value:\n")
    assert found
    return before + "property: drift\n" + reference + after


@pytest.fixture
def rolling(fresh_topics, tmp_path) -> tuple[Settings, Contract]:
    return told_of(fresh_topics("rolling", 2), tmp_path, contract_text())


def told_of(settings: Settings, folder: Path, text: str) -> tuple[Settings, Contract]:
    path = folder / "rolling.yaml"
    path.write_text(text)
    return replace(settings, contract=str(path)), contract_file.load(str(path))


def land(told: tuple[Settings, Contract], day: int, rows: int = ROWS, hours: int = 24) -> None:
    """The orders of one more day, or of a little more."""
    block = sales_rows.draw(rows, "baseline", seed=day + 1, start_ms=START_MS + day * DAY_MS, hours=hours)
    lake.write_events(*told, sales_rows.events(block, 2))


def turn(told: tuple[Settings, Contract], *episodes: Episode) -> Step:
    """One turn of a controller that has just started and is far from its first training."""
    return Controller(*told, Policy(first_rows=10**9), PrometheusMeter()).turn(list(episodes), [])


def published(told: tuple[Settings, Contract]) -> list[tuple[int, int, int]]:
    """(version, hours from the start to its first pane, rows that it holds)."""
    sets = read_store(told[0], told[1].id).timeline.sets
    return [(s.version, (s.effective_from - START_MS) // HOUR_MS, s.load()["price", "*"].rows) for s in sets]


def after_turns(told: tuple[Settings, Contract], versions: int, *episodes: Episode) -> list[tuple[int, int, int]]:
    """What is published once there are so many versions: a broker that is slow to answer puts a turn off."""

    def there() -> list[tuple[int, int, int]] | None:
        turn(told, *episodes)
        found = published(told)
        return found if len(found) == versions else None

    return wait_until(there, 60, f"{versions} references")  # type: ignore[return-value]


def test_a_rolling_reference_holds_the_last_span_and_waits_until_no_episode_fires(rolling):
    land(rolling, 0)
    assert isinstance(turn(rolling), Wait) and published(rolling) == []  # the last row is not a day behind the first
    land(rolling, 1)
    first = after_turns(rolling, 1)
    [(version, since, rows)] = first
    assert (version, since) == (1, 48) and abs(rows - ROWS) < 20
    turn(rolling)
    assert published(rolling) == first  # not a day later yet
    land(rolling, 2, hours=26)  # now it is
    fired = Episode("e", "data", "firing", START_MS + 2 * DAY_MS, START_MS + 2 * DAY_MS, seen_firing=True)
    for source in ("data", "loss"):
        assert isinstance(turn(rolling, replace(fired, source=source)), Wait) and published(rolling) == first
    both = after_turns(
        rolling, 2, replace(fired, state="resolved", resolution="returned")
    )  # the first turn notes how it ended
    assert both[0] == first[0] and both[1][:2] == (2, 48 + 26) and abs(both[1][2] - ROWS * 24 / 26) < 20


def test_a_span_too_thin_to_page_by_does_not_replace_a_reference_that_can(rolling):
    for day in (0, 1):
        land(rolling, day)
    first = after_turns(rolling, 1)
    land(rolling, 2, rows=2_000, hours=26)
    turn(rolling)
    assert published(rolling) == first
    land(rolling, 3)
    both = after_turns(rolling, 2)
    assert both[1][2] >= ROWS - 20


def test_a_contract_without_a_label_has_its_reference_made_though_there_is_no_model(
    fresh_topics, tmp_path, environment
) -> None:
    told = told_of(fresh_topics("rolling", 2), tmp_path, contract_text(label=False))
    for day in (0, 1):
        land(told, day)
    verb = [sys.executable, "-m", "pipeline.cli", "--contract", told[0].contract, "control"]
    with (tmp_path / "control.log").open("wb") as log:
        child = subprocess.Popen(verb, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: published(told) or child.poll() is not None, 60, "a reference")
        finally:
            child.terminate()
            code = child.wait(30)
    assert code == 0, (tmp_path / "control.log").read_text()[-2000:]
    [(version, since, rows)] = published(told)
    assert (version, since) == (1, 48) and abs(rows - ROWS) < 20


def test_control_says_that_there_is_nothing_to_do_without_a_label_and_a_moving_reference(tmp_path) -> None:
    settings = from_environment({"DRIFTLINE_HOME": str(tmp_path)})
    told, _ = told_of(settings, tmp_path, contract_text("    value:\n", label=False))
    parser = argparse.ArgumentParser()
    Control.configure(parser)
    with pytest.raises(UsageError, match="nothing to control"):
        Control.run(parser.parse_args([]), told)
