"""`driftline evaluate` where a label is a match: real invoices through the validator, live figures, the lake's labels, any kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batch import labels
from batch.labels import LABEL
from monitoring.metrics import PrometheusMeter
from pipeline import blocks, contract_file, topics
from pipeline.blocks import Block
from pipeline.broker import free_port
from pipeline.cli import main
from pipeline.contract import MatchLabel
from pipeline.kafka import headers_of, producer, read_all
from pipeline.settings import Settings
from producers import replay
from stream_processors.live.evaluate import Evaluator
from stream_processors.live.joining import NEVER
from tests.model import made
from tests.model.test_evaluate import Process
from tests.waiting import wait_until

SLICE = Path(__file__).parents[1] / "data" / "online-retail-slice.parquet"
HORIZON = timedelta(days=3)  # the slice has 23 days, the contract's horizon 30
Json = dict[str, object]


def blocks_of(settings: Settings, dataset: str) -> list[Block]:
    read = read_all(settings, topics.blocks(dataset))
    return [Block(blocks.from_headers(headers_of(m)), blocks.decode(m.value())) for m in read]


def rows_of(held: list[Block]) -> pl.DataFrame:
    """Their valid rows in the order of time."""
    frames = [pl.DataFrame(pl.from_arrow(b.valid)).with_columns(raw_partition=pl.lit(b.header.partition)) for b in held]
    return pl.concat(frames).sort("InvoiceDate", "raw_partition", "raw_offset")


def records(settings: Settings, dataset: str) -> dict[str, Json]:
    return {m.key().decode(): json.loads(m.value()) for m in read_all(settings, topics.evaluations(dataset))}


def test_live_figures_have_the_lakes_labels_after_any_kill(
    fresh_topics: Callable[..., Settings], environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "retail.yaml"
    file.write_text(contract_file.shipped_text("online_retail").replace("horizon: 30 d", "horizon: 3 d"))
    contract = contract_file.load(str(file))
    assert isinstance(contract.label, MatchLabel) and contract.label.horizon == HORIZON
    settings = replace(fresh_topics(contract.id, 2), contract=str(file))
    environment = {**environment, "DRIFTLINE_CONTRACT": str(file)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    written = [
        (k, v) for batch in replay.stream(contract, SLICE) for k, v in zip(batch.keys, batch.values, strict=True)
    ]

    def happen(records: list[tuple[object, bytes | None]], asked: set[str]) -> set[str]:
        """Lines through the validator; then each valid one asked about, as `score` does."""
        client = producer(settings, "test", **{"partitioner": "murmur2_random"})
        for at, (key, value) in enumerate(records):
            client.produce(topics.events(contract.id), value, key=key)  # type: ignore[arg-type]
            if at % 1_000 == 0:
                client.poll(0)
        assert client.flush(30) == 0
        assert main(["validate", "--exit-at-end"]) == 0
        held = blocks_of(settings, contract.id)
        fresh = rows_of([b for b in held if b.header.coordinate not in asked])
        for _, day in fresh.group_by(pl.col(contract.time.field).dt.date(), maintain_order=True):
            scores = 0.01 + 0.02 * np.random.default_rng(day.height).random(day.height)
            made.answer(settings, contract, "1", day, scores)
        return {b.header.coordinate for b in held}

    port, half = free_port(), len(written) // 2
    asked = happen(written[:half], set())
    process = Process(environment, tmp_path / "log", port)
    try:
        wait_until(
            lambda: any(r["final"] for r in records(settings, contract.id).values()), 150, "a window that closed", 0.5
        )
    finally:
        process.kill()
    happen(written[half:], asked)

    evaluator = Evaluator(contract, contract.label, PrometheusMeter())  # the same from the logs in one go
    evaluator.begin({(topics.blocks(contract.id), p): NEVER for p in range(2)}, NEVER)
    for message in read_all(settings, topics.predictions(contract.id)):
        evaluator.prediction(json.loads(message.value()), (str(message.topic()), int(message.partition() or 0)))
    held = blocks_of(settings, contract.id)
    for block in held:
        evaluator.block(block)
    wanted = json.loads(json.dumps(dict(evaluator.records())))
    process = Process(environment, tmp_path / "log", port)
    try:
        wait_until(lambda: records(settings, contract.id) == wanted, 150, "the records that the logs mean", 0.5)
    finally:
        process.kill()

    rows = rows_of(held)
    clock = contract.time.field
    seen = rows.group_by("raw_partition").agg(pl.col(clock).max())[clock].min()
    assert seen is not None
    lake = labels.by_match(rows.lazy(), contract.label, clock)[0].collect()
    mature = lake.filter(pl.col(clock) < seen - contract.time.lateness - HORIZON)  # type: ignore[operator]
    tallies = [r["tallies"]["*"] for r in wanted.values()]  # type: ignore[index]
    confusion = np.sum([t["confusion"] for t in tallies], axis=0)
    assert mature.height > 10_000 and int(mature[LABEL].sum()) > 40
    assert confusion.tolist() == [mature.height - mature[LABEL].sum(), 0, mature[LABEL].sum(), 0]
    assert sum(r["predicted"] for r in wanted.values()) == rows.height
    capsys.readouterr()
    assert main(["models", "live"]) == 0
    assert "online_retail-cancelled version 1: " in capsys.readouterr().out
