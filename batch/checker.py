"""PURE. The history checker: what the topics and the lake hold, in; a verdict with the first counter-example, out.

Claims, per partition, over the raw records below the committed offset:
1. each is valid or dead, exactly once: in one block as a valid row or not, with a dead letter iff it is not valid;
2. the valid topic holds the valid records' bytes, in their order, and nothing else;
3. a dead letter holds the record that its coordinate names (SHA-256 of key and value), in raw order;
4. blocks follow each other without gap or overlap, and never run ahead of the raw log;
5. the lake holds the coordinates of the valid rows below its own position, each once: a prefix;
6. a replay marker has one replayed record, and no record is replayed twice;
7. a block's watermark is the greatest event time of its own partition's valid rows before it: lateness hangs on it.
It streams: memory is one block, a window of records out of their place, and 32 bytes a replay, whatever the length of
the log. Knows no Kafka and no table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from batch.history import BlockRange, CounterExample, DeadRecord, History, Kind, RawRecord, Replays, Verdict
from batch.in_order import AHEAD, InOrder

RECENT = 20_000  # digests and letters remembered, to tell a second copy from a stranger


def check(history: History) -> Verdict:
    """Walk a partition's logs side by side, by raw offset."""
    return _Walk(history).run()


def check_commits(raw: str, commits: Iterable[Mapping[str, Sequence[int]]]) -> list[CounterExample]:
    """The table's commits, oldest first, each a map of partition to [start, end): they follow each other per partition."""
    at: dict[str, int] = {}
    found = []
    for ranges in commits:
        for partition, (start, end) in ranges.items():
            last = at.get(partition, start)
            if start != last:
                where = f"{raw}/{partition}/{min(start, last)}"
                found.append(
                    CounterExample(
                        "gap" if start > last else "overlap",
                        where,
                        f"{where}: a table commit begins at {start}, the one before ended at {last}",
                    )
                )
            at[partition] = end
    return found


class _Walk:
    def __init__(self, history: History):
        self.h = history
        self.verdict = Verdict(start=history.start, end=history.committed or history.start)
        self.committed = history.committed or history.start
        self.dead = _Dead(self, history.dead)
        self.lake = _Lake(self, history.lake, history.lake_end)
        self.copies = None if history.valid is None else _Copies(self, history.valid)
        self.replays = Replays()
        self.covered = 0  # behind the newest range of records that a single dead letter stands for

    def run(self) -> Verdict:
        raw = _Peekable(self.h.raw)
        for block in self._in_order(self.h.blocks):
            valid = frozenset(block.valid)
            seen = 0
            for record in raw.below(block.end):
                if record.offset >= block.start:
                    seen += record.offset in valid
                    self._judge(record, record.offset in valid, record.offset < self.committed)
                else:
                    self._unblocked(record)
            if seen < len(valid):
                self.say(
                    "phantom",
                    block.start,
                    f"block [{block.start},{block.end}) has {len(valid) - seen} valid rows whose raw record does not exist",
                )
            self.verdict.late += block.late if block.end <= self.committed else 0
        for record in raw.rest():
            self._unblocked(record)
        if self.copies is not None:
            self.copies.finish()
        self.dead.finish()
        self.lake.finish()
        self._check_replays()
        return self.verdict

    def say(self, kind: Kind, offset: int, message: str) -> None:
        coordinate = f"{self.h.name}/{offset}"
        self.verdict.report(CounterExample(kind, coordinate, f"{coordinate}: {message}"))

    def _in_order(self, blocks: Iterable[BlockRange]) -> Iterator[BlockRange]:
        """Blocks that tile the log; a repeated one is reported and not walked twice. Blocks below `start` have lost their raw records."""
        at: int | None = None
        reached: int | None = None  # the greatest event time so far
        for block in blocks:
            if (at is not None and block.start == at) or (at is None and block.start == self.h.start == 0):
                self._check_watermark(block, reached)
            reached = max((t for t in (reached, block.watermark, block.newest) if t is not None), default=None)
            if block.end <= self.h.start and block.end > block.start:
                at = block.end
                continue
            if at is not None and block.start > at:
                self.say("gap", at, f"no block covers [{at},{block.start})")
            if at is not None and block.start < at:
                for offset in block.valid:
                    if offset < at:
                        self.say("duplicated", offset, f"in a second block, [{block.start},{block.end})")
                self.say(
                    "overlap",
                    block.start,
                    f"block [{block.start},{block.end}) begins before the one before it ended, {at}",
                )
                if block.end <= at:
                    continue
                block = BlockRange(at, block.end, tuple(o for o in block.valid if o >= at), block.late)
            at = max(block.end, at or 0)
            yield block
        if at is not None and at < self.committed:
            self.say("ahead", at, f"the committed offset is {self.committed}, blocks end at {at}")

    def _check_watermark(self, block: BlockRange, reached: int | None) -> None:
        if block.watermark != reached:
            self.say(
                "wrong_watermark",
                block.start,
                f"block [{block.start},{block.end}) says that event time had reached {block.watermark}, its partition had reached {reached}",
            )

    def _judge(self, record: RawRecord, valid: bool, counted: bool) -> None:
        if counted:
            self._count(record)
            self.verdict.valid += valid
        else:
            self._uncounted(record)
        letter = self.dead.at(record.offset, valid)
        if letter is not None:
            self.covered = max(self.covered, letter.end or 0)
            if counted:
                self._count_dead(letter)
        if valid and letter is not None:
            self.say("duplicated", record.offset, "is a valid row and a dead letter")
        if not valid and letter is None and counted and record.offset >= self.covered:
            self.say("lost", record.offset, "is neither a valid row of its block nor a dead letter")
        if letter is not None and letter.digest != record.digest and letter.digest is not None:
            self.say(
                "altered",
                record.offset,
                "its dead letter does not hold the bytes of the raw record, or says another SHA-256",
            )
        self.lake.at(record.offset, valid)
        if valid and self.copies is not None and record.digest is not None:
            self.copies.at(record.offset, record.digest, counted)

    def _count_dead(self, letter: DeadRecord) -> None:
        offsets = (letter.end or letter.offset + 1) - letter.offset
        self.verdict.dead += offsets
        self.verdict.quarantined += offsets if letter.quarantined else 0
        self.verdict.open_dead += 0 if self.h.markers.replayed(letter.offset) else offsets

    def _unblocked(self, record: RawRecord) -> None:
        """A raw record that no block covers."""
        if record.offset < self.committed:
            self._count(record)
            letter = self.dead.at(record.offset, False)
            if letter is not None:
                self._count_dead(letter)
            self.say("lost", record.offset, "is below the committed offset, and no block covers it")
        else:
            self._uncounted(record)

    def _count(self, record: RawRecord) -> None:
        self.verdict.consumed += 1
        self._came(record)

    def _uncounted(self, record: RawRecord) -> None:
        self.verdict.lag += 1
        self._came(record)

    def _came(self, record: RawRecord) -> None:
        if record.replay is None:
            self.verdict.produced += 1
        elif self.h.markers.knows(record.replay):
            self.replays.add(record.replay)
            self.verdict.replayed += 1
        else:  # anybody can write such a header
            self.verdict.unmarked += 1
            self.verdict.produced += 1

    def _check_replays(self) -> None:
        for offset in self.h.markers.twice():
            self.say("duplicated", offset, "has two replay markers")
        seen = self.replays.sorted()
        for replay in Replays.twice(seen):
            self.say("duplicated", replay.first, f"was replayed twice after attempt {replay.attempt}")
        if self.h.start == 0:  # else the replayed record may have gone with the log's head
            for replay in self.h.markers.without(seen):
                self.say(
                    "lost", replay.first, f"has a replay marker of attempt {replay.attempt}, and no such raw record"
                )


class _Copies:
    """The valid topic against the valid rows: the same bytes in the same order."""

    def __init__(self, walk: _Walk, digests: Iterable[bytes]):
        self._walk, self._log = walk, InOrder(digests)
        self._new, self._old = dict[bytes, int](), dict[bytes, int]()  # digest -> offset, in two generations

    def at(self, offset: int, digest: bytes, counted: bool) -> None:
        place = self._log.place(digest)
        if place == "here":
            self._remember(digest, offset)
        elif place == "elsewhere":
            self._remember(digest, offset)
            self._walk.say("reordered", offset, "stands in the valid topic behind a record that comes after it")
        elif counted:
            self._walk.say(
                "lost", offset, "is a valid row of its block, and the valid topic does not have it in its place"
            )
        for one in self._log.surplus():
            self._stray(one)

    def finish(self) -> None:
        for one in self._log.surplus(final=True):
            self._stray(one)

    def _stray(self, digest: bytes) -> None:
        offset = self._new.get(digest, self._old.get(digest))
        if offset is not None:
            self._walk.say("duplicated", offset, "stands in the valid topic a second time")
        else:
            self._walk.say(
                "phantom", self._walk.committed, "the valid topic has a record that is no valid row of the blocks"
            )

    def _remember(self, digest: bytes, offset: int) -> None:
        self._new[digest] = offset
        if len(self._new) > RECENT:
            self._old, self._new = self._new, {}


class _Dead:
    """Dead letters by raw offset, in order, each once."""

    def __init__(self, walk: _Walk, letters: Iterable[DeadRecord]):
        self._walk, self._letters = walk, iter(letters)
        self._held: deque[DeadRecord] = deque()  # read, not yet placed
        self._passed = -1  # the raw offset passed last
        self._placed: deque[int] = deque(maxlen=RECENT)

    def at(self, offset: int, valid: bool) -> DeadRecord | None:
        """The letter of this record; letters of offsets that were passed belong to no record, or to one that has its own."""
        while (first := self._first()) is not None and first.offset < offset:
            self._stray(self._held.popleft())
        found = None
        if first is not None and first.offset == offset:
            found = self._held.popleft()
        elif first is not None and not valid:
            found = self._elsewhere(offset)
        if found is not None:
            self._placed.append(offset)
        self._passed = offset
        return found

    def finish(self) -> None:
        while self._first() is not None:
            self._stray(self._held.popleft())

    def _first(self) -> DeadRecord | None:
        if not self._held:
            self._held.extend(islice(self._letters, 1))
        return self._held[0] if self._held else None

    def _elsewhere(self, offset: int) -> DeadRecord | None:
        self._held.extend(islice(self._letters, max(0, AHEAD - len(self._held))))
        for i, letter in enumerate(self._held):
            if letter.offset == offset:
                del self._held[i]
                self._walk.say("reordered", offset, "has its dead letter behind that of a record that comes after it")
                return letter
        return None

    def _stray(self, letter: DeadRecord) -> None:
        if letter.offset < self._walk.h.start:
            return  # its raw record went with the log's head
        if letter.offset in self._placed:
            self._walk.say("duplicated", letter.offset, "has two dead letters")
        elif letter.offset > self._passed:
            self._walk.say("phantom", letter.offset, "has a dead letter, and no such raw record exists")
        else:
            self._walk.say("phantom", letter.offset, "has a dead letter far behind its place, or one too many")


class _Lake:
    """The lake's coordinates against the valid rows below the lake's own position."""

    def __init__(self, walk: _Walk, offsets: Iterable[int], end: int | None):
        self._walk, self._offsets, self._end = walk, iter(offsets), end or 0
        self._next = next(self._offsets, None)
        self._last = -1

    def at(self, offset: int, valid: bool) -> None:
        present = False
        while self._next is not None and self._next <= offset:
            present = self._take(offset, present, valid)
        if valid and not present and offset < self._end:
            self._walk.say(
                "lake_lost",
                offset,
                f"is valid and below the lake's position {self._end}, and the lake does not have it",
            )

    def _take(self, offset: int, present: bool, valid: bool) -> bool:
        row = self._next if self._next is not None else -1
        if row == self._last:
            self._walk.say("lake_duplicated", row, "is in the lake more than once")
        elif row == offset and valid:
            self._walk.verdict.lake += 1
            present = True
            if row >= self._end:
                self._walk.say("ahead", row, f"is in the lake, whose position is {self._end}")
        elif row >= self._walk.h.start:
            self._walk.say("lake_phantom", row, "is in the lake, and is no valid row of the log")
        self._last = row
        self._next = next(self._offsets, None)
        return present

    def finish(self) -> None:
        while self._next is not None:
            self._take(-1, False, False)


class _Peekable:
    """Raw records, taken up to an offset at a time."""

    def __init__(self, records: Iterable[RawRecord]):
        self._records = iter(records)
        self._held: RawRecord | None = None

    def below(self, end: int) -> Iterator[RawRecord]:
        if self._held is not None:
            if self._held.offset >= end:
                return
            held, self._held = self._held, None
            yield held
        for record in self._records:
            if record.offset >= end:
                self._held = record
                return
            yield record

    def rest(self) -> Iterator[RawRecord]:
        if self._held is not None:
            yield self._held
        yield from self._records
