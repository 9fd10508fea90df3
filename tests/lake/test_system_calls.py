"""The real compactor at the system calls of a commit: killed there, told that the disk is full or broken, on a disk that is full."""

from __future__ import annotations

import random
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from batch.verify import verify
from tests.lake.system_calls import calls_of_a_commit, fail_each, kill_each, refused, shop, spread
from tests.waiting import wait_until

KILLS, ERRORS = 10, 3  # `driftline bench compactor` takes all of them


@pytest.fixture(scope="module")
def traced(broker, tmp_path_factory):
    if why := refused():
        pytest.skip(why)
    with shop(tmp_path_factory.mktemp("calls"), broker.bootstrap, f"calls_{random.getrandbits(40):x}") as made:
        yield made, calls_of_a_commit(made)


def test_killed_at_any_call_of_a_commit_the_table_is_a_prefix_and_the_next_one_completes_it(traced):
    made, calls = traced
    outcome = kill_each(made, spread(calls, KILLS), print)
    assert outcome.wrong == []
    assert outcome.missed == [] and outcome.fired.total() >= KILLS
    assert {"write", "fsync", "link", "unlink", "openat"} <= set(outcome.fired)
    report = verify(made.settings, made.contract)
    assert report["ok"] and report["drained"], report["first"]


def test_a_disk_that_fails_and_heals_costs_a_retry_and_no_row(traced):
    made, calls = traced
    chosen = [c for c in calls if c.name in ("write", "fsync", "link", "mkdir", "openat")]
    for error, some in (("ENOSPC", chosen[:: len(chosen) // ERRORS]), ("EIO", chosen[20 :: len(chosen) // ERRORS])):
        outcome = fail_each(made, some, [error], print)
        assert outcome.wrong == []
        assert outcome.fired[error] >= ERRORS - 1
    assert verify(made.settings, made.contract)["ok"]


def test_a_disk_that_is_really_full_stops_nothing_for_good(broker, tmp_path):
    with small_disk(tmp_path / "disk", 2048) as disk:
        ballast = disk / "ballast"
        name = f"full_{random.getrandbits(40):x}"
        with shop(tmp_path, broker.bootstrap, name, DRIFTLINE_LAKE=str(disk / "lake")) as made:
            before = made.rows()
            made.block(rows=2_000)
            fill(ballast)

            def heal(pid: int, log: Path) -> None:
                wait_until(lambda: log.read_text().count("lake_commit_failed") >= 2, 30, "two refused commits")
                assert made.rows() == before
                ballast.unlink()

            ended = made.compact(meanwhile=heal)
            assert "No space left on device" in ended.said
            assert (ended.code, made.whole()) == (0, "")


def test_a_file_that_may_not_grow_is_an_error_by_name_until_it_may(traced):
    made, _ = traced
    before = made.rows()
    made.block(rows=2_000)

    def limit(pid: int, log: Path) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (16_384, resource.RLIM_INFINITY))
        wait_until(lambda: "lake_commit_failed" in log.read_text(), 30, "a refused commit")
        assert made.rows() == before
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    ended = made.compact(meanwhile=limit)
    assert "File too large" in ended.said
    assert (ended.code, made.whole()) == (0, "")


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[Path]:
    at.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(at)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def fill(file: Path) -> None:
    """Take what is left of the disk."""
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(4096))
