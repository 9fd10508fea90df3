"""Incidents injected into a quiet stream, through detectors, judge and episodes: pages, resolutions, change times.

    abrupt     a change that holds for 3 to 6 hours          ramp       it grows for 2 to 6 hours and then holds for 2
    pulse      15 to 60 minutes                              recurring  three times 1 to 2 hours, 7 to 9 hours apart

Each incident is a stream of its own: four features (a lognormal price, tied quantities, a score with 5 % nulls, eight
categories), two regions, panes of 5 minutes, windows of an hour, 300 to 1,000 rows a pane, 1 page in 30 days. One to
three features change, together or up to an hour apart; in one of six incidents in one region only. What happens is a
function of (seed, number). Pure code: event time, no broker. Beside it rules with a `for:` clause on the same verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipeline.contract import Contract, DriftPlan, Field, MonitoredFeature, TimePlan
from pipeline.times import to_ms
from stream_processors.judging.alert import Alert
from stream_processors.judging.episodes import Episode, follow, scene_of
from stream_processors.judging.judge import Judge
from stream_processors.judging.panes import WHOLE, Key, clock_of
from stream_processors.judging.partial import PaneCounts, PanePart, Partial
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.judging.verdict import Verdict
from stream_processors.reference import cells
from tests.bench.report import Bar, bar

KINDS = ("abrupt", "ramp", "pulse", "recurring")
MINUTE, HOUR = 60_000, 3_600_000
DAY0 = 1_780_272_000_000
REFERENCE_ROWS = 100_000
REGIONS = ("north", "south")
CATEGORIES = tuple("abcdefgh")
SHARES = np.array([0.3, 0.2, 0.15, 0.12, 0.09, 0.07, 0.05, 0.02])
FEATURES = (
    MonitoredFeature("price", "numeric"),
    MonitoredFeature("quantity", "numeric"),
    MonitoredFeature("score", "numeric"),
    MonitoredFeature("category", "categorical"),
)
CONTRACT = Contract(
    id="incidents",
    version="1.0.0",
    fields=tuple(
        Field(name, kind)
        for name, kind in (
            ("price", "number"), ("quantity", "integer"), ("score", "number"), ("category", "string"), ("region", "string"),
            ("at", "timestamp"),
        )
    ),
    key=None,
    time=TimePlan("at", lateness=timedelta(0)),
    drift=DriftPlan(features=FEATURES, segments=(("region",),), rejects=False),
)  # fmt: skip
CLOCK = clock_of(CONTRACT)
TAIL = 4 * HOUR  # watched after the last resolution is due
Rows = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Change:
    """What one feature does while an incident is at strength 1."""

    feature: str
    kind: str  # shift, scale, share, nulls
    size: float
    after: int  # ms behind the incident's beginning
    region: int | None


@dataclass(frozen=True, slots=True)
class Incident:
    kind: str
    begins: tuple[int, ...]  # ms, of each occurrence
    ends: tuple[int, ...]
    rise: int  # ms that a ramp takes
    changes: tuple[Change, ...]
    rows: int  # a pane

    def strength(self, times: np.ndarray, change: Change) -> np.ndarray:
        found = np.zeros(len(times))
        for begin, end in zip(self.begins, self.ends, strict=True):
            since = times - begin - change.after
            risen = np.clip(since / self.rise, 0, 1) if self.rise else (since >= 0).astype(float)
            found = np.where((since >= 0) & (times < end), risen, found)
        return found


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one incident."""

    incident: Incident
    alerts: tuple[Alert, ...]
    bare: Mapping[str, tuple[tuple[int, int], ...]]  # rule -> (fires, resolves) in ms

    @property
    def pages(self) -> int:
        return len({a.episode for a in self.alerts if a.state == "firing"})


def incident_of(seed: int, number: int) -> Incident:
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    begin = DAY0 + int(rng.uniform(3, 7) * HOUR)
    lasts = {"abrupt": (3, 6), "ramp": (2, 6), "pulse": (0.25, 1), "recurring": (1, 2)}[kind]
    rise = int(rng.uniform(*lasts) * HOUR) if kind == "ramp" else 0
    begins, ends = [begin], [begin + (rise + 2 * HOUR if rise else int(rng.uniform(*lasts) * HOUR))]
    while kind == "recurring" and len(begins) < 3:
        begins.append(ends[-1] + int(rng.uniform(7, 9) * HOUR))
        ends.append(begins[-1] + int(rng.uniform(*lasts) * HOUR))
    large = kind in ("pulse", "recurring")
    region = int(rng.integers(2)) if rng.random() < 1 / 6 else None
    chosen = rng.choice(len(FEATURES), int(rng.integers(1, 4)), replace=False)
    changes = []
    for i, at in enumerate(chosen.tolist()):
        after = 0 if not i or large or rng.random() < 0.5 else int(rng.uniform(0, 1) * HOUR)
        changes.append(Change(FEATURES[at].name, *_size(rng, FEATURES[at], large), after, region))
    return Incident(kind, tuple(begins), tuple(ends), rise, tuple(changes), int(rng.choice([300, 500, 1000])))


def _size(rng: np.random.Generator, feature: MonitoredFeature, large: bool) -> tuple[str, float]:
    more = 1.5 if large else 1.0
    if feature.kind == "categorical":
        return "share", float(rng.uniform(0.08, 0.2) * more)
    kind = str(rng.choice(["shift", "scale", "nulls"] if feature.name == "score" else ["shift", "scale"]))
    if kind == "shift":
        return kind, float(rng.uniform(0.3, 0.9) * more * rng.choice([-1, 1] if feature.name != "quantity" else [1]))
    return kind, float(rng.uniform(1.3, 1.7) * more) if kind == "scale" else float(rng.uniform(0.06, 0.15) * more)


def draw(rng: np.random.Generator, incident: Incident, times: np.ndarray) -> Rows:
    n = len(times)
    region = (rng.random(n) < 0.4).astype(np.int64)
    moved: dict[tuple[str, str], np.ndarray] = {}
    for c in incident.changes:
        hit = incident.strength(times, c) * (1.0 if c.region is None else region == c.region)
        moved[c.feature, c.kind] = hit * c.size if c.kind != "scale" else 1 + hit * (c.size - 1)
    z = {
        name: moved.get((name, "scale"), 1.0) * rng.standard_normal(n) + moved.get((name, "shift"), 0.0)
        for name in ("price", "quantity", "score")
    }
    category = rng.choice(len(SHARES), n, p=SHARES)
    category[rng.random(n) < moved.get(("category", "share"), 0.0)] = 1
    score = np.where(rng.random(n) < 0.05 + moved.get(("score", "nulls"), 0.0), np.nan, z["score"])
    return {
        "price": np.round(np.exp(3 + 0.6 * z["price"]), 2), "quantity": 1 + np.floor(np.exp(0.7 * z["quantity"])), "score": score,
        "category": category, "region": region,
    }  # fmt: skip


def _keys(rows: Rows) -> Iterator[tuple[Key, MonitoredFeature, pa.Array]]:
    for segment, mask in ((WHOLE, None), *((f"region={r}", rows["region"] == i) for i, r in enumerate(REGIONS))):
        for f in FEATURES:
            values = rows[f.name] if mask is None else rows[f.name][mask]
            if f.kind == "numeric":
                yield (f.name, segment), f, pa.array(values, from_pandas=False)
            else:
                yield (
                    (f.name, segment),
                    f,
                    pa.DictionaryArray.from_arrays(pa.array(values, pa.int8()), list(CATEGORIES)),
                )


QUIET = Incident("quiet", (), (), 0, (), 0)


@lru_cache(maxsize=2)
def timeline(seed: int) -> Timeline:
    """One reference for all incidents of a run."""
    rows = draw(np.random.default_rng([seed, 1 << 20]), QUIET, np.zeros(REFERENCE_ROWS))
    members = {key: cells.build(f, key[1], column, version=1, effective_from=DAY0) for key, f, column in _keys(rows)}
    return Timeline((ReferenceSet(1, DAY0, lambda: members),))


def told(seed: int, number: int) -> Told:
    incident, references = incident_of(seed, number), timeline(seed)
    rng = np.random.default_rng([seed, number, 1])
    judge, episode, alerts = Judge(CONTRACT, CLOCK, [0], 0.0), Episode(), []
    judge.know(references)
    members = references.sets[0].load()
    verdicts: list[tuple[Verdict, ...]] = []
    end, at = incident.ends[-1] + 2 * CLOCK.window + TAIL, 0
    for offset, pane in enumerate(range(DAY0, end, CLOCK.pane)):
        n = int(rng.poisson(incident.rows))
        times = pane + np.sort(rng.random(n)) * CLOCK.pane
        counts = [
            PaneCounts(*key, cells.count(members[key], column).to_bytes(), b"")
            for key, _, column in _keys(draw(rng, incident, times))
        ]
        part = PanePart(pane, 1, n, 0, at, at + n, tuple(sorted(counts, key=lambda c: c.key)))
        maximum = pane + CLOCK.pane
        judge.feed(offset, Partial(CONTRACT.name, 0, at, at + n, offset, True, 1, None, maximum, 0, (part,)), 0.0)
        at += n
        for closed in judge.turn(0.0).closed:
            verdicts.append(closed.verdicts)
            episode, alert = follow(episode, closed, CLOCK, scene_of(judge, closed), 0)
            alerts += [alert] if alert else []
    return Told(incident, tuple(alerts), {name: bare(verdicts, rule) for name, rule in BARE.items()})


# -- rules with a `for:` clause: a condition on any feature's window, two windows in a row; over with the first that lacks it

BARE: Mapping[str, Callable[[Verdict], bool]] = {
    "p < 0.05 for 2 windows": lambda v: v.p_value is not None and v.p_value < 0.05,
    "p < 0.001 for 2 windows": lambda v: v.p_value is not None and v.p_value < 0.001,
    "PSI > 0.1 for 2 windows": lambda v: (v.psi or 0.0) > 0.1,
}


def bare(windows: Sequence[Sequence[Verdict]], rule: Callable[[Verdict], bool]) -> tuple[tuple[int, int], ...]:
    spans, streak, open_ = [], 0, None
    for verdicts in windows:
        streak = streak + 1 if any(rule(v) for v in verdicts if v.segment == WHOLE) else 0
        end = to_ms(verdicts[0].window_end)
        if streak == 2:
            open_ = end
        if streak == 0 and open_ is not None:
            spans.append((open_, end))
            open_ = None
    return (*spans, (open_, end)) if open_ is not None else tuple(spans)


# -- what is measured


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of good ones and of all."""

    one_page: bool
    resolved: bool
    reopened: bool
    placed: bool | None  # change time within a window; None: a ramp, or no page
    covered: bool | None  # onset inside its interval


def score(told: Told) -> Score:
    """`resolved` and the change times are asked of every occurrence."""
    incident = told.incident
    firing = {a.episode: a for a in reversed(told.alerts) if a.state == "firing"}
    pages = sorted(firing.values(), key=lambda a: a.event_time)
    ended = {a.episode: to_ms(a.event_time) for a in told.alerts if a.state == "resolved"}
    one = len(pages) == len(incident.begins)
    pairs = list(zip(pages, incident.begins, incident.ends, strict=False)) if one else []
    inside = [begin <= to_ms(a.event_time) for a, begin, _ in pairs]
    late = [ended.get(a.episode, 1 << 60) - end for a, _, end in pairs]
    gaps = [to_ms(b.event_time) - ended.get(a.episode, 1 << 60) for a, b in pairwise(pages)]
    onsets = [(to_ms(a.onset_low), to_ms(a.onset), to_ms(a.onset_high), begin) for a, begin, _ in pairs]
    return Score(
        one and all(inside),
        bool(late) and max(late) <= 2 * CLOCK.window,
        any(gap < HOUR for gap in gaps),
        all(abs(at - begin) <= CLOCK.window for _, at, _, begin in onsets) if onsets else None,
        all(low <= begin <= high for low, _, high, begin in onsets) if onsets else None,
    )


def measure(
    seed: int, count: int, say: Callable[[str], None] = print, mapped: Callable[..., Iterable[Told]] = map
) -> tuple[list[Bar], dict[str, object]]:
    """The bars, and the figures behind them by kind; `mapped` may spread the streams over processes."""
    found: list[tuple[Told, Score]] = []
    for one in mapped(partial(told, seed), range(count)):
        found.append((one, score(one)))
        if len(found) % 100 == 0:
            say(f"incidents: {len(found)} of {count}, one page each in {sum(s.one_page for _, s in found)}")
    figures = {kind: _figures([f for f in found if f[0].incident.kind == kind]) for kind in KINDS}
    sharp = [s for t, s in found if t.incident.kind in ("abrupt", "pulse") and s.placed is not None]
    ramps = [s for t, s in found if t.incident.kind == "ramp" and s.covered is not None]
    paged = [s for t, s in found if t.pages]
    bars = [
        bar(f"incidents with exactly one page, of {count}", _share([s.one_page for _, s in found]), ">=", 0.98),
        bar("... resolved within twice the window after their end", _share([s.resolved for s in paged]), ">=", 0.95),
        bar("... reopened within an hour", sum(s.reopened for _, s in found), "==", 0),
        bar("abrupt and pulses: change time within a window", _share([bool(s.placed) for s in sharp]), ">=", 0.90),
        bar("ramps: the 90 % interval covers the onset", _share([bool(s.covered) for s in ramps]), ">=", 0.85),
    ]
    return bars, {"seed": seed, "kinds": figures, "with a for clause": {n: _bare(found, n) for n in BARE}}


def _figures(own: Sequence[tuple[Told, Score]]) -> dict[str, object]:
    pages = Counter(t.pages - len(t.incident.begins) for t, _ in own)
    widths = [to_ms(a.onset_high) - to_ms(a.onset_low) for t, _ in own for a in t.alerts if a.state == "firing"]
    return {
        "streams": len(own),
        "one page each": _share([s.one_page for _, s in own]),
        "pages too many": {str(k): v for k, v in sorted(pages.items())},
        "resolved in time": _share([s.resolved for t, s in own if t.pages]),
        "change time within a window": _share([bool(s.placed) for _, s in own if s.placed is not None]),
        "onset covered": _share([bool(s.covered) for _, s in own if s.covered is not None]),
        "interval, minutes, median": round(float(np.median(widths)) / MINUTE) if widths else None,
    }


def _bare(found: Sequence[tuple[Told, Score]], name: str) -> dict[str, object]:
    spans = [(t.incident, t.bare[name]) for t, _ in found]
    right = [
        len(own) == len(i.begins) and all(a >= b for (a, _), b in zip(own, i.begins, strict=True)) for i, own in spans
    ]
    late = [
        max(e - b for (_, e), b in zip(own, i.ends, strict=True))
        for (i, own), ok in zip(spans, right, strict=True)
        if ok
    ]
    return {
        "exactly one page": _share(right),
        "pages an incident": round(sum(len(own) for _, own in spans) / sum(len(i.begins) for i, _ in spans), 2),
        "resolved in time, of those": _share([x <= 2 * CLOCK.window for x in late]),
    }


def _share(of: Sequence[bool]) -> float:
    return round(sum(of) / len(of), 4) if of else 0.0
