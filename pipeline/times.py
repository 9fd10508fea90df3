"""PURE. Times: milliseconds since the epoch inside, RFC 3339 UTC with milliseconds in JSON and headers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def to_text(ms: int) -> str:
    """
    >>> to_text(0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_ms(text: str) -> int:
    """
    >>> to_ms('1970-01-01T00:00:01.5Z')
    1500
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"expected an RFC 3339 time with its offset, got {text!r}")
    return round(when.timestamp() * 1000)


def ms(delta: timedelta) -> int:
    return delta // timedelta(milliseconds=1)
