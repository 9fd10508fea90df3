"""PURE. Events and outcomes into what they add to their entities' pasts, and added sums into stored ones.

An event counts when it arrives. An outcome counts when it and its event have both arrived, in the step of its own event
time; a second outcome of one key counts nothing, an event that stands twice counts twice. Where the label is a match
among the events, the match itself is the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import polars as pl

from pipeline.contract import APPEND_TIME, Contract, MatchLabel, OutcomeLabel
from pipeline.times import ms
from stream_processors.live.feature_plan import HUNDREDTHS, NOTHING, SUMS, Entity, History

ID, ARRIVED = "id", "arrived"
LATEST_OUTCOME = 4  # label delays after its event; a later outcome says nothing about the recent past
_MOST = 10**15  # hundredths: what one event can be worth
_NONE = pl.lit(0, pl.Int32)


def event_part(events: pl.DataFrame, entity: Entity, history: History, contract: Contract) -> pl.DataFrame:
    """What each event adds: ID, ARRIVED (ms) and the columns of SUMS; events without the entity are left out."""
    return events.filter(pl.col(entity.field).is_not_null()).select(
        pl.col(entity.field).cast(pl.String).alias(ID),
        _ms(APPEND_TIME).alias(ARRIVED),
        *_own(entity, history, contract),
    )


def without(events: pl.DataFrame, entity: Entity, history: History, contract: Contract) -> list[bytes]:
    """By event, sums that take it off again: appended to its entity's sums they leave what was there without it."""
    own = events.select(_own(entity, history, contract))
    sums = np.empty(own.height, SUMS)
    sums["step"] = own["step"].to_numpy()
    for name in SUMS.names[1:]:
        sums[name] = -own[name].to_numpy()
    body, size = sums.tobytes(), SUMS.itemsize
    return [body[i : i + size] for i in range(0, len(body), size)]


def _own(entity: Entity, history: History, contract: Contract) -> list[pl.Expr]:
    """What one event adds: the columns of SUMS."""
    one, matches = pl.lit(1, pl.Int32), _matches(contract.label)
    by_match = isinstance(contract.label, MatchLabel)
    amount = reduce(lambda a, b: a * b, (pl.col(c).cast(pl.Float64) for c in entity.amount), pl.lit(float(HUNDREDTHS)))
    whole = amount.round().fill_nan(0.0).fill_null(0.0).clip(-_MOST, _MOST).cast(pl.Int64)
    return [
        step(_ms(contract.time.field), history).alias("step"),
        pl.when(matches).then(_NONE).otherwise(one).alias("count"),
        pl.when(matches).then(pl.lit(0, pl.Int64)).otherwise(whole if entity.amount else pl.lit(0, pl.Int64)).alias("amount"),
        (pl.when(matches).then(_NONE).otherwise(one) if by_match else _NONE).alias("labelled"),
        pl.when(matches).then(one).otherwise(_NONE).alias("positive"),
    ]  # fmt: skip


def outcome_part(pairs: pl.DataFrame, entity: Entity, history: History, label: OutcomeLabel) -> pl.DataFrame:
    """The same of events with their outcome: the entity's field, ARRIVED, `happened` (ms), the label's value."""
    return pairs.filter(pl.col(entity.field).is_not_null()).select(
        pl.col(entity.field).cast(pl.String).alias(ID),
        ARRIVED,
        step(pl.col("happened"), history).alias("step"),
        _NONE.alias("count"),
        pl.lit(0, pl.Int64).alias("amount"),
        pl.lit(1, pl.Int32).alias("labelled"),
        pl.col(label.name).cast(pl.Int32).alias("positive"),
    )


def paired(events: pl.DataFrame, outcomes: pl.DataFrame, history: History, contract: Contract) -> pl.DataFrame:
    """Every event with the first outcome of its key, if that came within LATEST_OUTCOME delays: see `outcome_part`.

    `outcomes` stand in the order of their arrival.
    """
    label, clock = contract.label, contract.time.field
    assert isinstance(label, OutcomeLabel)
    first = outcomes.select(
        label.key, label.name, _ms(clock).alias("happened"), _ms(APPEND_TIME).alias("_heard")
    ).unique(label.key, keep="first", maintain_order=True)
    joined = events.select(
        label.key, *dict.fromkeys(history.fields), _ms(clock).alias("_at"), _ms(APPEND_TIME).alias("_seen")
    ).join(first, on=label.key)
    return joined.filter(pl.col("happened") - pl.col("_at") <= latest_outcome(label)).with_columns(
        pl.max_horizontal("_seen", "_heard").alias(ARRIVED)
    )


def latest_outcome(label: OutcomeLabel) -> int:
    """ms of event time."""
    return LATEST_OUTCOME * ms(label.delay)


def merged(entity: Entity, stored: Sequence[bytes], added: pl.DataFrame) -> list[bytes]:
    """Stored sums with more added; `added` has the place of its entity among `stored` as `at`, and the columns of SUMS."""
    before = np.frombuffer(b"".join(stored), SUMS)
    at = np.repeat(np.arange(len(stored)), [len(s) // SUMS.itemsize for s in stored])
    kept = pl.DataFrame({"at": at, **{n: before[n] for n in SUMS.names}}, schema_overrides={"at": pl.Int64})
    total = (
        pl.concat([kept, added.select(kept.columns)], how="vertical_relaxed")
        .group_by("at", "step")
        .agg(pl.col("count", "amount", "labelled", "positive").sum())
        .filter(pl.col("step") > pl.col("step").max().over("at") - entity.keep)
        .sort("at", "step")
    )
    sums = np.empty(total.height, SUMS)
    for name in SUMS.names:
        sums[name] = total[name].to_numpy()
    body, size = sums.tobytes(), SUMS.itemsize
    ends = np.searchsorted(total["at"].to_numpy(), np.arange(len(stored) + 1)) * size
    return [body[a:b] or NOTHING for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]


def step(time_ms: pl.Expr, history: History) -> pl.Expr:
    return (time_ms // history.step_ms).clip(-(2**31) + 1, 2**31 - 1).cast(pl.Int32)


def _ms(column: str) -> pl.Expr:
    return pl.col(column).dt.epoch("ms")


def _matches(label: OutcomeLabel | MatchLabel | None) -> pl.Expr:
    if isinstance(label, MatchLabel):
        return pl.col(label.field).str.contains(label.pattern).fill_null(False)
    return pl.lit(False)
