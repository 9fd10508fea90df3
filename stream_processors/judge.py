"""PURE. The judge: partials in, verdicts out, as a state machine whose end depends on the log alone.

It adds partials to panes, lets the detectors walk over panes that are final in every partition, closes windows, and
revises closed ones when late rows come. Wall time is an argument and decides only *when* a verdict is made: a partition
that is idle no longer holds the others back, and what is closed meanwhile is provisional, on a copy of the detectors.

Why arrival order cannot matter: a row is on time or late by its own partition's log; a pane is stepped once every
partition's watermark has passed it, after which no on-time row can fall into it; counts add up; a block's coordinate
enters a pane once. Partials counted under an older reference are ignored, and a new reference takes the judge back to
the first pane it judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from pipeline.contract import Contract
from stream_processors.budget import Budget
from stream_processors.closed import Finding, Record, Tally, together
from stream_processors.detector import DetectorState
from stream_processors.panes import Clock, Key
from stream_processors.partial import Partial
from stream_processors.pronounce import findings_of, verdicts_of
from stream_processors.saved import Saved
from stream_processors.steps import Closing, Run, Stepper, Watch
from stream_processors.timeline import ReferenceSet, Timeline
from stream_processors.verdict import Verdict

Cause = Literal["final", "provisional", "revision"]
CACHED_WINDOWS = 24  # closed windows whose counts are kept at hand; older ones are read again from the partials


@dataclass(slots=True)
class Progress:
    """How far one partition of the raw topic is known."""

    generation: int = 0
    next: int = 0  # raw offset that the next partial starts at
    block: int = 0  # offset in the blocks topic that follows the last one counted
    maximum: int | None = None  # event time
    gaps: int = 0
    heard: float = 0.0  # wall time of the last partial


@dataclass(frozen=True, slots=True)
class Closed:
    """One window as it was judged in this turn."""

    window: int
    cause: Cause
    verdicts: tuple[Verdict, ...]
    findings: Mapping[Key, Finding]


@dataclass(slots=True)
class Turn:
    """What one turn of the judge gives to be published, all of it or nothing."""

    closed: list[Closed] = field(default_factory=list)
    records: dict[int, Record | None] = field(default_factory=dict)  # by window; None = no longer needed

    def __bool__(self) -> bool:
        return bool(self.closed or self.records)


@dataclass(slots=True)
class _Provisional:
    findings: dict[Key, Finding]
    rows: int  # that the published verdicts hold


class Judge:
    def __init__(self, contract: Contract, clock: Clock, partitions: Iterable[int], now: float):
        self.contract, self.clock = contract, clock
        self.partitions = {p: Progress(heard=now) for p in partitions}
        self.generation = 0
        self.applied = 0  # partials before this offset are in the state
        self.run = Run()
        self.panes: dict[int, Tally] = {}
        self.records: dict[int, Record] = {}
        self.timeline = Timeline()  # as of `generation`
        self._known = Timeline()
        self._stepper = Stepper(contract.drift, clock)
        self._tallies: dict[int, Tally] = {}  # of closed windows, newest last
        self._trial: Run | None = None
        self._provisional: dict[int, _Provisional] = {}
        self._wanted: set[int] = set()
        self._changed: set[int] = set()
        self._idle: frozenset[int] = frozenset()

    # -- what comes in

    def know(self, timeline: Timeline) -> None:
        """References that exist. They judge nothing before a partial was counted under them."""
        self._known = timeline
        self.timeline = timeline.through(self.generation)

    def feed(self, offset: int, partial: Partial, now: float) -> None:
        """Add one partial of the partials topic. Its generation must be known."""
        if partial.generation > self.generation:
            self._adopt(partial.generation)
        old = offset < self.applied  # read again after a restart: only the open panes need it
        if not old:
            self._progress(partial, now)
            self.applied = offset + 1
        late_windows: set[int] = set()
        for part in partial.panes:
            window = self.clock.window_of(part.pane)
            if part.version != self.timeline.version_at(part.pane):
                continue  # counted against a reference that does not judge this pane
            if not self.run.is_closed(window):
                self.panes.setdefault(part.pane, Tally(part.version)).add(offset, partial, part)
            elif part.late and not old:
                late_windows.add(window)
        for window in sorted(late_windows):
            self._late(window, offset, partial)

    def supply(self, window: int, partials: Iterable[tuple[int, Partial]]) -> None:
        """The partials that `wanted` asked for, read again."""
        record = self.records.get(window)
        if record is None:
            return
        tally = Tally(record.version)
        for offset, partial in partials:
            self._add_window(tally, window, offset, partial)
        self._remember(window, tally)
        self._wanted.discard(window)

    def wanted(self) -> dict[int, tuple[int, ...]]:
        """Closed windows to revise whose counts are not at hand: offsets in the partials topic."""
        return {w: self.records[w].offsets for w in sorted(self._wanted) if w in self.records}

    # -- what comes out

    def turn(self, now: float) -> Turn:
        """Everything that can be said now."""
        turn = Turn()
        watermark = self.watermark()
        if watermark is not None:
            for closing in self._stepper.advance(self.run, self.timeline, self.panes, watermark):
                turn.closed.append(self._close(closing))
        self._trials(turn, now)
        self._revisions(turn)
        self._expire(watermark)
        for window in self._changed:
            turn.records.setdefault(window, self.records.get(window))
        self._changed.clear()
        return turn

    def watermark(self) -> int | None:
        """Event time before which every partition has been heard."""
        marks = [self._mark(p) for p in self.partitions.values()]
        known = [m for m in marks if m is not None]
        return min(known) if known and len(known) == len(marks) else None

    @property
    def resume(self) -> int:
        """Offset of the first partial that an open pane needs."""
        return min((min(t.offsets) for t in self.panes.values() if t.offsets), default=self.applied)

    # -- progress

    def _progress(self, partial: Partial, now: float) -> None:
        progress = self.partitions.setdefault(partial.partition, Progress())
        progress.heard = now
        if partial.partition in self._idle:
            self._trial = None  # it is back: what was closed without it is closed again with it
        if partial.generation > progress.generation:  # it was counted again from here on
            progress.generation, progress.next, progress.maximum = (
                partial.generation,
                partial.start,
                partial.maximum_before,
            )
        if partial.generation == progress.generation and partial.end > progress.next:
            progress.gaps += partial.start > progress.next > 0
            progress.next, progress.maximum, progress.block = partial.end, partial.maximum, partial.next_block

    def _mark(self, progress: Progress) -> int | None:
        """The partition's watermark; panes that a newer reference judges count once they were counted under it."""
        if progress.maximum is None:
            return None
        mark = progress.maximum - self.clock.lateness
        changed = self.timeline.changed_from(progress.generation)
        return mark if changed is None else min(mark, changed)

    def _adopt(self, generation: int) -> None:
        """Judge by newer references: everything from the first pane that they judge is counted again."""
        if self._known.generation < generation:
            raise ValueError(
                f"reference version: expected one of at most {self._known.generation}, got {generation}; know() it first"
            )
        timeline = self._known.through(generation)
        first = timeline.changed_from(self.generation)
        self.generation, self.timeline = generation, timeline
        if first is None:
            return
        window = self.clock.window_of(first)
        self.panes = {p: t for p, t in self.panes.items() if p < first}
        self.run.rewind(first, window)
        for gone in [w for w in self.records if w >= window]:
            self._forget(gone)
        self._trial = None
        self._provisional = {w: p for w, p in self._provisional.items() if w < window}

    # -- closes

    def _close(self, closing: Closing) -> Closed:
        """The window is final: judge it, keep its record, let its panes go."""
        window, tally, found = closing.window, self._gather(closing.window), self._reference(closing.window)
        findings = findings_of(self.contract, found, self._budget(found), closing.findings, tally)
        for pane in self._panes_of(window):
            del self.panes[pane]
        self.records[window] = Record(
            window, tally.version, tally.late, False, tuple(sorted(tally.offsets)), _flat(findings)
        )
        self._changed.add(window)
        self._provisional.pop(window, None)
        self._trial = None
        self._remember(window, tally)
        return self._closed(window, "final", tally, findings)

    def _trials(self, turn: Turn, now: float) -> None:
        """Close what only idle partitions hold open, on a copy of the detectors."""
        self._idle = frozenset(p for p, g in self.partitions.items() if now - g.heard > self.clock.idle / 1000)
        watermark = self._active_watermark()
        if self._idle and watermark is not None:
            self._trial = self._trial or self.run.copy()
            for closing in self._stepper.advance(self._trial, self.timeline, self.panes, watermark):
                self._provide(closing.window, closing.findings, turn)
        if self._trial is not None:
            for window in sorted({self.clock.window_of(p) for p in self.panes}):
                if self._trial.is_closed(window):  # late rows may have come since
                    self._provide(window, None, turn)

    def _provide(self, window: int, peaks: Mapping[Key, Finding] | None, turn: Turn) -> None:
        """A provisional close, said again only if it says something else than before."""
        before = self._provisional.get(window)
        rows = sum(self.panes[p].rows for p in self._panes_of(window))
        if peaks is None and before is not None and before.rows == rows:
            return
        tally, found = self._gather(window), self._reference(window)
        kept = before is not None and peaks is None
        findings = (
            before.findings if kept else findings_of(self.contract, found, self._budget(found), peaks or {}, tally)
        )
        if before is None or before.rows != rows or before.findings != findings:
            self._provisional[window] = _Provisional(findings, rows)
            turn.closed.append(self._closed(window, "provisional", tally, findings))

    def _active_watermark(self) -> int | None:
        """The watermark without the idle partitions; if all are idle, the highest."""
        active = [self._mark(g) for p, g in self.partitions.items() if p not in self._idle]
        if active:
            known = [m for m in active if m is not None]
            return min(known) if len(known) == len(active) else None
        return max((m for m in map(self._mark, self.partitions.values()) if m is not None), default=None)

    # -- late rows of closed windows

    def _late(self, window: int, offset: int, partial: Partial) -> None:
        record = self.records.get(window)
        if record is None:
            if self._expired(window, self.watermark()):
                return
            version = self._version(window)
            record = Record(window, version, -1, True, (), ())
            self._remember(window, Tally(version))
        tally = self._tallies.get(window)
        if tally is not None and not self._add_window(tally, window, offset, partial):
            return  # nothing new
        self.records[window] = msgspec.structs.replace(
            record, dirty=True, offsets=tuple(sorted({*record.offsets, offset}))
        )
        self._changed.add(window)
        if tally is None:
            self._wanted.add(window)

    def _revisions(self, turn: Turn) -> None:
        for window in sorted(w for w, r in self.records.items() if r.dirty and w in self._tallies):
            record, tally = self.records[window], self._tallies[window]
            findings = {(f, s): finding for f, s, finding in record.findings}
            if not record.findings:  # only late rows fell into it
                found = self._reference(window)
                findings = findings_of(self.contract, found, self._budget(found), {}, tally)
            if tally.late != record.revision:
                turn.closed.append(self._closed(window, "revision", tally, findings))
            self.records[window] = msgspec.structs.replace(
                record, dirty=False, revision=tally.late, findings=_flat(findings)
            )
            self._changed.add(window)

    def _expire(self, watermark: int | None) -> None:
        for window in [w for w in self.records if self._expired(w, watermark)]:
            self._forget(window)

    def _expired(self, window: int, watermark: int | None) -> bool:
        keep = self.clock.revise_within
        return keep is not None and watermark is not None and window + self.clock.window <= watermark - keep

    def _forget(self, window: int) -> None:
        self.records.pop(window, None)
        self._tallies.pop(window, None)
        self._wanted.discard(window)
        self._changed.add(window)

    # -- small things

    def _panes_of(self, window: int) -> list[int]:
        return [p for p in range(window, window + self.clock.window, self.clock.pane) if p in self.panes]

    def _version(self, window: int) -> int:
        """The reference of a window is the one that judges its last pane."""
        return self.timeline.version_at(window + self.clock.window - self.clock.pane)

    def _reference(self, window: int) -> ReferenceSet | None:
        return self.timeline.at(window + self.clock.window - self.clock.pane)

    def _budget(self, found: ReferenceSet | None) -> Budget | None:
        return self._stepper.budget_of(found) if found else None

    def _gather(self, window: int) -> Tally:
        return together((self.panes[p] for p in self._panes_of(window)), self._version(window))

    def _add_window(self, tally: Tally, window: int, offset: int, partial: Partial) -> bool:
        parts = [p for p in partial.panes if self.clock.window_of(p.pane) == window]
        return any([tally.add(offset, partial, part) for part in parts])

    def _remember(self, window: int, tally: Tally) -> None:
        self._tallies.pop(window, None)
        self._tallies[window] = tally
        for old in list(self._tallies)[: max(0, len(self._tallies) - CACHED_WINDOWS)]:
            if not (old in self.records and self.records[old].dirty):
                del self._tallies[old]

    def _closed(self, window: int, cause: Cause, tally: Tally, findings: Mapping[Key, Finding]) -> Closed:
        found = self._reference(window)
        verdicts = verdicts_of(self.contract, self.clock, found, window, tally, findings, cause == "provisional")
        return Closed(window, cause, verdicts, findings)

    # -- restart

    def save(self, sequence: int, episode: bytes) -> Saved:
        """Everything but the open panes: these are rebuilt from the partials between `resume` and `applied`."""
        run = self.run
        return Saved(
            sequence, self.generation, self.applied, self.resume,
            tuple((n, p.generation, p.next, p.block, p.maximum) for n, p in sorted(self.partitions.items())),
            run.at, run.closed, run.window, _flat(run.peaks), run.stepped,
            tuple((f, s, w.version, w.alarmed, w.state.to_bytes()) for (f, s), w in sorted(run.watches.items())),
            episode,
        )  # fmt: skip

    def restore(self, saved: Saved, records: Iterable[Record], timeline: Timeline, now: float) -> None:
        """Become the judge that was saved; then feed the partials from `saved.resume` on."""
        self.generation, self.applied = saved.generation, saved.applied
        self.know(timeline)
        for number, *values in saved.partitions:
            self.partitions[number] = Progress(*values, heard=now)
        watches = {(f, s): Watch(v, DetectorState.from_bytes(b), a) for f, s, v, a, b in saved.watches}
        peaks = {(f, s): finding for f, s, finding in saved.peaks}
        self.run = Run(saved.at, saved.closed, saved.window, watches, peaks, saved.stepped)
        self.records = {r.window: r for r in records}
        self._wanted = {w for w, r in self.records.items() if r.dirty}


def _flat(findings: Mapping[Key, Finding]) -> tuple[tuple[str, str, Finding], ...]:
    return tuple((f, s, finding) for (f, s), finding in sorted(findings.items()))
