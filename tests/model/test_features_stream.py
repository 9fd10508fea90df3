"""`driftline features` as a process on a real broker, killed on the way, and a worker's store that follows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from confluent_kafka import Message

from batch.landed_rows import Landed, outcome
from monitoring.metrics import PrometheusMeter
from pipeline import blocks, contract_file, topics
from pipeline.contract import OutcomeLabel
from pipeline.errors import UsageError
from pipeline.kafka import headers_of, producer, read_all
from pipeline.settings import Settings
from pipeline.times import to_text
from serving.feature_store import FeatureStore
from stream_processors.live import feature_plan, feature_records, feature_replay, model_features
from stream_processors.live.feature_records import AS_OF, AsOf
from stream_processors.live.features import shown
from tests.lake.log_writer import START, LogWriter, order
from tests.waiting import wait_until

CONTRACT = contract_file.load("sales")
LABEL = CONTRACT.label
assert isinstance(LABEL, OutcomeLabel)
HISTORY = feature_plan.compiled(CONTRACT)
assert HISTORY is not None
HOUR_MS = 3_600_000


class Fold:
    """The verb as a child process."""

    def __init__(self, environment: dict[str, str], log: Path):
        self._log = log.open("ab")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "features"], env=environment, stderr=self._log, stdout=self._log
        )

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(10)
        self._log.close()


@pytest.fixture
def here(fresh_topics: Callable[..., Settings]) -> Settings:
    return fresh_topics("sales", 2)


@pytest.fixture
def follower(here: Settings) -> Iterator[FeatureStore]:
    store = FeatureStore(here, CONTRACT, PrometheusMeter()).start()
    yield store
    store.stop()


def tell(settings: Settings, numbers: range) -> int:
    """Outcomes of these orders, an hour of event time later, and one message that is none; how many messages."""
    client = producer(settings, "outcomes")
    for n in numbers:
        body = {"order_id": f"o{n}", "returned": n % 5 == 0, "event_time": to_text(START + n * 1000 + HOUR_MS)}
        client.produce(topics.outcomes("sales"), json.dumps(body).encode(), key=f"o{n}")
    client.produce(topics.outcomes("sales"), b"no outcome", key=b"x")
    assert client.flush(10) == 0
    return len(numbers) + 1


def events_of(settings: Settings) -> pl.DataFrame:
    found = []
    for message in read_all(settings, topics.blocks("sales")):
        block = blocks.Block(blocks.from_headers(headers_of(message)), blocks.decode(message.value()))
        found.append(pl.DataFrame(pl.from_arrow(block.valid)))
    return pl.concat(found)


def outcomes_of(settings: Settings) -> pl.DataFrame:
    rows = [outcome(_landed(m), CONTRACT, LABEL) for m in read_all(settings, topics.outcomes("sales"))]  # type: ignore[arg-type]
    return pl.DataFrame([r for r in rows if r is not None]).sort("append_time", "topic_partition", "topic_offset")


def _landed(m: Message) -> Landed:
    return Landed(int(m.partition() or 0), int(m.offset() or 0), m.timestamp()[1], m.key(), m.value(), {})


def reached(as_of: AsOf | None, wanted: tuple[int, int]) -> bool:
    return as_of is not None and (sum(as_of.events.values()), sum(as_of.outcomes.values())) == wanted


def probes(hours: int) -> pl.DataFrame:
    """Rows of a customer and a product each, known and unknown, that arrive after everything."""
    at = START + hours * HOUR_MS
    records = [json.loads(order(n, customer_id=c)) for n, c in enumerate([*(f"c{i}" for i in range(50)), "nobody"])]
    late = pl.lit(at + 10**12).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(records).with_columns(event_time=pl.lit(at).cast(pl.Datetime("ms", "UTC")), append_time=late)


def test_the_store_says_what_training_would_whatever_was_killed_on_the_way(
    here: Settings, environment: dict[str, str], follower: FeatureStore, tmp_path: Path
) -> None:
    log, rng = LogWriter(here, CONTRACT), np.random.default_rng(4)
    told = tell(here, range(300, 400))  # outcomes that come before their events
    for turn in range(3):
        child = Fold(environment, tmp_path / "log")
        numbers = rng.permutation(np.arange(turn * 200, turn * 200 + 200)).tolist()
        for half in (numbers[:100], numbers[100:]):
            for partition in (0, 1):
                log.write(partition, [order(n) for n in half if n % 2 == partition], abort=turn == 1)
        told += tell(here, range(turn * 150, turn * 150 + 150))
        before = follower.as_of
        if turn % 2 == 0:  # as soon as it has said something, which is in the middle of the rest
            wait_until(lambda before=before: follower.as_of != before, 60, "a publication")
        else:
            wait_until(lambda told=told: reached(follower.as_of, (sum(log.ends.values()), told)), 60, "all folded")
        child.kill()
    child = Fold(environment, tmp_path / "log")
    try:
        wait_until(lambda: reached(follower.as_of, (sum(log.ends.values()), told)), 60, "all folded")
        rows = probes(3)
        expected = feature_replay.values(HISTORY, CONTRACT, rows, events_of(here), outcomes_of(here)).to_numpy()
        found, as_of = follower.matrix(rows)
        assert np.array_equal(found, expected) and len(follower) == 70
        assert found[:50, 0].min() > 10 and found[:50, 2].std() > 0.01  # there is something to know
        assert found[50].tolist()[:3] == [0.0, 0.0, 0.2]  # an unknown customer has the declared defaults
        assert [follower.row(r)[0] for r in rows.iter_rows(named=True)] == found.tolist()
        past = events_of(here).filter(pl.col("raw_offset") % 50 == 0)[
            :10
        ]  # rows of the stream are no part of their own past
        at = [Where(p, [o]) for p, o in past.select(pl.lit(0), "raw_offset").rows()]
        assert [follower.matrix(past[i], r)[0][0, 0] for i, r in enumerate(at)] == (
            follower.matrix(past)[0][:, 0] - 1
        ).tolist()
        unread = Where(0, [10**9] * past.height)
        assert np.array_equal(follower.matrix(past, unread)[0], follower.matrix(past)[0])
        assert as_of is not None and as_of.json()["definition"] == HISTORY.definition
        # Nothing arrives and knowledge stays young: the as-of record moves on.
        wait_until(lambda: follower.as_of is not None and follower.as_of.ms > as_of.ms, 60, "a younger as-of record")
        second = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "features"], env=environment, capture_output=True, timeout=60
        )
        assert second.returncode == 70 and b"is another `driftline features` running?" in second.stderr
    finally:
        child.kill()


def test_once_folds_what_is_there_and_show_tells_it(here: Settings, environment: dict[str, str]) -> None:
    LogWriter(here, CONTRACT).write(0, [order(n) for n in range(100)])
    tell(here, range(0, 100))
    command = [sys.executable, "-m", "pipeline.cli", "features"]
    assert subprocess.run([*command, "--once"], env=environment, timeout=60).returncode == 0
    found = shown(here, CONTRACT, HISTORY, "customer:c5")
    assert found["values"] == {"customer_count_1d": 2, "customer_mean_1d": pytest.approx(50.0), "customer_rate_1d": 4 / 12}  # fmt: skip
    assert found["as_of"]["events"] == {"0": 100}  # type: ignore[index]
    assert shown(here, CONTRACT, HISTORY, "customer:nobody")["known"] is False
    with pytest.raises(UsageError, match="customer, product"):
        shown(here, CONTRACT, HISTORY, "shop:c5")


def test_a_store_takes_its_own_definition_only_and_forgets_what_is_forgotten(here: Settings) -> None:
    store = FeatureStore(here, CONTRACT, PrometheusMeter())
    key, sums = b"customer:C1", np.ones(1, feature_plan.SUMS).tobytes()
    store.heard(_Record(key, feature_records.entity_bytes(HISTORY.definition, sums)))
    assert len(store) == 1
    store.heard(_Record(key, feature_records.entity_bytes("00000000", sums)))
    assert len(store) == 0
    store.heard(_Record(key, feature_records.entity_bytes(HISTORY.definition, sums)))
    store.heard(_Record(key, None))
    assert len(store) == 0
    for as_of in (b"", b"{}", feature_records.as_of_bytes(AsOf(1, "00000000", {}, {}))):
        store.heard(_Record(AS_OF, as_of))
    assert store.as_of is None
    mine = AsOf(5, HISTORY.definition, {"0": 3}, {})
    store.heard(_Record(AS_OF, feature_records.as_of_bytes(mine)))
    assert store.as_of == mine


@dataclass
class Where:
    partition: int
    offsets: list[int]


class _Record:
    def __init__(self, key: bytes, value: bytes | None):
        self.key, self.value = (lambda: key), (lambda: value)


def test_a_contract_without_a_history_needs_no_store(here: Settings) -> None:
    plain = replace(CONTRACT, history=None)
    store = FeatureStore(here, plain, PrometheusMeter()).start()
    assert store.ready.is_set() and store.row({}) == ([], None)
    assert model_features.features_for(plain).history == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"returned": 1},
        {"order_id": 5},
        {"order_id": "a\u0000"},
        {"order_id": None},
        {"event_time": None},
        {"event_time": "soon"},
        {"event_time": "2026-01-01T00:00:00"},
        {"event_time": "1790000000000"},
        {"event_time": 1790000000000},
        {"event_time": "9" * 30},
        {"more": [1]},
    ],
    ids=str,
)
def test_stream_and_lake_agree_on_what_is_an_outcome(body: dict[str, object]) -> None:
    value = json.dumps({"order_id": "o1", "returned": True, "event_time": "2026-01-02T03:04:05.678Z", **body}).encode()
    for each in (value, value[:-1], b"[]", None):
        lake = outcome(Landed(0, 0, 0, None, each, {}), CONTRACT, LABEL)  # type: ignore[arg-type]
        found = feature_records.outcome_from(each, CONTRACT, LABEL)  # type: ignore[arg-type]
        assert (lake is None) == (found is None)
        if lake is not None and found is not None:
            assert (lake["order_id"], lake["returned"]) == (found.key, found.value)
            assert lake["event_time"].timestamp() * 1000 == pytest.approx(found.ms)  # type: ignore[union-attr]
