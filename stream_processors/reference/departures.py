"""PURE. Stretches of the week that depart, again and again, from the law they would be judged by: each gets a slot of its own.

A rhythm's slots are merged where rows are few, and a law of Mondays to Sundays does not hold on Mondays from 9 to 11 if
something happens then: every Monday would be evidence. Where such a stretch holds FLOOR rows it is judged by its own law;
below that it is *apart*: charted against its few rows, and no detector sees it.

Test. Blocks of 1, 2, 4, 8 and 24 hours of each weekday, with the rhythm's scores. A block's departure D is the sum over its
rows of score less the mean of the other rows of their slots; its variance v (n + sum over hours of n_h^2 / N_h), v from the
variation of the same block between weeks: over all blocks of that length, or over those at that time of day if it is
larger there, so what is alike within a block is no departure, and one bad Monday adds more to v than to D. Three quarters
of the recurrences must lie on the same side; what came once cannot be known. Student's t of D / sd with the degrees of
freedom of all blocks, Bonferroni over blocks, scores, features and segments: SIZE in all where block means are normal; where
their excess kurtosis is k the critical value is 1 + k / TAILS times as large (levels that differ from hour to hour, or bursts
in a tenth of them: 1 to 6 % of references instead of 13 to 23 %). On average over its rows SMALLEST at least. The worst block
goes first and all is tested again without it, for its rows spoil the others' law.

What stays unseen is below some 5 standard errors of all recurrences: about 12 / recurrences in the logarithm of the evidence
that one of them can give, at any rate of rows. Cost: O(rows) + 3 ms, and as much for each block found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from stream_processors.reference.slots import MONDAY, WEEK, WEEKDAYS, Slots, name_of

SIZE = 0.01  # chance of any departure found, where there is none
SMALLEST = 0.025  # mean departure of a score, of which the variance is 1
SAME_SIDE = 0.75  # of the recurrences
WHOLE_SHARE = 0.25  # of its most rows, from which on a recurrence counts as one
HOURS = (1, 2, 4, 8, 24)
TAILS = 4  # excess kurtosis of the recurrences that doubles the critical value


@dataclass(frozen=True, slots=True)
class Weeks:
    """The reference's rows by week and stretch of the week."""

    n: np.ndarray  # int64[W, B]
    total: np.ndarray  # float64[W, B, S], sums of the scores
    valued: np.ndarray  # int64[B], rows with a value

    @property
    def stretches(self) -> int:
        """Of a day."""
        return self.n.shape[1] // 7


def weeks_of(codes: np.ndarray, times: np.ndarray, phi: np.ndarray, stretches: int) -> Weeks:
    """`codes` are coarse cells of rows, the last one null; `phi` float64[cells, S] their scores."""
    size, width = len(phi), 7 * stretches
    at = (times - MONDAY) // (WEEK // width)
    at -= at.min() // width * width
    number = int(at.max()) // width + 1
    held = np.bincount(at * size + codes, minlength=number * width * size).reshape(number, width, size)
    return Weeks(held.sum(2), held @ phi, held[:, :, :-1].sum((0, 2)))


def split(weeks: Weeks, plan: Slots | None, floor: int, tests: int = 1) -> tuple[Slots | None, int]:
    """(the plan with a slot more for every block that departs, rows in slots with fewer than `floor`: they are apart)."""
    of, names = _start(plan, weeks.n.shape[1])
    began = len(names)
    while (found := _worst(weeks, np.where(_rows(weeks, of)[of] < floor, -1, of), tests)) is not None:
        day, start, end = found
        cells = np.arange(start, end) + day * weeks.stretches
        of[cells[_rows(weeks, of)[of[cells]] >= floor]] = len(names)
        names.append(name_of(WEEKDAYS[day], start, end, weeks.stretches))
    rows = _rows(weeks, of)
    if len(names) == began:
        return plan, int(rows[plan.judged :].sum()) if plan else 0
    before = _start(plan, len(of))[0]
    lost = set(before[before != of].tolist())
    names = [_else(name) if s in lost else name for s, name in enumerate(names)]
    order = sorted(set(of.tolist()), key=lambda s: (rows[s] < floor, s))
    place = {s: i for i, s in enumerate(order)}
    judged = int((rows[order] >= floor).sum())
    made = Slots(tuple(place[s] for s in of.tolist()), tuple(names[s] for s in order), judged=judged)
    return made, int(rows[order[judged:]].sum())


def _else(name: str) -> str:
    return "otherwise" if name == "always" else f"{name} otherwise"


def _start(plan: Slots | None, width: int) -> tuple[np.ndarray, list[str]]:
    if plan is None:
        return np.zeros(width, np.int64), ["always"]
    return np.repeat(np.array(plan.of, np.int64), width // len(plan.of)), list(plan.names)


def _rows(weeks: Weeks, of: np.ndarray) -> np.ndarray:
    return np.bincount(of, weights=weeks.valued, minlength=int(of.max()) + 1).astype(np.int64)


def _worst(weeks: Weeks, of: np.ndarray, tests: int) -> tuple[int, int, int] | None:
    """(weekday, start, end) of the block that departs most, None if none does; `of` is -1 where nothing is judged."""
    day, judged = weeks.stretches, of >= 0
    n, total = weeks.n * judged, weeks.total * judged[:, None]
    lengths = sorted({day, *(size for hours in HOURS if day % (size := hours * max(1, day // 24)) == 0)})
    blocks = sum(7 * day // size for size in lengths) * total.shape[2] * tests
    best: tuple[float, float, tuple[int, int, int]] | None = None
    for size in lengths:
        z, freedom = _departures(n, total, of, size)
        if freedom < 1 or not z.size:
            continue
        top = int(np.argmax(z.max(1)))
        p = float(special.fdtrc(1, freedom, z[top].max() ** 2)) * blocks
        if z[top].max() > 0 and p < SIZE and (best is None or (p, -z[top].max()) < best[:2]):
            weekday, start = divmod(top * size, day)
            best = p, -float(z[top].max()), (weekday, start, start + size)
    return best[2] if best else None


def _departures(n: np.ndarray, total: np.ndarray, of: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """(|z| of each block and score [K, S], 0 where it does not depart as it should; degrees of freedom)."""
    number, width, scores = total.shape
    blocks = width // size
    held, sums = n.reshape(number, blocks, size).sum(2), total.reshape(number, blocks, size, scores).sum(2)
    noise, freedom = _noise(held, sums)
    law, behind = _elsewhere(n.sum(0), total.sum(0), of, np.arange(width) // size)
    away = (total - n[:, :, None] * law).reshape(number, blocks, size, scores).sum(2)  # [W, K, S]
    rows, far, cells = held.sum(0)[:, None], np.abs(away.sum(0)), n.sum(0)
    known = np.divide(np.square(cells), behind, out=np.zeros(width), where=behind > 0).reshape(blocks, size).sum(1)
    alone = ((behind <= 0) & (cells > 0)).reshape(blocks, size).any(1)[:, None]  # nothing to compare with
    z = far / np.sqrt(np.maximum(noise * (rows + known[:, None]), 1e-12)) / (1 + _excess(held, sums) / TAILS)
    came = ((held > 0) & (held >= held.max(0) * WHOLE_SHARE))[:, :, None]  # not for five minutes at an end
    times = came.sum(0)
    agree = (came & (np.sign(away) == np.sign(away.sum(0)))).sum(0) >= SAME_SIDE * times
    return np.where((times > 1) & agree & (far >= SMALLEST * rows) & ~alone, z, 0.0), freedom


def _noise(held: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, int]:
    """(variance a row between recurrences [K, S], the larger of all blocks' and of those at the same time of day; degrees)."""
    blocks = held.shape[1]
    mean = sums.sum(0) / np.maximum(1, held.sum(0))[:, None]
    own = np.square(sums / np.maximum(1, held)[:, :, None] - mean) * held[:, :, None]
    within, freedom = own.sum(0), np.maximum(0, (held > 0).sum(0) - 1)
    daily, degrees = within.reshape(7, blocks // 7, -1).sum(0), freedom.reshape(7, blocks // 7).sum(0)
    whole = within.sum(0) / max(1, freedom.sum())
    there = np.where(degrees[:, None] > 0, daily / np.maximum(1, degrees)[:, None], 0.0)
    return np.tile(np.maximum(np.maximum(there, whole), 1e-12), (7, 1)), int(freedom.sum())


def _excess(held: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """float64[S] excess kurtosis of the recurrences about their block's mean, less two standard errors, 0 at least.

    A deviation c . x of independent x, sum(c) = 0, has the fourth cumulant sum(c^4) times that of x.
    """
    came = (held > 0).sum(0)
    few = np.maximum(1, came)
    mean = sums.sum(0) / np.maximum(1, held.sum(0))[:, None]
    away = (sums / np.maximum(1, held)[:, :, None] - mean) * np.sqrt(held)[:, :, None]
    variance = np.square(away).sum((0, 1)) / max(1, (came - (came > 0)).sum())
    fourth = float((came * ((1 - 1 / few) ** 4 + (few - 1) / few**4)).sum())
    normal = float((came * (1 - 1 / few) ** 2).sum())
    if fourth <= 0:
        return np.zeros(sums.shape[2])
    found = (np.power(away, 4).sum((0, 1)) / np.maximum(np.square(variance), 1e-300) - 3 * normal) / fourth
    return np.maximum(0.0, found - 2 * np.sqrt(24 / came.sum()) * normal / fourth)


def _elsewhere(n: np.ndarray, total: np.ndarray, of: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean scores, rows) of each stretch's slot outside of its block."""
    slots = int(of.max()) + 2
    of = np.where(of < 0, slots - 1, of)
    pair, at = np.unique(block * slots + of, return_inverse=True)
    rows = np.bincount(of, weights=n, minlength=slots)[of] - np.bincount(at, weights=n, minlength=len(pair))[at]
    means = [
        (np.bincount(of, weights=t, minlength=slots)[of] - np.bincount(at, weights=t, minlength=len(pair))[at])
        / np.maximum(1, rows)
        for t in total.T
    ]
    return np.stack(means, 1), rows
