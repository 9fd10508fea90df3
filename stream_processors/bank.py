"""PURE. A bank of alternatives: ways in which a feature may leave its reference, each a distribution q over the coarse cells.

Beside the reference p each alternative gives a score log(q/p) per cell; the counts of a pane times these scores is the
log-likelihood ratio of the pane, whose exponential has expectation 1 while the data follows p. Alternatives are stated on
the reference's own quantile scale ("shift +0.2 sd" of the normal scores), so one bank suits any feature.

p is a sample of R rows, and every pane is judged by the same sample, so its error would add up. E[q/p] is linear in the
true law, hence at most 1 + 3 sd_p(q/p) / sqrt(R) within three standard errors; the logarithm of that, the slack, is taken
off every row's score. So the expectation is at most 1 for the law that the reference was drawn from, not only on average
over references (measured without it: a false page in 1,200 panes of 833 rows, where 0.14 are allowed, by a segment's
reference of 26,000 rows). An alternative is left out where the reference is too small for it: under p it must lose at
least four standard errors of its mean score, KL(p||q) >= 4 sd_p(log q/p) / sqrt(R), and under q gain more than the slack.
For a shift of t standard deviations that is t >= 8 / sqrt(R). This is also the tolerance: what is below half the smallest
alternative gathers no evidence.

Scores are multiples of 2**-24, rounded down: sums over integer counts are exact in float64 up to 17 M rows a pane, so the
evidence does not depend on the order of summation, and rounding can only lose evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from scipy import special

from stream_processors.cells import FeatureReference

SHIFTS = (0.1, 0.2, 0.4, 0.8)  # sd of the normal scores, both ways
SCALES = (1.1, 1.25, 1.5, 0.9, 0.8, 0.67)
TAILS = (0.005, 0.02, 0.1)  # share added to the outer 1 % on one side
BLOCKS = ((16, 0.1), (32, 0.03))  # (number of quantile blocks, share added to one of them)
SHAPES, SHAPE_SIZES = range(3, 9), (0.08, 0.2)  # orders and sizes of Neyman's smooth alternatives
GAINS, LOSSES = (0.02, 0.05, 0.15), (0.8, 0.5)  # of one category: share added, factor
EVEN = (0.1, 0.3)  # share drawn evenly over the categories
NULLS = NEW = (0.01, 0.05, 0.2)  # share of nulls, of values never seen, added
FEWER_NULLS = (0.5, 0.1)  # factors on the share of nulls
SCAN_CELLS = 64  # value cells of the scan at most; unseen and null come on top
ERRORS = 4.0  # standard errors that the reference's own error may not bridge
SLACK_ERRORS = 3.0  # of E[q/p] that are taken off; 1 in 740 references is further out, for one alternative
RARE_ROWS = 3.0  # added to counts of nulls and unseen values: 3/R is the 95 % bound of a share seen zero times in R
SMALLEST = 2.0**-24  # unit of the scores
_FLOOR = 1e-9

Named = Iterator[tuple[str, np.ndarray]]


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    names: tuple[str, ...]
    weights: np.ndarray  # float64[J], sum 1; families weigh the same
    scores: np.ndarray  # float64[cells, J], log(q/p) - slack
    slack: np.ndarray  # float64[J], a row: what the reference's own error could pretend
    sizes: np.ndarray  # float64[J], KL(p||q); t**2 / 2 for a shift of t sd
    reference: np.ndarray  # float64[cells], p; sums to 1
    groups: np.ndarray  # scan cell of each coarse cell
    scan_cumulative: np.ndarray  # float64, cumulative p of the scan cells
    scan_scores: np.ndarray  # float64[scan cells, J], log(q/p) there


@lru_cache(maxsize=1024)
def bank_of(reference: FeatureReference) -> Bank:
    """The alternatives that this reference can tell from itself; built once, 1 to 10 ms."""
    p = shares(reference)
    kept = [
        (family, name, q) for family, name, q in _distinct(_alternatives(reference, p)) if _told_apart(p, q, reference)
    ]
    q = np.stack([q for _, _, q in kept], 1) if kept else np.empty((len(p), 0))
    groups = _groups(p[:-2])
    sums = np.zeros((int(groups[-1]) + 1, len(p)))
    sums[groups, np.arange(len(p))] = 1.0
    return Bank(
        tuple(name for _, name, _ in kept),
        _weights([family for family, _, _ in kept]),
        _scores(q, p, slack := _slack(q, p, reference)),
        slack,
        -(p @ np.log(q / p[:, None])),
        p,
        groups,
        np.cumsum(sums @ p),
        _scores(sums @ q, sums @ p, np.zeros(len(kept))),
    )


@njit(cache=True, nogil=True)
def gained(counts, scores):
    """counts . scores, skipping the empty cells, in one thread: BLAS would share it among threads that wait for each other."""
    total = np.zeros(scores.shape[1])
    for cell in range(counts.size):
        if counts[cell]:
            for j in range(scores.shape[1]):
                total[j] += counts[cell] * scores[cell, j]
    return total


def shares(reference: FeatureReference) -> np.ndarray:
    """p: the share of each coarse cell. Rare cells are taken at an upper bound, so that a rare value is no surprise.

    A value never seen has the Good-Turing share (values seen once / R), plus the bound for none.
    """
    rows, size = reference.rows, reference.cells
    valued = (reference.cell_rows[:-2] + 0.5) / (rows + 0.5 * size) if size else np.empty(0)
    once = int((reference.counts == 1).sum()) if reference.discrete else 0
    unseen = (once + RARE_ROWS) / (rows + once + RARE_ROWS)
    null = (reference.nulls + RARE_ROWS) / (reference.source_rows + reference.nulls + RARE_ROWS)
    p = np.concatenate((valued * (1 - unseen) * (1 - null), [unseen * (1 - null), null]))
    return p / p.sum()


def _alternatives(reference: FeatureReference, p: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """(family, name, q)."""
    inner = p[:-2] / p[:-2].sum() if reference.cells else p[:-2]
    families: list[tuple[str, Callable[[np.ndarray], Named]]] = (
        [("shift", _shifts), ("scale", _scales), ("tail", _tails), ("block", _blocks), ("shape", _shapes)]
        if reference.kind == "numeric"
        else [("gain", _gains(reference)), ("loss", _losses(reference)), ("even", _even)]
    )
    if len(inner) > 1:
        for family, make in families:
            for name, q in make(inner):
                yield family, name, np.concatenate((q * p[:-2].sum(), p[-2:]))
    for share in NEW if reference.discrete else ():
        yield "new", f"new values +{share:.0%}", _mixed(p, _unit(len(p), -2), share)
    for share in NULLS:
        yield "null", f"nulls +{share:.0%}", _mixed(p, _unit(len(p), -1), share)
    for factor in FEWER_NULLS:
        yield "null", f"nulls x{factor}", _scaled(p, -1, factor)


def _shifts(p: np.ndarray) -> Named:
    edges = special.ndtri(np.cumsum(p)[:-1])
    for size in SHIFTS:
        for sign in (1, -1):
            yield f"shift {sign * size:+} sd", _between(special.ndtr(edges - sign * size))


def _scales(p: np.ndarray) -> Named:
    edges = special.ndtri(np.cumsum(p)[:-1])
    for factor in SCALES:
        yield f"scale x{factor}", _between(special.ndtr(edges / factor))


def _tails(p: np.ndarray) -> Named:
    middle = _middle(p)
    for share in TAILS:
        yield f"upper tail +{share:.1%}", _mixed(p, p * (middle >= min(0.99, middle[-1])), share)
        yield f"lower tail +{share:.1%}", _mixed(p, p * (middle <= max(0.01, middle[0])), share)


def _blocks(p: np.ndarray) -> Named:
    middle = _middle(p)
    for number, share in BLOCKS:
        for i in range(number):
            low, high = i / number, (i + 1) / number
            inside = p * ((middle >= low) & (middle < high))
            if inside.any():
                yield f"excess {share:.0%} in quantiles {low:.3f}-{high:.3f}", _mixed(p, inside, share)


def _shapes(p: np.ndarray) -> Named:
    """Neyman's smooth alternatives 1 + theta * sqrt(2k + 1) * P_k(2u - 1), P_k the Legendre polynomials."""
    middle = _middle(p)
    for order in SHAPES:
        wave = np.sqrt(2 * order + 1) * special.eval_legendre(order, 2 * middle - 1)
        for size in SHAPE_SIZES:
            for sign in (1, -1):
                yield f"shape {order} {sign * size:+}", np.maximum(p * (1 + sign * size * wave), p * 1e-3)


def _gains(reference: FeatureReference) -> Callable[[np.ndarray], Named]:
    def gains(p: np.ndarray) -> Named:
        for cell, name in _named_cells(reference):
            for share in GAINS:
                yield f"{name} +{share:.0%}", _mixed(p, _unit(len(p), cell), share)

    return gains


def _losses(reference: FeatureReference) -> Callable[[np.ndarray], Named]:
    def losses(p: np.ndarray) -> Named:
        for cell, name in _named_cells(reference):
            for factor in LOSSES:
                yield f"{name} x{factor}", _scaled(p, cell, factor)

    return losses


def _even(p: np.ndarray) -> Named:
    for share in EVEN:
        yield f"{share:.0%} spread evenly", _mixed(p, np.ones(len(p)), share)


def _named_cells(reference: FeatureReference) -> list[tuple[int, str]]:
    """The 32 most frequent cells of categories; the shared one is called `rare values`."""
    cell_of = reference.cell_of[: len(reference.categories)]
    members = np.bincount(cell_of, minlength=reference.cells)
    names = dict(zip(cell_of.tolist(), reference.categories, strict=True))
    top = np.argsort(-reference.cell_rows[:-2], kind="stable")[:32]
    return [(int(c), names[int(c)] if members[c] == 1 else "rare values") for c in np.sort(top)]


def _between(cumulative: np.ndarray) -> np.ndarray:
    return np.diff(cumulative, prepend=0.0, append=1.0)


def _middle(p: np.ndarray) -> np.ndarray:
    return np.cumsum(p) - p / 2


def _unit(size: int, cell: int) -> np.ndarray:
    unit = np.zeros(size)
    unit[cell] = 1.0
    return unit


def _mixed(p: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * p + share * other / other.sum()


def _scaled(p: np.ndarray, cell: int, factor: float) -> np.ndarray:
    q = p * (1 - factor * p[cell]) / (1 - p[cell])
    q[cell] = factor * p[cell]
    return q


def _distinct(found: Iterable[tuple[str, str, np.ndarray]]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Without those that ties make equal to an earlier one."""
    seen: set[bytes] = set()
    for family, name, raw in found:
        q = np.maximum(raw, _FLOOR * raw.sum())
        q = q / q.sum()
        mark = np.round(q, 9).tobytes()
        if mark not in seen:
            seen.add(mark)
            yield family, name, q


def _told_apart(p: np.ndarray, q: np.ndarray, reference: FeatureReference) -> bool:
    """Whether the reference's own error cannot make p look like q, and q shows in spite of it."""
    if not reference.rows:
        return False
    score = np.log(q / p)
    loss, gain = -float(p @ score), float(q @ score)
    spread = float(np.sqrt(max(0.0, p @ np.square(score) - loss * loss)))
    slack = float(_slack(q[:, None], p, reference)[0])
    return loss > 1e-6 and loss >= ERRORS * spread / np.sqrt(reference.rows) and gain > slack


def _slack(q: np.ndarray, p: np.ndarray, reference: FeatureReference) -> np.ndarray:
    """log of the upper bound of E[q/p]; cells never seen are taken at their bound in p already."""
    rows = max(1, int(reference.cell_rows.sum()))
    seen, ratio = reference.cell_rows / rows, q / p[:, None]
    variance = seen @ np.square(ratio) - np.square(seen @ ratio)
    return np.log1p(SLACK_ERRORS * np.sqrt(np.maximum(0.0, variance) / max(1, reference.rows)))


def _weights(families: list[str]) -> np.ndarray:
    sizes = {family: families.count(family) for family in families}
    return np.array([1 / (len(sizes) * sizes[f]) for f in families])


def _scores(q: np.ndarray, p: np.ndarray, slack: np.ndarray) -> np.ndarray:
    return np.floor((np.log(q / p[:, None]) - slack) / SMALLEST) * SMALLEST


def _groups(p: np.ndarray) -> np.ndarray:
    """Scan cell of each coarse cell: neighbours of about equal mass together, then unseen, then null."""
    number = min(SCAN_CELLS, len(p))
    place = np.minimum((np.cumsum(p) - p / 2) / max(p.sum(), _FLOOR) * number, number - 1).astype(np.int64)
    place = np.unique(place, return_inverse=True)[1].reshape(-1)
    after = int(place[-1]) + 1 if len(place) else 0
    return np.concatenate((place, [after, after + 1]))
