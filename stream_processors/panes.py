"""PURE. Event time cut into panes and windows, and the names of segments. Knows no counts and no Kafka.

A window is tumbling and holds a whole number of panes. Both begin at multiples of their length since the epoch, so that
where they lie is a function of the event time alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from pipeline.contract import Contract
from pipeline.errors import UsageError
from pipeline.times import ms

WHOLE = "*"  # the segment that holds every row
Key = tuple[str, str]  # (feature, segment)


@dataclass(frozen=True, slots=True)
class Clock:
    """The contract's times in milliseconds; `idle` is wall time, everything else event time."""

    pane: int
    window: int
    lateness: int
    idle: int
    revise_within: int | None

    def pane_of(self, time: int) -> int:
        return time // self.pane * self.pane

    def window_of(self, time: int) -> int:
        """
        >>> Clock(pane=5, window=60, lateness=10, idle=5, revise_within=None).window_of(61)
        60
        """
        return time // self.window * self.window


def clock_of(contract: Contract) -> Clock:
    """The contract's clock; a UsageError if a window is not a whole number of panes."""
    pane, window = ms(contract.drift.pane), ms(contract.drift.window)
    if window % pane:
        raise UsageError(
            f"contract {contract.name}: drift window {contract.drift.window} is not a whole number of panes of "
            f"{contract.drift.pane}; choose a pane that divides it"
        )
    revise = contract.time.revise_within
    return Clock(
        pane, window, ms(contract.time.lateness), ms(contract.time.idle), None if revise is None else ms(revise)
    )


def segment_name(columns: tuple[str, ...], values: tuple[object, ...]) -> str:
    """`column=value[,column=value]`, percent-encoded.

    >>> segment_name(("region", "channel"), ("north, east", "web"))
    'region=north%2C%20east,channel=web'
    """
    return ",".join(f"{quote(c, safe='')}={quote(str(v), safe='')}" for c, v in zip(columns, values, strict=True))
