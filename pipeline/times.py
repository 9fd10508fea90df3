"""PURE. Times: milliseconds since the epoch inside, RFC 3339 UTC with milliseconds in JSON and headers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_text(ms: int) -> str:
    """In whole numbers: by way of a float, times after the year 4200 lose a millisecond.

    >>> to_text(0), to_text(253402300799999)
    ('1970-01-01T00:00:00.000Z', '9999-12-31T23:59:59.999Z')
    """
    try:
        when = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError as error:
        raise ValueError(f"expected a time of the years 1 to 9999, got {ms} ms since 1970") from error
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_ms(text: str) -> int:
    """
    >>> to_ms('1970-01-01T00:00:01.5Z')
    1500
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"expected an RFC 3339 time with its offset, got {text!r}")
    return round((when - _EPOCH) // timedelta(microseconds=1), -3) // 1000


def ms(delta: timedelta) -> int:
    return delta // timedelta(milliseconds=1)


def length_text(delta: timedelta) -> str:
    """As a contract spells it.

    >>> length_text(timedelta(hours=36)), length_text(timedelta(minutes=10)), length_text(timedelta(days=30))
    ('36 h', '10 min', '30 d')
    """
    for unit, size in (
        ("d", timedelta(days=1)),
        ("h", timedelta(hours=1)),
        ("min", timedelta(minutes=1)),
        ("s", timedelta(seconds=1)),
    ):
        if not delta % size:
            return f"{delta // size} {unit}"
    return f"{ms(delta)} ms"
