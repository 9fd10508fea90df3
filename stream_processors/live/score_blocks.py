"""PURE. A block's answers as a block of their own, which the drift process counts as it counts the rows.

It has the coordinates of the block it answers, [start, end) and watermark included, and lies in the same-numbered partition
of `<dataset>.scores`. Rows that no model answered are not in it: before the first champion it holds none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipeline.blocks import VALID, Block
from pipeline.contract import CONFIDENCE, MODEL_VERSION, REJECT, SCORE, Contract

UNSCORED = "unscored"  # in the header's counts: valid rows before the first champion


@dataclass(frozen=True, slots=True)
class Answers:
    """Of rows in their order: the probability, the model version that gave it (a model may be swapped within a block), and
    what it knew of the past, by feature; a model that knows nothing of it has none."""

    scores: Sequence[float] = ()
    versions: Sequence[str] = ()
    history: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def __add__(self, other: Answers) -> Answers:
        history = {name: [*self.known(name), *other.known(name)] for name in {**self.history, **other.history}}
        return Answers([*self.scores, *other.scores], [*self.versions, *other.versions], history)

    def __getitem__(self, rows: slice) -> Answers:
        return Answers(self.scores[rows], self.versions[rows], {n: v[rows] for n, v in self.history.items()})

    def known(self, name: str) -> Sequence[float | None]:
        return self.history.get(name) or [None] * len(self.scores)


def score_block(block: Block, contract: Contract, answers: Answers | None) -> Block:
    """The answers to a block's valid rows; None = there was no model."""
    valid = block.valid
    counts = {VALID: valid.num_rows} if answers is not None else {UNSCORED: valid.num_rows}
    rows, told = (valid, answers) if answers is not None else (valid.slice(0, 0), Answers())
    if len(told.scores) != rows.num_rows:
        raise ValueError(f"{block.header.coordinate}: expected {rows.num_rows} scores, got {len(told.scores)}")
    scores = np.asarray(told.scores, np.float64)
    own = {
        SCORE: pa.array(scores),
        CONFIDENCE: pa.array(np.maximum(scores, 1 - scores)),
        MODEL_VERSION: pa.array(told.versions, pa.string()),
        REJECT: pa.nulls(rows.num_rows, pa.string()),
        **{name: pa.array(told.known(name), pa.float64()) for name in contract.watched_history},
    }
    schema = contract.score_schema
    columns = [own[name] if name in own else rows.column(name) for name in schema.names]
    return Block(replace(block.header, counts=counts), pa.RecordBatch.from_arrays(columns, schema=schema))
