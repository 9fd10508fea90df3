"""PURE. Which dead letters a command is about: every condition that is given must hold. Knows no Kafka.

Failure times are those of the last failure. Event times are the record's own, so a record without a readable one is
never chosen by them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from pipeline.errors import UsageError
from pipeline.times import to_text
from stream_processors.dead_letters.letter import DeadLetter

State = Literal["any", "open", "replayed"]
_PLACE = re.compile(
    r"(?:(?P<topic>[^/]+)/)?(?P<partition>[0-9]{1,9})/(?P<first>[0-9]{1,18})(?:-(?P<last>[0-9]{1,18}))?"
)
_TIMES = ("since", "until", "event_since", "event_until")


@dataclass(frozen=True, slots=True)
class Place:
    """Raw offsets first to last of one partition, both included."""

    partition: int
    first: int
    last: int

    def holds(self, letter: DeadLetter) -> bool:
        return letter.partition == self.partition and self.first <= letter.offset <= self.last

    def __str__(self) -> str:
        return f"{self.partition}/{self.first}" + (f"-{self.last}" if self.last != self.first else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """None and empty = no condition. Times in ms, `until` excluded."""

    rule: str | None = None
    field: str | None = None
    since: int | None = None
    until: int | None = None
    event_since: int | None = None
    event_until: int | None = None
    contract: str | None = None  # sales@1.0.0
    attempt: int | None = None
    places: tuple[Place, ...] = ()
    state: State = "any"

    @property
    def needs_event_time(self) -> bool:
        return self.event_since is not None or self.event_until is not None

    def wants(self, letter: DeadLetter, event_ms: int | None, replayed: bool) -> bool:
        return (
            self.rule in (None, letter.rule)
            and self.field in (None, letter.field)
            and self.contract in (None, letter.contract)
            and self.attempt in (None, letter.attempt)
            and _within(letter.last_failed_at, self.since, self.until)
            and (not self.needs_event_time or _within(event_ms, self.event_since, self.event_until))
            and (not self.places or any(place.holds(letter) for place in self.places))
            and (self.state == "any" or replayed == (self.state == "replayed"))
        )

    def described(self) -> Mapping[str, object]:
        """The conditions that are given, for the audit."""
        given: dict[str, object] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value == f.default:
                continue
            given[f.name] = (
                to_text(value) if f.name in _TIMES else [str(p) for p in value] if f.name == "places" else value
            )
        return given


def place(text: str, topic: str) -> Place:
    """PARTITION/OFFSET, PARTITION/FIRST-LAST, either with TOPIC/ before it.

    >>> place("2/10-19", "sales.events")
    Place(partition=2, first=10, last=19)
    """
    found = _PLACE.fullmatch(text)
    if found is None or found["topic"] not in (None, topic):
        raise UsageError(
            f"{text}: expected PARTITION/OFFSET, PARTITION/FIRST-LAST or {topic}/PARTITION/OFFSET, as `dead-letters list` prints it"
        )
    first = int(found["first"])
    last = int(found["last"]) if found["last"] else first
    if last < first:
        raise UsageError(f"{text}: expected the last offset behind the first, got {last} < {first}")
    return Place(int(found["partition"]), first, last)


def _within(at: int | None, since: int | None, until: int | None) -> bool:
    return at is not None and (since is None or at >= since) and (until is None or at < until)
