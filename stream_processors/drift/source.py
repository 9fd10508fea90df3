"""PURE. The streams that the drift process counts and judges: a dataset's rows, and the model's answers to them.

    sales.blocks ----> partials `sales/0` ---------> judge of rows ----\\
                                                                        one transaction: verdicts, alerts, state
    sales.scores ----> partials `sales/scores/0` --> judge of scores --/
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import topics
from pipeline.contract import Contract

SHARD = 0


@dataclass(frozen=True, slots=True)
class Source:
    contract: Contract  # with the plan of what this stream is judged for
    name: str  # in the keys of partials and state
    topic: str  # of its blocks
    repeats: bool = False  # a block may stand there again, behind the one that counts

    @property
    def key(self) -> bytes:
        """Of its partials."""
        return f"{self.name}/{SHARD}".encode()


def sources_of(contract: Contract) -> tuple[Source, ...]:
    """The rows, and the scores where the contract watches them."""
    rows = Source(contract.of_rows, contract.id, topics.blocks(contract.id))
    if not contract.drift.scores:
        return (rows,)
    return rows, Source(contract.of_scores, f"{contract.id}/scores", topics.scores(contract.id), repeats=True)
