"""PURE. The bank of one reference: for each alternative q a score log(q/p) per group of cells, in every slot of its rhythm.

The counts of a pane times the scores of its slot is the log-likelihood ratio of the pane, whose exponential has expectation 1
while the data follows p. A group is a run of coarse cells that detectors tell apart: about 76, finer in the tails; of
categories the 62 most frequent ones, the rest together.

p is a sample of R rows, and every pane is judged by the same sample, so its error would add up. E[q/p] is linear in the
true law, hence at most 1 + 3 sd_p(q/p) / sqrt(R) within three standard errors; the logarithm of that, the slack, is taken
off every row's score. So the expectation is at most 1 for the law that the reference was drawn from, not only on average
over references (measured without it: a false page in 1,200 panes of 833 rows, where 0.14 are allowed, by a segment's
reference of 26,000 rows). An alternative is left out where the reference is too small for it: under p it must lose at
least four standard errors of its mean score, KL(p||q) >= 4 sd_p(log q/p) / sqrt(R), and under q gain more than the slack.
For a shift of t standard deviations that is t >= 8 / sqrt(R). This is also the tolerance: what is below half the smallest
alternative gathers no evidence.

With slots each has its own p, R and slack; the list of alternatives is one. One that a slot cannot tell apart scores 0
there, a factor of 1, so expectations stay at most 1; in slots that are not judged all do. Under dependence scores are multiplied by eta (`Temper`), at most 1:
E[exp(eta s)] <= E[exp s]**eta. Groups with fewer than 20 of the slot's rows are taken together with their neighbours.

Scores are multiples of 2**-18, rounded down, in float32: sums over integer counts in float64 are exact up to 2**29 rows,
so the evidence does not depend on the order of summation, and rounding can only lose evidence. Memory 30 KB a slot: 24
slots of 12 features hold 9 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stream_processors.detectors.alternatives import Alternative, alternatives
from stream_processors.reference.cells import ROWS_A_CELL, FeatureReference

ERRORS = 4.0  # standard errors that the reference's own error may not bridge
SLACK_ERRORS = 3.0  # of E[q/p] that are taken off; 1 in 740 references is further out, for one alternative
RARE_ROWS = 3.0  # added to counts of nulls and unseen values: 3/R is the 95 % bound of a share seen zero times in R
SMALLEST = 2.0**-18  # unit of the scores
OWN_GROUPS = 62  # categories told apart
_TAIL = np.array([1, 2, 3, 4, 5, 8, 12]) / 512  # edges of the outer 1/32; beyond it groups of 1/64
_EDGES = np.concatenate((_TAIL, np.arange(2, 63) / 64, 1 - _TAIL[::-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    names: tuple[str, ...]
    families: tuple[str, ...]
    weights: np.ndarray  # float64[J], sum 1; families weigh the same
    sizes: np.ndarray  # float64[J], KL(p||q) in the pool; t**2 / 2 for a shift of t sd
    eta: np.ndarray  # float64[J], in (0, 1]
    groups: np.ndarray  # int32[cells + 2], the group of each coarse cell; the last two are unseen and null
    laws: np.ndarray  # float64[S, G], p in each slot; one slot if there is no rhythm
    rows: np.ndarray  # float64[S], reference rows with a value
    scores: np.ndarray  # float32[S, G, J], log(q/p) - slack
    slack: np.ndarray  # float64[S, J], a row: what the reference's own error could pretend

    @property
    def slots(self) -> int:
        return len(self.laws)


@dataclass(frozen=True, slots=True, eq=False)
class _Law:
    """p in one slot (or the pool), on groups taken together where rows are few."""

    p: np.ndarray  # float64, merged groups, unseen, null; sums to 1
    counted: np.ndarray  # reference rows of each
    rows: int  # with a value, as many as would be as certain if they were independent
    merged: np.ndarray  # int64[G]: merged group of each group
    inside: np.ndarray  # float64[G]: share of a group in its merged group
    names: dict[int, str] | None  # of categories that stand alone


@lru_cache(maxsize=2048)
def bank_of(reference: FeatureReference, fine: bool = False) -> Bank:
    """The alternatives that this reference can tell from itself, on groups or (`fine`) on every cell; built once, 2 to 3 ms a slot."""
    groups, names = _groups(reference, fine)
    pool = _law(reference, groups, names, None)
    slots = (
        [_law(reference, groups, names, s) for s in range(len(reference.slots.names))] if reference.slots else [pool]
    )
    temper = reference.temper.eta if reference.temper else {}
    listed = list(alternatives(pool.p, pool.names, reference.discrete))
    judged = reference.slots.judged if reference.slots else 1
    found = [
        _told_apart(law, listed if law is pool else list(alternatives(law.p, law.names, reference.discrete)))
        for law in slots[:judged]
    ] + [{} for _ in slots[judged:]]
    kept = [a for a in listed if temper.get(a.name, 1.0) > 0 and any(a.name in told for told in found)]
    scores = np.zeros((len(slots), int(groups[-1]) + 1, len(kept)), np.float32)
    slack = np.zeros((len(slots), len(kept)))
    for s, (law, told) in enumerate(zip(slots, found, strict=True)):
        here = [j for j, a in enumerate(kept) if a.name in told]
        slack[s, here] = [told[kept[j].name][1] for j in here]
        made = np.stack([told[kept[j].name][0] for j in here], 1) if here else np.empty((len(law.p), 0))
        scores[s][:, here] = (np.floor((made - slack[s, here]) / SMALLEST) * SMALLEST)[law.merged]
    return Bank(
        tuple(a.name for a in kept),
        tuple(a.family for a in kept),
        _weights([a.family for a in kept]),
        np.array([-float(pool.p @ np.log(a.q / pool.p)) for a in kept]),
        np.array([min(1.0, float(temper.get(a.name, 1.0))) for a in kept]),
        groups,
        np.stack([law.p[law.merged] * law.inside for law in slots]),
        np.array([float(law.rows) for law in slots]),
        scores,
        slack,
    )


def block_scores(
    reference: FeatureReference, panes: Sequence[np.ndarray], slots: Sequence[int] | None = None
) -> np.ndarray:
    """float64[panes, J]: what each pane's coarse counts add to each alternative of `bank_of(reference).names`, untempered."""
    bank = bank_of(reference)
    made = np.zeros((len(panes), len(bank.names)))
    for i, pane in enumerate(panes):
        made[i] = in_groups(bank, pane) @ bank.scores[slots[i] if slots else 0].astype(np.float64)
    return made


def in_groups(bank: Bank, coarse: np.ndarray) -> np.ndarray:
    return np.bincount(bank.groups, weights=coarse, minlength=bank.laws.shape[1])


def _groups(reference: FeatureReference, fine: bool = False) -> tuple[np.ndarray, dict[int, str] | None]:
    """(group of each coarse cell, names of the groups of categories)."""
    rows, size = reference.cell_rows[:-2].astype(np.float64), reference.cells
    if reference.kind == "numeric" and fine:
        return np.arange(size + 2, dtype=np.int32), None
    if reference.kind == "numeric":
        middle = (np.cumsum(rows) - rows / 2) / max(1.0, rows.sum())
        below, above = reference.fences
        if size:  # what lies beyond the range is one with its end
            middle = np.clip(middle, middle[len(below)], middle[size - 1 - len(above)])
        of = np.unique(np.searchsorted(_EDGES, middle, side="right"), return_inverse=True)[1].reshape(-1)
        return _with_ends(of), None
    if reference.choosing is not None:
        cell_of = reference.cell_of[: len(reference.categories)]
        rows = np.bincount(cell_of, weights=reference.choosing, minlength=size)
    order = np.argsort(-rows, kind="stable")
    own = np.sort(order[: OWN_GROUPS if size > OWN_GROUPS + 1 else size])
    of = np.full(size, len(own), np.int64)
    of[own] = np.arange(len(own))
    cell_of = reference.cell_of[: len(reference.categories)]
    members = np.bincount(cell_of, minlength=size)
    name_of = dict(zip(cell_of.tolist(), reference.categories, strict=True))
    names = {int(of[c]): name_of[int(c)] if members[c] == 1 else "rare values" for c in own}
    if len(own) < size:
        names[len(own)] = "rare values"
    return _with_ends(of), names


def _with_ends(of: np.ndarray) -> np.ndarray:
    after = int(of.max()) + 1 if len(of) else 0
    return np.concatenate((of, [after, after + 1])).astype(np.int32)


def _law(reference: FeatureReference, groups: np.ndarray, names: dict[int, str] | None, slot: int | None) -> _Law:
    """p, with values never seen and nulls at an upper bound, so that a rare value is no surprise.

    Values seen once say how much was not seen (Good and Turing): their rows count as never seen, two standard errors more.
    Where other rows have chosen the names (`FeatureReference.choosing`) the share without a name has no bias as it is.
    """
    cells = reference.cell_rows if slot is None else reference.slot_cell_rows(slot)
    counted = np.bincount(groups, weights=cells, minlength=int(groups[-1]) + 1)
    rows, nulls = int(counted[:-1].sum()), counted[-1]
    once = np.bincount(groups, weights=_once(reference), minlength=len(counted)) * rows / max(1, reference.rows)
    new = once.sum() + 2 * np.sqrt(once.sum()) + RARE_ROWS
    value_rows, others = np.maximum(0.0, counted - once)[:-2], counted[-2]
    together = _together(value_rows, names is None)
    size = int(together.max()) + 1 if len(together) else 0
    merged = np.bincount(together, weights=value_rows, minlength=size)[:size]
    unseen = (others + new) / (value_rows.sum() + others + new)
    source = rows * reference.source_rows / max(1, reference.rows)
    null = (nulls + RARE_ROWS) / (source + nulls + RARE_ROWS)
    p = (merged + 0.5) / (merged.sum() + 0.5 * size) if size else merged
    p = np.concatenate((p * (1 - unseen) * (1 - null), [unseen * (1 - null), null]))
    of = np.concatenate((together, [size, size + 1]))
    known = int(rows / reference.temper.inflation) if reference.temper else rows  # dependent rows say less about p
    spread = value_rows + 0.5 * _ranged(reference, groups)
    inside = spread / np.bincount(together, weights=spread, minlength=size)[together]
    alone = np.bincount(together, minlength=size)
    named = None if names is None else {int(together[g]): n for g, n in names.items() if alone[together[g]] == 1}
    return _Law(
        p / p.sum(), np.concatenate((merged, [others, nulls])), known, of, np.concatenate((inside, [1.0, 1.0])), named
    )


def _ranged(reference: FeatureReference, groups: np.ndarray) -> np.ndarray:
    """bool of each group of values: whether it holds a cell of the reference's range; beyond it p is 0."""
    below, above = reference.fences
    return np.isin(np.arange(groups[-1] - 1), groups[len(below) : reference.cells - len(above)])


def _once(reference: FeatureReference) -> np.ndarray:
    """By coarse cell the values seen once; of categories that are not named each may have been one."""
    once = np.zeros(len(reference.cell_rows))
    if reference.discrete and reference.choosing is None:  # other rows have chosen the names: `other` has no bias
        codes = np.flatnonzero(reference.counts == 1)
        np.add.at(once, reference.cell_of[2 * codes + 1 if reference.kind == "numeric" else codes], 1)
        once[-2] = max(0, reference.cardinality - len(reference.counts))
    return once


def _together(rows: np.ndarray, ordered: bool) -> np.ndarray:
    """Merged group of each group, so that each holds 20 rows: neighbours of numbers; of categories all that are rare."""
    if not ordered:
        rare = rows < ROWS_A_CELL
        of = np.cumsum(~rare) - 1
        return np.where(rare, of.max(initial=-1) + 1, of) if rare.sum() > 1 else np.arange(len(rows))
    of, at, held = np.zeros(len(rows), np.int64), 0, 0.0
    for g, n in enumerate(rows):
        of[g] = at
        held += n
        if held >= ROWS_A_CELL and g < len(rows) - 1:
            at, held = at + 1, 0.0
    if held < ROWS_A_CELL and at:
        of[of == at] = at - 1
    return of


def _told_apart(law: _Law, made: list[Alternative]) -> dict[str, tuple[np.ndarray, float]]:
    """(log(q/p), slack) by name of every alternative that the law's own error cannot make p look like, and that shows in spite of it."""
    if not law.rows or not made or not law.p.all():  # no share is left for values where every one stood there once
        return {}
    q = np.stack([a.q for a in made])
    ratio = q / law.p
    score = np.log(ratio)
    loss, gain = -score @ law.p, (q * score).sum(1)
    spread = np.sqrt(np.maximum(0.0, np.square(score) @ law.p - np.square(loss)))
    slack = _slack(law, ratio)
    told = (loss > 1e-6) & (loss >= ERRORS * spread / np.sqrt(law.rows)) & (gain > slack)
    return {made[j].name: (score[j], float(slack[j])) for j in np.flatnonzero(told)}


def _slack(law: _Law, ratio: np.ndarray) -> np.ndarray:
    """log of the upper bound of E[q/p], by alternative; cells never seen are taken at their bound in p already."""
    seen = law.counted / max(1.0, law.counted.sum())
    variance = np.square(ratio) @ seen - np.square(ratio @ seen)
    return np.log1p(SLACK_ERRORS * np.sqrt(np.maximum(0.0, variance) / max(1, law.rows)))


def _weights(families: list[str]) -> np.ndarray:
    sizes = {family: families.count(family) for family in families}
    return np.array([1 / (len(sizes) * sizes[f]) for f in families])
