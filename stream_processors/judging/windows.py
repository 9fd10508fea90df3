"""PURE. Windows: runs of panes that a verdict speaks of. Three kinds, each a function of the log alone.

    #  pane       |....|....|....|....|....|....|      final up to the arrow
    #  tumbling   [      w1      ][      w2     ]      begin at multiples of the window
    #  sliding    [      w1      ]                     begin at multiples of the slide, and overlap
    #                  [      w2      ]
    #  by rows    [   N rows  ][     N rows      ][    whole panes, until they hold N on-time rows; no gap between them
    #                                       ^

A window by rows begins where the last one ended, the first with the first pane that holds an on-time row: late rows before
that belong to no window. Where such windows lie depends on on-time rows only, so late rows and references cannot move them.
While a partition is idle their ends are not known: one window is told provisionally, larger by N rows each time.

What detectors found in panes is merged by slices (as long as the slide; one slice for windows that tumble or go by rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from stream_processors.judging.closed import Finding, Record
from stream_processors.judging.panes import Clock, Key
from stream_processors.judging.steps import Stepped, worst, worst_of

Walked = tuple[tuple[int, int], ...]  # (start, on-time rows) of panes that hold rows


@dataclass(frozen=True, slots=True)
class Slice:
    start: int
    walked: Walked = ()
    peaks: Mapping[Key, Finding] = field(default_factory=dict)

    def with_pane(self, pane: Stepped) -> Slice:
        return Slice(self.start, (*self.walked, (pane.pane, pane.on_time)), worst(self.peaks, pane.findings))

    def before(self, pane: int) -> Slice:
        """As it was, without what was found: another reference judges what follows."""
        return Slice(self.start, tuple(w for w in self.walked if w[0] < pane))


@dataclass(frozen=True, slots=True)
class Cut:
    """How far the log is cut: what open windows need to know. A value."""

    closed: int | None = None  # windows that start before are closed
    slices: tuple[Slice, ...] = ()  # of open windows, in order


@dataclass(frozen=True, slots=True)
class Closing:
    """A window whose panes are walked, all of them or (provisional, by rows) so far."""

    start: int
    end: int
    walked: Walked
    findings: Mapping[Key, Finding]


class Cutter(Protocol):
    """Cuts a walk into windows."""

    def advance(
        self, cut: Cut, stepped: Sequence[Stepped], watermark: int, final: bool = True
    ) -> tuple[Cut, list[Closing]]:
        """The cut after these panes, and the windows that ended, in order."""

    def is_open(self, cut: Cut, pane: int) -> bool:
        """Whether a window that is not closed holds the pane, or may come to."""

    def closed_with(self, cut: Cut, pane: int, records: Mapping[int, Record]) -> list[tuple[int, int]]:
        """(start, end) of the closed windows that hold the pane, as far as they are remembered."""

    def rewind(self, cut: Cut, pane: int, records: Mapping[int, Record]) -> Cut:
        """Open every window again that holds the pane or lies behind it."""


def cutter_of(clock: Clock) -> Cutter:
    return ByTime(clock) if clock.rows is None else ByRows(clock, clock.rows)


@dataclass(frozen=True, slots=True)
class ByTime:
    clock: Clock

    def advance(
        self, cut: Cut, stepped: Sequence[Stepped], watermark: int, final: bool = True
    ) -> tuple[Cut, list[Closing]]:
        slices = {s.start: s for s in cut.slices}
        for pane in stepped:
            start = self.clock.window_of(pane.pane)
            slices[start] = slices.get(start, Slice(start)).with_pane(pane)
        bound = self._after(watermark - self.clock.window)
        closed = bound if cut.closed is None else max(bound, cut.closed)
        begun = sorted({w for s in slices for w in self._starts(s)})
        ended = [w for w in begun if w < closed and (cut.closed is None or w >= cut.closed)]
        closings = [self._closing(w, slices) for w in ended]
        kept = tuple(slices[s] for s in sorted(slices) if s >= closed)
        return Cut(closed, kept), closings

    def is_open(self, cut: Cut, pane: int) -> bool:
        return cut.closed is None or self.clock.window_of(pane) >= cut.closed

    def closed_with(self, cut: Cut, pane: int, records: Mapping[int, Record]) -> list[tuple[int, int]]:
        found = self._starts(self.clock.window_of(pane))
        return [(w, w + self.clock.window) for w in found if cut.closed is not None and w < cut.closed]

    def rewind(self, cut: Cut, pane: int, records: Mapping[int, Record]) -> Cut:
        first = self._after(pane - self.clock.window)
        if cut.closed is None or first >= cut.closed:
            return replace(cut, slices=tuple(s for s in _before(cut.slices, pane) if s.walked))
        walked = {w for r in records.values() if r.window >= first for w in r.panes}
        walked |= {w for s in cut.slices for w in s.walked}
        slices: dict[int, Slice] = {}
        for start, rows in sorted(w for w in walked if first <= w[0] < pane):
            own = self.clock.window_of(start)
            slices[own] = slices.get(own, Slice(own)).with_pane(Stepped(start, rows, {}))
        return Cut(first, tuple(slices.values()))

    def _after(self, time: int) -> int:
        """The first start after it."""
        return time // self.clock.slide * self.clock.slide + self.clock.slide

    def _starts(self, newest: int) -> range:
        """Starts of the windows that hold a slice."""
        return range(newest - self.clock.window + self.clock.slide, newest + 1, self.clock.slide)

    def _closing(self, window: int, slices: Mapping[int, Slice]) -> Closing:
        end = window + self.clock.window
        own = [slices[s] for s in range(window, end, self.clock.slide) if s in slices]
        return Closing(window, end, tuple(w for s in own for w in s.walked), worst_of(s.peaks for s in own))


@dataclass(frozen=True, slots=True)
class ByRows:
    clock: Clock
    rows: int

    def advance(
        self, cut: Cut, stepped: Sequence[Stepped], watermark: int, final: bool = True
    ) -> tuple[Cut, list[Closing]]:
        closings: list[Closing] = []
        for pane in stepped:
            if not cut.slices:
                if not final or not pane.on_time:
                    continue  # where the first window begins is known once it is final
                cut = Cut(pane.pane, (Slice(pane.pane),))
            own, end = cut.slices[0].with_pane(pane), pane.pane + self.clock.pane
            held = sum(rows for _, rows in own.walked)
            cut = Cut(own.start, (own,))
            if held // self.rows > (held - pane.on_time) // self.rows:
                closings.append(Closing(own.start, end, own.walked, own.peaks))
                cut = Cut(end, (Slice(end),)) if final else cut
        return cut, closings

    def is_open(self, cut: Cut, pane: int) -> bool:
        return cut.closed is None or pane >= cut.closed

    def closed_with(self, cut: Cut, pane: int, records: Mapping[int, Record]) -> list[tuple[int, int]]:
        return [(r.window, r.end) for r in records.values() if r.window <= pane < r.end]

    def rewind(self, cut: Cut, pane: int, records: Mapping[int, Record]) -> Cut:
        if cut.closed is None or pane >= cut.closed:
            return replace(cut, slices=_before(cut.slices, pane))
        record = min((r for r in records.values() if r.end > pane), key=lambda r: r.window, default=None)
        if record is None or record.window > pane:  # before the first window, or what was there is forgotten
            return Cut()
        return Cut(record.window, (Slice(record.window, record.panes).before(pane),))


def _before(slices: Sequence[Slice], pane: int) -> tuple[Slice, ...]:
    return tuple(s.before(pane) if s.walked and s.walked[-1][0] >= pane else s for s in slices)
