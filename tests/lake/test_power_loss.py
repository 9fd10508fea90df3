"""The power goes at any moment of a commit: every version that opens is a prefix, and what was reported done is there."""

from __future__ import annotations

import random
import sys

import pytest

from tests.lake import power_loss
from tests.lake.power_loss import COMMITS, Disk, Step, build, check, record, survey
from tests.lake.system_calls import refused

EVERY = 11  # of the directories that a disk may hold; `driftline bench compactor` opens them all


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[Step]:
    if why := refused():
        pytest.skip(why)
    home, scratch = tmp_path_factory.mktemp("recorded"), tmp_path_factory.mktemp("calls")
    return record([sys.executable, power_loss.__file__, str(home)], home, scratch)


def after(steps: list[Step]) -> Disk:
    disk = Disk()
    for step in steps:
        disk.apply(step)
    return disk


def test_the_recording_holds_the_whole_story(steps, tmp_path):
    kinds = [s.what for s in steps]
    assert set(kinds) == {"mkdir", "create", "write", "fsync", "link", "unlink", "rename", "done"}
    assert kinds.count("done") == COMMITS + 1
    disk = after(steps)
    build(disk._tree(set(range(len(disk.pending))), "kept"), tmp_path)
    check(tmp_path, COMMITS + 1, go_on=True)


def test_after_a_power_loss_at_any_moment_a_prefix_opens_and_what_was_done_is_there(steps, tmp_path):
    tried, wrong = survey(steps, 1, tmp_path, EVERY)
    assert wrong == []
    assert tried > 100


@pytest.mark.parametrize("where", [".tmp", "_delta_log", ".parquet", "event_date=1970-01-01"])
def test_a_sync_that_is_left_out_is_found(steps, tmp_path, where):
    hasty = [s for s in steps if s.what != "fsync" or not s.path.endswith(where)]
    found = []
    for number, tree in enumerate(after(hasty).trees(random.Random(1))):
        build(tree, tmp_path / str(number))
        try:
            check(tmp_path / str(number), COMMITS + 1, go_on=False)
        except Exception as error:
            found.append(error)
            break
    assert found
