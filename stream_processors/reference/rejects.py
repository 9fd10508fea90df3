"""PURE. The share of rejected records as a feature: every record of a block by its outcome, `valid` or a reason code.

A rejected record has no event time to be believed, so every record is placed where its partition's log stood: in the
pane of the partition's newest valid event time up to it. That is a function of the log, however it is cut into blocks; the
pane cannot be final yet, so these counts are on time by construction and late rows do not change them.

A record that could not be decoded has no row. It stands at an offset of the block's range without one, and which of the
codes of such records it had is not known there: they count as one, `undecodable`. (Where the log has offsets that hold no record,
as transactions leave behind, the first ones without a row are taken.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.blocks import VALID, Block
from pipeline.contract import RAW_OFFSET, REJECT
from pipeline.lateness import NEVER
from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.counts import Counts, from_dense

UNDECODABLE = "undecodable"
UNDECODABLE_CODES = frozenset(
    (
        "tombstone",
        "empty",
        "size",
        "encoding",
        "depth",
        "syntax",
        "trailing",
        "not_object",
        "quarantined",
        "batch_undecodable",
    )
)  # a record with one of these has no row in its block


def category_of(code: str | None) -> str:
    """A record's outcome as the feature knows it; None = valid."""
    return VALID if code is None else UNDECODABLE if code in UNDECODABLE_CODES else code


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every record of a block, in offset order."""

    offsets: np.ndarray  # int64
    panes: np.ndarray  # int64, start; NEVER = no valid row stands before it
    kinds: np.ndarray  # index into `names`
    names: tuple[str, ...]

    def between(self, start: int, end: int) -> Outcomes:
        low, high = np.searchsorted(self.offsets, (start, end))
        return Outcomes(self.offsets[low:high], self.panes[low:high], self.kinds[low:high], self.names)

    @property
    def unplaced(self) -> int:
        return int(np.count_nonzero(self.panes == NEVER))

    def by_pane(self) -> Iterator[tuple[int, np.ndarray]]:
        """(pane, records of each name)."""
        for pane in np.unique(self.panes[self.panes != NEVER]).tolist():
            yield pane, np.bincount(self.kinds[self.panes == pane], minlength=len(self.names))


def outcomes_of(block: Block, placed: np.ndarray, reached: np.ndarray, pane: int) -> Outcomes:
    """`placed` are the offsets of the valid rows with an event time, `reached` the newest up to and with each; `pane` is its length."""
    codes = block.rows.column(REJECT)
    offsets = block.rows.column(RAW_OFFSET).to_numpy()
    encoded = codes.dictionary_encode()
    found = [category_of(code) for code in encoded.dictionary.to_pylist()]
    names = tuple(dict.fromkeys((VALID, UNDECODABLE, *found)))
    of = np.array([*(names.index(name) for name in found), 0], np.int64)
    kinds = of[encoded.indices.fill_null(-1).to_numpy()]
    lost = _without_row(block, offsets, int(np.count_nonzero(kinds == 1)))
    before = NEVER if block.header.watermark is None else block.header.watermark
    if len(lost):
        offsets = np.concatenate((offsets, lost))
        order = np.argsort(offsets, kind="stable")
        offsets, kinds = offsets[order], np.concatenate((kinds, np.ones(len(lost), np.int64)))[order]
    whole = len(placed) == len(offsets)
    at = reached if whole else np.concatenate(([before], reached))[np.searchsorted(placed, offsets, "right")]
    return Outcomes(offsets, np.where(at == NEVER, NEVER, at // pane * pane), kinds, names)


def counts_of(reference: FeatureReference, names: tuple[str, ...], rows: np.ndarray) -> Counts:
    """Records by name as counts over the reference's categories."""
    known = {name: i for i, name in enumerate(reference.categories)}
    dense = np.zeros(len(known) + 1, np.int64)
    np.add.at(dense, [known.get(name, len(known)) for name in names], rows)
    return from_dense(dense)


def _without_row(block: Block, offsets: np.ndarray, with_row: int) -> np.ndarray:
    """Offsets of the records that could not be decoded and have no row."""
    missing = sum(n for code, n in block.header.counts.items() if code in UNDECODABLE_CODES) - with_row
    if missing <= 0:
        return np.empty(0, np.int64)
    bounds = np.concatenate(([block.header.start - 1], offsets, [block.header.end]))
    gaps = np.diff(bounds) - 1
    taken = np.diff(np.minimum(np.cumsum(gaps), missing), prepend=0)  # of each gap
    first = np.repeat(bounds[:-1] + 1, taken)
    return first + np.arange(len(first)) - np.repeat(np.cumsum(taken) - taken, taken)
