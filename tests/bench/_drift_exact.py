"""Question: are the counts exact? D from counts against scipy's, over ties, splits, merge orders and slides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from scipy import stats

from pipeline.contract import MonitoredFeature
from stream_processors.comparing import statistics
from stream_processors.comparing.p_values import ks_p_value
from stream_processors.reference import cells
from stream_processors.reference.cells import EMPTY, Counts, FeatureReference
from tests.bench._drift_answers import Answer, Size, shared_out
from tests.bench.report import bar, progress

QUIET = {"short": (200, 2_000), "default": (400, 1_000_000), "full": (1_000, 1_000_000)}  # pairs, rows of each sample
NOMINAL = 0.05
CASES = {"short": 150, "default": 10_000, "full": 10_000}
X = MonitoredFeature("x", "numeric")
Draw = Callable[[np.random.Generator, int], np.ndarray]
KINDS: dict[str, Draw] = {
    "continuous": lambda r, n: r.normal(size=n),
    "cents": lambda r, n: np.round(r.lognormal(1, 1, n), 2),
    "few values": lambda r, n: r.poisson(2, n).astype(float),
    "constant": lambda r, n: np.full(n, 5.0),
    "half tied": lambda r, n: np.where(r.random(n) < 0.5, 1.0, r.normal(size=n)),
    "infinite": lambda r, n: np.where(r.random(n) < 0.1, r.choice([-np.inf, np.inf], n), r.normal(size=n)),
    "tiny and huge": lambda r, n: r.normal(size=n) * r.choice([1e-300, 1.0, 1e300], n),
}


def reference(values: np.ndarray) -> FeatureReference:
    return cells.build(X, cells.WHOLE, pa.array(values), version=1, effective_from=0)


def counted(known: FeatureReference, values: np.ndarray) -> Counts:
    return cells.count(known, pa.array(values, pa.float64()))


def split_and_merged(known: FeatureReference, values: np.ndarray, rng: np.random.Generator) -> Counts:
    """The rows in up to six shares, counted apart, added in any order and any grouping; one more added and retracted."""
    parts = [counted(known, values[np.flatnonzero(own)]) for own in _shares(rng, len(values))]
    extra = counted(known, rng.choice(values, 7))
    parts.insert(int(rng.integers(len(parts) + 1)), extra)
    while len(parts) > 1:
        i, j = rng.choice(len(parts), 2, replace=False)
        merged = parts[i] + parts[j]
        parts = [p for k, p in enumerate(parts) if k not in (i, j)] + [merged]
    return (parts[0] if parts else EMPTY) - extra


def _shares(rng: np.random.Generator, rows: int) -> list[np.ndarray]:
    owner = rng.integers(0, int(rng.integers(1, 7)), rows)
    return [owner == i for i in range(int(owner.max()) + 1)]


def case(seed: int) -> tuple[float, float, bool]:
    """(difference to scipy, how far the bracket misses D, split and merged equal to whole)."""
    rng = np.random.default_rng([5, seed])
    kinds = list(KINDS.values())
    rows, n = int(rng.integers(1, 2_000)), int(rng.integers(1, 2_000))
    was = kinds[seed % len(kinds)](rng, rows)
    now = kinds[(seed if rng.random() < 0.7 else seed + 1) % len(kinds)](rng, n)
    if rng.random() < 0.3:
        now = np.where(rng.random(n) < 0.3, rng.choice(was, n), now)
    known = reference(was)
    with_nulls = np.where(rng.random(n) < 0.1, np.nan, now) if rng.random() < 0.3 else now
    valued = with_nulls[~np.isnan(with_nulls)]
    if not len(valued):
        return 0.0, 0.0, True
    whole = counted(known, with_nulls)
    equal = split_and_merged(known, with_nulls, rng).to_bytes() == whole.to_bytes()
    ours = statistics.ks(known, whole).statistic
    theirs = stats.ks_2samp(was, valued, method="asymp").statistic
    low, high = statistics.bracket(known, cells.coarse(known, whole))
    return abs(ours - theirs), max(low - ours, ours - high, 0.0), equal


def slides(panes: int = 60, window: int = 12) -> int:
    """Sliding windows by subtraction whose counts are not those of a recount, byte for byte."""
    rng = np.random.default_rng(6)
    known = reference(np.round(rng.normal(size=20_000), 2))
    rows = [np.round(rng.normal(0.1, 1, 500), 2) for _ in range(panes)]
    counts = [counted(known, r) for r in rows]
    total, wrong = EMPTY, 0
    for at in range(panes):
        total = total + counts[at]
        if at >= window:
            total = total - counts[at - window]
        wrong += total.to_bytes() != counted(known, np.concatenate(rows[max(0, at - window + 1) : at + 1])).to_bytes()
    return wrong


def quiet(job: tuple[int, int]) -> bool:
    """Whether p < .05 for two samples of one law, `job[1]` rows each."""
    rng = np.random.default_rng([7, job[0]])
    rows, known = job[1], reference(rng.normal(size=job[1]))
    distance = statistics.ks(known, counted(known, rng.normal(size=rows))).statistic
    return ks_p_value(distance, rows, rows) < NOMINAL


def run(size: Size) -> Answer:
    cases = CASES[size]
    pairs, rows = QUIET[size]
    rejected = float(np.mean(list(shared_out(quiet, [(seed, rows) for seed in range(pairs)]))))
    low, high = (float(q) / pairs for q in stats.binom(pairs, NOMINAL).interval(0.99))
    found = list(shared_out(case, range(cases)))
    scipys, bracket = (max(f[i] for f in found) for i in range(2))
    unequal, wrong = sum(not f[2] for f in found), slides()
    progress(f"exactness: {cases} cases, worst difference {scipys:.1e}")
    return Answer(
        "Exact, mergeable counts",
        f"{cases:,} random pairs of samples of 1 to 2,000 rows in {len(KINDS)} kinds ({', '.join(KINDS)}), some with nulls or from "
        "another kind. Each window is also split at random, counted apart, merged in a random order, something added and "
        f"retracted. The truth is `scipy.stats.ks_2samp`. Then {pairs} pairs of normal samples of {rows:,} rows each: how often p < {NOMINAL}, beside 99 % of a binomial.",
        [
            bar("exactness: worst |D - scipy|", scipys, "<=", 1e-12),
            bar("exactness: split and merged counts that differ from the whole", unequal, "==", 0),
            bar("exactness: slides by subtraction that differ from a recount", wrong, "==", 0),
            bar("exactness: worst distance of D from its certified bracket", bracket, "<=", 1e-12),
            bar(f"exactness: share of p < .05 of quiet pairs of {rows:,} rows, least", rejected, ">=", round(low, 4)),
            bar(f"exactness: share of p < .05 of quiet pairs of {rows:,} rows, most", rejected, "<=", round(high, 4)),
        ],
        {"cases": cases},
    )
