"""A model's answers to the rows of the small streams: a law of its own, blocks of them, references of them, two judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.blocks import Block
from pipeline.contract import CONFIDENCE, SCORE, SCORES, Contract, OutcomeLabel
from stream_processors.judging.alert import Alert
from stream_processors.judging.episodes import Episode
from stream_processors.judging.panes import Key
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.live.score_blocks import Answers, score_block
from stream_processors.reference import cells
from tests.drift_stream.harness import IDLE_S, Harness
from tests.drift_stream.samples import CONTRACT, REGIONS, reference_set

SCORED: Contract = replace(
    CONTRACT,
    label=OutcomeLabel("kept", "order", CONTRACT.drift.window),
    drift=replace(CONTRACT.drift, scores=SCORES),
)
Law = Callable[[np.random.Generator, int], np.ndarray]


def usual(rng: np.random.Generator, rows: int) -> np.ndarray:
    """What version 1 answers."""
    return rng.beta(2, 6, rows)


def other(rng: np.random.Generator, rows: int) -> np.ndarray:
    """What version 2 answers to the same rows."""
    return rng.beta(4, 4, rows)


LAWS: dict[str, Law] = {"1": usual, "2": other}


def answered(
    blocks: Sequence[Block], version_of: Callable[[int], str] = lambda time: "1", move: float = 0.0, since: int = 2**62
) -> list[Block]:
    """Blocks of scores: `version_of` an event time, `move` added to the log odds of rows `since` then."""
    return [_answered(b, version_of, move, since) for b in blocks]


def _answered(block: Block, version_of: Callable[[int], str], move: float, since: int) -> Block:
    times = block.valid.column("at").cast(pa.int64()).to_pylist()
    offsets, versions = block.valid.column("raw_offset").to_pylist(), [version_of(t) for t in times]
    scores = []
    for time, offset, version in zip(times, offsets, versions, strict=True):
        p = float(LAWS[version](np.random.default_rng([block.header.partition, offset]), 1)[0])
        scores.append(1 / (1 + np.exp(-(np.log(p / (1 - p)) + (move if time >= since else 0.0)))))
    return score_block(block, SCORED, Answers(scores, versions))


def with_scores(found: ReferenceSet, model: str = "1", rows: int = 12_000) -> ReferenceSet:
    """The same with references of a model's answers."""
    answers = LAWS[model](np.random.default_rng(found.version), rows)
    members: dict[Key, cells.FeatureReference] = dict(found.load())
    regions = np.random.default_rng(found.version + 100).choice(REGIONS, rows, p=(0.6, 0.4))
    for feature, values in ((SCORES[0], answers), (SCORES[1], np.maximum(answers, 1 - answers))):
        for segment in ("*", *(f"region={r}" for r in REGIONS)):
            part = values if segment == "*" else values[regions == segment.partition("=")[2]]
            made = cells.build(
                feature, segment, pa.array(part), version=found.version, effective_from=found.effective_from
            )
            members[feature.name, segment] = replace(made, model=model)
    return replace(found, load=lambda: members)


def scored_set(version: int, effective_from: int, model: str = "1", **more: object) -> ReferenceSet:
    return with_scores(reference_set(version, effective_from, **more), model)  # type: ignore[arg-type]


class Both:
    """A judge of the rows and one of the scores, and the one episode of both."""

    def __init__(self, partitions: int, timeline: Timeline, contract: Contract = SCORED):
        self.rows, self.scores = (
            Harness(partitions, timeline, contract.of_rows),
            Harness(partitions, timeline, contract.of_scores),
        )
        self.alerts: list[Alert] = []
        self.episode = Episode()

    def turn(self, later: float = 0.0) -> int:
        return sum(self._turn(one, later) for one in (self.rows, self.scores))

    def _turn(self, one: Harness, later: float) -> int:
        one.episode, before = self.episode, len(one.alerts)
        made = one.turn(later)
        self.episode = one.episode
        self.alerts += one.alerts[before:]
        return made

    def drain(self) -> None:
        self.turn()
        while self.turn(IDLE_S):
            pass

    @property
    def changes(self) -> list[tuple[str, str | None]]:
        return [(a.state, a.resolution) for a in self.alerts]


NAMES = (SCORE, CONFIDENCE)
