"""EDGE. The validator's numbers: what was committed, where the time goes, how far behind it is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from confluent_kafka import Consumer, TopicPartition

from pipeline import topics
from pipeline.blocks import VALID
from pipeline.contract import Contract
from pipeline.lineage import Dataset, kafka_namespace
from pipeline.lineage_send import Lineage, Minutes
from pipeline.meter import Meter
from pipeline.record import CODES
from pipeline.settings import Settings
from stream_processors.validator import validation
from stream_processors.validator.validation import Judged, Piece

LAG_EVERY_S = 1.0


class Progress(Protocol):
    """How far a partition is."""

    seen: int
    append_ms: int | None


def lineage(settings: Settings, contract: Contract, meter: Meter) -> Minutes:
    """What a minute of validating reads and writes; every record rule of the contract is an assertion about the input."""
    place, d = kafka_namespace(settings.bootstrap), contract.id
    fields = tuple((f.name, f.type) for f in contract.fields)
    raw = Dataset(place, topics.events(d), kind="TOPIC", fields=fields)
    written = [Dataset(place, t, kind="TOPIC") for t in (topics.valid(d), topics.blocks(d), topics.dead_letters(d))]
    rules = [*CODES, *(rule.code for rule in contract.rules)]
    return Minutes(Lineage(settings, meter), f"{d}.validate", [raw], written, rules)


class Measures:
    def __init__(self, contract: Contract, process: str, meter: Meter, lineage: Minutes):
        self._contract, self._process, self._meter, self._lineage = contract, process, meter, lineage
        self._topic = topics.events(contract.id)
        self._newest = 0  # event time, ms
        self._lag_at = 0.0
        self._shown: set[int] = set()  # partitions with a lag
        self._phases: Counter[str] = Counter()  # seconds, since the first record
        self._first: tuple[float, float] | None = None  # wall and CPU time at which the first batch began
        self._last = (0.0, 0.0)  # ... and at which the last commit was through
        self._records = 0
        for (
            reason
        ) in validation.PAGED:  # a counter that begins above 0 has not risen for Prometheus, and would page nobody
            meter.inc("driftline_rejects_total", 0, dataset=contract.id, reason=reason)

    def spent(self, phase: str, began: float) -> float:
        now = time.perf_counter()
        self._phases[phase] += now - began
        self._meter.inc("driftline_validate_phase_seconds_total", now - began, dataset=self._contract.id, phase=phase)
        return now

    def began(self) -> None:
        """The first records are here: from now on the time counts for `summary`."""
        if self._first is None:
            self._first = time.perf_counter(), time.process_time()
            self._phases.clear()

    def close(self) -> None:
        self._lineage.close()

    def summary(self) -> dict[str, object]:
        """From the first record to the last commit: records, seconds, CPU seconds of all threads, seconds by phase."""
        wall, cpu = (b - a for a, b in zip(self._first or self._last, self._last, strict=True))
        phases = ",".join(f"{name}:{seconds:.3f}" for name, seconds in self._phases.items())
        return {"records": self._records, "seconds": f"{wall:.3f}", "cpu_seconds": f"{cpu:.3f}", "phases": phases}

    def committed(self, judged: Judged, pieces: list[Piece]) -> None:
        dataset, inc = self._contract.id, self._meter.inc
        counts = dict(judged.decoded.counts)
        self._records += len(judged.consumed.values)
        self._last = time.perf_counter(), time.process_time()
        inc("driftline_records_validated_total", counts.pop(VALID), dataset=dataset, outcome="valid")
        inc("driftline_records_validated_total", sum(counts.values()), dataset=dataset, outcome="dead")
        for reason, n in counts.items():
            inc("driftline_rejects_total", n, dataset=dataset, reason=reason)
        inc("driftline_late_rows_total", validation.late(judged, self._contract), dataset=dataset)
        inc("driftline_blocks_total", len(pieces), dataset=dataset)
        for piece in pieces:
            self._meter.observe("driftline_block_rows", piece.rows, dataset=dataset)
        if len(judged.decoded.event_times):
            self._newest = max(self._newest, int(judged.decoded.event_times.max()))
            self._meter.set("driftline_event_time_seconds", self._newest / 1000, process=self._process, dataset=dataset)
        if self._lineage.on:
            self._trace(judged)

    def _trace(self, judged: Judged) -> None:
        """A few additions a batch; a run is made of them once a minute."""
        tally, run, counts = self._lineage.tally, judged.consumed, Counter(judged.decoded.counts)
        valid, decoded = counts.pop(VALID), int(judged.decoded.batch.num_rows)
        tally.take(self._topic, run.partition, run.start, run.end)
        tally.count(self._topic, len(run.values))
        if self._contract.valid_topic:
            tally.count(topics.valid(self._contract.id), valid)
        tally.count(topics.blocks(self._contract.id), decoded)
        tally.count(topics.dead_letters(self._contract.id), counts.total())
        tally.rejects.update(counts)

    def unread(self, offsets: int) -> None:
        """A bad batch, accounted for."""
        dataset, inc = self._contract.id, self._meter.inc
        inc("driftline_records_validated_total", offsets, dataset=dataset, outcome="dead")
        inc("driftline_rejects_total", offsets, dataset=dataset, reason=validation.UNREAD)
        self._lineage.tally.rejects[validation.UNREAD] += offsets
        inc("driftline_blocks_total", 1, dataset=dataset)

    def owns(self, partitions: int, of: int) -> None:
        """So many are ours; together with the other validators' it must be all of them."""
        where = {"process": self._process, "topic": self._topic}
        self._meter.set("driftline_partitions_owned", partitions, **where)
        self._meter.set("driftline_partitions", of, **where)

    def lag(self, consumer: Consumer, places: Mapping[int, Progress]) -> None:
        now = time.monotonic()
        if now - self._lag_at < LAG_EVERY_S:
            return
        self._lag_at, oldest = now, None
        self._lineage.turn()
        lags = dict.fromkeys(self._shown - set(places), 0)  # another validator tells theirs
        for p, place in places.items():
            _, high = consumer.get_watermark_offsets(TopicPartition(self._topic, p), cached=True)
            lags[p] = max(0, high - place.seen) if high >= 0 else 0
            if lags[p] and place.append_ms is not None:
                oldest = place.append_ms if oldest is None else min(oldest, place.append_ms)
        for p, lag in lags.items():
            self._meter.set(
                "driftline_consumer_lag_records", lag, process=self._process, topic=self._topic, partition=str(p)
            )
        self._shown = set(places)
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        self._meter.set("driftline_oldest_unread_age_seconds", age, process=self._process, topic=self._topic)
