"""EDGE. The owner of the judges: feeds them, and publishes what they say, with their state, in one Kafka transaction.

There is one of the rows and, where the contract watches them, one of the model's scores; what both say makes one episode. The transactional id belongs to the shard: whoever opens it last owns the shard, and a former owner's next commit is
refused. So verdicts are exactly-once whatever the group believes. After a failed transaction the state record itself
says whether it went through.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline import kafka, topics
from pipeline.contract import Contract
from pipeline.errors import Fatal, Unreachable
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.retry import until_success
from pipeline.settings import Settings
from stream_processors.drift import metrics as drift_metrics
from stream_processors.drift.backlog import Backlog, ScorerReach, unused
from stream_processors.drift.block_counter import read_range
from stream_processors.drift.refill import Refill
from stream_processors.drift.self_watch import SelfWatch
from stream_processors.drift.source import SHARD, Source, sources_of
from stream_processors.judging.alert import Alert
from stream_processors.judging.causes import Quality
from stream_processors.judging.closed import Record
from stream_processors.judging.episodes import Episode, follow, scene_of
from stream_processors.judging.judge import Judge, Progress, Turn
from stream_processors.judging.panes import Clock
from stream_processors.judging.partial import Partial, from_bytes
from stream_processors.judging.saved import Saved, SavedProgress, from_messages, to_messages
from stream_processors.reference.store import ReferenceStore

REREAD_WINDOWS = 4  # a turn; more late windows wait for the next turn
REREAD_GAP = 200  # partials: offsets further apart are read in separate sweeps
REFERENCE_DEADLINE_S = 60.0
LOOK_S = 1.0  # between looks at what quiet partitions hold, if no partial came
UNUSED_AFTER_S = 60.0  # a partition without any record holds the others back for so long, then it is asked again
_GONE = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
Message = tuple[str, str, bytes | None]  # topic, key, value


class JudgeOwner:
    """One shard. All calls come from one thread."""

    def __init__(
        self,
        settings: Settings,
        contract: Contract,
        clock: Clock,
        store: ReferenceStore,
        meter: Meter,
        stopped: threading.Event,
        alive: Callable[[], None],
        quality: Callable[[], Sequence[Quality]] = tuple,
    ):
        self._settings, self._contract, self._clock, self._store = settings, contract, clock, store
        self._meter, self._stopped, self._alive, self._quality = meter, stopped, alive, quality
        self._sources = sources_of(contract)
        self._id = f"{topics.group(contract.id, 'drift')}.{SHARD}"
        self._producer: Producer | None = None
        self.judge: Judge | None = None  # of the rows
        self._judges: dict[Source, Judge] = {}  # of the rows first
        self.position = 0  # next offset of the partials topic
        self._sequence, self._episode = 0, Episode()
        self._asked = 0.0  # when it was last asked which partitions are empty
        self._backlog, self._behind = Backlog(settings, contract.id), frozenset[int]()
        self._looked, self._looked_at = (frozenset[int](), -1), 0.0  # at which partitions, having heard how much
        self._scorer = ScorerReach(settings, contract.id)
        self._refill = Refill(settings, clock, stopped, alive)
        self._watch = SelfWatch(contract, clock, meter)

    def acquire(self, partitions: Sequence[int]) -> int:
        """Take the shard over; the offset of the partials topic to read from."""
        # 1. open the transactional id (fences the former owner, settles its open transaction)  2. read the state
        # 3. read the partials from the oldest open pane on. Between 1 and 3 nobody else can publish.
        self._open()
        states, now = self._read_states(), time.monotonic()
        self._judges = {s: Judge(s.contract, self._clock, partitions, now) for s in self._sources}
        self.judge = self._judges[self._sources[0]]
        self._sequence, self._episode = 0, Episode()
        for source, judge in self._judges.items():
            saved, records = states[source]
            if saved:
                self._await_generation(saved.generation)
                judge.restore(saved, records, self._store.timeline, now)
        if rows := states[self._sources[0]][0]:
            self._sequence = rows.sequence
            self._episode = msgspec.msgpack.decode(rows.episode, type=Episode)
        self.position = min((saved.resume for saved, _ in states.values() if saved), default=0)
        drift_metrics.episode(self._meter, self._contract.id, self._episode.state)
        log("judge_acquired", dataset=self._contract.id, sequence=self._sequence, resume=self.position)
        return self.position

    def release(self) -> None:
        self.judge, self._producer = None, None
        self._judges = {}
        self._backlog.close()
        self._scorer.close()

    def feed(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """The next partial; those that were skipped on the way here (a message fetched before a rebalance) are read first."""
        if self.judge is None or offset < self.position:
            return
        if offset > self.position:
            for missed in read_range(self._settings, topics.PARTIALS, SHARD, self.position, offset, self._stopped):
                self._one(missed.offset(), missed.key(), missed.value())
        self._one(offset, key, value)

    def _one(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        assert self.judge is not None
        self.position = offset + 1
        source = next((s for s in self._sources if s.key == key), None)
        if source is not None and value is not None:
            self._hear(source, offset, from_bytes(value))
        # What was not for a judge has passed it too: a restart does not begin there again.
        for judge in self._judges.values():
            judge.applied = max(judge.applied, self.position)

    def _hear(self, source: Source, offset: int, partial: Partial) -> None:
        self._know(partial.generation)
        judge = self._judges[source]
        if (known := judge.missing_before(offset, partial)) is not None:
            log(
                "partials_missing",
                "error",
                topic=source.topic,
                partition=partial.partition,
                expected=known.next,
                got=partial.start,
                offset=offset,
            )
            timeline = self._store.timeline.through(partial.generation)
            for at, again in self._refill.between(source, replace(known), partial, timeline):
                judge.feed(at, again, time.monotonic(), out_of_turn=True)
        judge.feed(offset, partial, time.monotonic())
        told = [
            ("driftline_rejects_unplaced_total", partial.unplaced),
            ("driftline_scores_other_model_total", partial.other_model),
        ]
        if source is self._sources[0]:  # a late row has a late score
            told.append(("driftline_late_beyond_rows_total", partial.late_beyond))
        for metric, rows in told:
            if rows:
                self._meter.inc(metric, rows, dataset=self._contract.id)

    def turn(self) -> int:
        """Say what can be said; the number of verdicts published."""
        if self.judge is None:
            return 0
        self._look_for_unused()
        self._reread()
        now = time.monotonic()
        behind = self._look_behind(now)
        turns = {
            s: j.turn(now, behind if j is self.judge else self._unscored(j, behind, now))
            for s, j in self._judges.items()
        }
        drift_metrics.progress(self._meter, self._contract.id, *self._judges.values())
        if not any(turns.values()):
            self._watch.turn()
            return 0
        episode, alerts, changes = self._episode, [], []
        for source, turn in turns.items():
            for closed in turn.closed:
                scene, before = scene_of(self._judges[source], closed, self._quality()), episode.state
                episode, alert = follow(episode, closed, self._clock, scene, int(time.time() * 1000))
                alerts += [alert] if alert else []
                changes += [alert.state] if alert and alert.state != before else []  # one told again is no change
        self._publish(list(self._messages(turns, alerts, episode)), self._sequence + 1)
        self._sequence, self._episode = self._sequence + 1, episode
        drift_metrics.turn(self._meter, self._contract.id, list(turns.values()), changes, episode.state)
        said = [closed for turn in turns.values() for closed in turn.closed]
        for closed in said:
            log("window_closed", dataset=self._contract.id, window=closed.verdicts[0].window_start, cause=closed.cause, scores=closed.of_scores, verdicts=len(closed.verdicts), alarms=sum(v.state == "alarm" for v in closed.verdicts))  # fmt: skip
        for closed in said:
            self._watch.heard(closed, self.judge.timeline.at(closed.end - self._clock.pane))
        self._watch.turn()  # after the publication: a verdict never waits for it
        for alert in alerts:
            log(
                "episode",
                episode=alert.episode,
                state=alert.state,
                resolution=alert.resolution,
                features=len(alert.features),
            )
        return sum(len(c.verdicts) for c in said)

    def positions(self, source: Source) -> tuple[Sequence[SavedProgress], int]:
        """(how far a stream's partitions are counted, offset of the partials that say how it went on)."""
        saved, _ = self._read_states()[source]
        return (saved.partitions, saved.resume) if saved else ((), 0)

    def _read_states(self) -> dict[Source, tuple[Saved | None, list[Record]]]:
        latest: dict[str, bytes | None] = {}
        for message in kafka.read_all(self._settings, topics.STATE):
            latest[(message.key() or b"").decode()] = message.value()
        return {source: from_messages(source.name, SHARD, latest) for source in self._sources}

    # -- partitions that say nothing

    def _look_behind(self, now: float) -> frozenset[int]:
        """Quiet partitions that hold blocks which no partial has told of; asked anew whenever a partial came."""
        assert self.judge is not None
        quiet = self.judge.quiet(now)
        if quiet and ((quiet, self.position) != self._looked or now - self._looked_at > LOOK_S):
            self._behind = self._backlog.behind({p: self.judge.partitions[p].block for p in sorted(quiet)})
            self._looked, self._looked_at = (quiet, self.position), now
        return self._behind if quiet else frozenset()

    def _unscored(self, of_scores: Judge, behind: frozenset[int], now: float) -> frozenset[int]:
        """Partitions with rows whose scores are still to come: they hold the other scores back, and never the rows."""
        assert self.judge is not None
        rows, scores, quiet = self.judge.partitions, of_scores.partitions, of_scores.quiet(now)
        open_ = unscored(rows, scores, {}) & quiet
        return behind | unscored(rows, scores, self._scorer.of({p: scores[p].block for p in sorted(open_)}, now))

    def _look_for_unused(self) -> None:
        """Tell the judge which partitions have never held a record, once others have for a while."""
        assert self.judge is not None
        begun = {p for p, g in self.judge.partitions.items() if g.late_before is not None}
        if not begun or len(begun) == len(self.judge.partitions):
            self._asked = time.monotonic()
        elif time.monotonic() - self._asked > UNUSED_AFTER_S:
            self._asked = time.monotonic()
            found = unused(self._settings, self._contract.id)
            if found is not None and found != self.judge.unused:
                log("partitions_unused", dataset=self._contract.id, partitions=sorted(found))
                for judge in self._judges.values():
                    judge.unused = found

    # -- references

    def _know(self, generation: int) -> None:
        assert self.judge is not None
        if generation > self._store.timeline.generation:
            self._await_generation(generation)
        for judge in self._judges.values():
            judge.know(self._store.timeline)

    def _await_generation(self, generation: int) -> None:
        """A partial may name a version whose records this process has not read yet."""
        until = time.monotonic() + REFERENCE_DEADLINE_S
        while self._store.timeline.generation < generation:
            if time.monotonic() > until:
                raise Fatal(
                    f"{topics.REFERENCES}: expected version {generation}, got at most {self._store.timeline.generation} after {REFERENCE_DEADLINE_S:.0f} s"
                )
            self._alive()
            self._stopped.wait(0.05)

    # -- late rows

    def _reread(self) -> None:
        for judge in self._judges.values():
            for window, offsets in list(judge.wanted().items())[:REREAD_WINDOWS]:
                judge.supply(window, list(self._partials(offsets)))

    def _partials(self, offsets: Sequence[int]) -> Iterator[tuple[int, Partial]]:
        asked = set(offsets)
        for low, high in sweeps(offsets, REREAD_GAP):
            for message in read_range(self._settings, topics.PARTIALS, SHARD, low, high + 1, self._stopped):
                if message.offset() in asked:
                    yield message.offset(), from_bytes(message.value())

    # -- publishing

    def _messages(self, turns: Mapping[Source, Turn], alerts: Sequence[Alert], episode: Episode) -> Iterator[Message]:
        """All judges' states with every turn, so that each goes on from the same moment; the episode with the rows'."""
        for verdict in (v for turn in turns.values() for closed in turn.closed for v in closed.verdicts):
            yield topics.VERDICTS, verdict.key, verdict.to_bytes()
        for alert in alerts:
            yield topics.ALERTS, alert.episode, alert.to_bytes()
        for source, judge in self._judges.items():
            saved = judge.save(self._sequence + 1, msgspec.msgpack.encode(episode) if judge is self.judge else b"")
            for key, value in to_messages(source.name, SHARD, saved, turns[source].records):
                yield topics.STATE, key, value

    def _publish(self, messages: Sequence[Message], sequence: int) -> None:
        """Returns once the messages are committed, exactly once; Fatal if another judge has taken over."""
        while not self._stopped.is_set():
            try:
                self._transaction(messages)
                return
            except KafkaException as error:
                cause: KafkaError = error.args[0]
                if cause.code() in _GONE:
                    raise Fatal(
                        f"shard {SHARD} of {self._contract.id}: another judge took over ({cause.str()})"
                    ) from error
                log("transaction_failed", "warning", code=cause.name(), message=cause.str())
            self._meter.inc("driftline_transactions_total", process="drift", result="failed")
            self._open()
            stored, _ = self._read_states()[self._sources[0]]
            there = stored.sequence if stored else 0
            if there == sequence:
                return  # it had gone through, only the answer was lost
            if there != sequence - 1:
                raise Fatal(
                    f"shard {SHARD} of {self._contract.id}: expected state {sequence - 1}, got {there}: another judge took over"
                )
        raise Unreachable("stopping while a transaction was open; the next start makes it again")

    def _transaction(self, messages: Sequence[Message]) -> None:
        assert self._producer is not None
        began = time.monotonic()
        self._producer.begin_transaction()
        for topic, key, value in messages:
            self._produce(topic, key, value)
        self._producer.commit_transaction(10)
        self._meter.inc("driftline_transactions_total", process="drift", result="committed")
        self._meter.observe("driftline_transaction_seconds", time.monotonic() - began, process="drift")

    def _produce(self, topic: str, key: str, value: bytes | None) -> None:
        assert self._producer is not None
        while True:
            try:
                self._producer.produce(topic, value, key.encode(), partition=0)
                return
            except BufferError:
                self._producer.poll(0.2)

    def _open(self) -> None:
        """A new producer under the shard's id; a former one, and any transaction it left, is void from here on."""

        def start() -> Producer:
            self._alive()
            producer = kafka.producer(
                self._settings, self._id, transactional_id=self._id, **{"transaction.timeout.ms": 20_000}
            )
            producer.init_transactions(5)
            return producer

        self._producer = until_success(
            start,
            what=f"transactional id {self._id}",
            errors=(KafkaException,),
            sleep=self._stopped.wait,
            stopped=self._stopped.is_set,
            on_failure=lambda error, wait: log("judge_waits", "warning", error=error, retry_in_s=f"{wait:.1f}"),
        )


def unscored(
    rows: Mapping[int, Progress], scores: Mapping[int, Progress], reached: Mapping[int, int]
) -> frozenset[int]:
    """Partitions with rows that no score was heard of, and whose last block lies where scores can still come."""
    return frozenset(
        p
        for p, known in rows.items()
        if p in scores and scores[p].next < known.next and reached.get(p, 0) < known.block
    )


def sweeps(offsets: Sequence[int], gap: int) -> Iterator[tuple[int, int]]:
    """Offsets as few ranges [first, last], cut where two neighbours are more than `gap` apart.

    >>> list(sweeps([1, 2, 9, 10], 3))
    [(1, 2), (9, 10)]
    """
    ordered = sorted(offsets)
    starts = [0, *[i + 1 for i, (a, b) in enumerate(itertools.pairwise(ordered)) if b - a > gap]]
    for low, high in zip(starts, [*starts[1:], len(ordered)], strict=True):
        if low < high:
            yield ordered[low], ordered[high - 1]
