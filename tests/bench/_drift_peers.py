"""River's detectors and tumbling K-S, each with a threshold that gives a run length measured here (`drift.py --calibrate` finds them).

A threshold is a number where larger means fewer alarms. The shipped ones were found by `calibrated` and are measured again in
every run of the bench, whose table prints the run length that they gave. KSWIN tests 30 values against 30, so its p-values are
steps: its threshold is drawn anew for each test from the two steps that its run length lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from river import drift
from scipy import special

from tests.bench._drift_changes import Draw, quiet

REFERENCE = 100_000
CHUNK = 5_000
PARTS = 20  # references, or seeds, of one measured run length


class Detector(Protocol):
    def alarm(self, values: np.ndarray) -> int | None:
        """Feed a chunk; how many of its values had been read when it alarmed, None if it did not. An alarm starts it anew."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    make: Callable[[float, int, Draw], Detector]  # (threshold, seed, what is quiet)
    threshold: float  # gives about `run_length` events
    run_length: float
    events_a_second: float  # roughly, to choose how much is simulated
    chunk: int = CHUNK


class River:
    """One value at a time."""

    def __init__(self, make: Callable[[], drift.ADWIN]):
        self.make, self.detector = make, make()

    def alarm(self, values: np.ndarray) -> int | None:
        update, detector = self.detector.update, self.detector
        for i, value in enumerate(values.tolist(), 1):
            update(value)
            if detector.drift_detected:
                self.detector = self.make()
                return i
        return None


class Kswin(drift.KSWIN):
    """With the stricter of two p-values that its test can give in a share `strict` of its tests, else the other one."""

    LOOSE, STRICT = float(np.exp(-8.1)), float(np.exp(-8.2))  # the p-values 0.00030 and 0.00009 lie below them

    def __init__(self, strict: float, seed: int, rng: np.random.Generator):
        super().__init__(seed=seed)
        self.strict, self.rng = strict, rng

    def update(self, x: float) -> None:
        self.alpha = self.STRICT if self.rng.random() < self.strict else self.LOOSE
        super().update(x)


def _kswin(strict: float, seed: int, _: Draw) -> Detector:
    rng = np.random.default_rng([34, seed])
    return River(lambda: Kswin(strict, seed, rng))


class Tumbling:
    """D of each whole window against a sorted reference; alarms above a fixed distance."""

    def __init__(self, size: int, distance: float, seed: int, calm: Draw):
        self.size, self.limit = size, distance
        self.reference = np.sort(calm(np.random.default_rng([31, seed]), REFERENCE, 0))
        self.held = np.empty(0)

    def alarm(self, values: np.ndarray) -> int | None:
        before = len(self.held)
        self.held = np.concatenate((self.held, values))
        for end in range(self.size, len(self.held) + 1, self.size):
            if self._distance(self.held[end - self.size : end]) > self.limit:
                self.held = np.empty(0)
                return end - before
        self.held = self.held[len(self.held) // self.size * self.size :]
        return None

    def _distance(self, window: np.ndarray) -> float:
        ordered = np.sort(window)
        upto = np.searchsorted(self.reference, ordered, side="right") / len(self.reference)
        below = np.searchsorted(self.reference, ordered, side="left") / len(self.reference)
        n = len(ordered)
        right = np.searchsorted(ordered, ordered, side="right") / n
        left = np.searchsorted(ordered, ordered, side="left") / n
        return float(max(np.abs(right - upto).max(), np.abs(left - below).max()))


def _tumbling(size: int) -> Callable[[float, int, Draw], Detector]:
    return lambda threshold, seed, calm: Tumbling(size, threshold, seed, calm)


PEERS = (
    Peer("K-S of 1,000", _tumbling(1_000), 0.0618, 1e6, 5e6, 10_000),
    Peer("K-S of 10,000", _tumbling(10_000), 0.0171, 1e6, 5e6, 10_000),
    Peer("ADWIN", lambda t, seed, calm: River(lambda: drift.ADWIN(delta=float(np.exp(-t)))), 5.42, 1e6, 3e6),
    Peer("PageHinkley", lambda t, seed, calm: River(lambda: drift.PageHinkley(threshold=t)), 424.0, 1e6, 2e6),
    Peer("KSWIN", _kswin, 0.7, 1e4, 6e3, 500),
)


@dataclass(frozen=True, slots=True)
class Length:
    """A run length as it was measured."""

    events: float  # quiet ones
    alarms: int

    @property
    def value(self) -> float:
        return self.events / max(1, self.alarms)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, exact for a Poisson count of alarms."""
        most = special.gammaincinv(self.alarms + 1, 0.975)
        return self.events / most, self.events / special.gammaincinv(self.alarms, 0.025) if self.alarms else np.inf

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2g} ({low:.2g} to {high:.2g})" if self.alarms else f">= {self.value:.2g}"


def alarms_of_part(peer: Peer, threshold: float, events: int, seed: int, part: int, calm: Draw = quiet) -> int:
    """How often it alarmed in so many quiet events against one reference."""
    rng, alarms = np.random.default_rng([32, seed, part]), 0
    detector = peer.make(threshold, PARTS * seed + part, calm)
    while events > 0:
        values = calm(rng, min(peer.chunk, events), 0)
        at = 0
        while (read := detector.alarm(values[at:])) is not None:
            alarms, at = alarms + 1, at + read
        events -= len(values)
    return alarms


def run_length(peer: Peer, threshold: float, events: int, seed: int = 0, calm: Draw = quiet) -> Length:
    """Over so many quiet events, a twentieth of them against each of as many references, or seeds."""
    alarms = (alarms_of_part(peer, threshold, events // PARTS, seed, part, calm) for part in range(PARTS))
    return Length(events, sum(alarms))


def calibrated(peer: Peer, events: int, calm: Draw = quiet) -> Iterator[tuple[float, Length]]:
    """(threshold, its run length) along a bisection towards the peer's run length; the last is the answer."""
    low, high = peer.threshold * 0.7, peer.threshold * 1.4
    for _ in range(7):
        middle = (low + high) / 2
        length = run_length(peer, middle, events, seed=1, calm=calm)
        yield middle, length
        low, high = (middle, high) if length.value < peer.run_length else (low, middle)


def delay(peer: Peer, draw: Draw, calm: Draw, seed: int, before: int, most: int) -> int | None:
    """Events from the change to the alarm; `most` + 1 if there is none, None if it alarmed before.

    Before the change lie `before` quiet events and up to 9,900 more, so that it begins anywhere in a window.
    """
    rng = np.random.default_rng([33, seed])
    detector = peer.make(peer.threshold, seed, calm)
    left = before + (100 * int(rng.integers(100)) if before > 1_000 else 0)
    while left > 0:
        if detector.alarm(calm(rng, min(peer.chunk, left), 0)) is not None:
            return None
        left -= peer.chunk
    since = 0
    while since < most:
        values = draw(rng, peer.chunk, since)
        if (read := detector.alarm(values)) is not None:
            return since + read
        since += len(values)
    return most + 1
