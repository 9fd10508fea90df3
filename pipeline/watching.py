"""PURE. When a process hangs: from what was seen of each process, what to do about it.

A process is judged only once it was healthy or its time to start is over, and only while all it depends on is healthy:
restarting the readers of a dead broker helps nobody. A crash is the supervisor's to answer; here it is only counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

ALIVE = ("RUNNING", "STARTING")  # supervisor calls a process STARTING for its first seconds
HANG_AFTER_S = 12.0  # unhealthy without a break; four probes of 3 s, so that a busy machine is not taken for a hang


@dataclass(frozen=True, slots=True)
class Watched:
    name: str
    depends: tuple[str, ...] = ()
    start_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at one process."""

    state: str  # supervisor's word
    pid: int
    since_s: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    do: Literal["kill", "start", "nothing"]
    reason: Literal["hung", "given_up", "crashed"]
    detail: str


@dataclass
class _Memory:
    pid: int = 0
    was_healthy: bool = False
    bad_since: float | None = None
    killed: bool = False


@dataclass
class Watchman:
    watched: tuple[Watched, ...]
    hang_after_s: float = HANG_AFTER_S
    _memory: dict[str, _Memory] = field(default_factory=dict, init=False)

    def look(self, now: float, seen: Mapping[str, Seen]) -> list[Event]:
        """What follows from this look, given the former ones."""
        sick = {name for name, s in seen.items() if s.state not in ALIVE or s.problem is not None}
        return [e for w in self.watched if w.name in seen for e in self._judge(now, w, seen[w.name], sick)]

    def _judge(self, now: float, watched: Watched, seen: Seen, sick: Iterable[str]) -> list[Event]:
        memory = self._memory.setdefault(watched.name, _Memory())
        events = self._crash(watched.name, memory, seen)
        if seen.state == "FATAL":
            return [*events, Event(watched.name, "start", "given_up", seen.problem or "it ended too often")]
        if seen.state not in ALIVE or seen.problem is None or set(watched.depends) & set(sick):
            memory.was_healthy |= seen.state in ALIVE and seen.problem is None
            memory.bad_since = None
            return events
        memory.bad_since = now if memory.bad_since is None else memory.bad_since
        patient = not memory.was_healthy and seen.since_s < watched.start_s
        if patient or now - memory.bad_since < self.hang_after_s:
            return events
        memory.killed = True
        return [*events, Event(watched.name, "kill", "hung", seen.problem)]

    def _crash(self, name: str, memory: _Memory, seen: Seen) -> list[Event]:
        """A new process id that nobody here asked for is a crash that the supervisor has answered."""
        if seen.state not in ALIVE or seen.pid == memory.pid:
            return []
        former, killed = memory.pid, memory.killed
        memory.pid, memory.was_healthy, memory.bad_since, memory.killed = seen.pid, False, None, False
        return (
            [Event(name, "nothing", "crashed", f"process {former} is now {seen.pid}")] if former and not killed else []
        )
