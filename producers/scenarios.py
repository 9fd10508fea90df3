"""PURE. Named scenarios: each one changes the world of `baseline`; several together are a set, a schedule puts sets in time.

price-shift,harmless-shift                                   both at once
baseline@0,price-shift@36h,price-shift+harmless-shift@60h    one after the other, event time since the start
baseline@0,price-shift@next                                  the second when somebody gives the cue
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from pipeline.errors import UsageError
from pipeline.times import ms
from producers.sales import Fault, World

CUE = "next"
PAPER_TABLE = "paper-table-2"  # a finite run of its own, not a change of the world
BAD_SHARE, DEFECT_SHARE = 0.02, 0.005


def _price_shift(world: World) -> World:
    """Prices rise by 35 % in six of eight categories, 20 % in the others, and customers now send dear goods back."""
    law = replace(world.law, constant=world.law.constant + 0.45, price=world.law.price + 0.75)
    return replace(world, price_by_category=(1.35, 1.35, 1.35, 1.2, 1.35, 1.35, 1.2, 1.35), law=law)


def _harmless_shift(world: World) -> World:
    """Other regions, other channels, more pieces, more small discounts; whether an order comes back follows the same law."""
    return replace(
        world,
        region_weight=(0.55, 0.8, 1.2, 1.0, 2.2),
        channel_weight=(0.8, 0.9, 1.35, 1.2),
        bulk=1.35,
        discounted=world.discounted + 0.06,
    )


def _concept_shift(world: World) -> World:
    """The same orders, another law: cheap goods and shop purchases come back, dear ones stay."""
    law = replace(
        world.law, constant=world.law.constant + 0.2, price=-0.6, fashion_price=-0.2, by_channel=(-0.3, -0.1, 0.9, 0.0)
    )
    return replace(world, law=law)


def _seasonal(world: World) -> World:
    """What is sold, and at which price, follows the hour, the weekday and the month."""
    return replace(world, season=1.0)


def _bad_records(world: World) -> World:
    """2 % of the records are damaged: every rule of the contract broken, broken JSON, wrong types."""
    return replace(world, defects=BAD_SHARE, dataset_defects=True)


def _defects(world: World) -> World:
    """0.5 % of the records are damaged one by one; no rule over the whole dataset is broken, so training may go on."""
    return replace(world, defects=DEFECT_SHARE)


def _unit_change(world: World) -> World:
    """The till of region central sends prices in cents: 100 times the price."""
    return _with(world, Fault("unit", ("region", "central"), field="price", size=100.0))


def _dropped_segment(world: World) -> World:
    """No record of region south arrives; the others are sent as ever."""
    return _with(world, Fault("silent", ("region", "south")))


def _null_burst(world: World) -> World:
    """The price of every fifth record is null."""
    return _with(world, Fault("null", share=0.2, field="price"))


def _new_category(world: World) -> World:
    """One record in twelve names a channel that did not exist: social."""
    return _with(world, Fault("renamed", share=1 / 12, field="channel", value="social"))


def _price_move(world: World) -> World:
    """Prices rise by 15 % everywhere, and nothing else: the harmless half of price-shift."""
    return replace(world, price_by_category=tuple(1.15 * factor for factor in world.price_by_category))


def _mix_change(world: World) -> World:
    """Orders move from the web to the app, and from electronics to groceries."""
    return replace(
        world,
        channel_weight=tuple(a * b for a, b in zip(world.channel_weight, (0.7, 1.5, 1.0, 1.0), strict=True)),
        category_weight=tuple(a * b for a, b in zip(world.category_weight, (0.7, 1, 1, 1.4, 1, 1, 1, 1), strict=True)),
    )


def _clock_skew(world: World) -> World:
    """The clock of region east is 45 minutes behind: its records come late."""
    return _with(world, Fault("clock", ("region", "east"), size=-45 * 60.0))


def _duplicate_producer(world: World) -> World:
    """A second producer sends every record of region west once more."""
    return _with(world, Fault("twice", ("region", "west")))


def _with(world: World, fault: Fault) -> World:
    return replace(world, faults=(*world.faults, fault))


# In the order in which a set is applied.
MODIFIERS: dict[str, Callable[[World], World]] = {
    "price-shift": _price_shift,
    "harmless-shift": _harmless_shift,
    "concept-shift": _concept_shift,
    "seasonal": _seasonal,
    "defects": _defects,
    "bad-records": _bad_records,
    "unit-change": _unit_change,
    "dropped-segment": _dropped_segment,
    "null-burst": _null_burst,
    "new-category": _new_category,
    "price-move": _price_move,
    "mix-change": _mix_change,
    "clock-skew": _clock_skew,
    "duplicate-producer": _duplicate_producer,
}
NAMES = ("baseline", *MODIFIERS, PAPER_TABLE)


@dataclass(frozen=True, slots=True)
class Phase:
    """From `after` (event time since the start of the stream) on, the set of scenarios `names` holds; None: on a cue."""

    after: timedelta | None
    names: tuple[str, ...]
    world: World

    @property
    def name(self) -> str:
        return "+".join(self.names) or "baseline"


Schedule = tuple[Phase, ...]


def scenario(text: str) -> Schedule:
    """One set for the whole stream; its names stand between commas or pluses."""
    return (_phase(text, timedelta(0)),)


def schedule(text: str) -> Schedule:
    """Several sets, each with the event time after the start at which it begins, or `next`; the first begins at 0.

    >>> [(p.name, str(p.after)) for p in schedule("baseline@0,price-shift@36h")]
    [('baseline', '0:00:00'), ('price-shift', '1 day, 12:00:00')]
    """
    phases = []
    for entry in text.split(","):
        names, at, when = entry.strip().partition("@")
        if not at:
            raise UsageError(
                f"--schedule {entry!r}: expected SCENARIO@TIME, e.g. price-shift@36h; join scenarios with +"
            )
        phases.append(_phase(names, None if when == CUE else duration(when)))
    if phases[0].after is None:
        raise UsageError(f"--schedule {text}: the first scenario begins at 0, not on a cue")
    times = [phase.after for phase in phases if phase.after is not None]
    if times[0] != timedelta(0) or times != sorted(set(times)):
        raise UsageError(
            f"--schedule {text}: expected times that begin at 0 and rise, got {', '.join(str(t) for t in times)}"
        )
    return tuple(phases)


def worlds(phases: Schedule, start_ms: int) -> dict[int, World]:
    """The world that holds from an event time on."""
    return {start_ms + ms(phase.after): phase.world for phase in phases if phase.after is not None}


_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """`36h`, `10d`, `1.5h`, `0`; UsageError otherwise.

    >>> duration("1.5h")
    datetime.timedelta(seconds=5400)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)|0", text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a duration; expected a number with ms, s, m, h, d or w, e.g. 36h")
    return timedelta(**{_UNITS[found[2]]: float(found[1])}) if found[2] else timedelta(0)


def _phase(text: str, after: timedelta | None) -> Phase:
    wanted = {name.strip() for name in re.split(r"[+,]", text)} - {"baseline"}
    if PAPER_TABLE in wanted:
        raise UsageError(f"{PAPER_TABLE} is a run of its own: it cannot be combined or scheduled")
    if unknown := sorted(wanted - set(MODIFIERS)):
        raise UsageError(f"scenario {', '.join(unknown)} is not known; there are: {', '.join(NAMES)}")
    world, names = World(), tuple(name for name in MODIFIERS if name in wanted)
    for name in names:
        world = MODIFIERS[name](world)
    return Phase(after, names, world)
