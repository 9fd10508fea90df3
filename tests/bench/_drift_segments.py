"""Question: do hundreds of segments share one page budget? Quiet days, a shift in one of them, and what it costs the judge."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa

from batch.reference_build import build
from pipeline.blocks import VALID, Block, BlockHeader
from pipeline.contract import RAW_OFFSET, Contract, DriftPlan, Field, MonitoredFeature, TimePlan
from stream_processors.detectors.budget import SEGMENTS_A_GROUPING
from stream_processors.detectors.detector import Detectors
from stream_processors.judging.alert import Alert
from stream_processors.judging.episodes import Episode, follow, scene_of
from stream_processors.judging.judge import Judge
from stream_processors.judging.panes import WHOLE, Key, clock_of
from stream_processors.judging.partial import to_bytes
from stream_processors.judging.saved import to_messages
from stream_processors.judging.summarise import summarise
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.grid import coarse_codes
from tests.bench._drift_answers import Answer, Size, Table, shared_out
from tests.bench._drift_streams import pages
from tests.bench.report import bar, progress

SEGMENTS = {"short": 40, "default": 300, "full": 300}
QUIET_DAYS = {"short": 1, "default": 30, "full": 120}
CASES = {"short": 1, "default": 4, "full": 20}  # streams with a shift in one segment
SIZES = {"short": (40,), "default": (50, 200, SEGMENTS_A_GROUPING), "full": (50, 200, SEGMENTS_A_GROUPING)}
REFERENCE_ROWS, PANE_ROWS = 3_000, 20  # of each segment
SHIFT = 0.5  # sd of the price's logarithm
QUIET_HOURS, WATCHED_HOURS = 2, 10
BLOCK_ROWS, MINUTE = 8_000, 60_000
DAY0 = 1_780_272_000_000
CHANNELS, SHARES = np.array(["web", "app", "store", "partner"]), (0.5, 0.3, 0.15, 0.05)
CONTRACT = Contract(
    id="segments",
    version="1.0.0",
    fields=tuple(
        Field(name, kind)
        for name, kind in (
            ("price", "number"), ("quantity", "integer"), ("channel", "string"), ("store", "string"), ("at", "timestamp"),
        )
    ),
    key=None,
    time=TimePlan("at", lateness=timedelta(0)),
    drift=DriftPlan(
        features=(MonitoredFeature("price", "numeric"), MonitoredFeature("quantity", "numeric"), MonitoredFeature("channel", "categorical")),
        segments=(("store",),), pages=1.0, pages_per=timedelta(days=30), rejects=False, dependence="none", rhythm="none",
    ),
)  # fmt: skip
CLOCK = clock_of(CONTRACT)
HEAD = (
    *("segments", "detectors", "reference build s", "references MB", "detector state MB", "largest partial kB"),
    *("saved state kB", "counting M rows/s", "judging ms a pane", "bank threshold", "minutes to the page"),
)


def rows(rng: np.random.Generator, segments: int, each: int, times: np.ndarray | None = None) -> pa.Table:
    """`each` rows of every segment on average, in random order; all follow one law."""
    n = segments * each
    return pa.table({
        "price": np.round(rng.lognormal(3, 0.6, n), 2), "quantity": rng.poisson(2, n),
        "channel": pa.array(rng.choice(CHANNELS, n, p=SHARES)),
        "store": pa.array([f"s{i:03}" for i in range(segments)]).take(pa.array(rng.integers(0, segments, n))),
        "at": pa.array(np.full(n, DAY0) if times is None else times, pa.timestamp("ms", "UTC")),
    })  # fmt: skip


@lru_cache(maxsize=4)
def references(segments: int, seed: int = 0) -> tuple[dict[Key, FeatureReference], float]:
    """(references built from rows as `driftline reference build` does it, CPU seconds)."""
    table = rows(np.random.default_rng([111, segments, seed]), segments, REFERENCE_ROWS)
    began = time.process_time()
    found = build(CONTRACT, CLOCK, pl.from_arrow(table), 1, DAY0)
    return found, time.process_time() - began


def quiet(job: tuple[int, int]) -> int:
    """Pages in a day of rows of the reference's own law: every detector, its threshold among all."""
    segments, day = job
    found, rng = references(segments)[0], np.random.default_rng([112, day])
    detectors = Detectors(found, CONTRACT.drift)
    panes = timedelta(days=1) // CONTRACT.drift.pane
    packed = np.zeros((panes, int(detectors.offsets[-1])), np.int32)
    for at, key in enumerate(detectors.keys):
        n = PANE_ROWS * (segments if key[1] == WHOLE else 1)
        packed[:, detectors.offsets[at] : detectors.offsets[at + 1]] = _day(rng, found[key], panes, n)
    state = detectors.start()
    return sum(len(pages(detectors, state, packed[i : i + 24].astype(np.int64), i)) for i in range(0, panes, 24))


def _day(rng: np.random.Generator, known: FeatureReference, panes: int, n: int) -> np.ndarray:
    """Coarse counts of one feature's rows, drawn from the law itself, not from its reference."""
    if known.kind == "categorical":
        own = [int(np.argmax(cells.coarse(known, cells.count(known, pa.array([c]))))) for c in CHANNELS]
        made = np.zeros((panes, len(known.cell_rows)), np.int32)
        made[:, own] = rng.multinomial(n, SHARES, panes)
        return made
    values = np.round(rng.lognormal(3, 0.6, n * panes), 2) if known.feature == "price" else rng.poisson(2, n * panes)
    place = coarse_codes(known, values.astype(np.float64)) + len(known.cell_rows) * np.repeat(np.arange(panes), n)
    return np.bincount(place, minlength=panes * len(known.cell_rows)).reshape(panes, -1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Told:
    """What a stream with a shift in one segment came to."""

    named: bool  # the segment stands first among those that carry the shift, and among the features of the page
    pages: int  # before the shift
    minutes: float | None  # from the shift to the page
    counting: float  # CPU seconds a row
    judging: float  # CPU seconds a pane
    partial: int  # bytes of the largest
    state: int  # bytes saved with a turn


def shifted(job: tuple[int, int]) -> Told:
    """Rows through blocks, partials, judge and episodes, as the drift process does it; a shift after two quiet hours."""
    segments, case = job
    found, rng = references(segments)[0], np.random.default_rng([113, segments, case])
    timeline = Timeline((ReferenceSet(1, DAY0, lambda: found),))
    target, since = f"s{int(rng.integers(segments)):03}", DAY0 + QUIET_HOURS * 60 * MINUTE
    judge, episode, alerts = Judge(CONTRACT, CLOCK, [0], 0.0), Episode(), list[Alert]()
    judge.know(timeline)
    counted, judged, offset, partials, panes, largest, saved = 0.0, 0.0, 0, 0, 0, 0, 0
    for pane in range((QUIET_HOURS + WATCHED_HOURS) * 60 * MINUTE // CLOCK.pane):
        start = DAY0 + pane * CLOCK.pane
        times = start + np.sort(rng.integers(0, CLOCK.pane, segments * PANE_ROWS))
        for block in blocks(moved(rows(rng, segments, PANE_ROWS, times), target, since), offset):
            began = time.thread_time()
            made = list(summarise(block, partials, CONTRACT, CLOCK, timeline))
            counted += time.thread_time() - began
            largest, offset = max(largest, *(len(to_bytes(p)) for p in made)), block.header.end
            began = time.thread_time()
            for partial in made:
                judge.feed(partials, partial, 0.0)
                partials += 1
            judged += time.thread_time() - began
        began, panes = time.thread_time(), panes + 1
        turn = judge.turn(0.0)
        for closed in turn.closed:
            episode, alert = follow(episode, closed, CLOCK, scene_of(judge, closed), 0)
            alerts += [alert] if alert else []
        if turn:
            saved = sum(len(v or b"") for _, v in to_messages("segments", 0, judge.save(1, b""), turn.records))
        judged += time.thread_time() - began
        if any(a.state == "firing" for a in alerts):
            break
    fired = [a for a in alerts if a.state == "firing"]
    name = f"store={target}"
    named = bool(fired) and fired[0].segments[0].segment == name and fired[0].features[0].segment == name
    minutes = (start + CLOCK.pane - since) / MINUTE if fired else None
    early = sum(minutes is None or minutes <= 0 for _ in fired)
    return Told(named, early, minutes, counted / max(1, offset), judged / panes, largest, saved)


def moved(table: pa.Table, target: str, since: int) -> pa.Table:
    """The prices of one store half a sd higher from then on."""
    here = (np.asarray(table["store"]) == target) & (table["at"].cast(pa.int64()).to_numpy() >= since)
    price = np.where(here, np.round(table["price"].to_numpy() * np.exp(SHIFT * 0.6), 2), table["price"].to_numpy())
    return table.set_column(0, "price", pa.array(price))


def blocks(table: pa.Table, first: int) -> list[Block]:
    """The rows as the validator writes them, in offset order."""
    made, maximum = [], None if not first else int(table["at"].cast(pa.int64())[0].as_py()) - 1
    for low in range(0, table.num_rows, BLOCK_ROWS):
        part = table.slice(low, BLOCK_ROWS)
        n, times = part.num_rows, part["at"].cast(pa.int64()).to_numpy()
        columns = {name: part.column(name).combine_chunks() for name in part.column_names}
        columns |= {RAW_OFFSET: pa.array(np.arange(first + low, first + low + n))}
        columns |= {"append_time": columns["at"], "reject": pa.nulls(n, pa.string())}
        held = pa.RecordBatch.from_pydict({f.name: columns[f.name] for f in CONTRACT.block_schema}, CONTRACT.block_schema)  # fmt: skip
        header = BlockHeader("segments.events", 0, first + low, first + low + n, {VALID: n}, int(times[0]), int(times[-1]), maximum, CONTRACT.name)  # fmt: skip
        made.append(Block(header, held))
        maximum = int(times[-1])
    return made


def cost(segments: int) -> tuple[object, ...]:
    """One row of the table."""
    found, seconds = references(segments)
    detectors, told = Detectors(found, CONTRACT.drift), shifted((segments, 0))
    held = sum(r.values.nbytes + r.counts.nbytes + r.cumulative.nbytes + r.cell_of.nbytes + (r.lookup.table.nbytes if r.lookup else 0) for r in found.values())  # fmt: skip
    state = sum(a.nbytes for a in detectors.start())
    return (
        segments, len(found), f"{seconds:.1f}", f"{held / 1e6:.0f}", f"{state / 1e6:.0f}", f"{told.partial / 1e3:.0f}", f"{told.state / 1e3:,.0f}",
        f"{1e-6 / told.counting:.2f}", f"{told.judging * 1e3:.0f}", f"{detectors.budget.of(('price', WHOLE)).bank:.2f}",
        "-" if told.minutes is None else f"{told.minutes:.0f}",
    )  # fmt: skip


def run(size: Size) -> Answer:
    segments = SEGMENTS[size]
    wrong = sum(shared_out(quiet, [(segments, day) for day in range(QUIET_DAYS[size])]))
    progress(f"segments: {wrong} pages in {QUIET_DAYS[size]} quiet days of {segments} segments")
    told = list(shared_out(shifted, [(segments, case) for case in range(CASES[size])]))
    found = [t.minutes for t in told if t.minutes is not None]
    named, early = sum(t.named for t in told), sum(t.pages for t in told)
    progress(f"segments: {named} of {len(told)} shifts named first, after {found} minutes")
    table = [cost(n) for n in SIZES[size]]
    keys = len(references(segments)[0])
    return Answer(
        "Hundreds of segments in one budget",
        f"A column with {segments} values, {len(CONTRACT.drift.features)} features, so {keys} detectors in one budget of a page in 30 days; "
        f"{REFERENCE_ROWS:,} reference rows and {PANE_ROWS} rows a 5-minute pane each. {QUIET_DAYS[size]} quiet days through the detectors; then "
        f"{len(told)} streams through blocks, partials, judge and episodes, in each of which the prices of one value rise by {SHIFT} sd after {QUIET_HOURS} hours.",
        [
            bar("segments: pages in all quiet days", wrong, "==", 0),
            bar("segments: shifts of 0.5 sd in one segment whose page names it first", named / len(told), "==", 1.0),
            bar("segments: pages before the shift", early, "==", 0),
        ],
        {"quiet_days": QUIET_DAYS[size], "detectors": keys, "minutes_to_the_page": found, "rows_a_second_and_thread": round(rate(told, segments)), "cost": [dict(zip(HEAD, row, strict=True)) for row in table]},
        [
            Table(
                "What segments cost: three features, counting and judging in CPU of one thread",
                HEAD,
                table,
            )
        ],
    )  # fmt: skip


def rate(told: list[Told], segments: int) -> float:
    """Rows a CPU second through counting and judging."""
    return float(np.median([1 / (t.counting + t.judging / (segments * PANE_ROWS)) for t in told]))
