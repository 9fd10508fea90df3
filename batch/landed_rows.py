"""PURE. Dead letters and outcomes as rows of their lake tables. A message that is not one of them is counted, never fatal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from batch.table import stored_type
from pipeline.contract import Contract, OutcomeLabel
from pipeline.times import to_ms
from stream_processors.dead_letters.letter import BadDeadLetter, from_headers

Cell = str | int | float | bool | bytes | date | datetime | None
Row = dict[str, Cell]

_TIME = pa.timestamp("us", "UTC")
FAILED_DATE, OUTCOME_DATE = "failed_date", "outcome_date"

DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("raw_topic", pa.string()),
        ("raw_partition", pa.int32()),
        ("raw_offset", pa.int64()),
        ("reason", pa.string()),
        ("field", pa.string()),
        ("message", pa.string()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("sha256", pa.string()),
        ("truncated", pa.int64()),
        ("contract", pa.string()),
        ("attempt", pa.int32()),
        ("first_reason", pa.string()),
        ("replay_of", pa.string()),
        ("append_time", _TIME),
        ("first_failed_at", _TIME),
        ("last_failed_at", _TIME),
        ("letter_partition", pa.int32()),
        ("letter_offset", pa.int64()),
        (FAILED_DATE, pa.date32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Landed:
    """A message as it was read: coordinate, broker time, headers as bytes."""

    partition: int
    offset: int
    at: int  # ms
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


def dead_letter(message: Landed) -> Row | None:
    """The dead letter's row; None if its headers are not a dead letter's."""
    try:
        letter = from_headers(message.headers.items())
        failed = _from_ms(letter.last_failed_at)
        return {
            "raw_topic": letter.topic,
            "raw_partition": letter.partition,
            "raw_offset": letter.offset,
            "reason": letter.rule,
            "field": letter.field,
            "message": letter.message,
            "key": message.key,
            "value": message.value,
            "sha256": letter.sha256,
            "truncated": letter.truncated,
            "contract": letter.contract,
            "attempt": letter.attempt,
            "first_reason": letter.first_rule,
            "replay_of": letter.replay_of,
            "append_time": _from_ms(letter.timestamp),
            "first_failed_at": _from_ms(letter.first_failed_at),
            "last_failed_at": failed,
            "letter_partition": message.partition,
            "letter_offset": message.offset,
            FAILED_DATE: failed.date(),
        }
    except (BadDeadLetter, ValueError):
        return None


def outcome_schema(contract: Contract, label: OutcomeLabel) -> pa.Schema:
    key = contract.field(label.key)
    return pa.schema(
        [
            (label.key, stored_type(key.arrow_type)),
            (label.name, pa.bool_()),
            (contract.time.field, _TIME),
            ("topic_partition", pa.int32()),
            ("topic_offset", pa.int64()),
            ("append_time", _TIME),
            (OUTCOME_DATE, pa.date32()),
        ]
    )


def outcome(message: Landed, contract: Contract, label: OutcomeLabel) -> Row | None:
    """The outcome's row; None if it is not an object with the label's key, a boolean and a time."""
    try:
        found = json.loads(message.value or b"")
        key, value, when = found[label.key], found[label.name], _time(found[contract.time.field])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(value, bool) or when is None or not _is_key(key, contract.field(label.key).type):
        return None
    return {
        label.key: key,
        label.name: value,
        contract.time.field: when,
        "topic_partition": message.partition,
        "topic_offset": message.offset,
        "append_time": _from_ms(message.at),
        OUTCOME_DATE: when.date(),
    }


def _is_key(key: object, kind: str) -> bool:
    if kind == "string":
        return isinstance(key, str) and key.isprintable()
    if kind == "integer":
        return isinstance(key, int) and not isinstance(key, bool) and abs(key) < 2**63
    return isinstance(key, float) and math.isfinite(key)


def _time(text: object) -> datetime | None:
    """None for nothing; ValueError for what is no time."""
    if not text:
        return None
    if not isinstance(text, str):
        raise ValueError(f"expected a time, got {text!r}")
    return _from_ms(int(text) if text.isdigit() else to_ms(text))


def _from_ms(ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{ms} ms is no time") from error
