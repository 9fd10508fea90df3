"""Planted causes: 300 faults of eight kinds through producer, validation, blocks, counts, judge and episode; is the cause right?

Each plant is a stream of its own: three quiet hours and up to four with one fault, about 1,500 orders an hour over four
partitions, keyed by customer, as `driftline produce` makes them and `driftline validate` decodes them. Kind, place, size
and seed are drawn. Half of the plants run under a contract that takes nulls and any category, half under `sales`, where they
are rejected. Dataset rules are judged on the same rows. What is asked: the first page's first cause, and its first three.
Beside it the usual answer, features ranked by their own test: a number moved, or a mix did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa

from batch import reference_build, rules
from pipeline import blocks, decode
from pipeline.blocks import VALID, Block
from pipeline.contract import REJECT, Contract
from pipeline.contract_file import load
from producers.arrivals import Timeline as Pace
from producers.batches import first
from producers.sales import CATEGORIES, CHANNELS, REGIONS, Fault, World
from producers.sales_stream import stream
from producers.scenarios import Phase, Schedule
from stream_processors.judging import causes
from stream_processors.judging.alert import Alert
from stream_processors.judging.causes import Kind, Quality
from stream_processors.judging.episodes import Episode, follow, scene_of
from stream_processors.judging.judge import Judge
from stream_processors.judging.panes import clock_of
from stream_processors.judging.summarise import summarise
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.judging.verdict import Verdict
from stream_processors.validator import validation
from stream_processors.validator.reject_breaker import Limits, Recent
from tests.bench.report import Bar, bar

KINDS: tuple[Kind, ...] = (
    "unit_change", "dropped_segment", "null_burst", "new_category", "level_move", "mix_change", "clock_skew",
    "duplicate_producer",
)  # fmt: skip
HOUR = 3_600_000
START_MS = 1_789_980_000_000  # a Monday, 09:00 UTC: by day the intensity is even
BEGINS = START_MS - START_MS % HOUR + 3 * HOUR + HOUR // 3  # event time of the fault
PARTITIONS = 4
REFERENCE_ROWS = 60_000
STRICT = load("sales")
OPEN = replace(
    STRICT,
    fields=tuple(
        replace(f, required=False, allowed=None) if f.name not in ("order_id", "customer_id", "event_time") else f
        for f in STRICT.fields
    ),
)
VALUES = {"region": REGIONS, "channel": CHANNELS, "category": CATEGORIES}
LIMITS = Limits(1.1, 1 << 30, 1 << 30)  # the breaker is another story
TURN_ROWS = 400  # records that one turn of validator and judge takes


@dataclass(frozen=True, slots=True)
class Plant:
    kind: Kind
    where: str  # in words
    contract: Contract
    world: World
    rate: float


def plant_of(seed: int, number: int) -> Plant:
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    world, where = _WORLDS[kind](rng)
    contract = (STRICT, OPEN)[(number // len(KINDS)) % 2]
    return Plant(kind, where, contract, world, float(rng.uniform(1_000, 2_000)) / 3600)


def _place(rng: np.random.Generator, least: float = 0.0) -> tuple[str, str]:
    column = str(rng.choice(list(VALUES)))
    return column, str(rng.choice(VALUES[column]))


def _fault(fault: Fault) -> tuple[World, str]:
    place = "=".join(fault.where) if fault.where else "*"
    return World(faults=(fault,)), f"{fault.field} {fault.size:g} {fault.value} {place} {fault.share:.2f}"


def _unit(rng: np.random.Generator) -> tuple[World, str]:
    field, size = [("price", 100.0), ("price", 0.01), ("price", 10.0), ("quantity", 12.0), ("quantity", 10.0)][rng.integers(5)]  # fmt: skip
    where = _place(rng) if rng.random() < 0.6 else None
    return _fault(Fault("unit", where, float(rng.uniform(0.4, 1)) if where is None else 1.0, field, size))


def _silent(rng: np.random.Generator) -> tuple[World, str]:
    return _fault(Fault("silent", _place(rng)))


def _null(rng: np.random.Generator) -> tuple[World, str]:
    field = str(rng.choice(["price", "quantity", "discount", "category", "region", "channel"]))
    where = _place(rng) if rng.random() < 0.3 else None
    return _fault(Fault("null", where, float(rng.uniform(0.05, 0.4)) * (2 if where else 1), field))


def _renamed(rng: np.random.Generator) -> tuple[World, str]:
    field = str(rng.choice(list(VALUES)))
    return _fault(Fault("renamed", None, float(rng.uniform(0.03, 0.2)), field, value=f"{field}-new"))


def _level(rng: np.random.Generator) -> tuple[World, str]:
    choice = int(rng.integers(3))
    factor = float(rng.uniform(1.15, 1.5) ** rng.choice([-1, 1]))
    if choice == 0:
        return World(price_by_category=(factor,) * 8), f"price x{factor:.2f}"
    if choice == 1:
        some = rng.random(8) < 0.6
        return World(price_by_category=tuple(np.where(some, 1.4 if factor > 1 else 0.7, 1.0).tolist())), "some prices"
    more = float(rng.uniform(0.08, 0.2))
    return (World(bulk=2 + more), "quantity") if factor > 1 else (World(discounted=more), "discount")


def _mix(rng: np.random.Generator) -> tuple[World, str]:
    column = str(rng.choice(list(VALUES)))
    weights = tuple(np.exp(rng.choice([-1, 1], len(VALUES[column])) * rng.uniform(0.2, 0.6, len(VALUES[column]))))
    return World(**{f"{column}_weight": weights}), column


def _clock(rng: np.random.Generator) -> tuple[World, str]:
    minutes = float(rng.uniform(15, 50)) if rng.random() < 0.3 else -float(rng.uniform(15, 120))
    return _fault(Fault("clock", _place(rng), size=minutes * 60))


def _twice(rng: np.random.Generator) -> tuple[World, str]:
    return _fault(Fault("twice", _place(rng), float(rng.uniform(0.6, 1))))  # copies of everything move no share


_WORLDS: dict[Kind, Callable[[np.random.Generator], tuple[World, str]]] = {
    "unit_change": _unit, "dropped_segment": _silent, "null_burst": _null, "new_category": _renamed, "level_move": _level,
    "mix_change": _mix, "clock_skew": _clock, "duplicate_producer": _twice,
}  # fmt: skip


class Validator:
    """The validator's pure core over one partition each."""

    def __init__(self, contract: Contract):
        self.contract, self.decoder = contract, decode.compile(contract)
        self.next, self.watermark = [0] * PARTITIONS, [None] * PARTITIONS

    def blocks(self, values: Sequence[bytes | None], keys: Sequence[object], append_ms: int) -> list[Block]:
        partition = np.array([crc32(str(k).encode()) % PARTITIONS for k in keys])
        made = []
        for p in np.unique(partition).tolist():
            own = [values[i] for i in np.flatnonzero(partition == p).tolist()]
            offsets = np.arange(self.next[p], self.next[p] + len(own))
            run = validation.Consumed(p, self.next[p], offsets, np.full(len(own), append_ms), [None] * len(own), own)
            judged = validation.judge(run, self.decoder, self.watermark[p], Recent.empty(), LIMITS)
            pieces = validation.cut(judged, "sales.events", self.contract)
            made += [Block(piece.header, blocks.decode(piece.body)) for piece in pieces]
            self.next[p], self.watermark[p] = run.end, judged.watermark_after
        return made


def _stream(contract: Contract, world: World, seed: int, rate: float, begins: int, start: int) -> object:
    phases: Schedule = (
        Phase(timedelta(0), (), World()),
        Phase(timedelta(milliseconds=begins - start), ("fault",), world),
    )
    return stream(contract, phases, seed, Pace(start, start, rate, 1.0, catches_up=False), labels=False)


@lru_cache(maxsize=2)
def references(seed: int, contract: Contract) -> Timeline:
    """What the contract's streams are compared with; built once."""
    validator, rows = Validator(contract), []
    start = START_MS - 40 * HOUR
    for batch in first(
        _stream(contract, World(), seed + 777, REFERENCE_ROWS / 36 / 3600, 1 << 50, start), REFERENCE_ROWS
    ):
        rows += [b.valid for b in validator.blocks(batch.values, batch.keys, START_MS)]
    table = pa.Table.from_batches(rows)
    clock = clock_of(contract)
    times = table.column(contract.time.field).cast(pa.int64())
    outcomes = pa.table({"time": times, "outcome": pa.array([VALID] * len(times))})
    members = reference_build.build(contract, clock, table, 1, clock.window_of(START_MS), outcomes)
    return Timeline((ReferenceSet(1, clock.window_of(START_MS), lambda: members),))


@dataclass(frozen=True, slots=True)
class Told:
    plant: Plant
    alert: Alert | None  # the first page
    plain: tuple[str, ...]  # features by their own test, the strongest first


def told(seed: int, number: int) -> Told:
    plant = plant_of(seed, number)
    contract, clock = plant.contract, clock_of(plant.contract)
    judge, episode = Judge(contract, clock, range(PARTITIONS), 0.0), Episode()
    known = references(seed, contract)
    judge.know(known)
    validator, offset, seen = Validator(contract), 0, []
    source = _stream(contract, plant.world, seed * 100_000 + number, plant.rate, BEGINS, START_MS)
    for batch in source:
        for low in range(0, len(batch), TURN_ROWS):
            made = validator.blocks(batch.values[low : low + TURN_ROWS], batch.keys[low : low + TURN_ROWS], int(batch.event_ms[low : low + TURN_ROWS][-1]))  # fmt: skip
            for block in made:
                seen.append(block.rows)
                for counted in summarise(block, offset, contract, clock, known):
                    judge.feed(offset, counted, 0.0)
                    offset += 1
            for closed in judge.turn(0.0).closed:
                quality = _quality(seen, contract) if any(v.state == "alarm" for v in closed.verdicts) else ()
                episode, alert = follow(episode, closed, clock, scene_of(judge, closed, quality), 0)
                if alert is not None and alert.state == "firing":
                    return Told(plant, alert, _plain(closed.verdicts))
            if batch.event_ms[low] > BEGINS + 5 * HOUR:
                return Told(plant, None, ())
    raise AssertionError("the stream has no end")


def _quality(seen: Sequence[pa.RecordBatch], contract: Contract) -> tuple[Quality, ...]:
    rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(seen)))
    found = (causes.quality_of({**{n: getattr(v, n) for n in v.__slots__}}) for v in rules.evaluate(rows, contract))
    return tuple(q for q in found if q is not None)


def _plain(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    ranked = sorted((v for v in verdicts if v.segment == "*" and v.statistic is not None and v.feature != REJECT), key=lambda v: (v.p_value or 0.0, -(v.statistic or 0.0)))  # fmt: skip
    return tuple("level_move" if v.kind == "numeric" else "mix_change" for v in ranked)


def measure(
    seed: int, count: int, say: Callable[[str], None] = print, mapped: Callable[..., Iterable[Told]] = map
) -> tuple[list[Bar], dict[str, object]]:
    """The bars, and the figures behind them by kind; `mapped` may spread the plants over processes."""
    found: list[Told] = []
    for one in mapped(partial(told, seed), range(count)):
        found.append(one)
        if len(found) % 50 == 0:
            say(f"causes: {len(found)} of {count}, the first right in {sum(_right(t, 1) for t in found)}")
    figures = {
        kind: {
            "plants": sum(t.plant.kind == kind for t in found),
            "paged": sum(t.plant.kind == kind and t.alert is not None for t in found),
            "first": sum(t.plant.kind == kind and _right(t, 1) for t in found),
            "first three": sum(t.plant.kind == kind and _right(t, 3) for t in found),
        }
        for kind in KINDS
    }
    plain = [sum(t.plant.kind in t.plain[:n] for t in found) / count for n in (1, 3)]
    bars = [
        bar(f"planted causes, of {count}: the first named is right", round(sum(_right(t, 1) for t in found) / count, 4), ">=", 0.85),
        bar("... one of the first three is", round(sum(_right(t, 3) for t in found) / count, 4), ">=", 0.95),
    ]  # fmt: skip
    baseline = {"features ranked by their own test: first": plain[0], "first three": plain[1]}
    return bars, {"classes": figures, "baseline": baseline}


def _right(told: Told, most: int) -> bool:
    return told.alert is not None and told.plant.kind in [c.kind for c in told.alert.causes[:most]]
