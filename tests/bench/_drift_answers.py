"""What a question of the bench `drift` answers with: bars, figures, tables and pictures; and how its work is shared out."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from matplotlib.axes import Axes

from tests.bench.report import Bar

Size = Literal["short", "default", "full"]
PROCESSES = 2
Job, Done = TypeVar("Job"), TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Table:
    caption: str
    head: tuple[str, ...]
    rows: list[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing, saved as docs/pictures/drift-<stem>.svg."""

    stem: str
    alt: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True, slots=True)
class Answer:
    title: str
    how: str  # what was run: one paragraph
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the figures do not say, one sentence each


def shared_out(work: Callable[[Job], Done], jobs: Iterable[Job]) -> Iterator[Done]:
    """`work` over the jobs in their order, in DRIFTLINE_BENCH_PROCESSES (2) processes; one job seeds itself, so the split changes nothing."""
    listed = list(jobs)
    processes = min(int(os.environ.get("DRIFTLINE_BENCH_PROCESSES", PROCESSES)), len(listed))
    if processes <= 1:
        yield from map(work, listed)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap(work, listed)
