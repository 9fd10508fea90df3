"""PURE. What probably happened: eight kinds of cause, ranked, from the window in which an episode fires.

    clock_skew         late rows, or rejects `time_future`: a sender's clock is wrong
    duplicate_producer a uniqueness rule over the dataset is broken by more rows than before, or a part is sent twice
    null_burst         nulls of a field, or rejects `not_null` and `missing`
    new_category       values never seen, or rejects `allowed`
    unit_change        quantiles of a number times one factor, too large for a move or a known ratio; or rejects `range`
    dropped_segment    a category or segment that is gone, and neither late nor rejected
    mix_change         shares of categories moved
    level_move         a number moved

Each candidate is asked for beyond chance (a share at five standard errors, a feature in alarm) and scored

    score = weight(kind) (1 - exp(-size / scale))

with the size in shares of rows: a broken record, a wrong clock or a copy explains the moves that it brings with it, so the
kinds that leave a mark of their own weigh more than the two that any of them may cause. The weights are a judgement,
checked on planted causes (docs/drift-stream.md); the score orders, it is no probability. Counts, not rows, are read: the
same that the detectors saw, late ones too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import exp, log, sqrt
from statistics import median
from typing import Literal

import numpy as np

from pipeline.contract import REJECT, SCORE_COLUMNS
from pipeline.times import to_ms
from stream_processors.judging.panes import WHOLE, Key
from stream_processors.judging.verdict import Verdict
from stream_processors.judging.volumes import Volume
from stream_processors.reference.cells import EMPTY, Counts, FeatureReference

Kind = Literal[
    "unit_change", "dropped_segment", "null_burst", "new_category", "level_move", "mix_change", "clock_skew",
    "duplicate_producer",
]  # fmt: skip
TOLD = 3
WEIGHTS: Mapping[Kind, float] = {
    "clock_skew": 1.0, "null_burst": 0.95, "new_category": 0.95, "duplicate_producer": 0.92, "unit_change": 0.9,
    "dropped_segment": 0.85, "mix_change": 0.7, "level_move": 0.6,
}  # fmt: skip
REJECTS: Mapping[str, Kind] = {
    "not_null": "null_burst", "missing": "null_burst", "allowed": "new_category", "range": "unit_change",
    "time_future": "clock_skew", "time_range": "clock_skew",
}  # fmt: skip
RATIOS = (2.2046, 2.54)  # kilogram and pound, inch and centimetre: units below LARGE
NEAR_RATIO = 0.05  # relative
LARGE = log(3.0)  # a factor from which a common one is a unit, not a move
PARTLY = log(4.0)  # of any quantile: a part of the rows is in another unit
ERRORS = 5.0  # standard errors that a share must have moved
LEAST = 0.003  # share of rows that is worth telling
GONE = 0.2  # of its usual share that a dropped part has left at most


@dataclass(frozen=True, slots=True)
class Cause:
    kind: Kind
    place: str  # where: a feature, a value, a segment, a partition
    score: float  # 0 to 1, orders causes
    evidence: str  # one sentence


@dataclass(frozen=True, slots=True)
class Quality:
    """A dataset rule's verdict, as it stands on the quality topic."""

    rule: str
    kind: str
    start: int  # ms, event time
    end: int
    rows: int
    violations: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known when an episode fires."""

    window: int
    end: int
    verdicts: Sequence[Verdict]
    members: Mapping[Key, FeatureReference]
    counts: Mapping[Key, Counts]  # of the window, late rows included
    volumes: Sequence[Volume]  # of the last windows, this one last
    quality: Sequence[Quality] = ()
    after: float = 1.0  # share of the window's rows that came after the onset


def quality_of(body: Mapping[str, object]) -> Quality | None:
    """A message of the quality topic; None for a rule over the whole run, one that only informs, or what is no verdict.

    Broken by nature, a rule that informs is broken by more rows on a day with more rows: that is no copy.
    """
    if body.get("severity") == "info":
        return None
    try:
        start, end = to_ms(str(body["window_start"])), to_ms(str(body["window_end"]))
        figures = int(str(body["rows"])), int(str(body["violations"]))
        return Quality(str(body["rule"]), str(body["kind"]), start, end, *figures)
    except (KeyError, ValueError):
        return None


def rank(seen: Seen) -> tuple[Cause, ...]:
    """The most probable causes, the best first, each kind once at its best place; at most three."""
    if not seen.volumes:
        return ()  # a window without a row
    makers = (_clocks, _copies, _nulls, _news, _units, _gone, _mixes, _levels)
    return best(c for make in makers for c in make(seen))


def best(found: Iterable[Cause]) -> tuple[Cause, ...]:
    """Each kind once at its best place, the most probable first; at most three."""
    of_kind = {c.kind: c for c in sorted(found, key=lambda c: (c.score, c.place)) if c.score > 0}
    return tuple(sorted(of_kind.values(), key=lambda c: (-c.score, c.kind))[:TOLD])


def of_scores(verdicts: Sequence[Verdict], inputs_moved: bool) -> tuple[Cause, ...]:
    """What a move of the model's answers, or of the past that it knew, says where no input moved: what no feature shows alone."""
    answers = any(v.feature in SCORE_COLUMNS for v in _alarmed(verdicts, "numeric"))
    what = "the model's answers" if answers else "what the model knows of the past"
    said = "" if inputs_moved else f"{what} moved and no input has: "
    return best(replace(c, evidence=said + c.evidence) for c in _levels_of(verdicts))


# -- the kinds


def _clocks(seen: Seen) -> Iterator[Cause]:
    now, before = seen.volumes[-3:], seen.volumes[:-3] or seen.volumes[:1]
    late, rows = sum(v.late for v in now), sum(v.rows for v in now)
    usual = sum(v.late for v in before) / max(1, sum(v.rows for v in before))
    if late >= 20 and late / max(1, rows) - usual >= LEAST:
        place = _behind(now)
        yield _cause("clock_skew", place, late / rows - usual, 0.008, f"{late:,} of {rows:,} rows came late ({late / rows:.1%}, usual {usual:.1%}), most of them in {place}")  # fmt: skip
    yield from _rejects(seen, "clock_skew", "clock of a sender")


def _behind(now: Sequence[Volume]) -> str:
    """The segment, or else the partition, whose rows are late, or the only one whose rows are not."""
    groups: list[dict[str, tuple[int, int]]] = []
    for column, own in groupby(sorted(s for v in now for s in v.segments), key=lambda s: s[0].partition("=")[0]):
        if column != WHOLE:
            groups.append(_summed(own))
    groups.append(_summed((f"partition {p}", r, n) for v in now for p, r, n in v.partitions))
    found = []
    for parts in groups:
        share = {name: late / max(1, rows) for name, (rows, late) in parts.items() if rows >= 20}
        if len(share) < 2:
            continue
        order = sorted(share, key=lambda name: (share[name], name))
        found.append((share[order[-1]] - share[order[-2]], order[-1]))  # one is behind
        found.append((share[order[1]] - share[order[0]], order[0]))  # one is ahead: all others are late
    return max(found, default=(0.0, WHOLE))[1]


def _summed(parts: Iterable[tuple[str, int, int]]) -> dict[str, tuple[int, int]]:
    total: dict[str, tuple[int, int]] = {}
    for name, rows, late in parts:
        had = total.get(name, (0, 0))
        total[name] = had[0] + rows, had[1] + late
    return total


def _copies(seen: Seen) -> Iterator[Cause]:
    for rule, own in groupby(sorted((q for q in seen.quality if q.kind == "unique"), key=lambda q: (q.rule, q.start)), key=lambda q: q.rule):  # fmt: skip
        verdicts = [(q, q.violations / max(1, q.rows)) for q in own]
        now = [share for q, share in verdicts if q.end > seen.window and q.start < seen.end and q.rows]
        before = [share for q, share in verdicts if q.end <= seen.window]
        if not now or not before:  # a rule that was never told before may be broken at all times
            continue
        share, usual = max(now), median(before)
        if share - usual >= LEAST:
            yield _cause("duplicate_producer", _surged(seen), share - usual, 0.03, f"{share:.1%} of the rows repeat a key that {rule} wants once (usual {usual:.1%})")  # fmt: skip
    grown = _grown(seen)
    if grown:
        name, ratio, total = grown
        yield _cause("duplicate_producer", name, 0.02, 0.04, f"{name} has {ratio:.1f} times its usual rows while all rows are {total:.2f} times the usual")  # fmt: skip


def _surged(seen: Seen) -> str:
    found = max(_shares(seen), key=lambda s: s[1] / s[2], default=None)
    return found[0] if found and found[1] > 1.3 * found[2] else WHOLE


def _grown(seen: Seen) -> tuple[str, float, float] | None:
    """A part that doubled while the total rose by just that."""
    before = [v.rows for v in seen.volumes[-4:-1]]
    now, usual = seen.volumes[-1].rows, median(before) if before else 0
    for name, share, expected in sorted(_shares(seen), key=lambda s: -s[1] / s[2])[:1]:
        ratio = share / expected * now / max(1, usual)
        if usual and 1.7 < ratio < 2.3 and abs(now / usual - 1 - expected * (ratio - 1)) < 0.1:
            return name, ratio, now / usual
    return None


def _nulls(seen: Seen) -> Iterator[Cause]:
    for key, reference in _features(seen):
        counts = seen.counts.get(key, EMPTY)
        n, usual = counts.rows + counts.nulls, reference.null_ratio
        if (moved := _risen(counts.nulls, n, usual)) is not None:
            yield _cause("null_burst", _within(key), moved, 0.01, f"{counts.nulls / n:.1%} of {key[0]} are null (usual {usual:.1%})", key[1])  # fmt: skip
    yield from _rejects(seen, "null_burst", "required field")


def _news(seen: Seen) -> Iterator[Cause]:
    """Of a number with few values a new one is out of its unit rather than a new category."""
    for key, reference in _features(seen):
        if not reference.discrete:
            continue
        counts, usual = seen.counts.get(key, EMPTY), reference.cell_rows[-2] / max(1, reference.rows)
        new = int(counts.n[reference.cell_of[counts.codes] == reference.cells].sum())
        if (moved := _risen(new, counts.rows, float(usual))) is not None:
            kind: Kind = "new_category" if reference.kind == "categorical" else "unit_change"
            yield _cause(kind, _within(key), moved, 0.01, f"{new / counts.rows:.1%} of {key[0]} are values never seen (usual {usual:.1%})", key[1])  # fmt: skip
    yield from _rejects(seen, "new_category", "allowed values")


def _units(seen: Seen) -> Iterator[Cause]:
    for v in seen.verdicts:
        if v.kind != "numeric" or v.state not in ("alarm", "warning") or not v.quantiles_window:
            continue
        pairs = zip(v.quantiles_reference or (), v.quantiles_window, strict=True)
        logs = [log(b / a) for a, b in pairs if a > 0 and b > 0]
        if len(logs) < 2:
            continue
        middle = median(logs)
        spread = max(abs(one - middle) for one in logs)
        known = any(abs(abs(middle) - abs(log(r))) < NEAR_RATIO for r in RATIOS)
        if spread <= 0.1 + 0.25 * abs(middle) and (abs(middle) >= LARGE or (known and spread < 0.1)):  # fmt: skip
            yield _cause("unit_change", f"{v.feature} x{exp(middle):.3g}{_in(v.segment)}", 0.1, 0.03, f"all quantiles of {v.feature}{_in(v.segment)} are about {exp(middle):.3g} times the usual", v.segment)  # fmt: skip
        elif max(abs(one) for one in logs) >= PARTLY:
            factor = exp(max(logs, key=abs))
            yield _cause("unit_change", f"{v.feature} x{factor:.3g}{_in(v.segment)}", 0.06, 0.04, f"a part of {v.feature}{_in(v.segment)} is about {factor:.3g} times the usual", v.segment)  # fmt: skip
    worst = max((v for v in seen.verdicts if v.kind == "numeric"), key=lambda v: v.effect or 0.0, default=None)
    for cause in _rejects(seen, "unit_change", worst.feature if worst else "a number"):
        yield Cause(cause.kind, cause.place, 0.85 * cause.score, cause.evidence)


def _gone(seen: Seen) -> Iterator[Cause]:
    lost = seen.volumes[-1].late / max(1, seen.volumes[-1].rows)
    lost += sum(moved for _, _, moved in _reject_moves(seen))
    for name, share, expected in _shares(seen):
        if expected < 0.01 or not seen.after:
            continue
        left = max(0.0, expected - (expected - share) / seen.after)  # of what came after the onset
        noise = sqrt(expected * (1 - expected) / seen.volumes[-1].rows) / seen.after
        if left <= min(GONE * expected + noise, 0.4 * expected):
            missing = expected - share
            size = max(0.0, 1 - lost / missing) * missing
            yield _cause("dropped_segment", name, size, 0.02, f"{name} makes {left:.1%} of the rows since the onset instead of {expected:.1%}, and what is missing is neither late nor rejected")  # fmt: skip


def _mixes(seen: Seen) -> Iterator[Cause]:
    for v in _alarmed(seen.verdicts, "categorical"):
        moved = f"shares of {v.feature}{_in(v.segment)} moved by up to {v.effect or 0.0:.1%}"
        yield _cause("mix_change", v.feature + _in(v.segment), beyond_noise(v), 0.02, f"{moved} ({v.change})" if v.change else moved, v.segment)  # fmt: skip


def _levels(seen: Seen) -> Iterator[Cause]:
    return _levels_of(seen.verdicts)


def _levels_of(verdicts: Sequence[Verdict]) -> Iterator[Cause]:
    for v in _alarmed(verdicts, "numeric"):
        a, b = (q[2] if q else None for q in (v.quantiles_reference, v.quantiles_window))
        moved = f"median {b:.4g} instead of {a:.4g}" if a is not None and b is not None else "its distribution moved"
        yield _cause("level_move", v.feature + _in(v.segment), beyond_noise(v), 0.02, f"{v.feature}{_in(v.segment)}: {moved}{f' ({v.change})' if v.change else ''}", v.segment)  # fmt: skip


# -- what they read


def _rejects(seen: Seen, kind: Kind, place: str) -> Iterator[Cause]:
    for code, share, moved in _reject_moves(seen):
        if REJECTS.get(code) == kind:
            yield _cause(kind, f"{place} ({code})", moved, 0.01, f"{share:.1%} of the records are rejected as {code} (usual {share - moved:.1%})")  # fmt: skip


def _reject_moves(seen: Seen) -> Iterator[tuple[str, float, float]]:
    """(code, share of the records, rise of it) of each reject code that is more frequent than usual."""
    key = (REJECT, WHOLE)
    reference, counts = seen.members.get(key), seen.counts.get(key, EMPTY)
    if reference is None or not counts.rows:
        return
    for code, rows, usual in _categories(reference, counts):
        if code != "valid" and (moved := _risen(rows, counts.rows, usual)) is not None:
            yield code, rows / counts.rows, moved


def _shares(seen: Seen) -> list[tuple[str, float, float]]:
    """(`feature=category` or segment, its share of the window, its usual share), of what is usual enough to be missed."""
    found: dict[str, tuple[float, float]] = {}
    for (feature, segment), reference in seen.members.items():
        counts = seen.counts.get((feature, segment), EMPTY)
        if segment != WHOLE or reference.kind != "categorical" or feature == REJECT or not counts.rows:
            continue
        for name, rows, usual in _categories(reference, counts):
            if usual * counts.rows >= 20:
                found[f"{feature}={name}"] = rows / counts.rows, usual
    whole = max((r.source_rows + r.nulls for (_, s), r in seen.members.items() if s == WHOLE), default=0)
    own = {s: r.source_rows + r.nulls for (f, s), r in seen.members.items() if s != WHOLE}
    if seen.volumes[-1].rows and whole:
        rows = {s: n for s, n, _ in seen.volumes[-1].segments}
        for segment, usual_rows in own.items():
            if usual_rows / whole * seen.volumes[-1].rows >= 20:
                found.setdefault(segment, (rows.get(segment, 0) / seen.volumes[-1].rows, usual_rows / whole))
    return [(name, share, usual) for name, (share, usual) in sorted(found.items())]


def _categories(reference: FeatureReference, counts: Counts) -> Iterator[tuple[str, int, float]]:
    """(name, rows in the window, usual share)."""
    dense = np.bincount(counts.codes, weights=counts.n, minlength=len(reference.categories) + 1).astype(np.int64)
    total = max(1, reference.rows)
    for i, name in enumerate(reference.categories):
        yield name, int(dense[i]), float(reference.counts[i] / total)


def _features(seen: Seen) -> Iterator[tuple[Key, FeatureReference]]:
    return ((key, r) for key, r in sorted(seen.members.items()) if key[0] != REJECT)


def _alarmed(verdicts: Sequence[Verdict], kind: str) -> Iterator[Verdict]:
    return (v for v in verdicts if v.kind == kind and v.feature != REJECT and v.state in ("alarm", "warning"))


def beyond_noise(v: Verdict) -> float:
    """The effect less what two samples of one law differ by on average: 0.87 / sqrt(effective rows) for a K-S distance."""
    noise = 0.87 * sqrt(1 / max(1, v.n) + 1 / max(1, v.reference_n))
    return max(0.0, (v.effect or 0.0) - noise * (1.0 if v.kind == "numeric" else 0.5))


def _risen(k: int, n: int, usual: float) -> float | None:
    """How far a share rose, if that is beyond chance and worth telling."""
    if not n:
        return None
    errors = (k - n * usual) / sqrt(n * usual * (1 - usual) + 1)
    moved = k / n - usual
    return moved if errors >= ERRORS and moved >= LEAST else None


def _cause(kind: Kind, place: str, size: float, scale: float, evidence: str, segment: str = WHOLE) -> Cause:
    """A segment's mark speaks of fewer rows than the same mark of the whole."""
    weight = WEIGHTS[kind] * (1.0 if segment == WHOLE else 0.9)
    return Cause(kind, place, round(weight * (1 - exp(-max(0.0, size) / scale)), 4), evidence)


def _in(segment: str) -> str:
    return "" if segment == WHOLE else f" in {segment}"


def _within(key: Key) -> str:
    return key[0] + _in(key[1])
