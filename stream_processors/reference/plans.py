"""PURE. Which slots a rhythm gets, by how many rows they would hold.

Knows event times and a floor, nothing of values. Weekdays without a row ask for no slot: they share that of the day before.
Where rows are few, weekdays are given up first, then neighbouring stretches are merged. If that leaves one law for all,
stretches below the floor are *apart* instead (`departures`) and the others keep their slots; if there are no others, the
rhythm cannot be followed, and says so (`UNMATCHED`): one law that mixes the hours would page at each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stream_processors.reference.slots import MONDAY, UNMATCHED, WEEK, WEEKDAYS, Slots, name_of

FLOOR = 2_000  # rows of a slot
_PARTITIONS = (
    ((0,), (1,), (2,), (3,), (4,), (5,), (6,)),
    ((0, 1, 2, 3, 4), (5,), (6,)),
    ((0, 1, 2, 3, 4), (5, 6)),
    ((0, 1, 2, 3, 4, 5, 6),),
)  # finest first; a partition that a merge leaves is never finer than those of its parts
ALIKE = len(_PARTITIONS) - 1

Days = tuple[int, ...]


def ways(times: np.ndarray, cuts: int, finest: int) -> tuple[list[Slots | None], dict[str, float]]:
    """(what to choose from, the first of equals: weekdays given up first, or kept where hours are merged; what was wanted)."""
    held = _held(times, cuts)
    groups = _groups(held.sum(1), finest)
    least = min(int(held[list(days)].sum(0).min()) for days in groups)
    wanted: dict[str, float] = {"slots_wanted": cuts * len(groups), "least_rows": least}
    first = plan_of(times, cuts, finest)
    if first is not None:
        kept = [plan_of(times, cuts, p, p) for p in range(finest, ALIKE)] if least < FLOOR else []
        return [first, *(p for p in kept if p is not None)], wanted
    if np.count_nonzero([held[list(days)].sum(0) for days in groups]) < 2:
        return [None], {}  # all rows lie in one stretch: nothing to follow
    thin = [p for p in (_apart(held, p) for p in range(finest, max(finest + 1, ALIKE))) if p is not None]
    if thin:
        return [min(thin, key=lambda found: found[1])[0]], {}
    return [None], {**wanted, UNMATCHED: 1.0}


def plan_of(times: np.ndarray, cuts: int, finest: int, coarsest: int = ALIKE) -> Slots | None:
    """Slots of a day in `cuts` stretches, and of weekdays at most as `finest` parts them, each with at least FLOOR of the rows; None if only one is left.

    Where rows are few, weekdays are given up first, down to the partition `coarsest`, then neighbouring stretches are merged.
    """
    held = _held(times, cuts)
    blocks = [_block(held, i, i + 1, finest, coarsest) for i in range(cuts)]
    while len(blocks) > 1 and min(b.least for b in blocks) < FLOOR:
        i = min(range(len(blocks)), key=lambda k: (blocks[k].least, k))
        beside = [k for k in (i - 1, i + 1) if 0 <= k < len(blocks)]
        low = min(i, min(beside, key=lambda k: (blocks[k].rows, k)))
        a, b = blocks[low], blocks[low + 1]
        coarser = max(finest, a.partition, b.partition)
        blocks[low : low + 2] = [_block(held, a.start, b.end, coarser, coarsest)]
    groups = [(b, days) for b in blocks for days in b.groups]
    if len(groups) < 2 or min(b.least for b in blocks) < FLOOR:
        return None
    return _slots([(days, b.start, b.end) for b, days in groups], cuts, len(groups))


def _apart(held: np.ndarray, partition: int) -> tuple[Slots, int] | None:
    """(slots of the stretches that reach the floor, then of runs of such as do not: they are apart, with so many rows)."""
    cuts = held.shape[1]
    runs = []
    for days in _groups(held.sum(1), partition):
        rows = held[list(days)].sum(0)
        thick = rows >= FLOOR
        starts = [b for a, b in pairwise(np.flatnonzero(rows).tolist()) if thick[a] or thick[b]]
        edges = [0, *starts, cuts]  # where no row is belongs to what came before
        runs += [(int(rows[a:b].sum()), days, a, b) for a, b in pairwise(edges)]
    judged = [run for run in runs if run[0] >= FLOOR]
    below = [run for run in runs if run[0] < FLOOR]
    if not judged or len(runs) < 2:
        return None
    return _slots([run[1:] for run in judged + below], cuts, len(judged)), sum(run[0] for run in below)


def _slots(groups: list[tuple[Days, int, int]], cuts: int, judged: int) -> Slots:
    of = np.zeros((7, cuts), np.int64)
    for number, (days, start, end) in enumerate(groups):
        of[list(days), start:end] = number
    return Slots(tuple(of.reshape(-1).tolist()), tuple(_name(*group, cuts) for group in groups), judged=judged)


def _groups(rows: np.ndarray, partition: int) -> tuple[Days, ...]:
    """The weekdays' groups, those without a row of `rows` [7] taken to the group before, or the first that has any.

    >>> _groups(np.array([0, 9, 9, 9, 9, 0, 0]), 1), _groups(np.array([0, 9, 9, 9, 0, 0, 0]), 0)
    (((0, 1, 2, 3, 4, 5, 6),), ((0, 1), (2,), (3, 4, 5, 6)))
    """
    found: list[Days] = []
    for days in _PARTITIONS[partition]:
        if found and (not rows[list(days)].any() or not rows[list(found[-1])].any()):
            found[-1] += days
        else:
            found.append(days)
    return tuple(found)


def _held(times: np.ndarray, cuts: int) -> np.ndarray:
    """int64[7, cuts] rows by weekday and stretch of the day."""
    at = (times - MONDAY) % WEEK * (7 * cuts) // WEEK
    return np.bincount(at, minlength=7 * cuts).reshape(7, cuts)


@dataclass(frozen=True, slots=True)
class _Block:
    """Stretches [start, end) of the day, and how their weekdays are grouped."""

    start: int
    end: int
    partition: int
    groups: tuple[Days, ...]
    least: int  # rows of the smallest group
    rows: int


def _block(held: np.ndarray, start: int, end: int, finest: int, coarsest: int) -> _Block:
    """With the finest partition of the weekdays whose groups reach the floor, or the coarsest."""
    rows = held[:, start:end].sum(1)
    for partition in range(finest, coarsest + 1):
        groups = _groups(rows, partition)
        least = min(int(rows[list(days)].sum()) for days in groups)
        if least >= FLOOR or partition == coarsest:
            return _Block(start, end, partition, groups, least, int(rows.sum()))
    raise AssertionError("unreachable")


def _name(days: Days, start: int, end: int, cuts: int) -> str:
    """
    >>> _name((0, 1, 2, 3, 4), 2, 5, 24), _name((0, 1, 2, 3, 4, 5, 6), 9, 10, 96), _name((5,), 0, 24, 24)
    ('Mon-Fri 02-05', '02:15-02:30', 'Sat')
    """
    which = "" if len(days) == 7 else WEEKDAYS[days[0]] + (f"-{WEEKDAYS[days[-1]]}" if len(days) > 1 else "")
    return name_of(which, start, end, cuts)
