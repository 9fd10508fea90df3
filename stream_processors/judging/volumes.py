"""PURE. How many rows the last windows held, by segment and partition, on time and late: the memory of the cause ranking."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from pipeline.contract import REJECT
from stream_processors.judging.closed import Tally
from stream_processors.judging.panes import WHOLE, Key
from stream_processors.reference.cells import EMPTY, Counts, FeatureReference

KEPT = 12  # windows
NAMED = 50  # categories of a feature that are counted one by one, if it has no more


class Volume(msgspec.Struct, frozen=True, array_like=True):
    window: int
    rows: int
    late: int
    segments: tuple[tuple[str, int, int], ...]  # (segment, rows, of these late)
    partitions: tuple[tuple[int, int, int], ...]


def volume_of(window: int, tally: Tally, members: Mapping[Key, FeatureReference]) -> Volume:
    """Of a segment's features the fullest is taken; the categories of the whole count as segments (`feature=category`)."""
    found: dict[str, tuple[int, int]] = {}
    for into, counted in ((0, tally.in_time.counts), (1, tally.too_late.counts)):
        for (_, segment), counts in counted.items():
            rows = counts.rows + counts.nulls
            had = found.setdefault(segment, (0, 0))
            if segment != WHOLE and rows > had[into]:
                found[segment] = (rows, had[1]) if into == 0 else (had[0], rows)
    for (feature, segment), reference in members.items():
        if (
            segment == WHOLE
            and reference.kind == "categorical"
            and feature != REJECT
            and len(reference.categories) <= NAMED
        ):
            pairs = zip(*(_by_category(reference, c.get((feature, segment), EMPTY)) for c in (tally.in_time.counts, tally.too_late.counts)), strict=True)  # fmt: skip
            found |= {f"{feature}={name}": pair for name, pair in zip(reference.categories, pairs, strict=True)}
    segments = tuple((s, on_time + late, late) for s, (on_time, late) in sorted(found.items()) if s != WHOLE)
    partitions = tuple((p, on_time + late, late) for p, (on_time, late) in sorted(tally.by_partition.items()))
    return Volume(window, tally.rows, tally.late, segments, partitions)


def _by_category(reference: FeatureReference, counts: Counts) -> list[int]:
    dense = np.bincount(counts.codes, weights=counts.n, minlength=len(reference.categories) + 1)
    return dense[: len(reference.categories)].astype(int).tolist()


def remember(volumes: tuple[Volume, ...], now: Volume) -> tuple[Volume, ...]:
    """With this one in place of an older one of the same window; the newest windows, in order."""
    kept = [v for v in volumes if v.window != now.window]
    return tuple(sorted([*kept, now], key=lambda v: v.window))[-KEPT:]
