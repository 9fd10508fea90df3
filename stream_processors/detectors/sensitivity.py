"""PURE. What the monitor would catch now, and whether it does: the smallest shift of each feature, and canaries of that size.

A canary is a window of rows drawn from the reference moved by the smallest shift, after panes that follow the reference,
stepped by a detector of its own. By the shift's definition about nine in ten must raise an alarm within the window; a
share far from that says that the gauge or the detectors are wrong. See `smallest` for the shift and its law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, log10

import numpy as np

from stream_processors.detectors.null_stream import NullStream
from stream_processors.detectors.smallest import QUIET, shifted, smallest_shift
from stream_processors.judging.panes import Key

CHANCE = 0.9
DIGITS = 2  # of the rows a pane that a shift is computed for, so that it is computed seldom


class Sensitivity:
    """Gauges and canaries of the keys of a null stream."""

    def __init__(self, stream: NullStream):
        self._stream = stream
        self._known: dict[tuple[Key, int, int, int], float | None] = {}

    def smallest(self, key: Key, rows_a_pane: int, pane_starts: Sequence[int]) -> float | None:
        """The smallest shift (sd of the normal scores; share points of categories) caught within these panes with 90 % chance.

        None where no shift is, be it of the largest size: too few rows.
        """
        slots, rows = self._stream.references[key].slots, rounded(rows_a_pane)
        place = key, rows, len(pane_starts), slots.at(pane_starts[0]) if slots else 0
        if place not in self._known:
            detectors = self._stream.detectors(key)
            found = smallest_shift(detectors, key, rows, len(pane_starts), CHANCE, pane_starts[0]) if rows else inf
            self._known[place] = found if isfinite(found) else None
        return self._known[place]

    def canaries(self, pane_starts: Sequence[int], rows: Mapping[Key, int]) -> dict[Key, bool]:
        """Whether a canary of each key of `rows` was caught in this window; keys without a smallest shift have none."""
        caught: dict[Key, bool] = {}
        for key, n in rows.items():
            size = self.smallest(key, n, pane_starts) if pane_starts else None
            if size is not None:
                caught[key] = self._canary(key, rounded(n), size, pane_starts)
        return caught

    def _canary(self, key: Key, n: int, size: float, pane_starts: Sequence[int]) -> bool:
        step = pane_starts[1] - pane_starts[0] if len(pane_starts) > 1 else 0
        starts = [*(pane_starts[0] - step * (QUIET - i) for i in range(QUIET)), *pane_starts]
        rng, known = self._stream.generator(key, pane_starts[0], "canary"), self._stream.references[key]
        laws = [shifted(known, size if i >= QUIET else 0.0, start) for i, start in enumerate(starts)]
        detectors = self._stream.detectors(key)
        state, panes = detectors.start(), np.array([rng.multinomial(n, law) for law in laws], np.int64)
        detectors.step_panes(state, panes, np.array(starts, np.int64), until_fired=False)
        return bool(detectors.fired(state)[0])


def rounded(rows: int) -> int:
    """To two digits, down: 1,234 -> 1,200.

    >>> [rounded(n) for n in (7, 99, 1_234)]
    [7, 99, 1200]
    """
    unit = 10 ** max(0, int(log10(rows)) + 1 - DIGITS) if rows > 0 else 1
    return rows // unit * unit
