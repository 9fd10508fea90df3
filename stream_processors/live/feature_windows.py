"""PURE. What an entity's past is worth at a row: sums by step of event time, added up over each feature's horizon.

One arithmetic for both doors: `looked_up` reads sums that `driftline features` stored (a request), `replayed` makes them
row by row from the lake (training). Both add 64-bit integers, so neither order nor batches can change a value. A row at
event time t sees the steps (t - horizon, t], the one that t lies in included. Importing it costs numba's import, 1 s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from stream_processors.live.feature_plan import HUNDREDTHS, SUMS, Entity, History

_COUNT, _SUM, _MEAN = 0, 1, 2  # places in KINDS


def looked_up(history: History, entity: Entity, stored: Sequence[bytes], event_ms: np.ndarray, out: np.ndarray) -> None:
    """Fill the entity's columns of `out` for rows at `event_ms` from the sums of each row's entity (NOTHING = unknown)."""
    sums = np.frombuffer(b"".join(stored), SUMS)
    sizes = np.fromiter(map(len, stored), np.int64, len(stored)) // SUMS.itemsize
    _look_up(sums, sizes, event_ms // history.step_ms, entity.horizons, entity.kinds,
             history.prior, history.weight, entity.columns, out)  # fmt: skip


def replayed(
    history: History, entity: Entity, ends: np.ndarray, arrived: np.ndarray, sums: np.ndarray,
    row_ends: np.ndarray, row_arrived: np.ndarray, row_ms: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Fill `out` for rows that each see only what arrived strictly before them.

    Contributions (`arrived` ms, `sums`) and rows (`row_arrived`, `row_ms`) both stand entity by entity, in order of arrival
    within each; `ends` and `row_ends` say where each entity's part ends.
    """
    _replay(ends, arrived, sums, row_ends, row_arrived, row_ms // history.step_ms, entity.keep,
            entity.horizons, entity.kinds, history.prior, history.weight, entity.columns, out)  # fmt: skip


# The kernels stand together: numba's cache of one file does not see a change in another.


@njit(cache=True, nogil=True)
def _value(kind, count, amount, labelled, positive, prior, weight):
    if kind == _COUNT:
        return float(count)
    if kind == _SUM:
        return amount / HUNDREDTHS
    if kind == _MEAN:
        return amount / HUNDREDTHS / count if count else 0.0
    return (positive + weight * prior) / (labelled + weight)


@njit(cache=True, nogil=True)
def _add_up(sums, first, last, oldest, now, horizons, kinds, prior, weight, columns, row):
    for f in range(len(kinds)):
        count = amount = labelled = positive = np.int64(0)
        since = max(now - horizons[f], oldest)
        for i in range(first, last):
            if since < sums[i].step <= now:
                count += sums[i].count
                amount += sums[i].amount
                labelled += sums[i].labelled
                positive += sums[i].positive
        row[columns[f]] = _value(kinds[f], count, amount, labelled, positive, prior, weight)


@njit(cache=True, nogil=True)
def _look_up(sums, sizes, now, horizons, kinds, prior, weight, columns, out):
    oldest = np.int64(-(2**62))
    last = 0
    for r in range(len(sizes)):
        first, last = last, last + sizes[r]
        _add_up(sums, first, last, oldest, now[r], horizons, kinds, prior, weight, columns, out[r])


@njit(cache=True, nogil=True)
def _replay(
    ends, arrived, sums, row_ends, row_arrived, row_now, keep, horizons, kinds, prior, weight, columns, out
):  # fmt: skip
    ring = np.zeros(keep, sums.dtype)
    i = r = 0
    for e in range(len(row_ends)):
        ring[:] = np.zeros(1, sums.dtype)[0]
        newest = np.int64(-(2**31))
        for k in range(keep):
            ring[k].step = newest
        newest += keep
        while r < row_ends[e]:
            while i < ends[e] and arrived[i] < row_arrived[r]:
                step = sums[i].step
                newest = max(newest, step)
                if step > newest - keep:
                    slot = step % keep
                    if ring[slot].step != step:
                        ring[slot].step = step
                        ring[slot].count = ring[slot].amount = ring[slot].labelled = ring[slot].positive = 0
                    ring[slot].count += sums[i].count
                    ring[slot].amount += sums[i].amount
                    ring[slot].labelled += sums[i].labelled
                    ring[slot].positive += sums[i].positive
                i += 1
            _add_up(ring, 0, keep, newest - keep, row_now[r], horizons, kinds, prior, weight, columns, out[r])
            r += 1
        i = ends[e]
