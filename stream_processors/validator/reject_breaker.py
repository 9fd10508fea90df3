"""PURE. The reject breaker: a partition that rejects too much stops, so that a bad deploy does not move a topic to dead letters.

It opens at a record, not at a batch: outcomes go in in offset order, and where it opens depends on them alone, however
they were cut into batches. Records up to and including that one are dead-lettered, the partition stops behind it. Where
it stopped stands in the metadata of the partition's committed offset, written in the same transaction as those records,
so that a restart or another member finds it; a resume names that offset and is good for that stop only. The window of
outcomes itself is memory: a restart begins with an empty one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Outcomes = npt.NDArray[np.bool_]  # True = rejected, in offset order
Cause = Literal["ratio", "run"]

RESUME = "breaker-resume"  # the action of a control request
_EMPTY = np.zeros(0, dtype=bool)


@dataclass(frozen=True, slots=True)
class Limits:
    """Generous: real retail data has runs of tens and 2 % over all; half of 5,000 or 1,000 in a row is a wrong feed."""

    ratio: float = 0.5  # open when more than this share ...
    over: int = 5_000  # ... of this many records in a row is rejected
    run: int = 1_000  # or when this many in a row are


@dataclass(frozen=True, slots=True)
class Recent:
    """The last outcomes of one partition, at most max(over, run) of them."""

    outcomes: Outcomes

    @staticmethod
    def empty() -> Recent:
        return Recent(_EMPTY)


@dataclass(frozen=True, slots=True)
class Opened:
    admitted: int  # records of the batch up to and including the one that opened the breaker
    cause: Cause
    rejected: int  # of the last `of` records
    of: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and where a partition stands still; `offset` is the next record to read."""

    offset: int
    cause: Cause
    rejected: int
    of: int
    at: str  # wall time


def admit(recent: Recent, batch: Outcomes, limits: Limits) -> tuple[Recent, Opened | None]:
    """The outcomes after this batch, and where in it the breaker opened, if it did.

    >>> limits = Limits(ratio=0.5, over=4, run=3)
    >>> admit(Recent.empty(), np.array([False, True, True, True, False]), limits)[1]
    Opened(admitted=4, cause='run', rejected=3, of=3)
    """
    old = len(recent.outcomes)
    outcomes = np.concatenate([recent.outcomes, batch])
    found = [
        (at, cause, width)
        for cause, width, least in (
            ("run", limits.run, limits.run),
            ("ratio", limits.over, _more_than(limits.ratio, limits.over)),
        )
        if (at := _first_full(outcomes, width, least, old)) is not None
    ]
    if not found:
        return Recent(outcomes[-max(limits.run, limits.over) :]), None
    at, cause, width = min(found)
    rejected = int(outcomes[at - width : at].sum())
    return Recent.empty(), Opened(at - old, "run" if cause == "run" else "ratio", rejected, width)


def _more_than(ratio: float, over: int) -> int:
    return int(np.floor(ratio * over)) + 1


def _first_full(outcomes: Outcomes, width: int, least: int, old: int) -> int | None:
    """The first end (exclusive, behind `old`) of `width` outcomes in a row of which at least `least` are rejects."""
    if len(outcomes) < width or int(outcomes.sum()) < least:
        return None
    total = np.concatenate([[0], np.cumsum(outcomes)])
    ends = np.flatnonzero(total[width:] - total[:-width] >= least) + width
    ends = ends[ends > old]
    return int(ends[0]) if len(ends) else None


def to_metadata(stop: Stop) -> str:
    """What stands beside the committed offset; a running partition's is empty."""
    return json.dumps({"stopped": asdict(stop)})


def from_metadata(text: str | None) -> Stop | None:
    """The stop, or None for a running partition or a text that is not ours."""
    try:
        found = json.loads(text or "{}")["stopped"]
        return Stop(
            int(found["offset"]),
            "run" if found["cause"] == "run" else "ratio",
            int(found["rejected"]),
            int(found["of"]),
            str(found["at"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def resume_request(dataset: str, partition: int, offset: int, actor: str, reason: str, at: str) -> bytes:
    fields = {
        "action": RESUME,
        "dataset": dataset,
        "partition": partition,
        "offset": offset,
        "actor": actor,
        "reason": reason,
        "at": at,
    }
    return json.dumps(fields).encode()


def resumed(value: bytes | None, dataset: str) -> tuple[int, int] | None:
    """(partition, offset) that a control request lets go on, or None for any other message on that topic."""
    try:
        found = json.loads(value or b"null")
        if found["action"] != RESUME or found["dataset"] != dataset:
            return None
        return int(found["partition"]), int(found["offset"])
    except (ValueError, KeyError, TypeError):
        return None
