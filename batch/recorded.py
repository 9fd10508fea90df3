"""EDGE. What users asked and what a model answered them: the prediction log, with the lake's rows and labels.

An answer names its raw coordinate (or its key), and the lake holds that row and its label; what the model saw stands in the
log, too, but only a model of the same features could be asked with it. So another model is asked the same question
afterwards, without users noticing. The first answer per coordinate counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import polars as pl

from batch import dataset, table
from batch.answer_log import offsets_at
from batch.labels import COORDINATE
from pipeline import topics
from pipeline.contract import APPEND_TIME, RAW_OFFSET, RAW_PARTITION, Contract, OutcomeLabel
from pipeline.kafka import bounds, consumer, read_all
from pipeline.settings import Settings
from pipeline.times import to_ms

ANSWER = "recorded_score"  # column: what was answered then
DEADLINE_S = 60.0
_KEY, _SAID = "_key", "_said"


@dataclass(frozen=True, slots=True)
class Recorded:
    """`rows`: the lake's rows that were asked about, with ANSWER and LABEL (null = not known yet), in order of arrival.

    `waiting`: answers whose row has not landed yet; `lost`: those whose row the lake should have and has not (it is no
    longer kept); `unsent`: asked without a coordinate about a key that the stream has not brought, so no row is owed.
    """

    rows: pl.DataFrame
    lost: int
    waiting: int = 0
    unsent: int = 0


def answers(
    settings: Settings, contract: Contract, version: str, *, most: int, since_ms: int | None = None
) -> pl.DataFrame:
    """At most `most` answers of a version as (RAW_PARTITION, RAW_OFFSET, key, event time, wall time, ANSWER).

    Without `since_ms` the newest of the log, as far as its last `most` messages go; with it the first that were written
    since that wall time (ms).
    """
    topic = topics.predictions(contract.id)
    found = []
    for message in read_all(
        settings, topic, deadline_s=DEADLINE_S, from_offsets=_starts(settings, topic, most, since_ms)
    ):
        body = _read(message.value() or b"", contract)
        if body is not None and body[0] == version:
            found.append(body[1:])
        if since_ms is not None and len(found) >= most:
            break
    schema = {
        RAW_PARTITION: pl.Int32,
        RAW_OFFSET: pl.Int64,
        _KEY: pl.String,
        contract.time.field: pl.Int64,
        _SAID: pl.Int64,
        ANSWER: pl.Float64,
    }
    return pl.DataFrame(found, schema=schema, orient="row")


def recorded(settings: Settings, contract: Contract, asked: pl.DataFrame) -> Recorded:
    """The rows behind the answers."""
    if asked.is_empty() or not table.exists(settings, contract.id):
        placed = asked.filter(pl.col(RAW_OFFSET).is_not_null()).height if asked.height else 0
        return Recorded(pl.DataFrame(), placed, 0, asked.height - placed)
    ends = {p: end for p, (_, end) in table.positions(settings, contract.id).items()}  # before the rows: what lands
    landed = _newest_arrival(settings, contract)  # meanwhile is no loss
    clock = asked[contract.time.field]
    rows = dataset.rows_between(settings, contract, int(clock.min()), int(clock.max()) + 1)  # type: ignore[arg-type]
    by_place = asked.filter(pl.col(RAW_OFFSET).is_not_null()).unique(COORDINATE, keep="first", maintain_order=True)
    found = rows.join(by_place.select(*COORDINATE, ANSWER), on=COORDINATE, how="inner")
    missing = by_place.join(found, on=COORDINATE, how="anti")
    reached = pl.col(RAW_PARTITION).replace_strict(ends, default=0, return_dtype=pl.Int64)
    waiting, lost = missing.filter(pl.col(RAW_OFFSET) >= reached).height, missing.height
    unsent, key = 0, key_of(contract)
    by_key = asked.filter(pl.col(RAW_OFFSET).is_null(), pl.col(_KEY).is_not_null()).unique(_KEY, keep="first")
    if key and not by_key.is_empty():
        firsts = rows.join(found.select(COORDINATE), on=COORDINATE, how="anti").unique(key, keep="first")
        more = firsts.join(by_key.select(pl.col(_KEY).alias(key), ANSWER), on=key, how="inner")
        missing = by_key.join(more, left_on=_KEY, right_on=key, how="anti")
        coming = missing.filter(pl.col(_SAID) > landed).height
        waiting, lost, unsent = waiting + coming, lost + coming, missing.height - coming
        found = pl.concat([found, more.select(found.columns)])
    return Recorded(found.sort("append_time", *COORDINATE), lost - waiting, waiting, unsent)


def _newest_arrival(settings: Settings, contract: Contract) -> int:
    """Wall time in ms at which the broker got the lake's newest row; 0 while there is none."""
    return table.scan(settings, contract.id).select(pl.col(APPEND_TIME).dt.epoch("ms").max()).collect().item() or 0


def key_of(contract: Contract) -> str | None:
    return contract.label.key if isinstance(contract.label, OutcomeLabel) else contract.key


def _read(value: bytes, contract: Contract) -> tuple[object, ...] | None:
    """(version, partition, offset, key, event time and wall time in ms, score); None for what is no prediction."""
    try:
        body = msgspec.json.decode(value)
        raw, key = body.get("raw") or {}, key_of(contract)
        score = body["score"]
        if not isinstance(score, int | float):
            return None
        when = to_ms(str(body[contract.time.field]))
        name = body.get(key) if key else None
        said = to_ms(str(body["at"]))
        return str(body["version"]), raw.get("partition"), raw.get("offset"), name, when, said, float(score)
    except (msgspec.DecodeError, KeyError, ValueError, AttributeError):
        return None


def _starts(settings: Settings, topic: str, most: int, since_ms: int | None) -> dict[int, int]:
    if since_ms is not None:
        return offsets_at(settings, topic, since_ms)
    client = consumer(settings, "read-answers")
    try:
        return {p: max(lo, hi - most) for p, (lo, hi) in bounds(client, topic).items()}
    finally:
        client.close()
