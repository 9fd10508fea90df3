"""PURE. A partial: what one block adds to the panes, as integer counts over the reference's cells; and its bytes.

Counts of different partials add up, so the judge may see them in any order of partitions. A partial is named by its
raw coordinate (partition, start): the judge adds each coordinate to a pane once, so a repeated partial does nothing.
Bytes are a function of the values: MessagePack arrays in declared order.
"""

from __future__ import annotations

import msgspec

from stream_processors.judging.panes import Key
from stream_processors.reference.counts import Counts


class PaneCounts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counts of one feature and segment in one pane; late rows apart, for they may not enter a detector."""

    feature: str
    segment: str
    on_time: bytes  # cells.Counts.to_bytes; b"" = none
    late: bytes

    @property
    def key(self) -> Key:
        return self.feature, self.segment


class PanePart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the block adds to one pane."""

    pane: int  # start, ms
    version: int  # of the reference that was counted against; 0 = there was none, rows only
    on_time: int  # rows
    late: int
    first: int  # raw offsets of its rows lie in [first, last)
    last: int
    counts: tuple[PaneCounts, ...]


class Partial(msgspec.Struct, frozen=True, array_like=True, gc=False):
    contract: str
    partition: int
    start: int  # raw offsets [start, end)
    end: int
    block: int  # offset of the block's message in the blocks topic
    last: bool  # of the block's partials
    generation: int  # highest reference version known when it was counted
    maximum_before: int | None  # maximum event time of the partition's valid rows before `start`
    maximum: int | None  # ... before `end`
    late_beyond: int  # rows later than `revise_within`: counted here, revise nothing
    panes: tuple[PanePart, ...]
    unplaced: int = 0  # records before the partition's first valid row: no event time places them
    other_model: int = 0  # scores of another model version than the reference's: placed here, not counted

    @property
    def next_block(self) -> int:
        """Where a successor goes on that finds this partial as the newest."""
        return self.block + self.last

    @property
    def coordinate(self) -> tuple[int, int]:
        return self.partition, self.start


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Partial).decode


def to_bytes(partial: Partial) -> bytes:
    return _encode(partial)


def from_bytes(value: bytes) -> Partial:
    """ValueError (msgspec.DecodeError, UnicodeDecodeError) if it is no partial."""
    return _decode(value)


def late_before(partial: Partial, pane: int) -> Partial:
    """The same with every row in a pane before `pane` late."""
    if all(p.pane >= pane or not p.on_time for p in partial.panes):
        return partial
    return msgspec.structs.replace(partial, panes=tuple(_late(p) if p.pane < pane else p for p in partial.panes))


def _late(part: PanePart) -> PanePart:
    counts = tuple(PaneCounts(c.feature, c.segment, b"", _sum(c.on_time, c.late)) for c in part.counts)
    return msgspec.structs.replace(part, on_time=0, late=part.on_time + part.late, counts=counts)


def _sum(a: bytes, b: bytes) -> bytes:
    return (Counts.from_bytes(a) + Counts.from_bytes(b)).to_bytes() if a and b else a or b
