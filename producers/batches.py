"""PURE. What a source of events gives to the sender: rendered records with the event times they are due at, and their late labels.

A source is an iterator of batches; the generator and the replay of a file are the two there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

Key = str | bytes | None


@dataclass(frozen=True, slots=True)
class Labels:
    """Outcomes that become known later: at `at_ms` (event time) the record `value` under `key`."""

    row: np.ndarray  # of the batch, whose label it is; rising
    at_ms: np.ndarray
    key: np.ndarray  # of objects: text
    value: np.ndarray  # of objects: bytes

    def __len__(self) -> int:
        return len(self.at_ms)

    def take(self, rows: np.ndarray | slice) -> Labels:
        return Labels(self.row[rows], self.at_ms[rows], self.key[rows], self.value[rows])


NO_LABELS = Labels(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, object), np.empty(0, object))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order in which they are sent; `event_ms` never falls."""

    event_ms: np.ndarray
    keys: list[Key]
    values: list[bytes | None]
    labels: Labels = NO_LABELS

    def __len__(self) -> int:
        return len(self.values)

    def labels_of(self, begin: int, end: int) -> Labels:
        """The labels of rows [begin, end)."""
        return self.labels.take(slice(*np.searchsorted(self.labels.row, [begin, end]).tolist()))


Source = Iterator[Batch]


def first(source: Source, count: int) -> Source:
    """The first `count` records of a source, each with its label."""
    left = count
    for batch in source:
        yield cut(batch, left)
        left -= len(batch)
        if left <= 0:
            return


def cut(batch: Batch, count: int) -> Batch:
    if count >= len(batch):
        return batch
    return Batch(batch.event_ms[:count], batch.keys[:count], batch.values[:count], batch.labels_of(0, count))


@dataclass(slots=True)
class Pending:
    """Labels that are not known yet. They leave in the order (time, arrival), whatever the cutting of the stream into batches.

    Held by minute of event time: six hours of labels cost one sort of a minute's worth each, not a sort of all of them.
    """

    _minutes: dict[int, list[Labels]] = field(default_factory=dict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def add(self, labels: Labels) -> None:
        if not len(labels):
            return
        minutes = labels.at_ms // 60_000
        order = np.argsort(minutes, kind="stable")
        starts = np.flatnonzero(np.diff(minutes[order], prepend=minutes[order[0]] - 1))
        for rows in np.split(order, starts[1:]):
            self._minutes.setdefault(int(minutes[rows[0]]), []).append(labels.take(rows))
        self._count += len(labels)

    def due(self, event_ms: float) -> Iterator[Labels]:
        """The labels of every whole minute that event time has passed, sorted, and forgotten here."""
        for minute in sorted(m for m in self._minutes if (m + 1) * 60_000 <= event_ms):
            parts = self._minutes.pop(minute)
            whole = Labels(*(np.concatenate([getattr(p, name) for p in parts]) for name in Labels.__slots__))
            self._count -= len(whole)
            yield whole.take(np.argsort(whole.at_ms, kind="stable"))

    def rest(self) -> Iterator[Labels]:
        """All that is left, for a producer that is asked not to wait."""
        return self.due(float("inf"))
