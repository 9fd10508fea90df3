"""A model of the real file's outcome, made from the contract alone: taught on months of the lake, gated, served, asked day by day.

    python tests/bench/_retail_model.py FILE

Nobody looks ahead. Training rows end one label horizon before the month that is asked about, so that every label taught
had come by then. Each day's orders are asked about before any record of that day is sent, with the history of the days
before; the labels come from the lake when the rest of the file has been sent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import numpy as np
import polars as pl
from confluent_kafka import KafkaError, Message
from sklearn.metrics import roc_auc_score

from batch import dataset, gate, labels
from batch.labels import COORDINATE, LABEL
from pipeline import decode, kafka, processes, topics
from pipeline.broker import free_port
from pipeline.contract import Contract, MatchLabel, Reject
from pipeline.times import to_ms, to_text
from producers import replay
from stream_processors.live.feature_records import AS_OF, AsOf, as_of_from
from tests.bench._hops import ROOT, Hops, hops
from tests.bench._serving_client import Connection
from tests.bench._serving_world import service
from tests.bench.report import Bar, bar, finish, progress
from tests.demo.watch import wait_for

DAY_MS = 86_400_000
DRAWS, SEED = 500, 20261121
FOLD_S = 300.0  # deadline for a day's records to be in the features
SCORE = "asked_score"


@dataclass(frozen=True, slots=True)
class Record:
    at: int  # event time, ms
    key: str | bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Periods:
    """Event times in ms: rows before `taught_to` train, those of [asked_from, asked_to) are asked about."""

    taught_to: int
    asked_from: int
    asked_to: int


def periods(last_ms: int, horizon: timedelta) -> Periods:
    """The last calendar month whose labels all came by `last_ms`; training ends one horizon before it.

    >>> found = periods(to_ms("2011-08-31T17:30:00Z"), timedelta(days=30))
    >>> [to_text(t)[:10] for t in (found.taught_to, found.asked_from, found.asked_to)]
    ['2011-06-01', '2011-07-01', '2011-08-01']
    """
    end = (datetime.fromtimestamp(last_ms / 1000, UTC) - horizon).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    start = (end - timedelta(days=1)).replace(day=1)
    to = [round(t.timestamp() * 1000) for t in (start - horizon, start, end)]
    return Periods(*to)


def model(file: Path) -> tuple[list[Bar], dict[str, object]]:
    """Bars and figures of the whole way, on a broker of its own."""
    with hops("online_retail") as run, mlflow(run):
        records = list(read(run.contract, file))
        known = periods(max(r.at for r in records), labels.delay(run.contract))
        before = [r for r in records if r.at < known.asked_from]
        month = [r for r in records if known.asked_from <= r.at < known.asked_to]
        sent = send(run, before)
        land(run)
        until = to_text(known.taught_to)
        trained = run.json("train", "--to", until, "--reason", "the months that the lake holds", "--json")
        entry = run.json("models", "promote", trained["version"], "--direct", "--reason", "first model", "--json")
        progress(f"version {entry['version']}: {entry['reason']}")
        asked = serve(run, ends(sent), month)
        send(run, [r for r in records if r.at >= known.asked_to])
        land(run)
        return judged(run, known, trained, entry, asked)


def read(contract: Contract, file: Path) -> Iterator[Record]:
    for batch in replay.stream(contract, file):
        for at, key, value in zip(batch.event_ms.tolist(), batch.keys, batch.values, strict=True):
            yield Record(at, key, value or b"")


def send(run: Hops, records: Sequence[Record]) -> list[tuple[int, int]]:
    """(partition, offset) of each record, as the broker says."""
    placed: dict[int, tuple[int, int]] = {}
    room = {"queue.buffering.max.messages": len(records) + 1, "queue.buffering.max.kbytes": 1 << 20}
    client = kafka.producer(run.settings, "bench-retail", **{"partitioner": "murmur2_random", **room})
    for number, record in enumerate(records):

        def heard(error: KafkaError | None, message: Message, number: int = number) -> None:
            if error is None:
                placed[number] = (message.partition(), message.offset())

        client.produce(topics.events(run.contract.id), record.value, key=record.key, on_delivery=heard)
        if number % 1_000 == 0:
            client.poll(0)
    client.flush(60)
    if len(placed) < len(records):
        raise SystemExit(f"expected {len(records)} records to be taken by Kafka within 60 s, {len(placed)} were")
    return [placed[n] for n in range(len(records))]


def land(run: Hops) -> None:
    run.run("validate", "--exit-at-end")
    run.run("compact", "--once", "--rows", "100000")


def ends(places: Sequence[tuple[int, int]]) -> dict[str, int]:
    """The raw offset after the last one, by partition."""
    return {str(p): offset + 1 for p, offset in sorted(places)}


def serve(run: Hops, sent: dict[str, int], month: Sequence[Record]) -> pl.DataFrame:
    """Ask about each day's orders, then send that day: COORDINATE, SCORE, version, status of every admitted record.

    `sent`: the raw offsets up to which the stream was sent before.
    """
    decoder, found = decode.compile(run.contract), []
    with ExitStack() as stack:
        children = [stack.enter_context(process(run, verb)) for verb in ("validate", "features")]
        known = stack.enter_context(Known(run))
        connection = stack.enter_context(Connection(stack.enter_context(service(run))))

        def alive() -> None:
            if ended := [c.args for c in children if c.poll() is not None]:
                raise SystemExit(f"ended by itself: {ended}; logs: {run.home}")

        def fresh(value: bytes) -> bool:
            """The worker at the other end knows everything that was sent."""
            since = known.since(sent)
            return since is not None and as_of(connection, [value]) >= since

        for _, day in groupby(month, key=lambda r: r.at // DAY_MS):
            records = list(day)
            admitted = [n for n, r in enumerate(records) if not isinstance(decoder.decode(r.value), Reject)]
            values = [records[n].value for n in admitted]
            wait_for(lambda v=values[0]: fresh(v), FOLD_S, "the day before to be in the features", alive=alive)
            status, answer = ask(connection, values)
            places = send(run, records)
            sent = {**sent, **ends(places)}
            scores = answer.get("scores") or [None] * len(values)
            found += [
                (*places[n], score, answer.get("version"), status) for n, score in zip(admitted, scores, strict=True)
            ]
    schema = dict(zip((*COORDINATE, SCORE, "version", "status"), (pl.Int32, pl.Int64, pl.Float64, pl.String, pl.Int64), strict=True))  # fmt: skip
    return pl.DataFrame(found, schema=schema, orient="row")


class Known:
    """Follows `<dataset>.features` as the workers do: from which as-of record on everything up to some offsets is known."""

    def __init__(self, run: Hops):
        self._newest: AsOf | None = None
        self._stopped = threading.Event()
        words = (run.settings, topics.features(run.contract.id), self._stopped, self._heard)
        threading.Thread(target=kafka.follow, args=words, daemon=True).start()

    def __enter__(self) -> Known:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()

    def since(self, sent: dict[str, int]) -> int | None:
        """ms of the newest as-of record if it holds all that; None before."""
        newest = self._newest
        held = newest is not None and all(newest.events.get(p, 0) >= end for p, end in sent.items())
        return newest.ms if newest is not None and held else None

    def _heard(self, message: Message) -> None:
        if message.key() == AS_OF:
            self._newest = as_of_from(message.value() or b"")


def ask(connection: Connection, values: Sequence[bytes]) -> tuple[int, dict[str, object]]:
    status, body = connection.post("/predict_batch", b'{"rows":[' + b",".join(values) + b"]}")
    return status, json.loads(body)


def as_of(connection: Connection, values: Sequence[bytes]) -> int:
    """Up to which arrival (ms) the worker at the other end knows the stream."""
    text = ask(connection, values)[1].get("features_as_of")
    return to_ms(str(text)) if text else -1


def judged(
    run: Hops, known: Periods, trained: dict, entry: dict, asked: pl.DataFrame
) -> tuple[list[Bar], dict[str, object]]:
    label = run.contract.label
    assert isinstance(label, MatchLabel)
    rows = dataset.rows_between(run.settings, run.contract, known.asked_from, known.asked_to)
    rows = rows.filter(pl.col(LABEL).is_not_null()).join(asked, on=COORDINATE, how="inner")
    rows = rows.filter(pl.col(SCORE).is_not_null())
    taught = trained["data"]["positives"] / trained["data"]["rows"]
    truth, p = rows[LABEL].to_numpy().astype(np.int8), rows[SCORE].to_numpy()
    found = intervals(truth, p, taught, rows[label.on[0]].to_numpy())
    features = trained["data"]["features"]
    bars = [
        bar("model_passed_the_gate", int(trained["gate"]["promote"]), "==", 1),
        bar("model_answers_other_than_200", int((asked["status"] != 200).sum()), "==", 0),
        bar("model_versions_that_answered", asked["version"].n_unique(), "==", 1),
        bar("model_labelled_answers", rows.height, ">=", 10_000),
        bar("model_loss_below_base_rate", found["gain"][0], ">", 0.0),
        bar("model_loss_below_base_rate_95_%", found["gain"][1], ">", 0.0, required=False),
        bar("model_auc_95_%", found["auc"][1], ">", 0.5),
    ]
    figures: dict[str, object] = {
        "label": f"{label.name}: {label.field} {label.pattern} on {', '.join(label.on)} within {label.horizon.days} d",
        "features": features,
        "taught": {k: trained["data"][k] for k in ("start", "end", "rows", "positives", "unlabelled", "digest")},
        "gate": {"reasons": trained["gate"]["reasons"], "policy": entry["policy"], "action": entry["action"]},
        "at_training": {"model": trained["metrics"], "base_rate": trained["baseline"]},
        "month": f"{to_text(known.asked_from)[:10]} to {to_text(known.asked_to)[:10]}",
        "asked": asked.height,
        "labelled": rows.height,
        "positive": int(truth.sum()),
        "calibration_error": gate.calibration_error(truth, p),
        **{name: {"value": v[0], "low": v[1], "high": v[2]} for name, v in found.items()},
        "answers_by_version": dict(Counter(asked["version"].to_list())),
        "seconds": run.seconds,
    }
    return bars, {"model": figures}


def intervals(
    label: np.ndarray, p: np.ndarray, base_rate: float, cluster: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) at 95 %: log loss, what it is below the base rate's (`gain`), AUC.

    Percentile bootstrap over clusters (whole customers are drawn): one customer's lines are not independent, for they are
    cancelled together. Efron and Tibshirani 1993, chapter 13; 500 draws, seeded.
    """
    loss = gate.log_loss(label, p)
    gain = gate.log_loss(label, np.full(len(label), base_rate)) - loss

    def figures(index: np.ndarray) -> tuple[float, float, float]:
        return float(loss[index].mean()), float(gain[index].mean()), float(roc_auc_score(label[index], p[index]))

    _, codes = np.unique(cluster.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(SEED)
    drawn = np.array(
        [
            figures(np.concatenate([members[c] for c in rng.integers(len(members), size=len(members))]))
            for _ in range(DRAWS)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    names = ("log_loss", "gain", "auc")
    return {n: (v, float(a), float(b)) for n, v, a, b in zip(names, figures(np.arange(len(p))), low, high, strict=True)}


@contextmanager
def process(run: Hops, verb: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long-running verb; its log lies in the home."""
    with (run.home / f"{verb}-running.log").open("wb") as log:
        child = subprocess.Popen(run.command(verb), env=run.environment, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.terminate()
            child.wait(60)


@contextmanager
def mlflow(run: Hops) -> Iterator[None]:
    """The registry, as the process table starts it, on a free port."""
    port = free_port()
    place = processes.Place(("driftline",), str(run.home), {**run.settings.ports, "mlflow": port}, run.settings.contract, python=(sys.executable,))  # fmt: skip
    line = next(p for p in processes.table(place, run.contract) if p.name == "mlflow")
    (run.home / "mlflow").mkdir(parents=True)
    run.environment["DRIFTLINE_MLFLOW"] = f"http://127.0.0.1:{port}"
    with (run.home / "mlflow.log").open("wb") as log:
        child = subprocess.Popen(
            line.command, env={**os.environ, **line.env}, cwd=run.home, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(lambda: _answers(str(line.at(line.ready))), line.start_s, "the MLflow server")
            yield
        finally:
            os.killpg(child.pid, signal.SIGKILL)  # its own session: the server and its worker
            child.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> int:
    began = time.monotonic()
    return finish("retail-model", began, *model(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
