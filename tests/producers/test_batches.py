"""Late labels leave in the order of their time, however the stream was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from producers.batches import Labels, Pending
from tests.producers.sales_samples import produced


def labels(at_ms: list[int], begin: int = 0) -> Labels:
    rows = np.arange(begin, begin + len(at_ms))
    return Labels(rows, np.array(at_ms, dtype=np.int64), rows.astype(object), rows.astype(object))


@given(st.lists(st.integers(0, 600_000), min_size=1, max_size=60), st.integers(1, 7), st.integers(0, 700_000))
def test_labels_leave_sorted_whole_minutes_first_and_none_is_lost(times: list[int], cut: int, now: int) -> None:
    one, many = Pending(), Pending()
    one.add(labels(times))
    for begin in range(0, len(times), cut):
        many.add(labels(times[begin : begin + cut], begin))
    assert len(one) == len(many) == len(times)
    due = [[int(k) for part in p.due(now) for k in part.key] for p in (one, many)]
    rest = [[int(k) for part in p.rest() for k in part.key] for p in (one, many)]
    assert due[0] == due[1] and rest[0] == rest[1]
    assert all(times[k] < now for k in due[0]) and all(times[k] >= now - 60_000 for k in rest[0])
    order = sorted(range(len(times)), key=lambda k: (times[k], k))
    assert due[0] + rest[0] == order
    assert len(one) == len(many) == 0


def test_the_first_records_come_with_their_own_labels_only() -> None:
    batch = produced("bad-records", count=100)[0]
    whole = produced("bad-records", count=8_192)[0]
    assert len(batch) == 100 and batch.labels.row.max() < 100
    assert batch.labels.value.tolist() == whole.labels_of(0, 100).value.tolist()
