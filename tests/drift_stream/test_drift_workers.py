"""Two drift processes share the work: who counts and who judges may change at any time, the verdicts do not."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import polars as pl

from batch import reference
from stream_processors.reference.store import read_store
from tests.drift_stream.harness import Harness, counted
from tests.drift_stream.samples import DAY0, HOUR, blocks_of, draw, reference_rows
from tests.drift_stream.stream import Worker, contract_in, final_windows, verdicts, write, writer
from tests.waiting import wait_until

HOURS, ROWS_AN_HOUR = 9, 600


def owned(worker: Worker) -> set[str]:
    """The partitions of its newest assignment."""
    assert worker.code in (None, 0), worker.log.read_text()[-3000:]
    told = [line for line in worker.log.read_text().splitlines() if " assigned " in line]
    return set(re.findall(r"[\w.]+\[\d+\]", told[-1])) if told else set()


def test_workers_that_come_and_go_leave_the_verdicts_of_one(fresh_topics, settings, environment, tmp_path):
    path, contract = contract_in(tmp_path)
    fresh_topics("tiny", 2)
    reference.publish(settings, contract, pl.from_arrow(reference_rows(9, 12_000)), version=None, effective_from=DAY0)
    times = [DAY0 + i * HOUR // ROWS_AN_HOUR for i in range(HOURS * ROWS_AN_HOUR)]
    cuts = [blocks_of(p, draw(np.random.default_rng(p), times), list(range(150, len(times), 150))) for p in range(2)]
    pairs = list(zip(*cuts, strict=True))
    third = len(pairs) // 3
    made, env = writer(settings), {**os.environ, **environment}
    first = Worker(env, path, tmp_path / "first.log")
    second = None
    try:
        wait_until(lambda: len(owned(first)) == 3, 40, "the first worker to own everything")
        for pair in pairs[:third]:
            write(made, pair)
        wait_until(lambda: len(final_windows(settings)) >= 1, 30, "a window")
        second = Worker(env, path, tmp_path / "second.log")
        wait_until(lambda: owned(second) and len(owned(first)) < 3, 40, "the two to share")
        for pair in pairs[third : 2 * third]:
            write(made, pair)
        wait_until(lambda: len(final_windows(settings)) >= HOURS // 2, 40, "windows of the two")
        shared = owned(first), owned(second)
        assert not shared[0] & shared[1]
        assert first.stop() == 0
        wait_until(lambda: len(owned(second)) == 3, 40, "the second worker to own everything")
        for pair in pairs[2 * third :]:
            write(made, pair)
        wait_until(lambda: len(final_windows(settings)) >= HOURS - 1, 40, "the last windows")
    finally:
        for worker in (first, second):
            if worker is not None:
                worker.close()
    plain = Harness(2, read_store(settings, "tiny").timeline, contract)
    for own in cuts:
        for partials in counted(own, plain.timeline):
            plain.write(*partials)
    plain.turn()
    expected = {json.dumps(json.loads(v.to_bytes())) for v in plain.verdicts if not v.provisional}
    assert {json.dumps(v) for v in verdicts(settings) if not v["provisional"]} == expected


def test_a_member_that_waits_for_a_lost_one_is_not_thrown_out_by_its_own_commit(
    fresh_topics, settings, environment, tmp_path
):
    """Its commit would arrive behind the rebalance with the former generation: it joined anew, and the group never rested."""
    path, contract = contract_in(tmp_path)
    fresh_topics("tiny", 2)
    reference.publish(settings, contract, pl.from_arrow(reference_rows(9, 12_000)), version=None, effective_from=DAY0)
    rows = [draw(np.random.default_rng(p), [DAY0] * 100) for p in range(2)]
    write(writer(settings), [b for p in range(2) for b in blocks_of(p, rows[p], [])])
    env = {**os.environ, **environment}
    workers = [Worker(env, path, tmp_path / f"{n}.log") for n in range(2)]
    try:
        wait_until(lambda: all(0 < len(owned(w)) < 3 for w in workers), 40, "the two to share")
        workers[0].kill()
        workers[0] = Worker(env, path, tmp_path / "successor.log")
        wait_until(lambda: sum(len(owned(w)) for w in workers) == 3, 40, "the successor to have its part")
        assert not [w.log.name for w in workers if "OffsetCommit failed" in w.log.read_text()]
    finally:
        for worker in workers:
            worker.close()
