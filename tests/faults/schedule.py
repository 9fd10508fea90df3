"""PURE. What is killed, where, and in which order: drawn once from a seed, replayed by the same seed.

A kill's place in the schedule is fixed; the wall time at which it comes is not, for each waits until what it kills is up.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

Kind = Literal["validator", "compactor", "drift", "producer", "broker"]

SHARES: Mapping[Kind, int] = {"validator": 700, "compactor": 150, "drift": 80, "producer": 40, "broker": 30}
MEMBERS = (1, 4, 2)  # validators, one after the other: the rebalances of a round
KILLS_A_ROUND = 175
NAMED = 0.7  # share of kills at a named point; the others come at a random moment
HASTY = 0.15  # share of kills that do not wait until the one before is recovered
MOMENT_S = 0.8  # a random moment lies within so much time after the process was up
PASSES = 3  # at the first to third pass of a point
KILLS_A_PAUSE = 80

# Between any two numbered steps of a process's loop; `start` points are passed once a process, while it takes its place.
POINTS: Mapping[Kind, tuple[str, ...]] = {
    "validator": (
        "read", "judged", "cut", "begun", "producing", "produced", "sending-offsets", "offsets-sent", "committing",
        "committed", "joined",
    ),
    "compactor": ("read", "added", "verdicts-published", "syncing", "files-written", "entering", "entered", "committed", "shown"),
    "drift": ("counting", "partial-queued", "fed", "publishing", "producing", "committing", "committed"),
    "producer": ("sending", "sent", "delivering"),
    "broker": (),
}  # fmt: skip
START_POINTS: Mapping[Kind, tuple[str, ...]] = {
    "validator": ("initialised", "placing", "placed"),
    "compactor": ("opened",),
    "drift": ("assigning", "acquired"),
    "producer": (),
    "broker": (),
}


@dataclass(frozen=True, slots=True)
class Kill:
    kind: Kind
    point: str | None = None  # None = at a random moment
    at: int = 1  # at which pass of the point
    delay_s: float = 0.0  # of a random moment, after the process was up
    member: float = 0.0  # which of those that are up, as a share
    hasty: bool = False  # while the kill before it is not recovered yet

    @property
    def starting(self) -> bool:
        """Whether its point is passed by a process that takes its place, and at no other time."""
        return self.point in START_POINTS[self.kind]


@dataclass(frozen=True, slots=True)
class Pause:
    """SIGSTOP; `replaced` = a successor takes over at once, and the paused one comes back as a zombie."""

    kind: Kind
    seconds: float
    replaced: bool
    due: float  # share of the validator's kills that come before it


@dataclass(frozen=True, slots=True)
class Round:
    """So many validators at once, with the kills of each."""

    members: int
    kills: tuple[tuple[Kill, ...], ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    rounds: tuple[Round, ...]
    others: Mapping[Kind, tuple[Kill, ...]]
    pauses: tuple[Pause, ...]

    @property
    def kills(self) -> int:
        return sum(len(k) for r in self.rounds for k in r.kills) + sum(map(len, self.others.values()))


def counts(kills: int) -> dict[Kind, int]:
    """The kills by kind, by the largest remainder; the validator's first.

    >>> counts(30)
    {'validator': 21, 'compactor': 5, 'drift': 2, 'producer': 1, 'broker': 1}
    """
    whole = sum(SHARES.values())
    exact = {kind: kills * share / whole for kind, share in SHARES.items()}
    found = {kind: int(value) for kind, value in exact.items()}
    by_rest = sorted(SHARES, key=lambda kind: found[kind] - exact[kind])
    for kind in islice(cycle(by_rest), kills - sum(found.values())):
        found[kind] += 1
    return found


def draw(kills: int, seed: int) -> Schedule:
    """The whole campaign; the same arguments give the same schedule.

    >>> draw(30, 7) == draw(30, 7), draw(30, 7) == draw(30, 8)
    (True, False)
    """
    rng = random.Random(f"{kills}/{seed}")
    wanted = counts(kills)
    drawn = {kind: _kills(rng, kind, n) for kind, n in wanted.items()}
    return Schedule(
        seed,
        tuple(_rounds(deque(drawn["validator"]))),
        {kind: _of_one_lane(drawn[kind]) for kind in SHARES if kind != "validator"},
        tuple(_pauses(rng, max(1, kills // KILLS_A_PAUSE))),
    )


def due(at: int, of: int) -> float:
    """The share of the validator's kills after which the `at`-th of `of` other kills may come: spread evenly, none at the very end.

    >>> [due(i, 4) for i in range(4)]
    [0.1, 0.3, 0.5, 0.7]
    """
    return round((at + 0.5) / of * 0.8, 6)


def _kills(rng: random.Random, kind: Kind, n: int) -> tuple[Kill, ...]:
    """Points come in turn, in an order drawn anew each time, so that each is passed before one is passed twice."""
    points = _in_turn(rng, [*POINTS[kind], *START_POINTS[kind]])
    return tuple(_kill(rng, kind, points) for _ in range(n))


def _kill(rng: random.Random, kind: Kind, points: Iterator[str]) -> Kill:
    delay_s, member = rng.uniform(0, MOMENT_S), rng.random()
    named, hasty, at = rng.random() < NAMED, rng.random() < HASTY, rng.randint(1, PASSES)
    if not named or kind == "broker":
        return Kill(kind, None, 1, delay_s, member, hasty and kind != "broker")
    point = next(points)
    starting = point in START_POINTS[kind]
    return Kill(kind, point, 1 if starting else at, 0.0, member, hasty or starting)


def _in_turn(rng: random.Random, names: Sequence[str]) -> Iterator[str]:
    while True:
        yield from rng.sample(names, len(names))


def _rounds(kills: deque[Kill]) -> Iterator[Round]:
    """Rounds of 1, 4 and 2 members, each with its share of the kills, dealt to the members in turn."""
    parts = len(MEMBERS) * max(1, round(len(kills) / KILLS_A_ROUND))
    for i in range(parts):
        members, size = MEMBERS[i % len(MEMBERS)], -(-len(kills) // (parts - i))
        own = [kills.popleft() for _ in range(size)]
        yield Round(members, tuple(_of_one_lane(own[m::members]) for m in range(members)))


def _of_one_lane(kills: Sequence[Kill]) -> tuple[Kill, ...]:
    """A point of the start is armed in the successor of the kill before: the first of a lane has none."""
    return tuple(
        Kill(k.kind, None, 1, MOMENT_S / 2, k.member) if i == 0 and (k.starting or k.hasty) else k
        for i, k in enumerate(kills)
    )


def _pauses(rng: random.Random, n: int) -> Iterator[Pause]:
    """Past the session's time-out (validator 10 s, drift 8 s) or the transaction's (20 s and the broker's next look)."""
    kinds: tuple[tuple[Kind, float, bool], ...] = (
        ("validator", 12.0, True),
        ("drift", 12.0, False),
        ("validator", 26.0, False),
        ("compactor", 6.0, True),
        ("validator", 26.0, True),
        ("broker", 12.0, False),
    )
    for i, (kind, seconds, replaced) in enumerate(islice(cycle(kinds), n)):
        yield Pause(kind, seconds, replaced, round((i + rng.uniform(0.2, 0.8)) / n * 0.8, 6))
