"""A partials topic, a state topic and a judge in memory: what the edge does, without Kafka and without a clock."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.blocks import Block
from pipeline.contract import Contract
from stream_processors.judging.alert import Alert
from stream_processors.judging.closed import Record
from stream_processors.judging.episodes import Episode, follow, scene_of
from stream_processors.judging.judge import Judge
from stream_processors.judging.panes import clock_of
from stream_processors.judging.partial import Partial, from_bytes, to_bytes
from stream_processors.judging.saved import from_messages, to_messages
from stream_processors.judging.summarise import summarise
from stream_processors.judging.timeline import Timeline
from stream_processors.judging.verdict import Verdict
from tests.drift_stream.samples import CLOCK, CONTRACT

IDLE_S = CLOCK.idle / 1000 + 1


class Harness:
    def __init__(self, partitions: int, timeline: Timeline, contract: Contract = CONTRACT):
        self.log: list[Partial] = []
        self.contract, self.partitions, self.timeline, self.now = contract, partitions, timeline, 0.0
        self.clock = clock_of(contract)
        self.verdicts: list[Verdict] = []
        self.alerts: list[Alert] = []
        self.causes: list[tuple[int, str]] = []
        self.episode, self.sequence = Episode(), 0
        self.state: dict[str, bytes | None] = {}
        self.position = 0
        self.judge = self._judge()

    def _judge(self) -> Judge:
        judge = Judge(self.contract, self.clock, range(self.partitions), self.now)
        judge.know(self.timeline)
        return judge

    def write(self, *partials: Partial) -> None:
        self.log += [from_bytes(to_bytes(p)) for p in partials]

    def feed(self) -> None:
        for offset in range(self.position, len(self.log)):
            self.judge.feed(offset, self.log[offset], self.now)
        self.position = len(self.log)

    def turn(self, later: float = 0.0, behind: Sequence[int] = ()) -> int:
        """Feed what is written, let the judge speak, publish and save in one step."""
        self.now += later
        self.feed()
        for window, offsets in self.judge.wanted().items():
            self.judge.supply(window, [(o, self.log[o]) for o in offsets])
        turn = self.judge.turn(self.now, behind)
        if not turn:
            return 0
        for closed in turn.closed:
            self.causes.append((closed.window, closed.cause))
            self.verdicts += closed.verdicts
            self.episode, alert = follow(
                self.episode, closed, self.clock, scene_of(self.judge, closed), int(self.now * 1000)
            )
            self.alerts += [alert] if alert else []
        self.sequence += 1
        saved = self.judge.save(self.sequence, b"")
        self.state.update(dict(to_messages(self.contract.id, 0, saved, turn.records, limit=2000)))
        return len(turn.closed)

    def restart(self) -> None:
        """SIGKILL: what was not published is gone."""
        saved, records = from_messages(self.contract.id, 0, self.state)
        self.judge, self.position = self._judge(), 0
        if saved:
            self.judge.restore(saved, records, self.timeline, self.now)
            self.position = saved.resume

    def drain(self) -> None:
        """Until nothing more is said, partitions gone idle included."""
        self.turn()
        while self.turn(IDLE_S):
            pass

    @property
    def latest(self) -> dict[tuple[str, str, str], bytes]:
        return {v.place: v.to_bytes() for v in self.verdicts}

    def records(self) -> list[Record]:
        return from_messages(self.contract.id, 0, self.state)[1]

    def states(self, feature: str, segment: str = "*") -> list[str]:
        """The latest state of each window, in order."""
        found = {k: json.loads(v)["state"] for k, v in sorted(self.latest.items()) if k[1:] == (feature, segment)}
        return list(found.values())


def counted(
    blocks: Sequence[Block],
    timeline: Timeline,
    learned: Sequence[tuple[int, int]] = (),
    contract: Contract = CONTRACT,
) -> list[list[Partial]]:
    """Partials of one partition's blocks, block by block; `learned` are (before block, generation) in rising order.

    On learning a generation the blocks from the first one that holds an affected pane are counted again.
    """
    made: list[list[Partial]] = []
    generation = 0 if learned else timeline.generation
    for at in range(len(blocks) + 1):
        for _, newer in [pair for pair in learned if pair[0] == at]:
            since = timeline.through(newer).changed_from(generation)
            first = next((i for i, b in enumerate(blocks[:at]) if since is not None and _reached(b) >= since), at)
            generation = newer
            made += [_count(blocks[i], i, timeline.through(generation), contract) for i in range(first, at)]
        if at < len(blocks):
            made.append(_count(blocks[at], at, timeline.through(generation), contract))
    return made


def _reached(block: Block) -> int:
    return max((m for m in (block.header.watermark, block.header.max_event_time) if m is not None), default=0)


def _count(block: Block, at: int, timeline: Timeline, contract: Contract) -> list[Partial]:
    return list(summarise(block, at, contract, clock_of(contract), timeline))
