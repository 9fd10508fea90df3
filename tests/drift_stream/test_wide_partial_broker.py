"""A block whose rows share neither pane nor segment, on a real broker: its counts are larger than a message may be before compression."""

from __future__ import annotations

import numpy as np
import polars as pl

from batch import reference
from pipeline import kafka, topics
from pipeline.kafka import PRODUCER_MAX_BYTES
from pipeline.settings import Settings
from stream_processors.judging.partial import from_bytes
from tests.drift_stream.samples import DAY0, MINUTE, blocks_of, draw, reference_rows
from tests.drift_stream.stream import contract_in, drift, write, writer
from tests.waiting import wait_until

ROWS = 20_000  # as many as the validator takes at a time


def test_a_block_that_spans_thousands_of_panes_is_counted(fresh_topics, settings, environment, tmp_path):
    path, contract = contract_in(tmp_path)
    fresh_topics("tiny", 2)
    reference.publish(settings, contract, pl.from_arrow(reference_rows(9, 12_000)), version=None, effective_from=DAY0)
    times = (DAY0 + 5 * MINUTE * np.arange(ROWS)).tolist()
    with drift(environment, path, tmp_path / "drift.log") as worker:
        write(writer(settings), blocks_of(0, draw(np.random.default_rng(1), times), []))
        wait_until(lambda: worker.code is not None or sizes(settings), 60, "its partial")
        assert worker.code is None, worker.log.read_text()[-2000:]
    assert list(sizes(settings)) == [ROWS] and sizes(settings)[ROWS] > PRODUCER_MAX_BYTES


def sizes(settings: Settings) -> dict[int, int]:
    """Raw offset that a partial ends at -> its bytes before compression."""
    return {from_bytes(m.value()).end: len(m.value()) for m in kafka.read_all(settings, topics.PARTIALS)}
