"""PURE. One feature's sequential detector: panes in, evidence out. A state is a value; a step makes a new one.

    R_j <- (R_j + 1) * exp(counts . s_j),    M = sum_j w_j R_j      s_j = log(q_j / p) - slack_j     (Shiryaev-Roberts)

While rows follow the reference, M minus the number of panes is a supermartingale, so on average M needs at least A panes
to reach A: the threshold is log A and nothing is simulated. A bank of alternatives names the kind of change. Beside it stands the
multi-scale scan. After an alarm the sums run on; whether it lasts is asked by `returned`.

Return: over some stretch of at least four panes since the alarm, every alternative at least half as large as the one that
fired, and every one from 0.1 sd up, is rejected in favour of the reference with a likelihood ratio of 20 J to 1 (while
alternative j is true that has probability <= 1 / (20 J)); no alternative has gathered evidence; and the stretch's K-S
distance is below its critical value.

A pane without rows changes nothing but time. Equal inputs give equal bytes: sums are exact (see `bank`).
Cost: one 512 x 100 product a pane; state 2 KB for the bank, 17 KB at most for the scan.
References: Shiryaev 1963; Roberts 1966; Shin, Ramdas, Rinaldo 2023 (see `budget`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from stream_processors import scan
from stream_processors.bank import Bank, bank_of, gained
from stream_processors.budget import Budget
from stream_processors.cells import Counts, FeatureReference, coarse

Rule = Literal["bank", "scan"]
RETURN_ODDS = 20.0  # against each alternative, before the bank's size
RETURN_SIZE = 0.005  # KL of an alternative that must be rejected in any case: a shift of 0.1 sd
RETURN_PANES = 4  # shorter stretches prove nothing: a change may pulse
NAMED = 3.0  # log evidence from which an alternative's name is worth telling
_HEAD = struct.Struct("<2sBqqqqdddqdqqqqBB")
_MAGIC = b"D1"


@dataclass(frozen=True, slots=True, eq=False)
class DetectorState:
    steps: int  # panes, empty ones too
    panes: int  # panes with rows
    fired: int  # `panes` when a rule first fired; -1 = never
    fired_by: int  # index of the alternative that was best then; -1 = none
    returned: bool
    bank_threshold: float | None
    scan_threshold: float | None
    alpha: float
    best: int  # index of the alternative with most evidence; -1 = none
    bank_value: float  # log M; -inf before the first row
    change: str
    scan_value: float
    scan_scale: int
    log_r: np.ndarray  # float64[J]
    rise: np.ndarray  # float64[J], CUSUM: evidence since it was last zero
    run: np.ndarray  # int64[J], panes since then
    levels: np.ndarray  # int64[8, 4, scan cells]

    def to_bytes(self) -> bytes:
        """Deterministic; at most 20 KB."""
        wide = int(self.levels.max(initial=0)) >= 1 << 32
        change = self.change.encode()
        head = _HEAD.pack(
            _MAGIC, wide, self.steps, self.panes, self.fired, self.fired_by,
            _nan(self.bank_threshold), _nan(self.scan_threshold), self.alpha, self.best, self.bank_value, self.scan_scale, len(self.log_r), self.levels.shape[2], len(change), self.returned, 0,
        )  # fmt: skip
        arrays = (
            self.log_r.astype("<f8"),
            self.rise.astype("<f8"),
            self.run.astype("<i8"),
            self.levels.astype("<u8" if wide else "<u4"),
        )
        return b"".join([head, struct.pack("<d", self.scan_value), change, *(a.tobytes() for a in arrays)])

    @staticmethod
    def from_bytes(value: bytes) -> DetectorState:
        """ValueError if the bytes are no state of this form."""
        if value[:2] != _MAGIC:
            raise ValueError(
                f"detector state: expected bytes that begin with {_MAGIC!r}, got {value[:2]!r}; rebuild it from the partials"
            )
        (
            _,
            wide,
            steps,
            panes,
            fired,
            fired_by,
            bank,
            scanned,
            alpha,
            best,
            bank_value,
            scale,
            size,
            cells,
            text,
            returned,
            _,
        ) = _HEAD.unpack_from(value)
        (scan_value,) = struct.unpack_from("<d", value, _HEAD.size)
        at = _HEAD.size + 8 + text
        change = value[at - text : at].decode()
        arrays = []
        for kind, number in (
            ("<f8", size),
            ("<f8", size),
            ("<i8", size),
            ("<u8" if wide else "<u4", scan.LEVELS * 4 * cells),
        ):
            arrays.append(np.frombuffer(value, kind, number, at))
            at += arrays[-1].nbytes
        levels = arrays[3].astype(np.int64).reshape(scan.LEVELS, 4, cells)
        return DetectorState(
            steps, panes, fired, fired_by, bool(returned), _none(bank), _none(scanned), alpha, best, bank_value, change,
            scan_value, scale, arrays[0].copy(), arrays[1].copy(), arrays[2].copy(), levels,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a detector says after a step; natural logs, finite or None."""

    e_value: float | None  # log M; None before the first row, or if the bank is off or empty
    threshold: float | None
    scan_value: float | None
    scan_threshold: float | None
    rule: Rule | None  # that is over its threshold now
    change: str | None  # the alternative that fits best; None while nothing stands out
    since: int  # panes (steps) of the run that the evidence comes from, this one included


def start(reference: FeatureReference, budget: Budget) -> DetectorState:
    """A detector that has seen nothing. KeyError if the reference is too small to page."""
    bank, limits = bank_of(reference), budget.of(reference.key)
    size = len(bank.names)
    return DetectorState(
        0, 0, -1, -1, False, limits.bank, limits.scan, limits.alpha, -1, -np.inf, "", 0.0, 0,
        np.full(size, -np.inf), np.zeros(size), np.zeros(size, np.int64), scan.empty(len(bank.scan_cumulative)),
    )  # fmt: skip


def step(state: DetectorState, reference: FeatureReference, pane: Counts) -> DetectorState:
    """The state after one more pane of on-time rows."""
    if pane.empty:
        return replace(state, steps=state.steps + 1, run=np.where(state.rise > 0, state.run + 1, state.run))
    bank = bank_of(reference)
    if len(bank.names) != len(state.log_r) or len(bank.scan_cumulative) != state.levels.shape[2]:
        raise ValueError(
            f"detector of {reference.feature} {reference.segment}: expected the reference that it was started with, "
            f"got version {reference.version} with {len(bank.names)} alternatives instead of {len(state.log_r)}; start a new one"
        )
    counts = coarse(reference, pane)
    gain = gained(counts, bank.scores)
    panes = state.panes + 1
    log_r = np.logaddexp(state.log_r, 0.0) + gain
    rise = np.maximum(0.0, state.rise + gain)
    best = int(np.argmax(log_r)) if len(log_r) else -1
    levels = scan.push(state.levels, panes, np.bincount(bank.groups, weights=counts).astype(np.int64))
    stretches = scan.stretches(levels, panes)
    scan_value, scale = scan.value(stretches, bank.scan_cumulative, reference.rows)
    after = replace(
        state, steps=state.steps + 1, panes=panes,
        best=best, bank_value=_log_mean(log_r, bank.weights), change=bank.names[best] if best >= 0 else "",
        scan_value=scan_value, scan_scale=scale, log_r=log_r, rise=rise, run=np.where(rise > 0, state.run + 1, 0), levels=levels,
    )  # fmt: skip
    if state.fired < 0:
        return replace(after, fired=panes, fired_by=best) if _rule(after) else after
    return replace(after, returned=_is_back(after, bank, reference, stretches))


def evidence(state: DetectorState) -> Evidence:
    """What the state says, for people and for the judge."""
    told = state.bank_threshold is not None and np.isfinite(state.bank_value)
    named = state.best >= 0 and state.log_r[state.best] >= NAMED
    rule = _rule(state)
    return Evidence(
        state.bank_value if told else None,
        state.bank_threshold,
        state.scan_value if state.panes else None,
        state.scan_threshold,
        rule,
        state.change if named else (f"shape, over {state.scan_scale} panes" if rule == "scan" else None),
        int(state.run[state.best]) if named else (state.scan_scale if rule == "scan" else 0),
    )


def returned(state: DetectorState) -> bool:
    """Whether, since an alarm, the rows have proved to follow the reference again."""
    return state.returned


def _rule(state: DetectorState) -> Rule | None:
    if state.bank_threshold is not None and state.bank_value >= state.bank_threshold:
        return "bank"
    if state.scan_threshold is not None and state.scan_value >= state.scan_threshold:
        return "scan"
    return None


def _is_back(
    state: DetectorState, bank: Bank, reference: FeatureReference, stretches: list[tuple[int, np.ndarray]]
) -> bool:
    since, size = state.panes - state.fired, bank.sizes[state.fired_by] if state.fired_by >= 0 else 0.0
    rejected = bank.sizes >= min(size / 4, RETURN_SIZE)  # half a shift has a quarter of its KL
    needed, gathered = np.log(RETURN_ODDS * max(1, len(bank.names))), np.log(RETURN_ODDS)
    for scale, counts in stretches:
        rows = int(counts.sum())
        if not RETURN_PANES <= scale <= since or not rows:
            continue
        against = gained(counts, bank.scan_scores)
        effective = rows * reference.rows / (rows + reference.rows)
        critical = special.kolmogi(state.alpha) / np.sqrt(effective)
        quiet = against.max(initial=-np.inf) <= gathered and scan.distance(counts, bank.scan_cumulative) <= critical
        if quiet and against[rejected].max(initial=-np.inf) <= -needed:
            return True
    return False


def _log_mean(log_r: np.ndarray, weights: np.ndarray) -> float:
    """log of the weighted mean of exp(log_r)."""
    if not len(log_r):
        return -np.inf
    top = float(log_r.max())
    return top + float(np.log(np.sum(weights * np.exp(log_r - top))))


def _nan(value: float | None) -> float:
    return np.nan if value is None else value


def _none(value: float) -> float | None:
    return None if np.isnan(value) else value
