"""PURE. What the monitor would catch now, and whether it does: the smallest shift of each feature, and canaries of that size.

A canary is a window of rows drawn from the reference moved by the smallest shift, after panes that follow the reference,
stepped by detectors of its own. By the shift's definition about nine in ten must raise an alarm within the window; a
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
    """Gauges and canaries of the keys that a null stream walks."""

    def __init__(self, stream: NullStream):
        self._stream = stream
        self._known: dict[tuple[Key, int, int, int], float | None] = {}

    def smallest(self, key: Key, rows_a_pane: int, pane_starts: Sequence[int]) -> float | None:
        """The smallest shift (sd of the normal scores; share points of categories) caught within these panes with 90 % chance.

        None where no shift is, be it of the largest size: too few rows.
        """
        detectors, slots, rows = self._stream.detectors, self._stream.references[key].slots, rounded(rows_a_pane)
        place = key, rows, len(pane_starts), slots.at(pane_starts[0]) if slots else 0
        if place not in self._known:
            assert detectors is not None
            found = smallest_shift(detectors, key, rows, len(pane_starts), CHANCE, pane_starts[0]) if rows else inf
            self._known[place] = found if isfinite(found) else None
        return self._known[place]

    def canaries(self, pane_starts: Sequence[int], rows: Mapping[Key, int]) -> dict[Key, bool]:
        """Whether a canary of each key was caught in this window; keys without a smallest shift have none."""
        detectors = self._stream.detectors
        if detectors is None or not pane_starts:
            return {}
        step = pane_starts[1] - pane_starts[0] if len(pane_starts) > 1 else 0
        starts = [*(pane_starts[0] - step * (QUIET - i) for i in range(QUIET)), *pane_starts]
        panes, sent = np.zeros((len(starts), int(detectors.offsets[-1])), np.int64), []
        for at, key in enumerate(detectors.keys):
            size = self.smallest(key, rows.get(key, 0), pane_starts)
            if size is None:
                continue
            sent.append(key)
            rng = self._stream.generator(key, pane_starts[0], "canary")
            own = panes[:, detectors.offsets[at] : detectors.offsets[at + 1]]
            for i, start in enumerate(starts):
                law = shifted(self._stream.references[key], size if i >= QUIET else 0.0, start)
                own[i] = rng.multinomial(rounded(rows[key]), law)
        state = detectors.start()
        detectors.step_panes(state, panes, np.array(starts, np.int64), until_fired=False)
        caught = dict(zip(detectors.keys, detectors.fired(state).tolist(), strict=True))
        return {key: bool(caught[key]) for key in sent}


def rounded(rows: int) -> int:
    """To two digits, down: 1,234 -> 1,200.

    >>> [rounded(n) for n in (7, 99, 1_234)]
    [7, 99, 1200]
    """
    unit = 10 ** max(0, int(log10(rows)) + 1 - DIGITS) if rows > 0 else 1
    return rows // unit * unit
