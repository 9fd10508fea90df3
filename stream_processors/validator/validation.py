"""PURE. One consumed run of a partition into what is written for it: valid records, blocks and dead letters.

Knows no Kafka client, no topic and no clock. Two steps, so that the caller can time them: `judge` decodes and decides,
`cut` makes blocks of the result. A run's offset range is what was consumed, whatever was rejected in it: blocks follow
each other without a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import blocks
from pipeline.bad_batches import BadBatch
from pipeline.blocks import VALID, BlockHeader
from pipeline.contract import RAW_OFFSET, REJECT, Contract, Reject
from pipeline.decode import Decoded, Decoder
from pipeline.lateness import late_mask
from pipeline.times import ms
from pipeline.topics import BLOCK_LIMIT, RECORD_LIMIT
from stream_processors.validator import reject_breaker
from stream_processors.validator.reject_breaker import Limits, Opened, Recent

QUARANTINED, UNREAD = "quarantined", "batch_undecodable"  # rules of dead letters, beside the decoder's
PAGED = (QUARANTINED, UNREAD)
Ints = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Consumed:
    """Records of one partition in offset order. The range begins where the partition's last block ended."""

    partition: int
    start: int
    offsets: Ints
    append_ms: Ints
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    poison: Mapping[int, str] = field(default_factory=dict)  # position -> why it must not be decoded

    @property
    def end(self) -> int:
        return int(self.offsets[-1]) + 1

    def first(self, n: int) -> Consumed:
        poison = {i: why for i, why in self.poison.items() if i < n}
        return Consumed(
            self.partition, self.start, self.offsets[:n], self.append_ms[:n], self.keys[:n], self.values[:n], poison
        )


@dataclass(frozen=True, slots=True)
class Judged:
    consumed: Consumed
    decoded: Decoded
    watermark: int | None  # before the run
    recent: Recent  # the breaker's outcomes behind the run
    opened: Opened | None  # the breaker opened at the run's last record

    @property
    def rejects(self) -> Mapping[int, Reject]:
        """Position in the run -> why it was rejected."""
        return self.decoded.rejects

    @property
    def watermark_after(self) -> int | None:
        times = self.decoded.event_times
        return self.watermark if not len(times) else _larger(self.watermark, int(times.max()))


@dataclass(frozen=True, slots=True)
class Piece:
    """A block, ready to be sent."""

    header: BlockHeader
    rows: int
    body: bytes


def judge(consumed: Consumed, decoder: Decoder, watermark: int | None, recent: Recent, limits: Limits) -> Judged:
    """Decode the run; where the reject breaker opens inside it, only up to there."""
    decoded = _decoded(consumed, decoder)
    outcomes = np.zeros(len(consumed.values), dtype=bool)
    outcomes[list(decoded.rejects)] = True
    after, opened = reject_breaker.admit(recent, outcomes, limits)
    if opened is not None and opened.admitted < len(consumed.values):
        shorter = judge(consumed.first(opened.admitted), decoder, watermark, recent, limits)
        return replace(shorter, recent=after, opened=opened)
    return Judged(consumed, decoded, watermark, after, opened)


def culprits(consumed: Consumed, decoder: Decoder) -> dict[int, str]:
    """Position -> the error, of each record that cannot be decoded even alone."""
    found: dict[int, str] = {}
    for i, value in enumerate(_oversized_out(consumed)):
        try:
            decoder.decode_batch([value], consumed.offsets[i : i + 1], consumed.append_ms[i : i + 1])
        except Exception as error:
            found[i] = f"the decoder failed: {type(error).__name__}: {error}"
    return found


def unread(bad: BadBatch, start: int, watermark: int | None, decoder: Decoder, contract: Contract) -> Piece:
    """The block of a range that cannot be read, from where the last block ended: no rows, and every offset counted."""
    counts = {VALID: 0, UNREAD: len(bad)}
    header = BlockHeader(bad.topic, bad.partition, start, bad.end, counts, None, None, watermark, contract.name)
    return Piece(header, 0, blocks.encode(decoder.decode_batch([], [], []).batch))


def cut(judged: Judged, topic: str, contract: Contract, limit: int = BLOCK_LIMIT) -> list[Piece]:
    """The run as blocks of at most `limit` bytes; the first begins where the run does and the last ends where it does."""
    run, batch = judged.consumed, judged.decoded.batch
    pieces = list(blocks.cut(batch, limit))
    raw = batch.column(RAW_OFFSET).to_numpy()
    starts = [run.start, *(int(raw[lo]) for lo, _, _ in pieces[1:])]
    ends = [*starts[1:], run.end]
    valid_before = _valid_before(batch)
    found, watermark = [], judged.watermark
    for (lo, hi, body), start, end in zip(pieces, starts, ends, strict=True):
        times = judged.decoded.event_times[valid_before[lo] : valid_before[hi]]
        least, most = (int(times.min()), int(times.max())) if len(times) else (None, None)
        counts = judged.decoded.counts if len(pieces) == 1 else _counts(judged, start, end, len(times))
        found.append(
            Piece(
                BlockHeader(topic, run.partition, start, end, counts, least, most, watermark, contract.name),
                hi - lo,
                body,
            )
        )
        watermark = _larger(watermark, most)
    return found


def late(judged: Judged, contract: Contract) -> int:
    """How many valid rows are behind their partition's watermark."""
    return int(late_mask(judged.decoded.event_times, judged.watermark, ms(contract.time.lateness)).sum())


def without(items: Sequence[T], rejects: Mapping[int, Reject]) -> Sequence[T]:
    """The items of the valid records, in order."""
    if not rejects:
        return items
    kept: list[T] = []
    at = 0
    for i in rejects:  # ascending
        kept += items[at:i]
        at = i + 1
    return kept + list(items[at:])


def times_of(n: int, time_at: Callable[[int], int]) -> Ints:
    """`n` append times with few calls: a broker stamps a whole batch alike, so equal ends mean equal between.

    >>> times_of(5, [7, 7, 7, 9, 9].__getitem__).tolist()
    [7, 7, 7, 9, 9]
    """
    times = np.empty(n, np.int64)
    open_ = [(0, n, time_at(0), time_at(n - 1))] if n else []
    while open_:
        lo, hi, first, last = open_.pop()
        if first == last:
            times[lo:hi] = first
            continue
        if hi - lo == 2:
            times[lo:hi] = first, last
            continue
        middle = (lo + hi) // 2
        open_ += [(lo, middle, first, time_at(middle - 1)), (middle, hi, time_at(middle), last)]
    return times


def warm_up(decoder: Decoder, contract: Contract) -> None:
    """Pay for first uses before being ready: pyarrow imports pandas at its first array of a list, 1.2 s (measured)."""
    run = Consumed(0, 0, np.array([0, 1]), np.array([0, 0]), [None, None], [b"{}", None])
    cut(judge(run, decoder, None, Recent.empty(), Limits()), "", contract)
    pa.array(["a"])


def _decoded(run: Consumed, decoder: Decoder) -> Decoded:
    """As the decoder says; what is poison never reaches it and is rejected as that."""
    values = _oversized_out(run)
    if not run.poison:
        return decoder.decode_batch(values, run.offsets, run.append_ms)
    fit = [None if i in run.poison else value for i, value in enumerate(values)]
    decoded = decoder.decode_batch(fit, run.offsets, run.append_ms)
    poison = {i: Reject(QUARANTINED, "", f"not decoded: {why}") for i, why in run.poison.items()}
    return Decoded(decoded.batch, {**decoded.rejects, **poison}, decoded.event_times)


def _oversized_out(run: Consumed) -> Sequence[bytes | None]:
    """The values, those under an over-long key replaced by one that is over-long itself: both are reject `size`."""
    if max(map(len, filter(None, run.keys)), default=0) <= RECORD_LIMIT:
        return run.values
    over = bytes(RECORD_LIMIT + 1)
    return [over if len(k or b"") > RECORD_LIMIT else v for k, v in zip(run.keys, run.values, strict=True)]


def _valid_before(batch: pa.RecordBatch) -> Ints:
    """valid_before[i] = valid rows before row i; one entry more than rows."""
    valid = pc.is_null(batch.column(REJECT)).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(valid)])


def _counts(judged: Judged, start: int, end: int, valid: int) -> dict[str, int]:
    offsets = judged.consumed.offsets
    lo, hi = np.searchsorted(offsets, (start, end))
    rejected = Counter(reject.code for i, reject in judged.rejects.items() if lo <= i < hi)
    return {VALID: valid, **rejected}


def _larger(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)
