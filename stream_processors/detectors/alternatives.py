"""PURE. Ways in which a feature may leave its reference: each a law q beside the law p, over any cells.

Stated on the reference's own quantile scale ("shift +0.2 sd" of the normal scores) or on its categories, so one list suits
any feature, and any slot of a rhythm. The last two cells of p are `unseen` and `null`. Knows nothing of evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

SHIFTS = (0.1, 0.2, 0.4, 0.8)  # sd of the normal scores, both ways
SCALES = (1.1, 1.25, 1.5, 0.9, 0.8, 0.67)
TAILS = (0.005, 0.02, 0.1)  # share added to the outer 1 % on one side
BLOCKS = ((16, 0.1), (32, 0.03))  # (number of quantile blocks, share added to one of them)
SHAPES, SHAPE_SIZES = range(3, 9), (0.08, 0.2)  # orders and sizes of Neyman's smooth alternatives
GAINS, LOSSES = (0.02, 0.05, 0.15), (0.8, 0.5)  # of one category: share added, factor
RISES, RARE = (2.0, 4.0), 0.1  # factors on a category with at most this share
MAIN = 0.9  # a category with this share: `all others` rise together
NAMED = 32  # categories with alternatives of their own
EVEN = (0.1, 0.3)  # share drawn evenly over the categories
NULLS = NEW = (0.01, 0.05, 0.2)  # share of nulls, of values never seen, added
NULL_FACTORS = (0.5, 0.1, 2.0, 4.0)
_FLOOR = 1e-9

Named = Iterator[tuple[str, str, np.ndarray]]


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    family: str
    name: str
    q: np.ndarray


def alternatives(p: np.ndarray, categories: dict[int, str] | None, discrete: bool) -> Iterator[Alternative]:
    """Every alternative to p, without those that ties make equal to an earlier one; `categories` = None for numbers.

    Where the values have one cell only there is nothing to move but nulls and new values.
    """
    seen: set[bytes] = set()
    for family, name, raw in _all(p, categories, discrete):
        q = np.maximum(raw, _FLOOR * raw.sum())
        q = q / q.sum()
        mark = np.round(q, 9).tobytes()
        if mark not in seen:
            seen.add(mark)
            yield Alternative(family, name, q)


def shifted_normal(p: np.ndarray, size: float) -> np.ndarray:
    """The law p of ordered cells, moved by `size` standard deviations of its normal scores."""
    edges = special.ndtri(np.minimum(1.0, np.cumsum(p)[:-1]))
    return np.diff(special.ndtr(edges - size), prepend=0.0, append=1.0)


def mixed(p: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * p + share * other / other.sum()


def unit(size: int, cell: int) -> np.ndarray:
    made = np.zeros(size)
    made[cell] = 1.0
    return made


def _all(p: np.ndarray, categories: dict[int, str] | None, discrete: bool) -> Named:
    if len(p) > 3:
        valued = p[:-2].sum()
        made = _numbers(p[:-2] / valued) if categories is None else _categories(p[:-2] / valued, categories)
        for family, name, q in made:
            yield family, name, np.concatenate((q * valued, p[-2:]))
    for share in NEW if discrete else ():
        yield "new", f"new values +{share:.0%}", mixed(p, unit(len(p), -2), share)
    for share in NULLS:
        yield "null", f"nulls +{share:.0%}", mixed(p, unit(len(p), -1), share)
    for factor in NULL_FACTORS:
        if factor * p[-1] < 0.5:
            yield "null", f"nulls x{factor:g}", _scaled(p, unit(len(p), -1) > 0, factor)


def _numbers(p: np.ndarray) -> Named:
    middle = np.cumsum(p) - p / 2
    edges = special.ndtri(np.minimum(1.0, np.cumsum(p)[:-1]))
    for size in SHIFTS:
        for sign in (1, -1):
            yield "shift", f"shift {sign * size:+} sd", shifted_normal(p, sign * size)
    for factor in SCALES:
        yield "scale", f"scale x{factor}", np.diff(special.ndtr(edges / factor), prepend=0.0, append=1.0)
    for share in TAILS:
        yield "tail", f"upper tail +{share:.1%}", mixed(p, p * (middle >= min(0.99, middle[-1])), share)
        yield "tail", f"lower tail +{share:.1%}", mixed(p, p * (middle <= max(0.01, middle[0])), share)
    for number, share in BLOCKS:
        for i in range(number):
            low, high = i / number, (i + 1) / number
            inside = p * ((middle >= low) & (middle < high))
            if inside.any():
                yield "block", f"excess {share:.0%} in quantiles {low:.3f}-{high:.3f}", mixed(p, inside, share)
    for order in SHAPES:  # Neyman's 1 + theta * sqrt(2k + 1) * P_k(2u - 1), P_k the Legendre polynomials
        wave = np.sqrt(2 * order + 1) * special.eval_legendre(order, 2 * middle - 1)
        for size in SHAPE_SIZES:
            for sign in (1, -1):
                yield "shape", f"shape {order} {sign * size:+}", np.maximum(p * (1 + sign * size * wave), p * 1e-3)


def _categories(p: np.ndarray, categories: dict[int, str]) -> Named:
    top = sorted(sorted(categories, key=lambda c: (-p[c], c))[:NAMED])
    for cell in top:
        for share in GAINS:
            yield "gain", f"{categories[cell]} +{share:.0%}", mixed(p, unit(len(p), cell), share)
        for factor in LOSSES:
            yield "loss", f"{categories[cell]} x{factor}", _scaled(p, unit(len(p), cell) > 0, factor)
    for factor in RISES:
        for cell in top:
            if p[cell] <= RARE:
                yield "rise", f"{categories[cell]} x{factor:g}", _scaled(p, unit(len(p), cell) > 0, factor)
        main = int(np.argmax(p))
        if MAIN <= p[main] < 1 and main in categories:
            yield "rise", f"all but {categories[main]} x{factor:g}", _scaled(p, unit(len(p), main) == 0, factor)
    for share in EVEN:
        yield "even", f"{share:.0%} spread evenly", mixed(p, np.ones(len(p)), share)


def _scaled(p: np.ndarray, cells: np.ndarray, factor: float) -> np.ndarray:
    """The share of some cells times a factor; the others keep their proportions. p itself where there is nothing else."""
    held = p[cells].sum()
    return p if held >= 1 else np.where(cells, factor * p, p * (1 - factor * held) / (1 - held))
