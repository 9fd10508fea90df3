"""The drift process outlives its broker, and says a window's verdict soon after the window has ended."""

from __future__ import annotations

import os
import time

import numpy as np
import polars as pl

from batch import reference
from pipeline.kafka import create_topics
from pipeline.settings import from_environment
from pipeline.topics import all_topics
from tests.conftest import environment_for
from tests.drift_stream.samples import DAY0, HOUR, blocks_of, draw, reference_rows
from tests.drift_stream.stream import contract_in, drift, final_windows, write, writer
from tests.waiting import wait_until

HOURS = 6


def test_a_broker_that_dies_and_comes_back_costs_nothing(own_broker, tmp_path):
    env = environment_for(own_broker, tmp_path)
    settings = from_environment(env)
    path, contract = contract_in(tmp_path)
    create_topics(settings, all_topics("tiny", 2))
    reference.publish(settings, contract, pl.from_arrow(reference_rows(9, 12_000)), version=None, effective_from=DAY0)
    times = [DAY0 + i * HOUR // 500 for i in range(HOURS * 500)]
    cuts = [blocks_of(p, draw(np.random.default_rng(p), times), list(range(250, len(times), 250))) for p in range(2)]
    pairs = list(zip(*cuts, strict=True))
    with drift({**os.environ, **env}, path, tmp_path / "drift.log") as worker:
        made = writer(settings)
        for pair in pairs[:5]:
            write(made, pair)
        wait_until(lambda: len(final_windows(settings)) >= 1, 30, "a window before")
        own_broker.kill()
        own_broker.start()
        made = writer(settings, "test-blocks-2")
        for pair in pairs[5:10]:
            write(made, pair)
        wait_until(lambda: len(final_windows(settings)) >= 4, 60, "windows after")
        assert worker.code is None
        began = time.monotonic()
        for pair in pairs[10:]:
            write(made, pair)
        wait_until(lambda: len(final_windows(settings)) >= 5, 30, "one more window")
        assert time.monotonic() - began < 5  # 1.0 s here, reading the verdicts included
