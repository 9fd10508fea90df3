"""PURE. Event time cut into panes, the contract's clock, and the names of segments. Knows no counts and no Kafka.

Panes begin at multiples of their length since the epoch, so that where they lie is a function of the event time alone.
How panes make windows is in `windows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from pipeline.contract import Contract
from pipeline.errors import UsageError
from pipeline.times import ms

WHOLE = "*"  # the segment that holds every row
POOLED = "*"  # as a value of a grouping: all values that are too rare to page by themselves; a literal one is %2A
Key = tuple[str, str]  # (feature, segment)


@dataclass(frozen=True, slots=True)
class Clock:
    """The contract's times in milliseconds; `idle` is wall time, everything else event time."""

    pane: int
    window: int  # of windows by rows: the pane
    lateness: int
    idle: int
    revise_within: int | None
    slide: int = 0  # windows begin at its multiples; the window itself where they tumble
    rows: int | None = None  # windows by rows: how many

    def __post_init__(self) -> None:
        object.__setattr__(self, "slide", self.slide or self.window)

    def pane_of(self, time: int) -> int:
        return time // self.pane * self.pane

    def window_of(self, time: int) -> int:
        """The start of the newest window that holds the time.

        >>> Clock(pane=5, window=60, lateness=10, idle=5, revise_within=None).window_of(61)
        60
        """
        return time // self.slide * self.slide


def clock_of(contract: Contract) -> Clock:
    """The contract's clock; a UsageError if a window is not a whole number of panes."""
    plan = contract.drift
    pane, window, slide = ms(plan.pane), ms(plan.window), ms(plan.slide or plan.window)
    if window % pane:
        raise UsageError(
            f"contract {contract.name}: drift window {plan.window} is not a whole number of panes of "
            f"{plan.pane}; choose a pane that divides it"
        )
    if window % slide or slide % pane:
        raise UsageError(
            f"contract {contract.name}: drift slide {plan.slide} is not a multiple of the pane, {plan.pane}, that "
            f"divides the window, {plan.window}; choose another"
        )
    revise = contract.time.revise_within
    keep = None if revise is None else ms(revise)
    return Clock(pane, window, ms(contract.time.lateness), ms(contract.time.idle), keep, slide, plan.window_rows)


def segment_name(columns: tuple[str, ...], values: tuple[object, ...]) -> str:
    """`column=value[,column=value]`, percent-encoded.

    >>> segment_name(("region", "channel"), ("north, east", "web")), segment_name(("store", "vip"), (7, True))
    ('region=north%2C%20east,channel=web', 'store=7,vip=true')
    """
    texts = (str(v).lower() if isinstance(v, bool) else str(v) for v in values)
    return ",".join(f"{quote(c, safe='')}={quote(t, safe='')}" for c, t in zip(columns, texts, strict=True))


def pooled_name(columns: tuple[str, ...]) -> str:
    """The segment of a grouping that holds every value that has no segment of its own, or one that is charted only.

    >>> pooled_name(("region", "channel")), segment_name(("region",), ("*",))
    ('region=*,channel=*', 'region=%2A')
    """
    return ",".join(f"{quote(c, safe='')}={POOLED}" for c in columns)
