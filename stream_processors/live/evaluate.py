"""EDGE. `driftline evaluate`: predictions joined with outcomes; live figures by model version; alerts of source `loss`.

    # start: 1. the open loss episode from drift.alerts  2. the positions from which memory can be built again
    # loop:  3. read both topics  4. join  5. figures, detectors  6. a change of state -> drift.alerts
    #        7. changed windows -> <dataset>.evaluations  8. commit, with the positions to begin again from
    # Until the old ends are reached nothing is written: what was true before the restart was said before it.

Where the contract's label is a match there is no outcome topic: the blocks are read instead, and their rows become outcomes
as their labels mature (`matching`), keyed by the raw coordinate that a prediction of `driftline score` carries.

State is rebuilt from the logs. A committed offset says how far was read (the lag); its metadata where a restart begins:
before every record that an open window or a waiting key still needs, with the clock that its partition had there. So what
is joined, and the last record of a window, are the same after any kill. The champion is the one that `models.ledger` names.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from monitoring.metrics import PrometheusMeter
from pipeline import blocks, contract_file, topics
from pipeline.blocks import BadBlock, Block
from pipeline.contract import Contract, MatchLabel, OutcomeLabel
from pipeline.errors import Fatal, Unreachable, UsageError
from pipeline.kafka import bounds, committed, consumer, follow, headers_of, json_of, producer, reach, read_all
from pipeline.logs import log
from pipeline.retry import until_success
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import ms, to_ms
from stream_processors.live import loss_episodes
from stream_processors.live.estimate import estimated
from stream_processors.live.joining import NEVER, Joiner, Labelled, Prediction
from stream_processors.live.live_metrics import figures
from stream_processors.live.live_windows import WHOLE, Windows
from stream_processors.live.loss_episodes import Open
from stream_processors.live.loss_watch import LossWatch
from stream_processors.live.matching import Matcher, rows_of
from stream_processors.live.resume import Mark, Resume, Trail

LOOK_BACK = 100_000  # records a partition read at the very first start
AGE_DELAYS = 4  # a prediction and its outcome lie at most this many label delays of event time apart
FIGURES_EVERY_S = 2.0
RECORDS_EVERY_S = 5.0
EMPTY_READS = 25  # 5 s: a transaction's marker can be the last offset, which no message has
KEPT_WINDOWS = 4  # one that is open, twice the lateness before it closes, and once for what began it: `needed_ms`
VERSIONS_KEPT = 4  # newest; their rows still get labels after a promotion
CROWNS = ("promote", "rollback")  # ledger actions that name a champion
Place = tuple[str, int]  # topic, partition
Label = OutcomeLabel | MatchLabel
MATURED: Place = ("labels that matured", 0)  # where outcomes made of blocks come from: one place, in event-time order


class Evaluate:
    summary = "Join predictions with outcomes: live metrics by model version, and alerts when the champion's loss breaks its promise."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--look-back",
            type=int,
            default=LOOK_BACK,
            help="records a partition read at the very first start (100,000)",
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        label = contract.label
        with Service("evaluate", settings, meter.exposition) as service:
            if label is None:
                raise UsageError(f"contract {contract.name}: expected a label to evaluate by, it states none")
            if isinstance(label, MatchLabel):
                needed = label.horizon + KEPT_WINDOWS * contract.drift.window
                log("labels_from_blocks", label=label.name, known_after=label.horizon, blocks_to_keep=needed)
            reach(settings, deadline_s=None, stopped=service.stopped)
            evaluator = Evaluator(contract, label, meter, open_episode(settings, contract, service.stopped))
            crowned = Champion(evaluator.model)
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
        body = json_of(message)
        if body.get("model") == self.model and body.get("action") in CROWNS and int(str(body["seq"])) > self._seq:
            self._seq, self.version = int(str(body["seq"])), str(body["version"])


class Evaluator:
    """Messages in, figures, records and alerts out; knows no Kafka client."""

    def __init__(self, contract: Contract, label: Label, meter: PrometheusMeter, open_: Open | None = None):
        self.contract, self.label, self.meter, self.open = contract, label, meter, open_
        self.matcher: Matcher | None = None
        if isinstance(label, OutcomeLabel):
            self.age_ms = AGE_DELAYS * ms(label.delay)
            self.joiner = Joiner(self.age_ms)
        else:  # a label is of its row's own event time
            self.age_ms = ms(contract.drift.window)
            self.joiner = Joiner(self.age_ms, places=[MATURED])
            self.matcher = Matcher(ms(label.horizon), ms(contract.time.lateness))
        self.model = f"{contract.id}-{label.name}"
        self.windows = Windows(contract, self.model)
        self.watches: dict[str, LossWatch] = {}
        self._slices = frozenset(contract.slices)
        self._counted: dict[str, int] = {}

    def begin(self, clocks: Mapping[Place, int], closed_ms: int) -> None:
        """At a start: the clock that each partition had where it is read from, and what needs not be told again."""
        blocks_ = topics.blocks(self.contract.id)
        self.joiner.clocks |= {place: clock for place, clock in clocks.items() if place[0] != blocks_}
        if self.matcher is not None:
            self.matcher.clocks |= {place[1]: clock for place, clock in clocks.items() if place[0] == blocks_}
        self.windows.closed_ms = closed_ms

    def clock(self, place: Place) -> int:
        """The greatest event time read from a partition."""
        if self.matcher is not None and place[0] == topics.blocks(self.contract.id):
            return self.matcher.clocks.get(place[1], NEVER)
        return self.joiner.clocks.get(place, NEVER)

    def prediction(self, body: Mapping[str, object], place: Place) -> None:
        found = prediction_of(body, self.contract, self.label, self._slices)
        if found is None:
            return
        taken = self.joiner.predicted(found, place)
        if taken.first:
            self.windows.predicted(found)
        self._take(taken.pairs)

    def block(self, block: Block) -> None:
        """Rows of the stream, where the label is a match: those whose label matured with them become outcomes."""
        assert self.matcher is not None and isinstance(self.label, MatchLabel)
        self.matcher.take(rows_of(block, self.label, self.contract.time.field))
        for told in self.matcher.matured():
            identity = "/".join((block.header.topic, *map(str, told.place)))
            self._take(self.joiner.happened(identity, told.label, told.event_ms, MATURED))

    def outcome(self, body: Mapping[str, object], place: Place) -> None:
        assert isinstance(self.label, OutcomeLabel)
        try:
            key, value = str(body[self.label.key]), body[self.label.name]
            if isinstance(value, bool):
                self._take(self.joiner.happened(key, value, to_ms(str(body[self.contract.time.field])), place))
        except (KeyError, ValueError):
            return  # the compactor counts what is no outcome

    @property
    def settled_ms(self) -> int:
        """No pair will come for a prediction before this event time."""
        return self.joiner.clock - 2 * self.age_ms

    @property
    def needed_ms(self) -> int:
        """No record before this event time matters to a window that is not settled."""
        return self.settled_ms - self.windows.width_ms - self.age_ms

    def records(self) -> list[tuple[str, Mapping[str, object]]]:
        """Every window that changed since the last call, under its key."""
        found = list(self.windows.records(self.settled_ms))
        for _, record in found:
            if record["final"] and record["estimate_holds"] is not None:
                result = "held" if record["estimate_holds"] else "missed"
                self.meter.inc("driftline_estimate_windows_total", model=self.model, result=result)
        return found

    def alert(self, champion: str | None, wall_ms: int) -> Mapping[str, object] | None:
        """The change of state that the champion's newest rows mean; call it after every batch of messages."""
        watch = self.watches.get(champion or "")
        if champion is None or watch is None:
            return None
        change = loss_episodes.follow(self.open, champion, watch, self.contract, wall_ms)
        self.open = change.open
        return change.alert

    def measure(self, champion: str | None) -> None:
        model, dataset = self.model, self.contract.id
        for version in self.watches:
            for name, tally in self.windows.recent(version).items():
                for figure, found in figures(tally, self.contract.evaluation).items():
                    bounds = ("value", "low", "high") if name == WHOLE else ("value",)
                    for bound in bounds:
                        self.meter.set(
                            "driftline_model_figure", getattr(found, bound),
                            model=model, version=version, slice=name, figure=figure, bound=bound,
                        )  # fmt: skip
                if name == WHOLE:
                    self.meter.set("driftline_labelled_rows", tally.rows, model=model, version=version)
                    for figure, found in estimated(tally, self.contract.evaluation).items():
                        for bound in ("value", "low", "high"):
                            self.meter.set(
                                "driftline_model_estimate", getattr(found, bound),
                                model=model, version=version, figure=figure, bound=bound,
                            )  # fmt: skip
        counts: dict[str, int] = dict(self.joiner.counts)
        if self.matcher is not None:
            counts["late"] += self.matcher.late
            counts["overflow"] += self.matcher.overflow
        for result, count in counts.items():
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

    def _take(self, pairs: Iterable[Labelled]) -> None:
        for pair in pairs:
            version = pair.prediction.version
            if version not in self.watches:
                while len(self.watches) >= VERSIONS_KEPT:
                    del self.watches[next(iter(self.watches))]
                self.watches[version] = LossWatch()
            self.windows.labelled(pair)
            self.watches[version].add(pair.prediction.score, pair.label, pair.prediction.event_ms)


def prediction_of(
    body: Mapping[str, object], contract: Contract, label: Label, known: frozenset[str] = frozenset()
) -> Prediction | None:
    """A message of the predictions topic, with those of its slices that the contract knows; None for what is none.

    What joins it with its label: the key of its outcome; of a label that is a match its raw coordinate.
    """
    try:
        told = body.get("slices")
        named = (f"{name}={value}" for name, value in told.items()) if isinstance(told, dict) else ()
        raw, score = body.get("raw"), body["score"]
        identity = f"{raw['topic']}/{raw['partition']}/{raw['offset']}" if isinstance(raw, dict) else str(body["id"])
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            return None
        when = to_ms(str(body[contract.time.field]))
        slices = tuple(sys.intern(name) for name in named if name in known)
        key = str(body[label.key]) if isinstance(label, OutcomeLabel) else identity
        return Prediction(key, str(body["version"]), float(score), when, identity, slices)
    except (KeyError, ValueError):
        return None


def open_episode(settings: Settings, contract: Contract, stopped: threading.Event) -> Open | None:
    """The loss episode that was open when this process last wrote."""

    def read() -> Open | None:
        newest: Open | None = None
        for message in read_all(settings, topics.ALERTS, deadline_s=60):
            body = json_of(message)
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
    sources = _sources(contract, evaluator)
    reader = consumer(settings, topics.group(contract.id, "evaluate"))
    writer = producer(settings, "evaluate")
    positions: dict[Place, int] = {}
    try:
        starts = until_success(
            lambda: _starts(reader, list(sources), look_back),
            what="predictions and outcomes",
            errors=(KafkaException, Unreachable, KeyError),
            sleep=service.stopped.wait,
            stopped=service.stopped.is_set,
        )
        if starts is None:
            return
        reader.assign([TopicPartition(*place, start.mark.offset) for place, start in starts.items()])
        ends = {place: start.end for place, start in starts.items() if start.mark.offset < start.end}
        trails = {place: Trail(start.mark.offset, start.mark.clock_ms) for place, start in starts.items()}
        evaluator.begin(
            {p: s.mark.clock_ms for p, s in starts.items() if p in ends or p[0] == topics.blocks(contract.id)},
            max((start.closed_ms for start in starts.values()), default=NEVER),
        )
        measured, recorded, empty = 0.0, 0.0, 0
        while not service.stopped.is_set():
            messages = reader.consume(2_000, 0.2)
            empty = 0 if messages else empty + 1
            for message in messages:
                if message.error() is not None:
                    if not message.error().retriable() and message.error().fatal():
                        raise Fatal(f"evaluate: {message.error().str()}")
                    continue
                place, offset = (str(message.topic()), int(message.partition() or 0)), int(message.offset() or 0)
                trails[place].passed(offset, evaluator.clock(place))
                sources[place[0]](message, place)
                positions[place] = offset + 1
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
                _send(writer, topics.ALERTS, [(str(alert["episode"]), alert)])
                log(
                    "loss_episode",
                    episode=alert["episode"],
                    state=alert["state"],
                    resolution=alert["resolution"] or "none",
                )
                evaluator.meter.inc(
                    "driftline_episodes_total", dataset=contract.id, source="loss", state=str(alert["state"])
                )
            if time.monotonic() - measured > FIGURES_EVERY_S:
                measured = time.monotonic()
                evaluator.measure(crowned.version)
            if time.monotonic() - recorded > RECORDS_EVERY_S:
                recorded = time.monotonic()
                _send(writer, topics.evaluations(contract.id), evaluator.records())
                _commit(reader, positions, trails, evaluator)
    finally:
        reader.close()
        writer.flush(5)


def _sources(contract: Contract, evaluator: Evaluator) -> dict[str, Callable[[Message, Place], None]]:
    """By topic, what takes its messages."""

    def prediction(message: Message, place: Place) -> None:
        evaluator.prediction(json_of(message), place)

    def outcome(message: Message, place: Place) -> None:
        evaluator.outcome(json_of(message), place)

    def block(message: Message, place: Place) -> None:
        try:
            evaluator.block(Block(blocks.from_headers(headers_of(message)), blocks.decode(message.value())))
        except BadBlock as error:
            raise Fatal(f"{place[0]}[{place[1]}]@{message.offset()}: {error}") from error

    if isinstance(evaluator.label, OutcomeLabel):
        return {topics.predictions(contract.id): prediction, topics.outcomes(contract.id): outcome}
    return {topics.predictions(contract.id): prediction, topics.blocks(contract.id): block}


@dataclass(frozen=True, slots=True)
class _Start:
    mark: Mark
    end: int
    closed_ms: int


def _starts(reader: Consumer, names: list[str], look_back: int) -> dict[Place, _Start]:
    """Where each partition is read from: the position that the last commit names, or a look-back before its end."""
    found: dict[Place, _Start] = {}
    for name in names:
        ends = bounds(reader, name)
        said = committed(reader, name, ends)
        for partition, (low, high) in ends.items():
            resume = Resume.parse(said[partition].metadata)
            if resume is None or resume.mark.offset > high:  # none, or the topic was made anew
                resume = Resume(Mark(max(low, high - look_back), NEVER), NEVER)
            mark = Mark(max(low, resume.mark.offset), resume.mark.clock_ms)
            found[name, partition] = _Start(mark, high, resume.closed_ms)
    return found


def _send(writer: Producer, topic: str, records: Iterable[tuple[str, Mapping[str, object]]]) -> None:
    failed: list[str] = []
    for key, record in records:
        writer.produce(
            topic,
            key=key.encode(),
            value=json.dumps(record, allow_nan=False, separators=(",", ":")).encode(),
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
    if writer.flush(30) or failed:
        raise Fatal(f"{topic}: the broker did not take it: {failed[:1] or 'time-out'}")  # said again after the restart


def _commit(
    reader: Consumer, positions: Mapping[Place, int], trails: Mapping[Place, Trail], evaluator: Evaluator
) -> None:
    """How far was read, and beside it where a restart begins. One that is lost costs a longer way back."""
    needed, closed = evaluator.needed_ms, evaluator.windows.closed_ms
    reached = [
        TopicPartition(topic, p, offset, Resume(trails[topic, p].back_to(needed), closed).text())
        for (topic, p), offset in positions.items()
    ]
    if reached:
        reader.commit(offsets=reached, asynchronous=True)
