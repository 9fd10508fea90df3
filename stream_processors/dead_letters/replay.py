"""PURE. What a replay would do with each chosen dead letter, and the records that it leaves: marker and audit.

A replayed record is the original one, with the original's headers, plus `driftline.attempt`, `first-rule`,
`first-failed-at` of its letter and `driftline.replay-of`, the first raw record. Its marker is keyed by the letter's own
coordinate: a coordinate that has a marker is never replayed again, by nobody and by no option.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.record import Examine
from pipeline.times import to_text
from pipeline.topics import MESSAGE_LIMIT
from stream_processors.dead_letters.letter import DeadLetter, RawHeaders, digest, kept_headers
from stream_processors.dead_letters.repair import Repair

LIMIT = 500  # records a run, unless asked for more: half as many as open the validator's breaker if all fail again
BYTES = 64 * 1024 * 1024  # of records a run: they are held in memory until they are sent
FREE_ATTEMPTS = 2  # the next one needs --force
POISON = "quarantined"  # ended the validator before
NO_BYTES = "batch_undecodable"  # a range of offsets whose bytes nobody could read
ACTION = "replay-dead-letters"  # of the audit record on `control.requests`
_ROOM = 16 * 1024  # of the topic's limit, for headers and framing

Action = Literal["replay", "skip", "refuse"]


@dataclass(frozen=True, slots=True)
class Original:
    """The raw record of a letter: whole, or None with the reason why it cannot be had."""

    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Marker:
    """A coordinate was replayed: when, by whom, in which run, as which attempt of which first record."""

    coordinate: str
    replay_of: str
    attempt: int  # of the letter, as it stands in the replayed record's headers
    run: str
    actor: str
    at: str
    sha256: str  # of the key and value that were sent

    def to_bytes(self) -> bytes:
        fields = ("replay_of", "attempt", "run", "actor", "at", "sha256")
        return json.dumps({f: getattr(self, f) for f in fields}).encode()


def marker_from(key: bytes | None, value: bytes | None) -> Marker | None:
    """The marker again; None for a message that is none."""
    try:
        found = json.loads(value or b"")
        return Marker(
            (key or b"").decode(),
            str(found["replay_of"]),
            int(found["attempt"]),
            *(str(found[f]) for f in ("run", "actor", "at", "sha256")),
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Step:
    """One letter's part of the plan. `foreseen` is what the contract says to the record as it would be sent."""

    letter: DeadLetter
    action: Action
    why: str = ""
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    foreseen: str = ""
    changed: bool = False

    @property
    def replay_of(self) -> str:
        return self.letter.replay_of or self.letter.coordinate

    @property
    def size(self) -> int:
        return len(self.key or b"") + len(self.value or b"")


def step(
    letter: DeadLetter,
    original: Original,
    marker: Marker | None,
    repair: Repair,
    examine: Examine,
    now: int,
    *,
    force: bool,
) -> Step:
    """Whether and as what this letter is replayed."""
    if marker is not None:
        return Step(letter, "skip", f"replayed at {marker.at} by {marker.actor}")
    if (why := _refused(letter, force)) or (why := original.why_not):
        return Step(letter, "refuse", why)
    after = repair(original.value)
    if after.why:
        return Step(letter, "refuse", after.why)
    reject = examine(after.value, now).reject
    made = Step(
        letter,
        "replay",
        key=original.key,
        value=after.value,
        headers=tuple(replay_headers(letter, original.headers)),
        foreseen="valid" if reject is None else f"{reject.code}: {reject.message}",
        changed=after.value != original.value,
    )
    if made.size > MESSAGE_LIMIT - _ROOM:
        return Step(letter, "refuse", f"{made.size} bytes do not fit its topic; repair it to less")
    return made


def replay_headers(letter: DeadLetter, original: RawHeaders) -> list[tuple[str, bytes | None]]:
    """The original headers, then those that let the next failure keep its first one."""
    ours = {
        "driftline.attempt": str(letter.attempt),
        "driftline.first-rule": letter.first_rule,
        "driftline.first-failed-at": to_text(letter.first_failed_at),
        "driftline.replay-of": letter.replay_of or letter.coordinate,
    }
    return kept_headers(original) + [(name, value.encode("utf-8", "replace")) for name, value in ours.items()]


def marker_of(planned: Step, run: str, actor: str, at: str) -> Marker:
    letter = planned.letter
    sha256 = digest(planned.key, planned.value)
    return Marker(letter.coordinate, planned.replay_of, letter.attempt, run, actor, at, sha256)


@dataclass(frozen=True, slots=True)
class Run:
    """Who replays what, and how: the audit's head."""

    id: str
    dataset: str
    actor: str
    reason: str
    choice: Mapping[str, object]
    repair: str  # the expression, or the file's name; empty = as they are
    repair_sha256: str
    limit: int
    force: bool

    def audit(self, at: str, records: int, first: str, last: str) -> bytes:
        """The audit record of one transaction: written in that very transaction."""
        return json.dumps(
            {
                "action": ACTION,
                "dataset": self.dataset,
                "run": self.id,
                "actor": self.actor,
                "at": at,
                "reason": self.reason,
                "filter": self.choice,
                "repair": self.repair,
                "repair_sha256": self.repair_sha256,
                "limit": self.limit,
                "force": self.force,
                "records": records,
                "first": first,
                "last": last,
            }
        ).encode()


def audit_from(value: bytes | None, dataset: str) -> dict[str, object] | None:
    """An audit record of this dataset's replays; None for any other control request."""
    try:
        found = json.loads(value or b"null")
        return found if found["action"] == ACTION and found["dataset"] == dataset else None
    except (ValueError, KeyError, TypeError):
        return None


def _refused(letter: DeadLetter, force: bool) -> str:
    if letter.rule == NO_BYTES or letter.batch_end is not None:
        return f"a range of raw offsets up to {letter.batch_end}, whose bytes nobody could read"
    if letter.rule == POISON and not force:
        return "it ended the validator before; --force replays it"
    if letter.attempt >= FREE_ATTEMPTS and not force:
        return f"attempt {letter.attempt} failed ({letter.rule}); attempt {letter.attempt + 1} needs --force"
    return ""
