"""PURE. When a change began: the last panes on a dozen cells, and a change-point estimate with an interval from them.

What is remembered. Of every stepped pane the counts of each feature and segment on ten cells of about equal mass (the
ten most frequent categories), values never seen, and nulls. The newest 24 panes stand one by one, older ones in pairs,
fours ... of 32: at most 144 entries for 1,512 panes, so what happened d panes ago is known to about d / 24 panes. All
is a function of the panes: equal panes give equal bytes.

How the onset is found. The stretch of panes up to the alarm whose shares q differ most from the reference's p (largest
n KL(q || p), the generalised likelihood ratio) gives a direction w = log(q / p). Each entry's mean of w is normal to
first order, with variance var_p(w) / n. To these means a change is fitted by weighted least squares,

    y(t) = b + a clip((t - tau) / rho, 0, 1),     b the reference's own error, a normal of variance var_p(w) / R

a step (rho = 0) or a ramp of up to 384 panes, or one that is still rising. The profile over tau of the gain in log
likelihood, twice, is compared with its maximum: every tau that loses at most 5.94 is in the interval. For a step this
is Hansen's 90 % set, P(loss <= x) = (1 - exp(-x/2))**2; for a ramp the loss is nearly a chi-square of one degree, so
the interval is wider than asked. The direction is estimated from the same rows and the rows were chosen by an alarm,
so the coverage is measured (docs/drift-stream.md), not proved.

Cost: a push is one bincount over all keys, entries are shared with the history before it; an estimate some 10 ms, made when an alert is.
References: Hinkley, Inference about the change-point in a sequence of random variables, Biometrika 57 (1970) 1;
Hansen, Sample splitting and threshold estimation, Econometrica 68 (2000) 575, doi:10.1111/1468-0262.00124.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from stream_processors.judging.panes import Key
from stream_processors.reference.cells import FeatureReference

VALUE_CELLS = 10
CELLS = VALUE_CELLS + 2  # values never seen, nulls
A_SPAN = 24  # entries of each span at least before two become one of twice the span
SPANS = (1, 2, 4, 8, 16, 32)  # panes
COVERAGE = 0.9
LOSS = -2 * np.log(1 - np.sqrt(COVERAGE))  # 5.94
RAMPS = (0.0, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0, 384.0, np.inf)  # panes; inf = it still rises
SHRINK = 20.0  # rows of the reference's law that are mixed into q, so that no share is zero


@dataclass(frozen=True, slots=True)
class Onset:
    """Event times in ms; the interval covers the beginning of the change in about nine of ten cases."""

    low: int
    at: int
    high: int
    shape: Literal["abrupt", "gradual"]


class _Form(msgspec.Struct, frozen=True, array_like=True):
    version: int
    keys: tuple[Key, ...]
    starts: tuple[int, ...]
    spans: tuple[int, ...]
    width: int
    counts: bytes


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The last panes of one reference version, oldest first; a value."""

    version: int
    keys: tuple[Key, ...]
    starts: tuple[int, ...]  # of an entry's first pane
    spans: tuple[int, ...]  # its panes
    counts: tuple[np.ndarray, ...]  # its int64[K, CELLS], never changed: histories share them

    def push(self, version: int, pane: int, members: Mapping[Key, FeatureReference], packed: np.ndarray) -> History:
        """With one more pane, its coarse counts packed in the order of `members`; another version begins anew."""
        folds = _folds(tuple(members.values()))
        before = (
            self if (version, folds.keys) == (self.version, self.keys) else History(version, folds.keys, (), (), ())
        )
        starts, spans, counts = [*before.starts, pane], [*before.spans, 1], [*before.counts, folds.fold(packed)]
        for span in SPANS:
            if spans.count(span) <= A_SPAN:
                break
            first = spans.index(span)
            if span < SPANS[-1]:
                starts[first + 1], spans[first + 1] = starts[first], 2 * span
                counts[first + 1] = counts[first] + counts[first + 1]
            del starts[first], spans[first], counts[first]
        return History(version, before.keys, tuple(starts), tuple(spans), tuple(counts))

    def before(self, pane: int) -> History:
        """Without what is not wholly before a pane."""
        kept = sum(start < pane for start in self.starts)
        if kept and self.spans[kept - 1] > 1:
            kept -= 1
        return replace(self, starts=self.starts[:kept], spans=self.spans[:kept], counts=self.counts[:kept])

    def to_bytes(self) -> bytes:
        counts = np.array(self.counts, np.int64)
        width = 2 if counts.max(initial=0) < 1 << 16 else 8
        body = counts.astype(f"<u{width}").tobytes()
        return msgspec.msgpack.encode(_Form(self.version, self.keys, self.starts, self.spans, width, body))

    @staticmethod
    def from_bytes(value: bytes) -> History:
        """ValueError if it is none; b"" is the empty one."""
        if not value:
            return EMPTY
        form = msgspec.msgpack.decode(value, type=_Form)
        counts = np.frombuffer(form.counts, f"<u{form.width}").astype(np.int64)
        shape = len(form.starts), len(form.keys), CELLS
        return History(form.version, form.keys, form.starts, form.spans, tuple(counts.reshape(shape)))


EMPTY = History(0, (), (), (), ())


def estimate(
    history: History, reference: FeatureReference, until: int, since: int | None = None, pane: int = 0
) -> Onset | None:
    """The onset of the change that holds at pane `until`, found in the panes from `since` on; None without panes.

    `pane` is the length of a pane: an onset lies between the starts of two.
    """
    if reference.key not in history.keys or reference.version != history.version:
        return None
    k = history.keys.index(reference.key)
    held = [
        (start, span, own[k])
        for start, span, own in zip(history.starts, history.spans, history.counts, strict=True)
        if start <= until and (since is None or start >= since) and own[k].any()
    ]
    if not held:
        return None
    starts, spans, counts = (np.array(column) for column in zip(*held, strict=True))
    rows = counts.sum(1)
    y, precision, own = _projected(counts, rows, _laws(reference, starts), reference.rows)
    ends = np.cumsum(spans).astype(np.float64)
    begins = ends - spans
    taus = np.unique(np.concatenate((begins, begins + spans / 2, np.arange(max(0.0, ends[-1] - 48), ends[-1], 0.5))))
    gain = np.stack([_gain(y, precision, own, begins, ends, taus, rho) for rho in RAMPS])
    profile = gain.max(0)
    inside = np.flatnonzero(profile >= profile.max() - LOSS)
    gradual = profile.max() - gain[0].max() > LOSS
    best = int(np.argmax(profile if gradual else gain[0]))
    times = _times(taus, begins, starts, spans, pane)
    low, high = times[inside[0]] - pane // 2, times[inside[-1]] + pane // 2
    return Onset(
        int(min(low, times[best])), int(times[best]), int(max(high, times[best])), "gradual" if gradual else "abrupt"
    )


def _projected(
    counts: np.ndarray, rows: np.ndarray, laws: np.ndarray, reference_rows: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(each entry's mean in the direction of the change, its precision, the precision of the reference itself)."""
    back, expected = np.cumsum(counts[::-1], 0), np.cumsum((laws * rows[:, None])[::-1], 0)
    n = back.sum(1, keepdims=True)
    q, p = (back + SHRINK * expected / n) / (n + SHRINK), expected / n
    at = int(np.argmax((n * q * np.log(q / p)).sum(1)))  # entries back
    w = np.log(q[at] / p[at])
    mean = laws @ w
    variance = max(float(np.mean(laws @ np.square(w) - np.square(mean))), 1e-12)
    return counts @ w / rows - mean, rows / variance, reference_rows / variance


def _gain(
    y: np.ndarray, precision: np.ndarray, own: float, begins: np.ndarray, ends: np.ndarray, taus: np.ndarray, rho: float
) -> np.ndarray:
    """Twice the gain in log likelihood of a change that begins at each tau, over none; 0 where it would be negative."""
    width = np.where(np.isinf(rho), ends[-1] - taus, rho)[:, None]
    tau = taus[:, None]
    f = (_risen(ends - tau, width) - _risen(begins - tau, width)) / (ends - begins)
    total = precision.sum() + own
    f_own, f_all = f @ precision, np.square(f) @ precision
    along = f @ (precision * y) - f_own * (precision @ y) / total
    size = f_all - np.square(f_own) / total
    return np.where(along > 0, np.square(along) / np.maximum(size, 1e-12), 0.0)


def _risen(t: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Integral of clip(t / rho, 0, 1) up to t."""
    t = np.maximum(t, 0.0)
    return np.where(t < rho, np.square(t) / (2 * np.maximum(rho, 1e-9)), t - rho / 2)


def _times(taus: np.ndarray, begins: np.ndarray, starts: np.ndarray, spans: np.ndarray, pane: int) -> np.ndarray:
    """Event times of positions among the panes; inside an entry of several panes evenly."""
    at = np.searchsorted(begins, taus, side="right") - 1
    until = np.append(starts[1:], starts[-1] + spans[-1] * pane)
    inside = (taus - begins[at]) / spans[at]
    return (starts[at] + inside * np.minimum(until[at] - starts[at], spans[at] * max(pane, 1))).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Folds:
    """From coarse cells to these, for all keys of a version at once."""

    keys: tuple[Key, ...]  # sorted
    of: np.ndarray  # int64, key * CELLS + cell of each packed cell

    def fold(self, packed: np.ndarray) -> np.ndarray:
        counts = np.bincount(self.of, weights=packed, minlength=len(self.keys) * CELLS)
        return counts.astype(np.int64).reshape(len(self.keys), CELLS)


@lru_cache(maxsize=8)
def _folds(references: tuple[FeatureReference, ...]) -> _Folds:
    keys = tuple(sorted(r.key for r in references))
    maps = [_cell_map(r) + keys.index(r.key) * CELLS for r in references]
    return _Folds(keys, np.concatenate([*maps, np.empty(0, np.int64)]))


@lru_cache(maxsize=1024)
def _cell_map(reference: FeatureReference) -> np.ndarray:
    """The cell of each coarse cell: ten of about equal mass for numbers, the most frequent nine and a rest for categories."""
    rows = reference.cell_rows[:-2]
    if reference.kind == "numeric":
        place = np.minimum((np.cumsum(rows) - rows / 2) / max(1, rows.sum()) * VALUE_CELLS, VALUE_CELLS - 1).astype(int)
    else:
        rank = np.empty(len(rows), np.int64)
        rank[np.argsort(-rows, kind="stable")] = np.arange(len(rows))
        place = np.minimum(rank, VALUE_CELLS - 1)
    return np.concatenate((place, [VALUE_CELLS, VALUE_CELLS + 1])).astype(np.int64)


def _laws(reference: FeatureReference, starts: np.ndarray) -> np.ndarray:
    """The reference's shares of the cells at each start: those of its slot, if it has a rhythm."""
    slots = reference.slots
    if slots is None:
        return np.repeat(_law(reference, reference.cell_rows)[None], len(starts), 0)
    by_slot = np.stack([_law(reference, reference.slot_cell_rows(s)) for s in range(len(slots.names))])
    return by_slot[slots.at_each(starts)]


def _law(reference: FeatureReference, cell_rows: np.ndarray) -> np.ndarray:
    rows = np.bincount(_cell_map(reference), weights=cell_rows, minlength=CELLS) + 0.5
    return rows / rows.sum()
