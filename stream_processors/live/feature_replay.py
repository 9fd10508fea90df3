"""PURE. History features of past rows, each as it was known when the row arrived: what training and the gate read.

A row sees what was appended strictly before it. So a late event or outcome never reaches back to rows that arrived before
it did, and a value once computed does not change when the lake grows. A million rows take about 3 s.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.contract import APPEND_TIME, Contract, OutcomeLabel
from stream_processors.live import feature_fold, feature_windows
from stream_processors.live.feature_fold import ARRIVED, ID
from stream_processors.live.feature_plan import SUMS, Entity, History


def values(
    history: History, contract: Contract, rows: pl.DataFrame, events: pl.DataFrame, outcomes: pl.DataFrame | None
) -> pl.DataFrame:
    """One column a history feature, in the order of `rows`.

    `events` are valid rows (those of `rows` among them or not), `outcomes` in the order of their arrival.
    """
    out = np.empty((rows.height, len(history.names)))
    pairs = None
    if isinstance(contract.label, OutcomeLabel) and outcomes is not None:
        pairs = feature_fold.paired(events, outcomes, history, contract)
    for entity in history.entities:
        parts = [feature_fold.event_part(events, entity, history, contract)]
        if pairs is not None and isinstance(contract.label, OutcomeLabel):
            parts.append(feature_fold.outcome_part(pairs, entity, history, contract.label))
        _replay(history, entity, rows, pl.concat(parts), contract.time.field, out)
    return pl.DataFrame(out, schema=list(history.names))


def reads_since(history: History, contract: Contract, first_ms: int) -> tuple[int, int]:
    """Event times (ms) from which events, and outcomes, can matter to rows from `first_ms` on."""
    longest = max(e.keep for e in history.entities) * history.step_ms
    since = first_ms - longest - history.step_ms
    late = feature_fold.latest_outcome(contract.label) if isinstance(contract.label, OutcomeLabel) else 0
    return since - late, since


def _replay(
    history: History, entity: Entity, rows: pl.DataFrame, added: pl.DataFrame, clock: str, out: np.ndarray
) -> None:
    asked = rows.select(
        pl.col(entity.field).cast(pl.String).alias(ID),
        pl.col(APPEND_TIME).dt.epoch("ms").alias(ARRIVED),
        pl.col(clock).dt.epoch("ms").alias("ms"),
    ).with_row_index("row")
    # Codes in the order of their rows; a null joins nothing and has a past of its own, which stays empty.
    known = asked.select(pl.col(ID).unique()).with_row_index("code")
    asked = asked.join(known, on=ID, nulls_equal=True).sort("code", ARRIVED)
    added = added.join(known, on=ID).sort("code", ARRIVED)
    codes = np.arange(known.height)
    sums = np.empty(added.height, SUMS)
    for name in SUMS.names:
        sums[name] = added[name].to_numpy()
    found = np.empty((asked.height, out.shape[1]))
    feature_windows.replayed(
        history,
        entity,
        np.searchsorted(added["code"].to_numpy(), codes, side="right"),
        added[ARRIVED].to_numpy(),
        sums,
        np.searchsorted(asked["code"].to_numpy(), codes, side="right"),
        asked[ARRIVED].to_numpy(),
        asked["ms"].to_numpy(),
        found,
    )
    place = asked["row"].to_numpy()
    out[np.ix_(place, entity.columns)] = found[:, entity.columns]
