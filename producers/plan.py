"""EDGE. The arguments of `produce` as a source of batches and a pace; a file to replay is opened here, nothing else is touched."""

from __future__ import annotations

import argparse
import itertools
import re
from dataclasses import dataclass, replace
from datetime import timedelta

from pipeline.contract import Contract
from pipeline.errors import UsageError
from pipeline.times import ms, to_ms
from producers import paper_table, replay, sales_stream, scenarios
from producers.arrivals import Timeline
from producers.batches import Source, first
from producers.sales_stream import Cue, no_cue
from producers.scenarios import Schedule

DEFAULT_RATE = 1_000.0  # events a wall second
DEFAULT_PAST = timedelta(days=10)  # where compressed event time begins when nothing is said


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send and when: `timeline` None is flat out."""

    source: Source
    timeline: Timeline | None
    scenario: str
    start_ms: int | None
    seed: int | None = None
    phases: Schedule = ()


def plan_of(args: argparse.Namespace, contract: Contract, now_ms: int, cue: Cue = no_cue) -> Plan:
    """The arguments as a source and a pace; UsageError where they contradict each other."""
    for name, value in (("--events", args.events), ("--rate", args.rate), ("--speed", args.speed)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} {value}: expected a number above 0")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: expected a whole number of 0 or more")
    plan = _plan_replay(args, contract, now_ms) if args.replay else _plan_sales(args, contract, now_ms, cue)
    if args.events is None:
        return plan
    return replace(plan, source=first(plan.source, args.events))


def _plan_replay(args: argparse.Namespace, contract: Contract, now_ms: int) -> Plan:
    if args.rate is not None or args.start is not None:
        raise UsageError("--replay has the file's own event times: pace it by --speed, or leave it flat out")
    source = replay.stream(contract, args.replay)
    head = next(source, None)
    if head is None:
        raise UsageError(f"--replay {args.replay}: the file has no records")
    known = head.event_ms[head.event_ms > -(2**62)]
    start = int(known[0]) if len(known) else None
    if args.speed is not None and start is None:
        raise UsageError(
            f"--replay {args.replay}: no {contract.time.field} among the first {len(head)} records; it cannot be paced"
        )
    pace = Timeline(start or 0, now_ms, 1.0, args.speed, catches_up=False) if args.speed and not args.flat_out else None
    return Plan(itertools.chain([head], source), pace, f"replay:{args.replay.name}", start)


def _plan_sales(args: argparse.Namespace, contract: Contract, now_ms: int, cue: Cue) -> Plan:
    sales_stream.check(contract)
    if args.scenario == scenarios.PAPER_TABLE and not args.schedule:
        start = moment(args.start or f"{paper_table.DAYS}d ago", now_ms)
        batch = paper_table.batch(contract, args.seed, start)
        return Plan(iter([batch]), None, scenarios.PAPER_TABLE, start, args.seed)
    phases = scenarios.schedule(args.schedule) if args.schedule else scenarios.scenario(args.scenario)
    rate, speed = args.rate or DEFAULT_RATE, args.speed or 1.0
    start = moment(args.start, now_ms) if args.start else _default_start(args, rate, speed, now_ms)
    timeline = Timeline(start, now_ms, rate, speed, catches_up=not args.flat_out)
    source = sales_stream.stream(contract, phases, args.seed, timeline, labels=not args.no_outcomes, cue=cue)
    pace = None if args.flat_out else timeline
    return Plan(source, pace, args.schedule or phases[0].name, start, args.seed, phases)


def _default_start(args: argparse.Namespace, rate: float, speed: float, now_ms: int) -> int:
    """Flat out with a known count: so far back that the last event is not ahead of the clock; compressed: ten days back."""
    if args.flat_out and args.events:
        return Timeline.ending_at(now_ms, args.events, rate, speed).start_ms
    return now_ms - (ms(DEFAULT_PAST) if speed > 1 or args.flat_out else 0)


def moment(text: str, now_ms: int) -> int:
    """`now`, `10d ago` or an RFC 3339 time as milliseconds; UsageError otherwise."""
    if text == "now":
        return now_ms
    if ago := re.fullmatch(r"(.+?)\s+ago", text):
        return now_ms - ms(scenarios.duration(ago[1]))
    try:
        return to_ms(text)
    except ValueError as error:
        raise UsageError(
            f"--start {text!r}: expected now, '10d ago' or a time like 2026-11-01T00:00:00Z ({error})"
        ) from error
