"""Question: are verdicts a function of the events, not of the run? One log under fifty interleavings, cuts, restarts and redeliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from pipeline.blocks import Block
from pipeline.contract import Contract
from stream_processors.judging.timeline import Timeline
from tests.bench._drift_answers import Answer, Size, Table, shared_out
from tests.bench.report import bar, progress
from tests.drift_stream.harness import IDLE_S, Harness, counted
from tests.drift_stream.samples import (
    CONTRACT,
    DAY0,
    HOUR,
    MINUTE,
    blocks_of,
    draw,
    reference_set,
    with_plan,
    with_rejects,
)

VARIANTS = {"short": 5, "default": 50, "full": 200}
PARTITIONS, SEED = 3, 71
WINDOWS = {
    "tumbling": CONTRACT,
    "sliding": with_plan(slide=timedelta(minutes=15)),
    "by rows": with_plan(window_rows=60, window=CONTRACT.drift.pane),
}
Latest = dict[tuple[str, str, str], bytes]  # the bytes of the latest verdict of each window, feature and segment


@dataclass(frozen=True, slots=True)
class Log:
    """So many hours of so many rows a partition; a second reference takes over after three of them, within a window."""

    hours: int = 8
    a_partition: int = 320
    windows: str = "tumbling"

    @property
    def contract(self) -> Contract:
        return WINDOWS[self.windows]

    @property
    def timeline(self) -> Timeline:
        later = DAY0 + 4 * HOUR + 25 * MINUTE
        made = reference_set(1, DAY0 + HOUR), reference_set(2, later, seed=10, factor=1.3)
        return Timeline(tuple(map(with_rejects, made)))

    def blocks(self, partition: int, cuts: Sequence[int]) -> list[Block]:
        return blocks_of(partition, self.rows(partition), cuts, *self.broken(partition))

    def broken(self, partition: int) -> tuple[set[int], set[int]]:
        """Offsets of rejected rows, and of records that could not be decoded."""
        found = np.random.default_rng([SEED, partition, 1]).permutation(self.a_partition)[:20].tolist()
        return set(found[:10]), set(found[10:])

    def rows(self, partition: int) -> list[tuple[int, float, str]]:
        """Event time rises; a fifth of the rows lag by up to 20 minutes, six by hours."""
        rng = np.random.default_rng([SEED, partition])
        times = np.sort(rng.integers(DAY0, DAY0 + self.hours * HOUR, self.a_partition))
        times = times - np.where(rng.random(self.a_partition) < 0.2, rng.integers(0, 20 * MINUTE, self.a_partition), 0)
        late = rng.choice(np.arange(5, self.a_partition), 6, replace=False)
        times[late] -= rng.integers(0, 8 * HOUR, 6)
        return draw(rng, times.tolist())


def undisturbed(log: Log) -> Harness:
    """One block a partition, references known before, nothing repeated."""
    harness = Harness(PARTITIONS, log.timeline, log.contract)
    for p in range(PARTITIONS):
        for partials in counted(log.blocks(p, []), log.timeline, (), log.contract):
            harness.write(*partials)
    harness.drain()
    return harness


def disturbed(log: Log, rng: np.random.Generator, blocks: int = 12) -> tuple[Latest, dict[str, int]]:
    """(latest verdicts, what happened on the way)."""
    known = log.timeline
    done = {"blocks": 0, "redelivered": 0, "turns": 0, "idle": 0, "restarts": 0, "late references": 0}
    harness, waiting = Harness(PARTITIONS, known, log.contract), []
    for p in range(PARTITIONS):
        cuts = sorted(set(rng.integers(1, log.a_partition, rng.integers(1, blocks)).tolist()))
        learned = sorted(rng.integers(0, len(cuts) + 2, 2).tolist())
        done["late references"] += sum(at > 0 for at in learned)
        waiting.append(counted(log.blocks(p, cuts), known, list(zip(learned, (1, 2), strict=True)), log.contract))
    while any(waiting):
        step = rng.random()
        if step < 0.45:
            own = waiting[int(rng.choice([p for p in range(PARTITIONS) if waiting[p]]))]
            harness.write(*own.pop(0))
            done["blocks"] += 1
        elif step < 0.6 and harness.log:
            harness.write(harness.log[int(rng.integers(len(harness.log)))])
            done["redelivered"] += 1
        elif step < 0.8:
            done["turns"] += harness.turn() > 0
        elif step < 0.87:
            done["idle"] += harness.turn(IDLE_S) > 0
        else:
            harness.restart()
            done["restarts"] += 1
    harness.drain()
    return harness.latest, done


def one(variant: tuple[str, int]) -> tuple[Latest, dict[str, int]]:
    windows, seed = variant
    return disturbed(Log(windows=windows), np.random.default_rng([SEED, 1_000, seed]))


def run(size: Size) -> Answer:
    bars, total, variants, log = [], {}, VARIANTS[size], Log()
    for windows in WINDOWS:
        plain, different = undisturbed(Log(windows=windows)).latest, 0
        for latest, done in shared_out(one, [(windows, seed) for seed in range(variants)]):
            different += latest != plain
            total = {k: total.get(k, 0) + n for k, n in done.items()}
        progress(f"order: windows {windows}: {len(plain)} verdicts, {different} of {variants} variants differ")
        bars.append(
            bar(f"order: variants whose latest verdicts differ in any byte, windows {windows}", different, "==", 0)
        )
        bars.append(bar(f"order: verdicts compared a variant, windows {windows}", len(plain), ">=", 20))
    return Answer(
        "Verdicts are a function of the events",
        f"{PARTITIONS} partitions of {log.a_partition} rows over {log.hours} hours, some rejected, some undecodable, rows up to hours late, a new reference "
        f"within the fifth hour. The undisturbed run is compared with {variants} others: blocks cut elsewhere, partitions in any order, references learned "
        "late, partials delivered again, the judge killed between any two steps, partitions idle. Compared are the bytes of the latest verdict of every "
        "window, feature and segment; for tumbling and sliding windows and windows by rows.",
        bars,
        {"variants": variants, "happened": total},
        [Table("What happened on the way, all variants", ("event", "times"), list(total.items()))],
    )
