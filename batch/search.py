"""PURE. A seeded search of the trees' parameters: a few dozen candidates, successive halving over folds in time order.

Rung k measures every candidate that is left on k folds of the newest ROWS[k] rows, and the best third goes on (Jamieson
and Talwalkar 2016, https://proceedings.mlr.press/v51/jamieson16.html). A fold is taught on the rows before the ones it is
measured on; all are of the train slice, so nothing that calibrates or tests is seen. The parameters at hand go through
every rung and stay unless the best candidate's loss, paired on the same rows, is shown to be lower (upper 95 % bound
below 0): the luckiest of 24 would win on noise alone, and the gate would meet another model each time.

Assumes rows whose order is their time and losses that are nearly independent. Cost: 24 + 2 * 9 + 3 * 4 fits, some 4 s of
one core for 14 features (2026-11-21). The same rows, seed and number of candidates give the same winner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from batch.gate import bound, log_loss

Params = Mapping[str, float | int]
Answer = Callable[[Params, np.ndarray, np.ndarray], np.ndarray]  # teach on some rows, score others

KEEP = 3  # one of so many goes on
ROWS = (4_000, 10_000, 20_000)  # of a rung, the newest
FEWEST = 1_000  # rows below which nothing is searched: differences would be noise
SPACE: dict[str, tuple[float | int, ...]] = {
    "learning_rate": (0.03, 0.045, 0.06, 0.09, 0.12),
    "max_iter": (75, 100, 150, 225, 300),
    "max_leaf_nodes": (3, 4, 5, 7, 10, 15),
    "min_samples_leaf": (20, 50, 100, 200),
    "l2_regularization": (0.0, 1.0, 5.0, 20.0),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    params: Params
    rung: int  # the last that it was measured in, from 1
    rows: int  # that it was measured on there
    log_loss: float  # mean over them
    upper: float  # upper 95 % bound of its loss less that of the parameters at hand, on the same rows

    def json(self) -> dict[str, object]:
        return {**self.params, **{k: v for k, v in asdict(self).items() if k != "params"}}


@dataclass(frozen=True, slots=True)
class Found:
    """The winner, and every candidate: the farthest first, then the better."""

    params: Params
    candidates: tuple[Candidate, ...] = ()

    def table(self) -> dict[str, list[object]]:
        """A column a figure."""
        rows = [c.json() for c in self.candidates]
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


def search(label: np.ndarray, at_hand: Params, answer: Answer, seed: int, candidates: int) -> Found:
    """`label` in time order; the parameters at hand where there are too few rows, or a fold has one class only."""
    y = label.astype(np.int8)
    if (
        candidates < 2
        or len(y) < FEWEST
        or any(len(np.unique(y[t])) < 2 for n in range(len(ROWS)) for t, _ in folds(len(y), n))
    ):
        return Found(at_hand)
    left, measured = draw(at_hand, seed, candidates), dict[int, Candidate]()
    for rung in range(len(ROWS)):
        found = _measure(y, left, answer, rung)
        measured |= {id(p): c for p, c in zip(left, found, strict=True)}
        ranked = sorted(range(1, len(left)), key=lambda i: (found[i].log_loss, i))
        left = [left[0], *(left[i] for i in ranked[: max(1, len(ranked) // KEEP)])]
    best = measured[id(left[1])]
    table = sorted(measured.values(), key=lambda c: (-c.rung, c.log_loss))
    return Found(best.params if best.upper < 0 else at_hand, tuple(table))


def draw(at_hand: Params, seed: int, number: int) -> list[Params]:
    """Different points of the space, the parameters at hand first."""
    rng, found = np.random.default_rng(seed), [dict(at_hand)]
    while len(found) < number:
        point = {name: values[int(rng.integers(len(values)))] for name, values in SPACE.items()}
        if point not in found:
            found.append(point)
    return list(found)


def folds(rows: int, rung: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(taught, measured) row numbers: rung + 1 pairs over the newest rows, each taught on all before what it measures.

    >>> [(t.tolist(), m.tolist()) for t, m in folds(6, 1)]
    [([0, 1], [2, 3]), ([0, 1, 2, 3], [4, 5])]
    """
    blocks = np.array_split(np.arange(max(0, rows - ROWS[rung]), rows), rung + 2)
    for k in range(1, len(blocks)):
        yield np.concatenate(blocks[:k]), blocks[k]


def _measure(y: np.ndarray, left: list[Params], answer: Answer, rung: int) -> list[Candidate]:
    """Each one's losses over the rung's folds, beside those of the first."""
    pairs = list(folds(len(y), rung))
    losses = [np.concatenate([log_loss(y[m], answer(params, t, m)) for t, m in pairs]) for params in left]
    return [
        Candidate(params, rung + 1, len(loss), float(np.mean(loss)), bound(loss - losses[0], losses[0]).upper)
        for params, loss in zip(left, losses, strict=True)
    ]
