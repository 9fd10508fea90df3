"""EDGE. The named crash points: wrappers around the steps of a process's loop, put on by the child process of a test.

Production code knows nothing of them. Installed before the process begins, they do nothing until a point is armed; then
the process ends itself by SIGKILL at the point's n-th pass, after one line that says so.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

FIRED = "crash_point"  # how the line begins, behind time and level
IN_COMMIT_S = 0.004  # `committing` comes within so much time after a commit has begun


class Points:
    """Which point is armed; one a process."""

    def __init__(self, kind: str):
        self.kind = kind
        self._name, self._left, self._lock = "", 0, threading.Lock()

    def arm(self, name: str, at: int) -> None:
        """From now on; an empty name disarms."""
        with self._lock:
            self._name, self._left = name, at

    def reached(self, name: str, soon_s: float = 0.0) -> None:
        """A pass of the point; with `soon_s` the end comes at a random moment within that time."""
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
        if soon_s:
            threading.Timer(random.uniform(0, soon_s), self._end, (name,)).start()
        else:
            self._end(name)

    def _end(self, name: str) -> None:
        os.write(2, f"\n- - {FIRED} name={name}\n".encode())  # another thread may be in the middle of a line
        os.kill(os.getpid(), signal.SIGKILL)


def install(points: Points) -> None:
    """Wrap the steps of this kind of process; AttributeError where one is not there any more."""
    {"validator": _validator, "compactor": _compactor, "drift": _drift, "producer": _producer}[points.kind](points)


def _validator(points: Points) -> None:
    from stream_processors.validator import positions, transaction
    from stream_processors.validator.judging import Judging
    from stream_processors.validator.outputs import Outputs
    from stream_processors.validator.validate import Validator

    hit = points.reached
    _after(transaction.Transactions, "start", lambda _: hit("initialised"))
    _before(positions, "find", lambda *_: hit("placing"))
    _after(Validator, "_place", lambda _: hit("placed"))
    _after(Validator, "_runs", lambda found: found and hit("read"))
    _after(Judging, "judge", lambda found: found and hit("judged"))
    _after(Judging, "cut", lambda found: found and hit("cut"))
    _after(transaction.Transactions, "begin", lambda _: hit("begun"))
    _after(Outputs, "produce", lambda _: hit("produced"))
    _after(Validator, "_join", lambda _: hit("joined"))
    _midway(Outputs, hit)
    call = transaction._call

    def stepwise(name: str, action: Callable[[float], None]) -> None:
        hit({"send_offsets": "sending-offsets", "commit": "offsets-sent"}[name])
        if name == "commit":
            hit("committing", IN_COMMIT_S)
        call(name, action)
        if name == "commit":
            hit("committed")

    transaction._call = stepwise


def _midway(outputs: Any, hit: Callable[[str], None]) -> None:
    """`producing`: behind the first record of a run, with the others not yet in the client's queue."""

    class Watched:
        def __init__(self, producer: Any):
            self._producer = producer

        def produce(self, *args: Any, **more: Any) -> None:
            self._producer.produce(*args, **more)
            hit("producing")

    produce = outputs.produce
    outputs.produce = lambda self, producer, *args: produce(self, Watched(producer), *args)


def _compactor(points: Points) -> None:
    from batch import compact, landing, table, table_log

    hit = points.reached
    _after(compact._Compactor, "_open", lambda _: hit("opened"))
    _before(compact._Compactor, "_take", lambda self, message, *_: message.error() or hit("read"))
    _after(landing.EventsLanding, "add", lambda _: hit("added"))
    _after(compact._Compactor, "_publish", lambda _: hit("verdicts-published"))
    _before(table, "sync", lambda *_: hit("syncing"))
    _after(table.Table, "_write", lambda _: hit("files-written"))
    _before(table_log, "enter", lambda *_: hit("entering"))
    _after(table_log, "enter", lambda _: hit("entered"))
    _after(table.Table, "commit", lambda _: hit("committed"))
    _after(compact._Compactor, "_show_positions", lambda _: hit("shown"))


def _drift(points: Points) -> None:
    from stream_processors.drift.block_counter import BlockCounter
    from stream_processors.drift.drift import _Process
    from stream_processors.drift.judge_owner import JudgeOwner

    hit = points.reached
    _before(_Process, "own_positions", lambda *_: hit("assigning"))
    _after(JudgeOwner, "acquire", lambda _: hit("acquired"))
    _before(BlockCounter, "count", lambda *_: hit("counting"))
    _after(BlockCounter, "_produce", lambda _: hit("partial-queued"))
    _after(JudgeOwner, "_one", lambda _: hit("fed"))
    _before(JudgeOwner, "_publish", lambda *_: hit("publishing"))
    _after(JudgeOwner, "_produce", lambda _: hit("producing"))
    _before(JudgeOwner, "_transaction", lambda *_: hit("committing", 5 * IN_COMMIT_S))
    _after(JudgeOwner, "_transaction", lambda _: hit("committed"))


def _producer(points: Points) -> None:
    from producers.send import Sender

    hit = points.reached
    _before(Sender, "_send_events", lambda *_: hit("sending"))
    _after(Sender, "_send_events", lambda _: hit("sent"))
    _after(Sender, "_send_events", lambda _: hit("delivering", 5 * IN_COMMIT_S))


def _before(owner: Any, name: str, told: Callable[..., object]) -> None:
    inner = getattr(owner, name)

    def wrapped(*args: Any, **more: Any) -> Any:
        told(*args)
        return inner(*args, **more)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, told: Callable[[Any], object]) -> None:
    inner = getattr(owner, name)

    def wrapped(*args: Any, **more: Any) -> Any:
        result = inner(*args, **more)
        told(result)
        return result

    setattr(owner, name, wrapped)
