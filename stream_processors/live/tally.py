"""PURE. What a model version said and what happened, as sums of integers: added in any order, merged in any grouping, the same.

A tally holds the histogram of scores by label over fixed cells, the confusion matrix at the contract's threshold, and sums
of losses in units of 2^-32, for a float sum depends on its order. Cells are equal in arcsin(sqrt(p)): there a share's
standard error is the same everywhere, so that rare events are told apart as well as common ones. 480 cells; a tally is a
few kB at most, however many rows. Knows no window, no Kafka, no interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

CELLS = 480
GROUPS = 20  # of cells, for calibration
UNIT = 2**32
CLIP = 1e-12

# Indices into `promised`: sums over all predictions.
ROWS, SCORE, ABOVE, SCORE_ABOVE, ENTROPY, LOSS_VARIANCE, SPREAD, SPREAD_ABOVE, BRIER_VARIANCE, LOGIT = range(10)
# Indices into `realised`: sums over labelled predictions.
LOSS, LOSS_SQUARED, BRIER, BRIER_SQUARED = range(4)
TN, FP, FN, TP = range(4)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a tally wants of a score; the same for every slice."""

    cell: int
    score: int
    above: bool
    promised: tuple[int, ...]
    realised: tuple[tuple[int, ...], tuple[int, ...]]  # by label


def facts(score: float, threshold: float) -> Facts:
    p = min(max(score, CLIP), 1 - CLIP)
    logit, spread, above = math.log(p) - math.log1p(-p), p * (1 - p), score >= threshold
    losses = (-math.log1p(-p), -math.log(p))
    fixed = _fixed(p)
    promised = (
        1,
        fixed,
        int(above),
        fixed * above,
        _fixed(p * losses[1] + (1 - p) * losses[0]),
        _fixed(spread * logit * logit),
        _fixed(spread),
        _fixed(spread) * above,
        _fixed(spread * (1 - 2 * p) ** 2),
        _fixed(abs(logit)),
    )
    errors = (p * p, (1 - p) * (1 - p))
    realised = tuple(
        (_fixed(loss), _fixed(loss * loss), _fixed(e), _fixed(e * e)) for loss, e in zip(losses, errors, strict=True)
    )
    return Facts(cell_of(score), fixed, above, promised, (realised[0], realised[1]))


def cell_of(score: float) -> int:
    """
    >>> cell_of(0.0), cell_of(0.5), cell_of(1.0)
    (0, 240, 479)
    """
    return min(int(CELLS * (2 / math.pi) * math.asin(math.sqrt(score)) + 1e-9), CELLS - 1)


def middle(cell: float) -> float:
    """The score in the middle of a cell."""
    return math.sin((cell + 0.5) * math.pi / (2 * CELLS)) ** 2


@dataclass(slots=True)
class Tally:
    cells: dict[int, list[int]] = field(default_factory=dict)  # cell -> [predicted, negative, positive]
    confusion: list[int] = field(default_factory=lambda: [0] * 4)
    promised: list[int] = field(default_factory=lambda: [0] * 10)
    realised: list[int] = field(default_factory=lambda: [0] * 4)
    groups: dict[int, int] = field(default_factory=dict)  # group of cells -> sum of its labelled scores

    @property
    def rows(self) -> int:
        """Labelled ones."""
        return sum(self.confusion)

    @property
    def predicted(self) -> int:
        return self.promised[ROWS]

    @property
    def positive(self) -> int:
        return self.confusion[FN] + self.confusion[TP]

    def predict(self, found: Facts) -> None:
        self.cells.setdefault(found.cell, [0, 0, 0])[0] += 1
        _add(self.promised, found.promised)

    def label(self, found: Facts, label: bool) -> None:
        self.cells.setdefault(found.cell, [0, 0, 0])[1 + label] += 1
        self.confusion[2 * label + found.above] += 1
        _add(self.realised, found.realised[label])
        group = found.cell * GROUPS // CELLS
        self.groups[group] = self.groups.get(group, 0) + found.score

    def merge(self, other: Tally) -> None:
        for cell, counts in other.cells.items():
            _add(self.cells.setdefault(cell, [0, 0, 0]), counts)
        for mine, theirs in (
            (self.confusion, other.confusion),
            (self.promised, other.promised),
            (self.realised, other.realised),
        ):
            _add(mine, theirs)
        for group, total in other.groups.items():
            self.groups[group] = self.groups.get(group, 0) + total

    def json(self) -> dict[str, object]:
        return {
            "cells": [[cell, *counts] for cell, counts in sorted(self.cells.items())],
            "confusion": self.confusion,
            "promised": self.promised,
            "realised": self.realised,
            "groups": sorted(self.groups.items()),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, list]) -> Self:  # type: ignore[type-arg]
        cells = {int(cell): [int(c) for c in counts] for cell, *counts in body["cells"]}
        groups = {int(group): int(total) for group, total in body["groups"]}
        sums = ([int(v) for v in body[name]] for name in ("confusion", "promised", "realised"))
        return cls(cells, *sums, groups=groups)


def merged(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for one in tallies:
        whole.merge(one)
    return whole


def _fixed(value: float) -> int:
    return round(value * UNIT)


def _add(sums: list[int], more: Iterable[int]) -> None:
    for i, value in enumerate(more):
        sums[i] += value
