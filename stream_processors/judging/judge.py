"""PURE. The judge: partials in, verdicts out, as a state machine whose end depends on the log alone.

It adds partials to panes, lets the detectors walk over panes that are final in every partition, cuts the walk into windows,
and revises closed ones when late rows come. Wall time is an argument and decides only *when* a verdict is made: a
partition that is idle no longer holds the others back, and what is closed meanwhile is provisional, on a copy of the
detectors. A partition with blocks that were not counted yet is behind and not idle: it holds them back for as long as it takes.

Why arrival order cannot matter: a row is on time or late by its own partition's log; a pane is stepped once every
partition's watermark has passed it, after which no on-time row can fall into it; counts add up; a block's coordinate
enters a pane once. Partials counted under an older reference are ignored, and a new reference takes the judge back to
the first pane it judges. The one exception: a partition that had never held a record while the others went on does not
hold them back; when it begins, its rows in panes that are walked by then count as late.

It speaks of the rows, or, given the contract `of_scores`, of the model's answers: a stream of its own with its own watermark.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.contract import Contract
from stream_processors.detectors.budget import Budget
from stream_processors.detectors.onset import History
from stream_processors.judging.archive import Archive, flat
from stream_processors.judging.closed import Finding, Record, Tally, together
from stream_processors.judging.panes import Clock, Key
from stream_processors.judging.partial import Partial, late_before
from stream_processors.judging.pronounce import findings_of, verdicts_of
from stream_processors.judging.saved import Saved, SavedProgress, SavedSlice
from stream_processors.judging.steps import Run, Stepper
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.judging.verdict import Verdict
from stream_processors.judging.windows import Closing, Cut, Slice, cutter_of

Cause = Literal["final", "provisional", "revision"]
_FIRST = -(2**63)
RETOLD_S = 1.0  # a provisional close is told again for late rows this often: each telling is a transaction


@dataclass(slots=True)
class Progress:
    """How far one partition of the raw topic is known."""

    generation: int = 0
    next: int = 0  # raw offset that the next partial starts at
    block: int = 0  # offset in the blocks topic that follows the last one counted
    maximum: int | None = None  # event time
    late_before: int | None = None  # rows in panes before it are late whatever their log says; None = it had no row yet
    gaps: int = 0
    heard: float = 0.0  # wall time of the last partial


@dataclass(frozen=True, slots=True)
class Closed:
    """One window as it was judged in this turn."""

    window: int  # its start
    cause: Cause
    verdicts: tuple[Verdict, ...]
    findings: Mapping[Key, Finding]
    end: int = 0
    tally: Tally | None = None
    of_scores: bool = False  # it speaks of the model's answers, not of the rows


@dataclass(slots=True)
class Turn:
    """What one turn of the judge gives to be published, all of it or nothing."""

    closed: list[Closed] = field(default_factory=list)
    records: dict[int, Record | None] = field(default_factory=dict)  # by window; None = no longer needed

    def __bool__(self) -> bool:
        return bool(self.closed or self.records)


@dataclass(frozen=True, slots=True)
class _Said:
    """A provisional close as it was published."""

    end: int
    findings: Mapping[Key, Finding]
    rows: int
    at: float = field(default=0.0, compare=False)  # wall time


@dataclass(slots=True)
class _Trial:
    """A walk ahead of idle partitions, on copies."""

    run: Run
    cut: Cut
    told: set[int] = field(default_factory=set)


class Judge:
    def __init__(self, contract: Contract, clock: Clock, partitions: Iterable[int], now: float):
        self.contract, self.clock = contract.of_rows, clock
        self.partitions = {p: Progress(heard=now) for p in partitions}
        self.unused: frozenset[int] = frozenset()  # partitions known to have never held a record
        self.generation = 0
        self.applied = 0  # partials before this offset are in the state
        self.run, self.cut = Run(), Cut()
        self.panes: dict[int, Tally] = {}  # of open windows
        self.timeline = Timeline()  # as of `generation`
        self._known = Timeline()
        self._stepper, self._cutter, self._archive = (
            Stepper(self.contract.drift, clock),
            cutter_of(clock),
            Archive(clock),
        )
        self._trial: _Trial | None = None
        self._provisional: dict[int, _Said] = {}
        self._idle: frozenset[int] = frozenset()

    @property
    def walk(self) -> Run:
        """The one that went furthest: ahead of idle partitions, if any is."""
        return self._trial.run if self._trial is not None else self.run

    # -- what comes in

    def know(self, timeline: Timeline) -> None:
        """References that exist. They judge nothing before a partial was counted under them."""
        self._known = timeline
        self.timeline = timeline.through(self.generation)

    def missing_before(self, offset: int, partial: Partial) -> Progress | None:
        """The partition's progress if the partial does not follow on it: what lies between was never heard.

        None for one that is read again, the first of its partition, or one that counts anew under newer references.
        """
        known = self.partitions.get(partial.partition)
        if known is None or offset < self.applied or partial.generation != known.generation:
            return None
        return known if partial.start > known.next > 0 else None

    def feed(self, offset: int, partial: Partial, now: float, *, out_of_turn: bool = False) -> None:
        """Add one partial of the partials topic. Its generation must be known.

        `out_of_turn`: it is heard before those that stand between it and the last one.
        """
        if partial.generation > self.generation:
            self._adopt(partial.generation)
        old = offset < self.applied  # read again after a restart: only the open panes need it
        if not old:
            self._progress(partial, now)
            self.applied = self.applied if out_of_turn else offset + 1
        partial = self._as_judged(partial)
        late: dict[int, int] = {}  # closed windows: start -> end
        for part in partial.panes:
            if part.version != self.timeline.version_at(part.pane):
                continue  # counted against a reference that does not judge this pane
            if self._cutter.is_open(self.cut, part.pane):
                self.panes.setdefault(part.pane, Tally(part.version)).add(offset, partial, part)
            if part.late and not old:
                late.update(self._cutter.closed_with(self.cut, part.pane, self._archive.records))
        for window, end in sorted(late.items()):
            self._late(window, end, offset, partial)

    def supply(self, window: int, partials: Iterable[tuple[int, Partial]]) -> None:
        """The partials that `wanted` asked for, read again."""
        self._archive.supply(window, [(offset, self._as_judged(p)) for offset, p in partials])

    def wanted(self) -> dict[int, tuple[int, ...]]:
        """Closed windows to revise whose counts are not at hand: offsets in the partials topic."""
        return self._archive.wanted()

    # -- what comes out

    def quiet(self, now: float) -> frozenset[int]:
        """Partitions not heard for so long that they are idle, unless they are behind."""
        late = self.clock.idle / 1000
        return frozenset(p for p, g in self.partitions.items() if now - g.heard > late and not self._absent(p))

    def turn(self, now: float, behind: Collection[int] = (), until: int | None = None) -> Turn:
        """Everything that can be said now, or of the time before `until`.

        `behind` are quiet partitions with blocks that this judge has not heard of.
        """
        turn, watermark = Turn(), self.watermark()
        if watermark is not None and until is not None:
            watermark = min(watermark, until)
        if watermark is not None:
            stepped = self._stepper.advance(self.run, self.timeline, self.panes, watermark)
            self.cut, closings = self._cutter.advance(self.cut, stepped, watermark)
            turn.closed += [self._close(closing) for closing in closings]
            self.panes = {p: t for p, t in self.panes.items() if self._cutter.is_open(self.cut, p)}
        self._trials(turn, self.quiet(now).difference(behind), now)
        self._revisions(turn)
        self._archive.expire(watermark)
        turn.records = {w: self._archive.records.get(w) for w in self._archive.changed}
        self._archive.changed.clear()
        return turn

    def watermark(self) -> int | None:
        """Event time before which every partition has been heard."""
        marks = [self._mark(p) for n, p in self.partitions.items() if not self._absent(n)]
        known = [m for m in marks if m is not None]
        return min(known) if known and len(known) == len(marks) else None

    def window_ends(self, since: int | None, until: int) -> list[int]:
        """Where slices that hold rows end, behind `since` and up to `until`: a turn for each says one window at a time."""
        ends = {self.clock.window_of(pane) + self.clock.slide for pane in self.panes}
        return sorted(end for end in ends if (since is None or end > since) and end <= until)

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
        if progress.late_before is None and partial.maximum is not None:
            reached = [m for m in (self.run.at, self.cut.closed) if m is not None]
            progress.late_before = max(reached, default=_FIRST)
            self._trial = None
        if partial.generation > progress.generation:  # it was counted again from here on
            progress.generation, progress.next = partial.generation, partial.start
            progress.maximum = partial.maximum_before
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

    def _absent(self, partition: int) -> bool:
        return partition in self.unused and self.partitions[partition].late_before is None

    def _as_judged(self, partial: Partial) -> Partial:
        """With the rows late that came first in a partition which began after their panes were walked."""
        progress = self.partitions.get(partial.partition)
        bound = None if progress is None else progress.late_before
        return partial if bound is None or bound == _FIRST else late_before(partial, bound)

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
        self.panes = {p: t for p, t in self.panes.items() if p < first}
        self.run.rewind(first)
        self.cut = self._cutter.rewind(self.cut, first, self._archive.records)
        self._archive.reopen(first)
        self._trial = None
        self._provisional = {w: s for w, s in self._provisional.items() if s.end <= first}

    # -- closes

    def _close(self, closing: Closing) -> Closed:
        """The window is final: judge it and keep its record."""
        tally, found = self._gather(closing.start, closing.end), self._reference(closing.end)
        findings = findings_of(self.contract, found, self._budget(found), closing.findings, tally)
        held = {p: 0 for p in self._panes_of(closing.start, closing.end)} | dict(closing.walked)
        self._archive.put(
            Record(
                closing.start, closing.end, tally.version, tally.late, False, tuple(sorted(tally.offsets)),
                tuple(sorted(held.items())), flat(findings),
            ),
            tally,
        )  # fmt: skip
        self._provisional.pop(closing.start, None)
        self._trial = None
        return self._closed(closing.start, closing.end, "final", tally, findings)

    def _trials(self, turn: Turn, idle: frozenset[int], now: float) -> None:
        """Close what only idle partitions hold open, on a copy of the detectors."""
        if self._idle - idle:
            self._trial = None  # one of them is back, or has news on the way
        self._idle = idle
        watermark = self._active_watermark()
        if self._idle and watermark is not None:
            trial = self._trial = self._trial or _Trial(self.run.copy(), self.cut)
            stepped = self._stepper.advance(trial.run, self.timeline, self.panes, watermark)
            trial.cut, closings = self._cutter.advance(trial.cut, stepped, watermark, final=False)
            for closing in closings:
                if self.clock.rows and self._version(closing.end) != self.timeline.version_at(closing.start):
                    continue  # by rows: its end is not known, so it may not reach into another reference's time
                trial.told.add(closing.start)
                self._provide(closing.start, closing.end, closing.findings, turn, now)
        for window in sorted(self._trial.told) if self._trial else ():  # late rows may have come since
            said = self._provisional[window]
            if now - said.at >= RETOLD_S and said.rows != self._rows(window, said.end):
                self._provide(window, said.end, None, turn, now)

    def _provide(self, window: int, end: int, peaks: Mapping[Key, Finding] | None, turn: Turn, now: float) -> None:
        """A provisional close, said again only if it says something else than before; without peaks, as it was found."""
        before, rows = self._provisional.get(window), self._rows(window, end)
        tally, found = self._gather(window, end), self._reference(end)
        findings = (
            before.findings
            if before is not None and peaks is None
            else findings_of(self.contract, found, self._budget(found), peaks or {}, tally)
        )
        said = _Said(end, findings, rows, now)
        if said != before:
            self._provisional[window] = said
            turn.closed.append(self._closed(window, end, "provisional", tally, findings))

    def _active_watermark(self) -> int | None:
        """The watermark without the idle partitions; if all are idle, the highest."""
        marks = {n: self._mark(g) for n, g in self.partitions.items() if not self._absent(n)}
        active = [m for n, m in marks.items() if n not in self._idle]
        if active:
            known = [m for m in active if m is not None]
            return min(known) if len(known) == len(active) else None
        return max((m for m in marks.values() if m is not None), default=None)

    # -- late rows of closed windows

    def _late(self, window: int, end: int, offset: int, partial: Partial) -> None:
        record = self._archive.records.get(window)
        if record is None:
            if self._archive.is_expired(end, self.watermark()):
                return
            record = Record(window, end, self._version(end), -1, True, (), (), ())
        self._archive.late(record, offset, partial)

    def _revisions(self, turn: Turn) -> None:
        for record, tally in self._archive.dirty():
            findings = {(f, s): finding for f, s, finding in record.findings}
            if not record.findings:  # only late rows fell into it
                found = self._reference(record.end)
                findings = findings_of(self.contract, found, self._budget(found), {}, tally)
            if tally.late != record.revision:
                turn.closed.append(self._closed(record.window, record.end, "revision", tally, findings))
            self._archive.revised(record, tally.late, findings)

    # -- small things

    def _panes_of(self, start: int, end: int) -> list[int]:
        return sorted(p for p in self.panes if start <= p < end)

    def _rows(self, start: int, end: int) -> int:
        return sum(self.panes[p].rows for p in self._panes_of(start, end))

    def _version(self, end: int) -> int:
        """The reference of a window is the one that judges its last pane."""
        return self.timeline.version_at(end - self.clock.pane)

    def _reference(self, end: int) -> ReferenceSet | None:
        return self.timeline.at(end - self.clock.pane)

    def _budget(self, found: ReferenceSet | None) -> Budget | None:
        return self._stepper.budget_of(found) if found else None

    def _gather(self, start: int, end: int) -> Tally:
        return together((self.panes[p] for p in self._panes_of(start, end)), self._version(end))

    def _closed(self, start: int, end: int, cause: Cause, tally: Tally, findings: Mapping[Key, Finding]) -> Closed:
        found = self._reference(end)
        verdicts = verdicts_of(self.contract, (start, end), found, tally, findings, cause == "provisional")
        return Closed(start, cause, verdicts, findings, end, tally, self.contract.judges_scores)

    # -- restart

    def save(self, sequence: int, episode: bytes) -> Saved:
        """Everything but the open panes: these are rebuilt from the partials between `resume` and `applied`."""
        return Saved(
            sequence, self.generation, self.applied, self.resume,
            tuple(SavedProgress(n, p.generation, p.next, p.block, p.maximum, p.late_before) for n, p in sorted(self.partitions.items())),
            self.run.at, self.run.stepped, self._stepper.to_bytes(self.run.watched, self.timeline), self.cut.closed,
            tuple(SavedSlice(s.start, s.walked, flat(s.peaks)) for s in self.cut.slices), episode,
            self.run.history.to_bytes(),
        )  # fmt: skip

    def restore(self, saved: Saved, records: Iterable[Record], timeline: Timeline, now: float) -> None:
        """Become the judge that was saved; then feed the partials from `saved.resume` on."""
        self.generation, self.applied = saved.generation, saved.applied
        self.know(timeline)
        for p in saved.partitions:
            self.partitions[p.partition] = Progress(p.generation, p.next, p.block, p.maximum, p.late_before, heard=now)
        self.run = Run(saved.at, self._stepper.watched_of(saved.watched, self.timeline), saved.stepped)
        self.run.history = History.from_bytes(saved.history)
        slices = [Slice(s.start, s.walked, {(f, g): finding for f, g, finding in s.peaks}) for s in saved.slices]
        self.cut = Cut(saved.closed, tuple(slices))
        self._archive.load(records)
