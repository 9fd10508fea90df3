"""PURE. A table by feature and segment: each part's values, and the reference that they make. Knows no detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import DriftPlan
from stream_processors.detectors.budget import SEGMENT_ROWS, SEGMENTS_A_GROUPING, SMALLEST_SEGMENT, Segments
from stream_processors.judging.panes import WHOLE, Key, pooled_name, segment_name
from stream_processors.reference import cells
from stream_processors.reference.cells import FeatureReference


def references_of(plan: DriftPlan, table: pa.Table) -> dict[Key, FeatureReference]:
    if not table.num_rows:
        raise ValueError("reference: expected rows, got none")
    segments = {WHOLE: False}
    for columns in plan.segments:
        sizes = table.select(list(columns)).drop_null().group_by(list(columns)).aggregate([([], "count_all")])
        large = sizes.filter(pc.greater_equal(sizes.column("count_all"), SEGMENT_ROWS))
        order = [("count_all", "descending"), *((c, "ascending") for c in columns)]
        own = large.sort_by(order).slice(0, SEGMENTS_A_GROUPING).to_pylist()
        small = {segment_name(columns, tuple(v[c] for c in columns)): v["count_all"] < SMALLEST_SEGMENT for v in own}
        paging = sum(v["count_all"] for v in own if v["count_all"] >= SMALLEST_SEGMENT)
        pooled = (pc.sum(sizes.column("count_all")).as_py() or 0) - paging
        segments |= small | ({pooled_name(columns): False} if pooled >= SMALLEST_SEGMENT else {})
    features = {f.name: f for f in plan.features}
    return {
        (name, segment): cells.build(features[name], segment, column, version=1, effective_from=0)
        for (name, segment), column in columns_of(plan, table, segments)
    }


def columns_of(plan: DriftPlan, table: pa.Table, segments: Segments) -> Iterable[tuple[Key, pa.Array]]:
    """Each feature's values in the whole, then in each of the segments; no feature within a segment of its own."""
    for feature in plan.features:
        yield (feature.name, WHOLE), table.column(feature.name)
    for columns in plan.segments:
        features = [f for f in plan.features if f.name not in columns]
        for name, rows in _split(table, columns, segments):
            for feature in features:
                yield (feature.name, name), table.column(feature.name).take(pa.array(rows))


def _split(table: pa.Table, columns: Sequence[str], segments: Segments) -> Iterable[tuple[str, np.ndarray]]:
    """(segment, its rows in their order) of a grouping, the pool last; rows with a null in it belong to none."""
    encoded = [table.column(c).combine_chunks().dictionary_encode() for c in columns]
    codes, sizes = [e.indices.fill_null(-1).to_numpy() for e in encoded], [max(1, len(e.dictionary)) for e in encoded]
    whole = np.flatnonzero(np.logical_and.reduce([c >= 0 for c in codes]))
    distinct, of = np.unique(np.ravel_multi_index([c[whole] for c in codes], sizes), return_inverse=True)
    order, ends = whole[np.argsort(of, kind="stable")], np.cumsum(np.bincount(of, minlength=len(distinct)))
    pooled = []
    for at, place in enumerate(zip(*np.unravel_index(distinct, sizes), strict=True)):
        values = tuple(e.dictionary[int(i)].as_py() for e, i in zip(encoded, place, strict=True))
        name, rows = segment_name(tuple(columns), values), order[ends[at - 1] if at else 0 : ends[at]]
        if name in segments:
            yield name, rows
        if segments.get(name, True):
            pooled.append(rows)
    if pooled and pooled_name(tuple(columns)) in segments:
        yield pooled_name(tuple(columns)), np.sort(np.concatenate(pooled))
