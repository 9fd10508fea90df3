"""EDGE. A campaign: real processes under live load, killed and paused as the schedule says, until all of it has struck.

One thread a slot of validators, one each for compactor, drift, producer and the pauses; the broker is killed from the thread
that started it. Every wait is for a condition: that a process has its place, that a point was passed, that everything that
was in a stage's input at the moment of the kill has been dealt with.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline.broker import Broker
from tests.faults.observe import Observer, Offsets
from tests.faults.processes import UP_S, Child, Slot
from tests.faults.schedule import Kill, Kind, Pause, Schedule, due

POINT_S = 30.0  # within so much time a point is passed, or the kill comes at a random moment instead
RECOVER_S = 300.0
UNOWNED_S = 60.0  # six sessions: a member that left is out of the group, unless the broker forgot its time-out
ZOMBIE_S = 90.0  # what it was committing is given 45 s, then it has to find its way out of the group
LOOK_S = 0.05
FATAL = 70
STAGE: dict[Kind, str] = {
    "validator": "validator", "compactor": "compactor", "drift": "drift", "producer": "validator", "broker": "validator",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Struck:
    """A kill that hit. `recovered_s` None: the process was killed again before."""

    at: float  # monotonic
    kind: Kind
    point: str  # `random` where it was none of the named ones
    recovered_s: float | None = None


class GaveUp(Exception):
    """The pipeline does not come back: the campaign says where and ends."""


class Campaign:
    def __init__(
        self,
        schedule: Schedule,
        broker: Broker,
        observer: Observer,
        slots: dict[Kind, list[Slot]],
        tell: Callable[[int], None],
    ):
        self._schedule, self._broker, self._observer, self._slots, self._tell = schedule, broker, observer, slots, tell
        self._lock, self._over = threading.Condition(), threading.Event()
        self._turns = {slot.name: threading.Lock() for own in slots.values() for slot in own}
        self._members = 1
        self._resizing = threading.Lock()
        self._error: BaseException | None = None  # the first lane's that failed
        self._done, self._of = 0, sum(len(k) for r in schedule.rounds for k in r.kills)
        self.struck: list[Struck] = []
        self.missed: Counter[str] = Counter()  # points that were not passed in time
        self.pauses: Counter[str] = Counter()  # how the paused ones ended
        self.reclaimed: list[float] = []  # when partitions had to be taken from members that had left long ago
        self.rebalances: list[tuple[float, int]] = []

    def run(self) -> None:
        """Returns once every kill has struck and the last of each lane is recovered. Call it from the broker's own thread."""
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()
        try:
            with ThreadPoolExecutor(5, thread_name_prefix="lane") as lanes:
                found = [
                    lanes.submit(self._guarded, lane)
                    for lane in (
                        self._validators,
                        lambda: self._lane(self._slots["compactor"], self._schedule.others["compactor"]),
                        lambda: self._lane(self._slots["drift"], self._schedule.others["drift"]),
                        lambda: self._lane(self._slots["producer"], self._schedule.others["producer"]),
                        self._pauses,
                    )
                ]
                self._guarded(self._broker_lane)
                for lane in found:
                    lane.result()
        finally:
            self._over.set()
        if self._error is not None:
            raise self._error

    # -- lanes -----------------------------------------------------------------------------------------------------

    def _validators(self) -> None:
        """Round by round: as many members as it wants, each with its own kills."""
        slots, rounds = self._slots["validator"], self._schedule.rounds
        with ThreadPoolExecutor(len(slots), thread_name_prefix="validator") as members:
            for round in rounds:
                self._resize(round.members)
                found = [members.submit(self._guarded, lambda s=s, k=k: self._lane([s], k)) for s, k in zip(slots, round.kills, strict=False)]  # fmt: skip
                for one in found:
                    one.result()
                if self._over.is_set():
                    return

    def _resize(self, members: int) -> None:
        """More members join; those that are too many leave with SIGTERM, and their partitions wait for the session's end."""
        with self._resizing:
            slots, before = self._slots["validator"], self._members
            self._members = members
            if members != before:
                self.rebalances.append((time.monotonic(), members))
            for slot in slots[before:members]:
                slot.start()
            for slot in slots[members:before]:
                with self._turn(slot):
                    slot.stop()

    def _lane(self, slots: Sequence[Slot], kills: Sequence[Kill]) -> None:
        """One kill after the other; the next waits until this one's victim is replaced and, unless hasty, recovered."""
        kind, waiting = slots[0].kind, list[tuple[Struck, Offsets]]()
        for i, kill in enumerate(kills):
            if kind != "validator" and not kill.starting:
                self._await_due(due(i, len(kills)))
            if not kill.hasty:
                self._settle(waiting)
            following = kills[i + 1] if i + 1 < len(kills) else None
            armed = (following.point, 1) if following and following.starting and following.point else None
            point = self._strike(slots, kill, armed)
            killed = time.monotonic()
            waiting.append((Struck(killed, kind, point), self._goal(kind, killed)))
            self._count(kind)
        self._settle(waiting)

    def _strike(self, slots: Sequence[Slot], kill: Kill, armed: tuple[str, int] | None) -> str:
        """End one of the processes by the schedule's kill and give its place to the stand-by; at which point it ended."""
        while True:
            slot = slots[int(kill.member * len(slots))]
            with self._turn(slot):
                for each in slots:
                    each.busy = True  # the keeper must not be faster than this lane
                ended = self._ended(slots, slot, kill)
                if ended is not None:
                    assert ended.live is not None
                    point = ended.live.fired or "random"
                    ended.start(armed)
                    if armed:  # the others take over what it had: they may be the ones that pass the point
                        for other in slots:
                            if other is not ended and other.live is not None:
                                other.live.arm(*armed)
                for each in slots:
                    each.busy = ended is not None and armed is not None
                if ended is not None:
                    return point
                self.missed[f"{kill.kind}: was not up"] += 1  # it hit nothing and does not count
                for each in slots:
                    each.keep()

    def _ended(self, slots: Sequence[Slot], slot: Slot, kill: Kill) -> Slot | None:
        """Kill; the slot whose process died of it."""
        child = slot.live
        assert child is not None
        if not kill.starting and not child.await_up(UP_S):
            return None
        if kill.point is not None:
            ended = self._at_point(slots, kill)
            if ended is not None:
                return ended
            self.missed[f"{kill.kind}.{kill.point}"] += 1
        time.sleep(kill.delay_s)
        return slot if child.kill() else None

    def _at_point(self, slots: Sequence[Slot], kill: Kill) -> Slot | None:
        """The slot whose process ended itself at the point; None if none passed it in time, or one ended otherwise."""
        assert kill.point is not None
        children = [(slot, slot.live) for slot in slots if slot.live is not None]
        if not kill.starting:
            for _, child in children:
                child.arm(kill.point, kill.at)
        until = time.monotonic() + POINT_S
        try:
            while time.monotonic() < until and not self._over.is_set():
                for slot, child in children:
                    if child.code is not None:
                        child.await_end(1)
                        return slot if child.fired else None
                time.sleep(0.005)
            return None
        finally:
            for _, child in children:
                child.disarm()

    def _broker_lane(self) -> None:
        kills = self._schedule.others["broker"]
        for i, kill in enumerate(kills):
            self._await_due(due(i, len(kills)))
            time.sleep(kill.delay_s)
            killed = time.monotonic()
            self._broker.kill()
            self._broker.start()
            self._settle([(Struck(killed, "broker", "random"), self._goal("broker", time.monotonic()))])
            self._count("broker")

    def _goal(self, kind: Kind, since: float) -> Offsets:
        """Everything that was in the stage's input, and one record more in each partition."""
        return {p: end + 1 for p, end in self._observer.after(since).goal(STAGE[kind]).items()}

    def _settle(self, waiting: list[tuple[Struck, Offsets]]) -> None:
        """Wait until the newest kill is recovered; those before it were cut short by it."""
        if not waiting:
            return
        *cut_short, (struck, goal) = waiting
        waiting.clear()
        stage = STAGE[struck.kind]
        at = self._observer.await_goal(stage, goal, UNOWNED_S)
        if at is None:
            if stage == "validator":
                self._reclaim()
            at = self._observer.await_goal(stage, goal, RECOVER_S)
        if at is None:
            raise GaveUp(f"{struck.kind} killed at {struck.point}: {goal} was not reached within {RECOVER_S:.0f} s; now {self._observer.last}")  # fmt: skip
        self._note(*[s for s, _ in cut_short], replace(struck, recovered_s=round(max(0.0, at - struck.at), 3)))

    def _reclaim(self) -> None:
        """What docs/runbooks.md tells an operator to do for partitions that nobody alive owns: start the instances that are gone, stop them."""
        with self._resizing:
            gone = self._slots["validator"][self._members :]
            if not gone or (self.reclaimed and time.monotonic() - self.reclaimed[-1] < UNOWNED_S):
                return  # all are there, or another lane has just done it
            for slot in gone:
                with self._turn(slot):
                    slot.start().await_up(UP_S)
                    slot.stop()
            self.reclaimed.append(time.monotonic())

    # -- pauses ----------------------------------------------------------------------------------------------------

    def _pauses(self) -> None:
        for pause in self._schedule.pauses:
            self._await_due(pause.due)
            if pause.kind == "broker":
                self._broker.pause()
                self._over.wait(pause.seconds)
                self._broker.resume()
                self.pauses["broker resumed"] += 1
            elif pause.replaced:
                self._replaced(self._slots[pause.kind][0], pause)
            else:
                self._stopped(self._slots[pause.kind][0], pause)

    def _replaced(self, slot: Slot, pause: Pause) -> None:
        """A successor takes the place while the paused one stands still; then it comes back, and must not write twice."""
        with self._turn(slot):
            zombie = slot.live
            assert zombie is not None
            if not zombie.await_up(UP_S):
                self.pauses[f"{pause.kind} was not up"] += 1
                return
            zombie.signal(signal.SIGSTOP)
            slot.start()
        self._over.wait(pause.seconds)
        zombie.signal(signal.SIGCONT)
        self.pauses[f"{pause.kind} zombie {self._end_of(zombie)}"] += 1

    def _end_of(self, zombie: Child) -> str:
        if zombie.kind == "validator":  # one name, one member: who joins last has it, and the other is fenced
            placed, until = zombie.said["placed"], time.monotonic() + ZOMBIE_S
            while zombie.code is None and zombie.said["placed"] == placed and time.monotonic() < until:
                time.sleep(LOOK_S)
            how = "fenced" if zombie.code == FATAL else "took its place back" if zombie.code is None and zombie.said["placed"] > placed else "NOT FENCED"  # fmt: skip
            zombie.kill()
            return how
        before, until = zombie.said["lake_committed"], time.monotonic() + ZOMBIE_S
        while zombie.code is None and time.monotonic() < until:
            if zombie.said["lake_conflict"] or zombie.said["lake_committed"] > before:
                break  # two at once, each with its turn: the table decides
            time.sleep(LOOK_S)
        zombie.kill()
        return "in conflict" if zombie.said["lake_conflict"] else "went on"

    def _stopped(self, slot: Slot, pause: Pause) -> None:
        """Nobody replaces it: the others take over what they can, and it finds its place gone."""
        with self._turn(slot):
            child = slot.live
            assert child is not None
            child.signal(signal.SIGSTOP)
            self._over.wait(pause.seconds)
            child.signal(signal.SIGCONT)
            goal = self._goal(pause.kind, time.monotonic())
        if self._observer.await_goal(STAGE[pause.kind], goal, RECOVER_S) is None:
            raise GaveUp(f"{pause.kind} paused for {pause.seconds:.0f} s: {goal} was not reached in {RECOVER_S:.0f} s")
        self.pauses[f"{pause.kind} {'ended' if child.code is not None else 'went on'}"] += 1

    # -- what the lanes share --------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, slot: Slot) -> Iterator[None]:
        """Nobody else strikes at this slot meanwhile."""
        with self._turns[slot.name]:
            yield

    def _await_due(self, share: float) -> None:
        with self._lock:
            while self._done < share * self._of and not self._over.is_set():
                self._lock.wait(0.5)
        if self._over.is_set():
            raise GaveUp("another lane gave up")

    def _count(self, kind: Kind) -> None:
        if self._over.is_set():
            raise GaveUp("another lane gave up")
        with self._lock:
            self._done += kind == "validator"
            self._lock.notify_all()
        self._tell(1)

    def _note(self, *found: Struck) -> None:
        with self._lock:
            self.struck += found

    def _keep(self) -> None:
        """What ended by itself is started again, as a supervisor does it."""
        while not self._over.wait(LOOK_S):
            for own in self._slots.values():
                for slot in own:
                    slot.keep()

    def _guarded(self, lane: Callable[[], None]) -> None:
        try:
            lane()
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
                self._over.set()
                self._lock.notify_all()
