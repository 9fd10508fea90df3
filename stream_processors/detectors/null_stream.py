"""PURE. The monitor watched: rows drawn from the reference go through the detectors, and what they raise is counted.

Two measurements of the same thresholds, at the live number of rows a pane:

1. *The null stream*: panes of rows that follow the reference, one after the other, for as long as the process lives. Its
   alarms are false ones. At one page in 30 days there is next to nothing to count within a day.
2. *Tilted runs*, which see it within a day. A run of h panes draws a pane k uniformly and an alternative j of the bank
   with weight v_j; rows follow the reference before k and the alternative from k on, so alarms are frequent. With N the
   pane of the alarm and L_N = sum over k <= N and j of v_j prod of q_j/p over panes k..N, the chance that rows which
   follow the reference raise their alarm after pane h_0 and by pane h is, exactly, by a change of measure,

       P(h_0 < N <= h) = E[ 1{h_0 < N <= h} h / (L_N + h - N) ]        (under the tilted law)

   for whatever rule raises the alarm and whatever laws q_j with weights v_j: nothing is assumed of thresholds, slack or
   scan. Over h - h_0 it is a rate; the first h_0 panes fill the detectors. Good laws only make the values alike: those of
   the bank, each as often as it should be the cause, and for the scan steps of the distribution function, as high as
   its threshold over L panes. What the scan finds over more than h panes is not seen. A run costs 2 ms.
   References: Siegmund, Ann. Stat. 4 (1976) 673, doi:10.1214/aos/1176343541; Lai, Zhang, Sankhya A 56 (1994) 292.

Every key that may page is walked by itself, under the threshold that it has among all of them: keys are judged one by one,
so a walk of one costs the same however many there are, and the caller says which ones are next. Between its walks a key's
detector is kept in bytes (6 KB).

Rows are drawn independently: what dependence between rows does to the live stream is not in it, and neither is the
reference's own error. Draws are a function of name, reference version, pane and key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt

import numpy as np

from pipeline.contract import DriftPlan
from pipeline.times import ms
from stream_processors.detectors import scan
from stream_processors.detectors.bank import in_groups
from stream_processors.detectors.budget import Budget
from stream_processors.detectors.detector import Detectors
from stream_processors.detectors.engine import REFERENCE_ERROR
from stream_processors.judging.panes import WHOLE, Key
from stream_processors.reference.cells import FeatureReference

RUN_PANES, FILLED = 160, 64  # h, h_0: false evidence of the smallest alternatives takes some 50 panes to gather
RUNS = 4  # tilted runs of a key a walk
ENOUGH = 2 * RUNS  # of a key's runs, from which on it is part of the rate
PLAIN = 0.1  # of the bank's own weights that v keeps, so that no cause is ruled out
STEPS, STEP_PANES, STEP_SHARE = (
    np.arange(1, 12) / 12,
    (1, 4, 16, 64),
    0.3,
)  # the laws for the scan, and their share of v
Z = 2.58  # standard errors of the logarithm: values are skew, and with 1.96 only 85 % of days covered their mean (measured)


@dataclass(frozen=True, slots=True)
class Walked:
    """What one walk over some panes gave."""

    panes: int  # times keys
    alarms: int  # of the null stream
    rates: Mapping[Key, tuple[float, ...]]  # tilted runs: estimates of false alarms a pane


@dataclass(slots=True)
class Rate:
    """The measured false-alarm rate over what the budget allows: both of the keys that have enough runs."""

    allowed: Mapping[Key, float]  # false alarms a pane, of every key that may page
    n: dict[Key, int] = field(default_factory=dict)
    sums: dict[Key, tuple[float, float]] = field(default_factory=dict)

    def add(self, walked: Walked) -> None:
        for key, rates in walked.rates.items():
            one, two = self.sums.get(key, (0.0, 0.0))
            self.n[key] = self.n.get(key, 0) + len(rates)
            self.sums[key] = one + sum(rates), two + sum(r * r for r in rates)

    @property
    def known(self) -> list[Key]:
        return [key for key in self.allowed if self.n.get(key, 0) >= ENOUGH]

    @property
    def covered(self) -> float:
        """The share of the page budget that belongs to the keys with enough runs: 1 once every key was walked twice."""
        return sum(self.allowed[key] for key in self.known) / sum(self.allowed.values()) if self.allowed else 0.0

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """(low, estimate, high), 95 %, of false alarms over those allowed; None before a key has enough runs."""
        known, mean, variance = self.known, 0.0, 0.0
        if not known:
            return None
        allowed = sum(self.allowed[key] for key in known)
        for key in known:
            n, (one, two) = self.n[key], self.sums[key]
            mean += one / n
            variance += max(0.0, two / n - (one / n) ** 2) / (n - 1)
        if not mean:
            return 0.0, 0.0, 1.0  # nothing seen: the bound of the theory stands
        factor = exp(min(700.0, Z * sqrt(variance) / mean))  # values are skew, so the interval is that of the logarithm
        return mean / allowed / factor, mean / allowed, mean / allowed * factor


class NullStream:
    """The null stream of every key of one reference set that may page under one plan."""

    def __init__(self, references: Mapping[Key, FeatureReference], budget: Budget, plan: DriftPlan, name: str):
        able = [key for key in references if key in budget.by_key]
        order = sorted(able, key=lambda key: (key[1] != WHOLE, -references[key].rows if key[1] != WHOLE else 0, key))
        self.references = {key: references[key] for key in order}  # the whole first, then the largest segments
        self.allowed = {key: 1.0 / budget.run_length(key) for key in order}
        self._plan, self._shares, self._name = plan, budget.shares, name
        self._states: dict[Key, bytes] = {}
        self._at: tuple[Key, Detectors] | None = None
        self._laws: dict[int, np.ndarray] = {}  # by slot, of the key that was walked last
        self._tilts: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def detectors(self, key: Key) -> Detectors:
        """Those of one key, with its threshold: the pages that all of them may have, times its share."""
        if self._at is None or self._at[0] != key:
            alone = replace(self._plan, pages=self._plan.pages * self._shares[key])
            self._at = key, Detectors({key: self.references[key]}, alone)
            self._laws, self._tilts = {}, {}
        return self._at[1]

    def walk(self, pane_starts: Sequence[int], rows: Mapping[Key, int], runs: int = RUNS) -> Walked:
        """The null stream of the keys of `rows` over these panes, so many rows in each; then tilted runs that begin with the first pane."""
        alarms, rates = 0, {}
        for key, n in rows.items():
            if n and pane_starts and key in self.references:
                alarms += self._null(key, n, pane_starts)
                rates[key] = tuple(self._tilted(key, n, pane_starts[0], runs))
        return Walked(len(pane_starts) * len(rates), alarms, rates)

    def law(self, key: Key, pane_start: int) -> np.ndarray:
        """The reference's shares of the coarse cells in the slot of a pane."""
        self.detectors(key)
        reference, slot = self.references[key], self._slot(key, pane_start)
        if slot not in self._laws:
            rows = reference.slot_cell_rows(slot) if reference.slots else reference.cell_rows
            self._laws[slot] = rows / rows.sum()
        return self._laws[slot]

    def generator(self, key: Key, pane_start: int, purpose: str) -> np.random.Generator:
        version = self.references[key].version
        text = f"{self._name}/{version}/{pane_start}/{key[0]}/{key[1]}/{purpose}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))

    def _null(self, key: Key, n: int, pane_starts: Sequence[int]) -> int:
        detectors = self.detectors(key)
        state = detectors.state_of(self._states[key]) if key in self._states else detectors.start()
        drawn = [self.generator(key, start, "null").multinomial(n, self.law(key, start)) for start in pane_starts]
        panes, starts, at, alarms = np.array(drawn, np.int64), np.array(pane_starts, np.int64), 0, 0
        while at < len(panes):
            at += detectors.step_panes(state, panes[at:], starts[at:])
            if detectors.fired(state)[0]:
                alarms += 1
                detectors.reset(state, key)
        self._states[key] = state.to_bytes()
        return alarms

    def _tilted(self, key: Key, n: int, first: int, runs: int) -> Iterator[float]:
        """Unbiased estimates of P(h_0 < N <= h) / (h - h_0)."""
        rng, bank = self.generator(key, first, "tilted"), self.detectors(key).bank(key)
        if not len(bank.names) or not runs:
            return
        weights = self._causes(key, n, first)
        # one draw for all runs, evenly spread: each run's alternative has the law v
        spread = np.searchsorted(np.cumsum(weights), (np.arange(runs) + rng.random()) / runs)
        for j in np.minimum(spread, len(weights) - 1).tolist():
            yield self._run(key, n, first, j, weights, rng)

    def _run(self, key: Key, n: int, first: int, j: int, weights: np.ndarray, rng: np.random.Generator) -> float:
        detectors = self.detectors(key)
        bank, change = detectors.bank(key), int(rng.integers(RUN_PANES))
        starts = first + ms(self._plan.pane) * np.arange(RUN_PANES)
        counts = np.empty((RUN_PANES, bank.laws.shape[1]), np.int64)
        for i, start in enumerate(starts.tolist()):
            p, ratios = self._groups(key, n, start)
            counts[i] = rng.multinomial(n, p if i < change else p * np.exp(ratios[:, j]))
        panes = np.zeros((RUN_PANES, len(bank.groups)), np.int64)
        panes[:, np.unique(bank.groups, return_index=True)[1]] = counts
        state = detectors.start()
        stepped = detectors.step_panes(state, panes, starts)
        if stepped <= FILLED or not detectors.fired(state)[0]:
            return 0.0
        gains = [counts[i] @ self._groups(key, n, int(starts[i]))[1] for i in range(stepped)]
        density = exp(min(700.0, _log_density(gains, weights))) + RUN_PANES - stepped
        return RUN_PANES / density / (RUN_PANES - FILLED)

    def _causes(self, key: Key, n: int, pane_start: int) -> np.ndarray:
        """v: how often each law should be the cause of a false alarm.

        On its way to the threshold b an alternative loses b slack / gain to the slack, and overshoots by about a pane's gain.
        """
        detectors, slot = self.detectors(key), self._slot(key, pane_start)
        bank, limits = detectors.bank(key), detectors.budget.of(key)
        p, ratios = self._groups(key, n, pane_start)
        size = len(bank.names)
        gain = ((p[:, None] * np.exp(ratios[:, :size])) * bank.scores[slot]).sum(0) * bank.eta
        lost = (limits.bank or 0.0) * bank.slack[slot] / np.maximum(gain, 1e-12)
        share = bank.weights * np.exp(-np.minimum(lost, 700.0)) / (1 + n * np.maximum(gain, 0.0)) * (gain > 0)
        share = (1 - PLAIN) * share / share.sum() + PLAIN * bank.weights if share.sum() > 0 else bank.weights
        steps = np.any(ratios[:, size:] != 0, axis=0)  # those that the slot has room for
        if not steps.any():
            return np.concatenate((share, steps.astype(float)))
        return np.concatenate(((1 - STEP_SHARE) * share, STEP_SHARE * steps / steps.sum()))

    def _groups(self, key: Key, n: int, pane_start: int) -> tuple[np.ndarray, np.ndarray]:
        """(p of each group of cells, log q_j/p of each group and law) in the slot of a pane; all laws sum to 1."""
        detectors, slot = self.detectors(key), self._slot(key, pane_start)
        if (slot, n) not in self._tilts:
            bank, limits = detectors.bank(key), detectors.budget.of(key)
            p, scores = in_groups(bank, self.law(key, pane_start)), bank.scores[slot].astype(np.float64)
            ratios = np.where(np.any(scores != 0, axis=0), scores + bank.slack[slot], 0.0)
            ratios -= np.log(p @ np.exp(ratios))
            steps = _steps(p, n, limits.scan, float(bank.rows[slot])) if limits.scan is not None else []
            self._tilts = {k: v for k, v in self._tilts.items() if k[0] != slot}  # one n at a time is enough
            self._tilts[slot, n] = p / p.sum(), np.column_stack([ratios, *steps])
        return self._tilts[slot, n]

    def _slot(self, key: Key, pane_start: int) -> int:
        slots = self.references[key].slots
        return slots.at(pane_start) if slots else 0


def stated(budget: Budget) -> float:
    """The false pages that the thresholds in force allow by theory, as a share of the budget: 1, or somebody erred.

    Recomputed from the bounds themselves: H / A of a Shiryaev-Roberts sum, 2 looks H exp(-v) of the scan, H exp(-v) of the
    confidence sequences. See `budget`.
    """
    pages = 0.0
    for limits in budget.by_key.values():
        if limits.bank is not None:
            pages += budget.panes * exp(-limits.bank)
        if limits.scan is not None:
            pages += budget.panes * exp(-limits.scan) * (1.0 if limits.confseq else 2 * scan.looks_a_pane())
    return pages / budget.pages if budget.by_key else 0.0


def _steps(p: np.ndarray, n: int, threshold: float, rows: float) -> list[np.ndarray]:
    """Laws whose distribution function lies higher, or lower, by what the scan's threshold asks of L panes of n rows.

    A run may pass through several slots, so the laws are as many in each: where a slot has no room for one, it is p itself.
    """
    below, made = np.cumsum(p) / p.sum(), []
    for u in STEPS:
        at = int(np.searchsorted(below, u))
        share = below[at]
        for panes in STEP_PANES:
            height = REFERENCE_ERROR / sqrt(rows) + sqrt(max(0.0, threshold - log(panes)) / (2 * n * panes))
            for sign in (1, -1):
                upto = share + sign * height
                if 0 < share < 1 and 0 < upto < 1:
                    first = np.arange(len(p)) <= at
                    made.append(np.where(first, log(upto / share), log((1 - upto) / (1 - share))))
                else:
                    made.append(np.zeros(len(p)))
    return made


def _log_density(gains: Iterator[np.ndarray] | Sequence[np.ndarray], weights: np.ndarray) -> float:
    """log of the sum over starts and alternatives of w_j prod q_j/p."""
    log_r = np.full(len(weights), -np.inf)
    for gain in gains:
        log_r = np.logaddexp(log_r, 0.0) + gain
    log_r[weights == 0] = -np.inf
    top = float(log_r.max())
    return top + float(np.log(weights @ np.exp(log_r - top)))
