"""PURE. Labels: events joined with what happened to them, by the contract's label statement, in polars.

Only mature events count: those whose label has had its whole delay to arrive. An event younger than that is left out even
if its label is there, because early labels are not a fair sample. A mature event without a label is counted as missing.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from pipeline.contract import RAW_OFFSET, RAW_PARTITION, Contract, MatchLabel, OutcomeLabel

LABEL = "label"  # boolean column of a labelled frame
COORDINATE = [RAW_PARTITION, RAW_OFFSET]
OUTCOME_COORDINATE = [
    "topic_partition",
    "topic_offset",
]  # of two outcomes of one key in one millisecond the first counts


def delay(contract: Contract) -> timedelta:
    """Event time after which a label is there or missing."""
    label = contract.label
    return (
        label.delay
        if isinstance(label, OutcomeLabel)
        else label.horizon
        if isinstance(label, MatchLabel)
        else timedelta(0)
    )


def overlap(contract: Contract) -> timedelta:
    """How long before other rows' time a row's label may be made of the same events as theirs: see `fitting.split`."""
    return contract.label.horizon if isinstance(contract.label, MatchLabel) else timedelta(0)


def by_outcome(events: pl.LazyFrame, outcomes: pl.LazyFrame, label: OutcomeLabel) -> pl.LazyFrame:
    """Events with LABEL (null = none). A key that occurs twice is one order: its first event and its first outcome count."""
    first_event = events.sort("append_time", *COORDINATE).unique(label.key, keep="first", maintain_order=True)
    first_outcome = (
        outcomes.sort("append_time", *OUTCOME_COORDINATE)
        .select(label.key, pl.col(label.name).alias(LABEL))
        .unique(label.key, keep="first", maintain_order=True)
    )
    return first_event.join(first_outcome, on=label.key, how="left")


def by_match(events: pl.LazyFrame, label: MatchLabel, clock: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """(earlier rows with LABEL, matches that found none). A match marks the latest earlier row with equal `on` columns."""
    known = events.filter(pl.all_horizontal(pl.col(c).is_not_null() for c in label.on)).sort(clock, *COORDINATE)
    is_match = pl.col(label.field).str.contains(label.pattern).fill_null(False)
    rows, matches = known.filter(~is_match), known.filter(is_match)
    target = rows.select(*label.on, clock, *(pl.col(c).alias(f"_{c}") for c in COORDINATE))
    joined = matches.select(*label.on, clock).join_asof(
        target, on=clock, by=list(label.on), strategy="backward", tolerance=label.horizon, check_sortedness=False
    )
    marked = (
        joined.filter(pl.col(f"_{RAW_OFFSET}").is_not_null())
        .select(*(pl.col(f"_{c}").alias(c) for c in COORDINATE), pl.lit(True).alias(LABEL))
        .unique(COORDINATE)
    )
    labelled = rows.join(marked, on=COORDINATE, how="left").with_columns(pl.col(LABEL).fill_null(False))
    return labelled, joined.filter(pl.col(f"_{RAW_OFFSET}").is_null())


def mature_until(newest_event: datetime, newest_outcome: datetime | None, contract: Contract) -> datetime:
    """Events before this have had their delay, as far as the lake has read both streams."""
    seen = newest_event if newest_outcome is None else min(newest_event, newest_outcome)
    return seen - delay(contract)
