"""EDGE. `driftline evaluate`: predictions joined with outcomes; live figures by model version; alerts of source `loss`.

    # start: 1. the open loss episode from drift.alerts  2. positions a bounded look-back before the ends
    # loop:  3. read both topics  4. join  5. figures, detectors  6. a change of state -> drift.alerts
    # Until the old ends are reached nothing is written: what was true before the restart was said before it.

The champion is the one that `models.ledger` names. Offsets are committed for the lag alone; state is rebuilt from the log.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, topics
from pipeline.contract import Contract, OutcomeLabel
from pipeline.errors import Fatal, Unreachable
from pipeline.kafka import bounds, consumer, follow, producer, reach, read_all
from pipeline.logs import log
from pipeline.retry import until_success
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import ms, to_ms
from stream_processors.live import loss_episodes
from stream_processors.live.joining import Joiner, Labelled, Prediction
from stream_processors.live.live_metrics import Window
from stream_processors.live.loss_episodes import Open
from stream_processors.live.loss_watch import LossWatch

LOOK_BACK = 100_000  # records a partition read again at a start
AGE_DELAYS = 4  # a key waits for its other half this many label delays of event time
FIGURES_EVERY_S = 2.0
EMPTY_READS = 25  # 5 s: a transaction's marker can be the last offset, which no message has
VERSIONS_KEPT = 4  # newest; their rows still get labels after a promotion
CROWNS = ("promote", "rollback")  # ledger actions that name a champion


class Evaluate:
    summary = "Join predictions with outcomes: live metrics by model version, and alerts when the champion's loss breaks its promise."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--look-back", type=int, default=LOOK_BACK, help="records a partition read again at a start (100,000)"
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        label = contract.label
        with Service("evaluate", settings, meter.exposition) as service:
            if not isinstance(label, OutcomeLabel):
                return _idle(service, contract)
            reach(settings, deadline_s=None, stopped=service.stopped)
            evaluator = Evaluator(contract, label, meter, open_episode(settings, contract, service.stopped))
            crowned = Champion(f"{contract.id}-{label.name}")
            crowned.listen(settings, service.stopped)
            _loop(settings, service, contract, evaluator, crowned, args.look_back)
        return 0


class Champion:
    """The champion's version as `models.ledger` tells it."""

    def __init__(self, model: str):
        self.model = model
        self.version: str | None = None
        self.caught_up = threading.Event()
        self._seq = -1

    def listen(self, settings: Settings, stopped: threading.Event) -> None:
        def run() -> None:
            while not stopped.is_set():
                try:
                    follow(settings, topics.LEDGER, stopped, self.heard, caught_up=self.caught_up.set)
                except (KafkaException, Unreachable) as error:
                    log("follow_failed", "warning", topic=topics.LEDGER, error=error)
                    stopped.wait(1.0)

        threading.Thread(target=run, name=topics.LEDGER, daemon=True).start()

    def heard(self, message: Message) -> None:
        body = _json(message)
        if body.get("model") == self.model and body.get("action") in CROWNS and int(str(body["seq"])) > self._seq:
            self._seq, self.version = int(str(body["seq"])), str(body["version"])


class Evaluator:
    """Messages in, figures and alerts out; knows no Kafka client."""

    def __init__(self, contract: Contract, label: OutcomeLabel, meter: PrometheusMeter, open_: Open | None = None):
        self.contract, self.label, self.meter, self.open = contract, label, meter, open_
        self.joiner = Joiner(AGE_DELAYS * ms(label.delay))
        self.windows: dict[str, Window] = {}
        self.watches: dict[str, LossWatch] = {}
        self._counted: dict[str, int] = {}

    def prediction(self, body: Mapping[str, object]) -> None:
        found = prediction_of(body, self.contract, self.label)
        if found:
            self._take(self.joiner.predicted(found))

    def outcome(self, body: Mapping[str, object]) -> None:
        try:
            key, value = str(body[self.label.key]), body[self.label.name]
            if isinstance(value, bool):
                self._take(self.joiner.happened(key, value, to_ms(str(body[self.contract.time.field]))))
        except (KeyError, ValueError):
            return  # the compactor counts what is no outcome

    def alert(self, champion: str | None, wall_ms: int) -> Mapping[str, object] | None:
        """The change of state that the champion's newest rows mean; call it after every batch of messages."""
        watch = self.watches.get(champion or "")
        if champion is None or watch is None:
            return None
        change = loss_episodes.follow(self.open, champion, watch, self.contract, wall_ms)
        self.open = change.open
        return change.alert

    def measure(self, champion: str | None) -> None:
        model, dataset = f"{self.contract.id}-{self.label.name}", self.contract.id
        for version, window in self.windows.items():
            found = window.figures()
            for metric, name in (("loss", "log_loss"), ("auc", "auc"), ("brier", "brier"), ("accuracy", "accuracy")):
                if name in found:
                    self.meter.set(f"driftline_model_{metric}", found[name], model=model, version=version)
            self.meter.set("driftline_labelled_rows", len(window), model=model, version=version)
        for result, count in self.joiner.counts.items():
            self.meter.inc(
                "driftline_labels_total", count - self._counted.get(result, 0), dataset=dataset, result=result
            )
            self._counted[result] = count
        watch = self.watches.get(champion or "")
        for detector in ("adwin", "page_hinkley"):
            on = watch is not None and detector in watch.signals
            self.meter.set("driftline_loss_detector_state", float(on), model=model, detector=detector)
        state = self.open.state if self.open else "none"
        for name in ("none", "pending", "firing"):
            self.meter.set("driftline_episode_state", float(name == state), dataset=dataset, source="loss", state=name)

    def _take(self, pairs: list[Labelled]) -> None:
        for pair in pairs:
            version = pair.prediction.version
            if version not in self.windows:
                self._forget_old()
                self.windows[version], self.watches[version] = Window(), LossWatch()
            self.windows[version].add(pair.prediction.score, pair.label)
            self.watches[version].add(pair.prediction.score, pair.label, pair.prediction.event_ms)

    def _forget_old(self) -> None:
        while len(self.windows) >= VERSIONS_KEPT:
            oldest = next(iter(self.windows))
            del self.windows[oldest], self.watches[oldest]


def prediction_of(body: Mapping[str, object], contract: Contract, label: OutcomeLabel) -> Prediction | None:
    """A message of the predictions topic; None for what is none."""
    try:
        raw, score = body.get("raw"), body["score"]
        identity = f"{raw['topic']}/{raw['partition']}/{raw['offset']}" if isinstance(raw, dict) else str(body["id"])
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            return None
        when = to_ms(str(body[contract.time.field]))
        return Prediction(str(body[label.key]), str(body["version"]), float(score), when, identity)
    except (KeyError, ValueError):
        return None


def open_episode(settings: Settings, contract: Contract, stopped: threading.Event) -> Open | None:
    """The loss episode that was open when this process last wrote."""

    def read() -> Open | None:
        newest: Open | None = None
        for message in read_all(settings, topics.ALERTS, deadline_s=60):
            body = _json(message)
            if body.get("dataset") == contract.id and body.get("source") == "loss":
                newest = loss_episodes.restored(body)
        return newest

    return until_success(
        read,
        what=topics.ALERTS,
        errors=(Unreachable, KafkaException, KeyError),
        sleep=stopped.wait,
        stopped=stopped.is_set,
    )


def _loop(
    settings: Settings, service: Service, contract: Contract, evaluator: Evaluator, crowned: Champion, look_back: int
) -> None:
    sources = {topics.predictions(contract.id): evaluator.prediction, topics.outcomes(contract.id): evaluator.outcome}
    reader = consumer(settings, topics.group(contract.id, "evaluate"))
    writer = producer(settings, "evaluate")
    positions: dict[tuple[str, int], int] = {}
    try:
        ends = until_success(
            lambda: _assign(reader, list(sources), look_back),
            what="predictions and outcomes",
            errors=(KafkaException, Unreachable, KeyError),
            sleep=service.stopped.wait,
            stopped=service.stopped.is_set,
        )
        measured, empty = 0.0, 0
        while not service.stopped.is_set():
            messages = reader.consume(2_000, 0.2)
            empty = 0 if messages else empty + 1
            for message in messages:
                if message.error() is not None:
                    if not message.error().retriable() and message.error().fatal():
                        raise Fatal(f"evaluate: {message.error().str()}")
                    continue
                sources[str(message.topic())](_json(message))
                positions[str(message.topic()), int(message.partition() or 0)] = int(message.offset() or 0) + 1
            service.beat()
            ends = (
                {}
                if empty > EMPTY_READS
                else {place: end for place, end in ends.items() if positions.get(place, -1) < end}
            )
            if ends or not crowned.caught_up.is_set():
                continue
            service.ready()
            if alert := evaluator.alert(crowned.version, int(time.time() * 1000)):
                _send(writer, alert)
                evaluator.meter.inc(
                    "driftline_episodes_total", dataset=contract.id, source="loss", state=str(alert["state"])
                )
            if time.monotonic() - measured > FIGURES_EVERY_S:
                measured = time.monotonic()
                evaluator.measure(crowned.version)
                _commit(reader, positions)
    finally:
        reader.close()
        writer.flush(5)


def _assign(reader: Consumer, names: list[str], look_back: int) -> dict[tuple[str, int], int]:
    """Take every partition a bounded way before its end; the ends, of partitions that hold something to read again."""
    ends: dict[tuple[str, int], int] = {}
    places = []
    for name in names:
        for partition, (low, high) in bounds(reader, name).items():
            start = max(low, high - look_back)
            places.append(TopicPartition(name, partition, start))
            if high > start:
                ends[name, partition] = high
    reader.assign(places)
    return ends


def _send(writer: Producer, alert: Mapping[str, object]) -> None:
    failed: list[str] = []
    writer.produce(
        topics.ALERTS,
        key=str(alert["episode"]).encode(),
        value=json.dumps(alert, allow_nan=False).encode(),
        on_delivery=lambda error, _: failed.append(str(error)) if error else None,
    )
    if writer.flush(30) or failed:
        raise Fatal(
            f"{topics.ALERTS}: the broker did not take the alert: {failed[:1] or 'time-out'}"
        )  # said again after the restart
    log("loss_episode", episode=alert["episode"], state=alert["state"], resolution=alert["resolution"] or "none")


def _commit(reader: Consumer, positions: Mapping[tuple[str, int], int]) -> None:
    """For the lag alone: a failure costs nothing."""
    if positions:
        reader.commit(offsets=[TopicPartition(t, p, o) for (t, p), o in positions.items()], asynchronous=True)


def _idle(service: Service, contract: Contract) -> int:
    """A label made from the events themselves arrives with them: there is nothing to join here."""
    log(
        "no_outcomes",
        contract=contract.name,
        reason="the contract's label is matched in the lake, not read from a topic",
    )
    service.ready()
    while not service.stopped.wait(5):
        service.beat()
    return 0


def _json(message: Message) -> dict[str, object]:
    try:
        body = json.loads(message.value() or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
