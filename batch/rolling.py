"""EDGE. References that move with time: `kind: last-week` and `rolling` of the contract, made anew by the controller.

What drifts slowly is taken into such a reference without a page: that is its purpose and its price. So none is made while
an episode fires: a shift that somebody is to decide about is not made the norm behind their back. And where the span holds
too few rows to page by, the one before stays: a gap in the data must not silence the monitor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from batch import dataset, promotion, reference
from batch.decisions import Episode
from pipeline.contract import Contract, ReferencePlan
from pipeline.errors import Unreachable
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import ms, to_text
from stream_processors.detectors.budget import SMALLEST_REFERENCE
from stream_processors.judging.panes import clock_of
from stream_processors.reference.store import read_store

DAY = 86_400_000
LOOK_S = 10.0  # wall time between two looks


@dataclass
class Rolling:
    """Publishes each moving reference when it is due; needs neither a label nor a model."""

    settings: Settings
    contract: Contract
    _looked: float = -math.inf

    def turn(self, episodes: Iterable[Episode]) -> None:
        """A look, if it is time and nothing fires; a dependency that is away is tried again at the next one."""
        if self.contract.drift.reference.kind == "training" or time.monotonic() - self._looked < LOOK_S:
            return
        if any(e.state == "firing" for e in episodes):
            return
        self._looked = time.monotonic()
        try:
            publish_due(self.settings, self.contract)
        except Unreachable as error:
            log("reference_put_off", "warning", error=error)


def span_due(plan: ReferencePlan, oldest: int, newest: int, last: int | None) -> tuple[int, int] | None:
    """Event times [start, end) of the rows of the next reference; None if it is not yet time.

    A rolling one holds the last `span` up to the newest row, a last-week one the last seven whole days (UTC).

    >>> from datetime import timedelta
    >>> span_due(ReferencePlan("rolling", span=timedelta(days=2), every=timedelta(days=1)), 0, 5 * DAY, 4 * DAY)
    (259200000, 432000000)
    >>> span_due(ReferencePlan("rolling"), 0, 5 * DAY, None)
    """
    end = newest // DAY * DAY if plan.kind == "last-week" else newest
    start = end - (7 * DAY if plan.kind == "last-week" else ms(plan.span))
    if plan.kind == "training" or start < oldest or (last is not None and newest < last + ms(plan.every)):
        return None
    return start, end


def publish_due(settings: Settings, contract: Contract) -> int | None:
    """Publish the next moving reference if it is time; its version. Unreachable if broker or lake stay away."""
    if contract.drift.reference.kind == "training":
        return None
    bounds = dataset.event_times(settings, contract)
    sets = read_store(settings, contract.id).timeline.sets
    due = bounds and span_due(contract.drift.reference, *bounds, sets[-1].effective_from if sets else None)
    if not due:
        return None
    rows = dataset.events_between(settings, contract, *due)
    if sets and rows.height < SMALLEST_REFERENCE <= max(r.rows for r in sets[-1].load().values()):
        log("reference_put_off", "warning", dataset=contract.id, rows=rows.height, needed=SMALLEST_REFERENCE)
        return None
    window = clock_of(contract).window
    newest = promotion.newest_event_time(settings, contract) or bounds[1]  # what is judged already stays judged
    effective = (newest // window + 1) * window
    version = reference.publish(settings, contract, rows, version=None, effective_from=effective)[0].version
    log("reference_rolled", dataset=contract.id, version=version, start=to_text(due[0]), end=to_text(due[1]))
    return version
