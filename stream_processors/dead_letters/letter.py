"""PURE. The dead letter: a rejected record's own bytes, and headers that say where it came from and what was wrong.

Kafka Connect's names for what Connect knows, `driftline.*` for the rest, all values UTF-8 text. Knows no Kafka client
and no contract rule; `validation` decides what becomes a dead letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.contract import Reject
from pipeline.times import to_ms, to_text
from pipeline.topics import DEAD_LETTER_KEEP, KIB

RawHeaders = Sequence[tuple[str, bytes | None]]

STAGE = "VALUE_CONVERTER"  # the stage of Connect's closed set in which a record is read
TRUNCATED_KEEP = 64 * KIB  # what stays of a record over DEAD_LETTER_KEEP
MESSAGE_BYTES = 1 * KIB  # a reject's message quotes the data, so it is cut
HEADERS_KEEP = (
    256 * KIB
)  # original headers kept up to this: with 1 MiB of record the letter stays below its topic's 2 MiB
_OURS = ("__connect.errors.", "driftline.")


class BadDeadLetter(ValueError):
    """A message on a dead-letter topic whose headers are not ours."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What the headers of a dead letter say. Times in ms."""

    topic: str  # the raw record's coordinate
    partition: int
    offset: int
    message: str
    sha256: str  # of the whole key followed by the whole value
    rule: str
    field: str
    contract: str
    attempt: int
    first_rule: str
    first_failed_at: int
    last_failed_at: int
    timestamp: int  # the raw record's own
    replay_of: str | None = None  # topic/partition/offset of the first raw record, if this one was a replay
    truncated: int | None = None  # bytes of key and value before they were cut
    headers_dropped: int = 0  # original headers that did not fit
    batch_end: int | None = None  # behind the last of a whole range of raw offsets that nobody could read

    @property
    def coordinate(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def describe(
    *,
    coordinate: tuple[str, int, int],
    reject: Reject,
    key: bytes | None,
    value: bytes | None,
    headers: RawHeaders,
    timestamp: int,
    contract: str,
    now: int,
) -> DeadLetter:
    """A failure as its headers will tell it; a replay keeps its first failure and counts one attempt more.

    Only a record with `driftline.replay-of` is a replay: a stranger's `driftline.attempt` alone counts for nothing.
    """
    earlier = _texts(headers) if any(k == "driftline.replay-of" for k, _ in headers) else {}
    size = len(key or b"") + len(value or b"")
    return DeadLetter(
        *coordinate,
        message=_cut_text(reject.message, MESSAGE_BYTES),
        sha256=digest(key, value),
        rule=reject.code,
        field=reject.field,
        contract=contract,
        attempt=_number(earlier.get("driftline.attempt"), 1) + 1 if earlier else 1,
        first_rule=earlier.get("driftline.first-rule") or reject.code,
        first_failed_at=_time(earlier.get("driftline.first-failed-at"), now),
        last_failed_at=now,
        timestamp=timestamp,
        replay_of=earlier.get("driftline.replay-of"),
        truncated=size if size > DEAD_LETTER_KEEP else None,
        headers_dropped=sum(1 for name, _ in headers if not name.startswith(_OURS)) - len(kept_headers(headers)),
    )


def as_first(letter: DeadLetter) -> DeadLetter:
    """The letter of a record that claims to be a replay, and of which no marker tells: anybody can write such headers."""
    return replace(letter, replay_of=None, attempt=1, first_rule=letter.rule, first_failed_at=letter.last_failed_at)


def digest(key: bytes | None, value: bytes | None) -> str:
    """SHA-256 of key then value, an absent one as no bytes: `verify` recomputes it from the raw record."""
    whole = hashlib.sha256(key or b"")
    whole.update(value or b"")
    return whole.hexdigest()


def kept(key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
    """Key and value as they are, up to 1 MiB together; beyond that the first 64 KiB of key then value. Absent stays absent."""
    if len(key or b"") + len(value or b"") <= DEAD_LETTER_KEEP:
        return key, value
    short = None if key is None else key[:TRUNCATED_KEEP]
    return short, None if value is None else value[: TRUNCATED_KEEP - len(short or b"")]


def kept_headers(headers: RawHeaders) -> list[tuple[str, bytes | None]]:
    """The original headers in their order, without names that are ours to write, up to 256 KiB."""
    room, result = HEADERS_KEEP, []
    for name, value in headers:
        if name.startswith(_OURS):
            continue
        room -= len(name.encode()) + len(value or b"")
        if room < 0:
            break
        result.append((name, value))
    return result


def to_headers(letter: DeadLetter, original: RawHeaders = ()) -> list[tuple[str, bytes | None]]:
    """The original headers, then ours."""
    pairs = {
        "__connect.errors.topic": letter.topic,
        "__connect.errors.partition": str(letter.partition),
        "__connect.errors.offset": str(letter.offset),
        "__connect.errors.stage": STAGE,
        "__connect.errors.exception.class.name": f"driftline.reject.{letter.rule}",
        "__connect.errors.exception.message": letter.message,
        "driftline.sha256": letter.sha256,
        "driftline.rule": letter.rule,
        "driftline.field": letter.field,
        "driftline.contract": letter.contract,
        "driftline.attempt": str(letter.attempt),
        "driftline.first-rule": letter.first_rule,
        "driftline.first-failed-at": to_text(letter.first_failed_at),
        "driftline.last-failed-at": to_text(letter.last_failed_at),
        "driftline.timestamp": to_text(letter.timestamp),
    }
    if letter.replay_of is not None:
        pairs["driftline.replay-of"] = letter.replay_of
    if letter.truncated is not None:
        pairs["driftline.truncated"] = str(letter.truncated)
    if letter.headers_dropped:
        pairs["driftline.headers-dropped"] = str(letter.headers_dropped)
    if letter.batch_end is not None:
        pairs["driftline.batch-end"] = str(letter.batch_end)
    return kept_headers(original) + [(name, _bytes(text)) for name, text in pairs.items()]


def from_headers(headers: Iterable[tuple[str, bytes | None]]) -> DeadLetter:
    """The failure again; BadDeadLetter names the header that is missing or malformed."""
    found = _texts(headers)

    def text(name: str) -> str:
        if name not in found:
            raise BadDeadLetter(f"dead letter header {name}: expected UTF-8 text, got nothing")
        return found[name]

    try:
        return DeadLetter(
            topic=text("__connect.errors.topic"),
            partition=int(text("__connect.errors.partition")),
            offset=int(text("__connect.errors.offset")),
            message=text("__connect.errors.exception.message"),
            sha256=text("driftline.sha256"),
            rule=text("driftline.rule"),
            field=text("driftline.field"),
            contract=text("driftline.contract"),
            attempt=int(text("driftline.attempt")),
            first_rule=text("driftline.first-rule"),
            first_failed_at=to_ms(text("driftline.first-failed-at")),
            last_failed_at=to_ms(text("driftline.last-failed-at")),
            timestamp=to_ms(text("driftline.timestamp")),
            replay_of=found.get("driftline.replay-of"),
            truncated=int(found["driftline.truncated"]) if "driftline.truncated" in found else None,
            headers_dropped=int(found.get("driftline.headers-dropped", "0")),
            batch_end=int(found["driftline.batch-end"]) if "driftline.batch-end" in found else None,
        )
    except BadDeadLetter:
        raise
    except ValueError as error:
        raise BadDeadLetter(f"dead letter headers {sorted(found)}: {error}") from error


def _texts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Our headers as text, the last of each name; bytes that are no UTF-8 are replaced, never an error."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in headers if name.startswith(_OURS)}


def _bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate (a message may quote one) becomes a question mark."""
    return text.encode("utf-8", "replace")


def _cut_text(text: str, limit: int) -> str:
    data = _bytes(text)
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "..."


def _number(text: str | None, default: int) -> int:
    """A counter from a header that anybody could have written."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else default


def _time(text: str | None, default: int) -> int:
    try:
        return default if text is None else to_ms(text)
    except (ValueError, OverflowError):
        return default
