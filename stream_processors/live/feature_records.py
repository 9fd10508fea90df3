"""PURE. The records of `<dataset>.features`, a compacted topic of one partition.

    key `customer:C000123`   the definition, 8 characters, then the entity's sums; null = forgotten
    key `as-of`              JSON: the definition, and what the records before it know

An entity's record holds sums by step, not values: what they are worth depends on the moment of the question. Each
publication ends with its as-of record, in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from pipeline.contract import Contract, OutcomeLabel
from pipeline.times import to_ms, to_text

AS_OF = b"as-of"
PREFIX = 8  # bytes of the definition before the sums


@dataclass(frozen=True, slots=True)
class AsOf:
    """Everything that had arrived by `ms` (wall time of the broker) is known; coordinates are next offsets by partition."""

    ms: int
    definition: str
    events: Mapping[str, int]  # raw offsets
    outcomes: Mapping[str, int]
    text: str = field(init=False, compare=False)  # RFC 3339, made once

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", to_text(self.ms))

    def json(self) -> dict[str, object]:
        return {
            "at": self.text,
            "definition": self.definition,
            "events": dict(self.events),
            "outcomes": dict(self.outcomes),
        }


def as_of_bytes(as_of: AsOf) -> bytes:
    return msgspec.json.encode(as_of.json())


def as_of_from(value: bytes) -> AsOf:
    """ValueError, KeyError or TypeError if it is none."""
    body = msgspec.json.decode(value)
    return AsOf(to_ms(body["at"]), str(body["definition"]), body["events"], body["outcomes"])


def entity_bytes(definition: str, sums: bytes | None) -> bytes | None:
    return None if sums is None else definition.encode() + sums


@dataclass(frozen=True, slots=True)
class Outcome:
    key: object
    value: bool
    ms: int


def outcome_from(value: bytes | None, contract: Contract, label: OutcomeLabel) -> Outcome | None:
    """None for what is no outcome, by the rule that the lake's table of outcomes goes by (a test compares them)."""
    try:
        body = json.loads(value or b"")
        key, found, time = body[label.key], body[label.name], body[contract.time.field]
        ms = int(time) if isinstance(time, str) and time.isdigit() else to_ms(time)
        to_text(ms)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    kinds = {"string": str, "integer": int, "number": float}
    fits = type(key) is kinds.get(contract.field(label.key).type) and (not isinstance(key, str) or key.isprintable())
    return Outcome(key, found, ms) if fits and isinstance(found, bool) else None
