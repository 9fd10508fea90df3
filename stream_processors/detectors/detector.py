"""PURE. The sequential detectors of every feature and segment of one reference set: panes in, evidence out.

    R_j <- (R_j + 1) * exp(eta_j * counts . s_j),   M = sum_j w_j R_j     s_j = log(q_j / p) - slack_j     (Shiryaev-Roberts)

While rows follow the reference, M minus the number of panes is a supermartingale, so on average M needs at least A panes
to reach A: the threshold is log A and nothing is simulated. A bank of alternatives names the kind of change. Beside it
stands the multi-scale scan, or, under rule `confseq`, repeated confidence sequences alone. A key *fires* when a rule is over
its threshold and, if its owner asked for a tolerance, a lower bound of the effect is above it (`material`).

Return: after a key fired its sums run on. It has returned when over some stretch of at least four panes since then every
alternative from 0.1 sd up, and the one with most evidence, is rejected in favour of the reference with a likelihood ratio
of 20 J to 1 (while alternative j is true that has probability <= 1 / (20 J)); none has gathered as much
against it; and the stretch's K-S distance is below its critical value. Or, with a tolerance on the distance, when an upper
bound of it is within the tolerance.

A pane without rows changes nothing but time, and so does one in a slot of too few reference rows (`Slots.judged`). Equal inputs give equal bytes: sums are exact (see `bank`).
Cost: 4 us a key and pane, 8 with a rhythm; state 45 KB a key in memory, 6 KB in bytes, 25 KB more after it fired.
References: Shiryaev 1963; Roberts 1966; Shin, Ramdas, Rinaldo 2023 (see `budget`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp, isfinite
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pipeline.contract import DriftPlan, Tolerance
from stream_processors.detectors import engine
from stream_processors.detectors.bank import Bank, bank_of
from stream_processors.detectors.budget import Budget, Key, thresholds
from stream_processors.detectors.engine import ALT, ALTS, LEVEL
from stream_processors.detectors.packs import Pack, level_sizes, pack
from stream_processors.reference.cells import FeatureReference, coarse
from stream_processors.reference.counts import EMPTY, Counts
from stream_processors.reference.slots import MONDAY, WEEK

Rule = Literal["bank", "scan", "confseq"]
STRETCHES = 672  # of the week, quarters of an hour: no slot is shorter
NAMED = exp(3.0)  # evidence from which an alternative's name is worth telling
_MAGIC = b"D3"
_PIECE, _WIDTHS = 1024, (0, 1, 2, 4, 8)


class State(NamedTuple):
    """What the detectors of all keys remember; changed in place by `Detectors.step`."""

    counters: np.ndarray  # int64[K, 8]
    values: np.ndarray  # float64[K, 3]
    r: np.ndarray  # float64 by alternative; negative = minus its logarithm
    rise: np.ndarray  # float64, CUSUM: evidence since it was last zero
    run: np.ndarray  # int64, panes since then
    levels: np.ndarray  # int64, the last panes of each key
    back: np.ndarray  # float64, gains of the panes since a key fired
    mark: np.ndarray  # int64[1], of the detectors that it belongs to

    def copy(self) -> State:
        return State(*(a.copy() for a in self))

    def to_bytes(self) -> bytes:
        """Deterministic: equal states give equal bytes. 6 KB a key, 25 KB more after it fired."""
        return b"".join([_MAGIC, *(part for array in self for part in _narrow(array.reshape(-1)))])

    @staticmethod
    def from_bytes(value: bytes) -> State:
        """ValueError if the bytes are no state."""
        if value[:2] != _MAGIC:
            raise ValueError(
                f"detector state: expected bytes that begin with {_MAGIC!r}, got {value[:2]!r}; rebuild it from the partials"
            )
        arrays, at = [], 2
        for kind in ("<i8", "<f8", "<f8", "<f8", "<i8", "<i8", "<f8", "<i8"):
            array, at = _widened(value, at, kind)
            arrays.append(array)
        if at != len(value):
            raise ValueError(f"detector state: expected {at} bytes, got {len(value)}")
        return State(arrays[0].reshape(-1, engine.COUNTERS), arrays[1].reshape(-1, engine.VALUES), *arrays[2:])


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """What a detector says after a step; natural logs, finite or None."""

    e_value: float | None  # log M; None before the first row, or if the bank is off or empty
    threshold: float | None
    scan_value: float | None  # of the confidence sequences under rule confseq
    scan_threshold: float | None
    rule: Rule | None  # that is over its threshold now
    change: str | None  # the alternative that fits best; None while nothing stands out
    since: int  # panes (steps) of the run that the evidence comes from, this one included
    fires: bool = False  # over its threshold, and material
    lower_effect: float | None = None  # the effect is at least this, in the tolerance's unit
    tolerance: float = 0.0
    returned: bool = False  # since it fired the rows have proved to follow the reference again
    alternative: tuple[str, str] | None = None  # (family, name) of the best one, however weak

    @property
    def material(self) -> bool:
        """Whether a shift of this size would page: no tolerance, or the effect is above it for certain."""
        return self.tolerance == 0 or (self.lower_effect or 0.0) > self.tolerance


class Detectors:
    """The detectors of one reference set under one plan. Keys below the floor are in `budget.refused` and are not stepped."""

    def __init__(self, references: Mapping[Key, FeatureReference], plan: DriftPlan):
        self.budget: Budget = thresholds(plan, references)
        self.keys: tuple[Key, ...] = tuple(self.budget.by_key)
        self.references = {key: references[key] for key in self.keys}
        self.plan = plan
        given = {f.name: f.tolerance for f in plan.watched}
        self._tolerances = {key: given.get(key[0], Tolerance()) for key in self.keys}
        self._banks: dict[Key, Bank] = {
            key: bank_of(reference, self._tolerances[key].kind == "wasserstein" and self._tolerances[key].value > 0)
            for key, reference in self.references.items()
        }
        self._pack: Pack = pack(self.keys, self.references, self._banks, self.budget.by_key, self._tolerances)
        self._place = {key: k for k, key in enumerate(self.keys)}
        sizes = [len(r.cell_rows) for r in self.references.values()]
        self.offsets = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)  # of the packed pane
        self._cell_of, self._codes = _cells_of(list(self.references.values()), self.offsets)
        self._apart = _apart(self.references)
        named = "\n".join(f"{f}\t{s}" for f, s in self.keys).encode()
        mark = hashlib.sha256(self._pack.at.astype("<i8").tobytes() + named).digest()
        self._mark = np.frombuffer(mark, "<i8", 1)

    def bank(self, key: Key) -> Bank:
        return self._banks[key]

    def tolerance(self, key: Key) -> Tolerance:
        return self._tolerances[key]

    def start(self) -> State:
        """Detectors that have seen nothing."""
        alts, size = len(self._pack.weights), int(level_sizes(self._pack).sum())
        state = State(
            np.zeros((len(self.keys), engine.COUNTERS), np.int64), np.zeros((len(self.keys), engine.VALUES)), np.zeros(alts), np.zeros(alts),
            np.zeros(alts, np.int64), np.zeros(size, np.int64), np.zeros(4 * engine.LEVELS * alts), self._mark.copy(),
        )  # fmt: skip
        for key in self.keys:
            self.reset(state, key)
        return state

    def reset(self, state: State, key: Key) -> None:
        """One detector at zero, after a return."""
        k = self._place[key]
        state.counters[k] = 0
        state.counters[k, [engine.FIRED, engine.BEST]] = -1
        state.values[k] = -np.inf, 0.0, -np.inf
        for array in (state.r, state.rise, state.run):
            array[self._alts(k)] = 0
        state.levels[self._levels(k)] = 0
        state.back[self._back(k)] = 0

    def step(self, state: State, counts: Mapping[Key, Counts], pane_start: int) -> None:
        """One pane of on-time rows for every key, in place; a key without counts has an empty pane."""
        self.step_coarse(state, self.coarse(counts), pane_start)

    def step_coarse(self, state: State, counts: Mapping[Key, np.ndarray] | np.ndarray, pane_start: int) -> None:
        """The same from coarse counts, by key or packed: the keys' cells in order, key k's from `offsets[k]`."""
        packed = counts if isinstance(counts, np.ndarray) else self.packed(counts)
        self.step_panes(state, packed.reshape(1, -1), np.array([pane_start], np.int64), until_fired=False)

    def step_panes(self, state: State, packed: np.ndarray, pane_starts: np.ndarray, until_fired: bool = True) -> int:
        """Many panes [P, offsets[-1]] in a row; stops after one in which a key fires anew. How many were stepped."""
        if packed.shape[1] != self.offsets[-1]:
            raise ValueError(
                f"pane: expected {self.offsets[-1]} coarse cells of {len(self.keys)} keys, got {packed.shape[1]}; "
                "were they counted against another reference?"
            )
        self._own(state)
        return int(engine.step_panes(self._pack, state, self._judged(packed, pane_starts), pane_starts, until_fired))

    def _judged(self, packed: np.ndarray, pane_starts: np.ndarray) -> np.ndarray:
        """Without the rows of keys that no slot judges at that time."""
        if self._apart is None:
            return packed
        gone = self._apart[(pane_starts - MONDAY) % WEEK * len(self._apart) // WEEK]
        return np.where(np.repeat(gone, np.diff(self.offsets), axis=1), 0, packed) if gone.any() else packed

    def coarse(self, counts: Mapping[Key, Counts]) -> np.ndarray:
        """A packed pane from exact counts: those of `cells.coarse`, of all keys at once."""
        own = [counts.get(key, EMPTY) for key in self.keys]
        sizes, codes = [len(c.codes) for c in own], np.concatenate([EMPTY.codes, *(c.codes for c in own)])
        if (codes >= np.repeat(np.diff(self._codes), sizes)).any():
            return self.packed({key: coarse(self.references[key], c) for key, c in zip(self.keys, own, strict=True)})
        cells = self._cell_of[codes + np.repeat(self._codes[:-1], sizes)]
        n = np.concatenate([EMPTY.n, *(c.n for c in own)])
        made = np.bincount(cells, weights=n, minlength=int(self.offsets[-1])).astype(np.int64)
        made[self.offsets[1:] - 1] += np.array([c.nulls for c in own], np.int64)
        return made

    def packed(self, counts: Mapping[Key, np.ndarray]) -> np.ndarray:
        made = np.zeros(int(self.offsets[-1]), np.int64)
        for key, cells in counts.items():
            if (k := self._place.get(key)) is not None:
                made[self.offsets[k] : self.offsets[k + 1]] = cells
        return made

    def fired(self, state: State) -> np.ndarray:
        """bool[K]: which keys have fired since they were last reset."""
        return state.counters[:, engine.FIRED] >= 0

    def evidence(self, state: State, keys: Iterable[Key] | None = None) -> dict[Key, Evidence]:
        """What the state says, for people and for the judge."""
        counters, values = state.counters.tolist(), state.values.tolist()
        best = self._pack.at[:, ALT] + np.maximum(0, state.counters[:, engine.BEST])
        inside = np.minimum(best, len(state.r) - 1)
        r, run = (
            (state.r[inside].tolist(), state.run[inside].tolist())
            if len(state.r)
            else ([0.0] * len(best), [0] * len(best))
        )
        places = range(len(self.keys)) if keys is None else [self._place[key] for key in keys]
        return {self.keys[k]: self._told(k, counters[k], values[k], r[k], run[k]) for k in places}

    def _told(self, k: int, counters: list[int], values: list[float], r: float, run: int) -> Evidence:
        bank, limits = self._banks[self.keys[k]], self.budget.by_key[self.keys[k]]
        over, scale, best = counters[engine.OVER], counters[engine.SCALE], counters[engine.BEST]
        log_m, value, lower = values
        seen, by_scan = counters[engine.PANES] > 0, over == engine.BY_SCAN
        named = best >= 0 and (r < 0 or r >= NAMED)
        rules: tuple[Rule | None, ...] = (None, "bank", "confseq" if limits.confseq else "scan")
        return Evidence(
            log_m if limits.bank is not None and isfinite(log_m) else None,
            limits.bank,
            value if seen else None,
            limits.scan,
            rules[over],
            bank.names[best] if named else f"shape, over {scale} panes" if by_scan else None,
            run if named else scale if by_scan else 0,
            bool(counters[engine.FIRES]),
            max(0.0, lower) if isfinite(lower) else None,
            self._tolerances[self.keys[k]].value,
            bool(counters[engine.RETURNED]),
            (bank.families[best], bank.names[best]) if best >= 0 and seen else None,
        )

    def state_of(self, value: bytes) -> State:
        """ValueError if the bytes are no state of these detectors."""
        state = State.from_bytes(value)
        self._own(state)
        return state

    def _own(self, state: State) -> None:
        if state.mark[0] != self._mark[0]:
            raise ValueError(
                "detector state: expected one of these references and this plan, got another's; start a new one, or "
                "rebuild it from the partials"
            )

    def _alts(self, k: int) -> slice:
        first = int(self._pack.at[k, ALT])
        return slice(first, first + int(self._pack.at[k, ALTS]))

    def _levels(self, k: int) -> slice:
        first = int(self._pack.at[k, LEVEL])
        return slice(first, first + int(level_sizes(self._pack)[k]))

    def _back(self, k: int) -> slice:
        mine = self._alts(k)
        return slice(4 * engine.LEVELS * mine.start, 4 * engine.LEVELS * mine.stop)


def _cells_of(references: Sequence[FeatureReference], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(packed cell of each code of each key, where each key's codes begin, and the end)."""
    cells = [r.cell_of + first for r, first in zip(references, offsets[:-1], strict=True)]
    return np.concatenate([np.empty(0, np.int64), *cells]), np.cumsum([0, *map(len, cells)])


def _apart(references: Mapping[Key, FeatureReference]) -> np.ndarray | None:
    """bool[stretches of the week, K]: where a key's rhythm has a slot of too few rows; None if there is none."""
    slots = [r.slots for r in references.values()]
    if not any(s and s.some_apart for s in slots):
        return None
    starts = MONDAY + np.arange(STRETCHES, dtype=np.int64) * (WEEK // STRETCHES)
    return np.stack([s.apart(starts) if s else np.zeros(STRETCHES, bool) for s in slots], 1)


def _narrow(values: np.ndarray) -> Iterator[bytes]:
    """Numbers in pieces of 1,024; counts in the least width that fits, nothing where all are zero."""
    yield len(values).to_bytes(4, "little")
    for first in range(0, len(values), _PIECE):
        piece = values[first : first + _PIECE]
        bits = piece.view(np.int64)
        width = (
            8 if (low := int(bits.min())) < 0 else next(w for w in _WIDTHS if int(bits.max()) < 1 << (8 * w) or w == 8)
        )
        yield bytes([width])
        if width:
            yield bits.astype(f"<u{width}" if low >= 0 else "<i8").tobytes()


def _widened(value: bytes, at: int, kind: str) -> tuple[np.ndarray, int]:
    size, at = int.from_bytes(value[at : at + 4], "little"), at + 4
    made = np.zeros(size, np.int64)
    for first in range(0, size, _PIECE):
        piece, width = made[first : first + _PIECE], value[at]
        if width:
            piece[:] = np.frombuffer(value, f"<u{width}", len(piece), at + 1).astype(np.int64)
        at += 1 + width * len(piece)
    return made.view(kind), at
