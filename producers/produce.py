"""EDGE. `driftline produce`: sales from a seed, or a file's records, into the dataset's raw topic, and late labels after them."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.lineage import Dataset, kafka_namespace
from pipeline.lineage_send import Lineage, Minutes
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import to_text
from producers.cues import Cues
from producers.plan import DEFAULT_RATE, Plan, plan_of
from producers.progress import Progress
from producers.scenarios import NAMES, duration
from producers.send import GIVE_UP_S, Sender

HELP = {
    "events": "stop after N events (default: never; a file: at its end)",
    "duration": "stop after this much wall time, e.g. 90s",
    "rate": f"events a wall second, on average over a week of event time (default: {DEFAULT_RATE:.0f})",
    "speed": "event seconds a wall second until event time reaches now (default: 1; a file: flat out)",
    "flat_out": "send without waiting; event times are those of the rate and speed asked for",
    "start": "first event time: RFC 3339, now, or '10d ago' (default: now; with --speed or --flat-out in the past)",
    "seed": "the same seed, start and schedule give the same bytes (default: 1)",
    "scenario": f"a set of: {', '.join(NAMES)}",
    "schedule": "scenarios by event time since the start, e.g. baseline@0,price-shift@36h; SCENARIO@next: on SIGUSR1",
    "phase_file": "write the scenario that began on SIGUSR1, and its first event time, to this file",
    "replay": "send the records of a .csv, .parquet or .jsonl file",
    "no_outcomes": "send no late labels",
    "drain_outcomes": "at the end send the labels that are not due yet, too",
    "give_up": f"a record that Kafka has not taken for so many seconds has failed (default: {GIVE_UP_S:.0f})",
    "json": "the totals as one JSON object",
}


class Produce:
    summary = "Generate sales events from a seed, or replay a file, into the dataset's raw topic."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--events", "--limit", type=int, metavar="N", help=HELP["events"])
        add("--duration", type=duration, metavar="D", help=HELP["duration"])
        add("--rate", type=float, metavar="R", help=HELP["rate"])
        add("--speed", type=float, metavar="X", help=HELP["speed"])
        add("--flat-out", action="store_true", help=HELP["flat_out"])
        add("--start", metavar="TIME", help=HELP["start"])
        add("--seed", type=int, default=1, metavar="S", help=HELP["seed"])
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--scenario", default="baseline", metavar="NAME[,NAME]", help=HELP["scenario"])
        what.add_argument("--schedule", metavar="NAME@TIME,...", help=HELP["schedule"])
        what.add_argument("--replay", type=Path, metavar="FILE", help=HELP["replay"])
        add("--phase-file", type=Path, metavar="FILE", help=HELP["phase_file"])
        add("--no-outcomes", action="store_true", help=HELP["no_outcomes"])
        add("--drain-outcomes", action="store_true", help=HELP["drain_outcomes"])
        add("--give-up-after", type=float, default=GIVE_UP_S, metavar="S", help=HELP["give_up"])
        add("--json", action="store_true", help=HELP["json"])

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        plan_of(args, contract, round(time.time() * 1000))  # wrong arguments are found before anything is waited for
        meter = PrometheusMeter()
        with Service("produce", settings, meter.exposition) as service:
            kafka.reach(settings, deadline_s=None, stopped=service.stopped)
            kafka.create_topics(settings, topics.of_dataset(contract.id, contract.partitions))
            names = topics.events(contract.id), topics.outcomes(contract.id)
            sender = Sender(settings, "produce", *names, service.stopped, args.give_up_after)
            cues = Cues(args.phase_file)
            plan = plan_of(args, contract, round(time.time() * 1000), cues)
            cues.wait_for(plan.phases)
            lineage = _lineage(args, contract, Lineage(settings, meter), kafka_namespace(settings.bootstrap))
            return _send(args, contract, plan, sender, Progress(sender, plan, contract.id, service, meter, lineage))


def _lineage(args: argparse.Namespace, contract: Contract, lineage: Lineage, kafka: str) -> Minutes:
    """What a minute of producing reads (a replayed file) and writes."""
    files = [Dataset("file", str(args.replay.resolve()), kind="FILE")] if args.replay else []
    written = [Dataset(kafka, t, kind="TOPIC") for t in (topics.events(contract.id), topics.outcomes(contract.id))]
    return Minutes(lineage, f"{contract.id}.produce", files, written)


def _send(args: argparse.Namespace, contract: Contract, plan: Plan, sender: Sender, turn: Progress) -> int:
    began = time.monotonic()
    until = began + args.duration.total_seconds() if args.duration else float("inf")
    turn.begin()
    sender.run(plan.source, plan.timeline, turn, until)
    if args.drain_outcomes:
        sender.drain_outcomes(turn)
    lost = sender.flush(turn) + sender.totals.failed
    turn.end()
    totals = _totals(contract, plan, sender, lost, time.monotonic() - began)
    print(json.dumps(totals) if args.json else _sentence(totals), flush=True)
    if lost:
        raise Unreachable(f"{lost} records were not taken by Kafka: {sender.error or 'still queued when stopped'}")
    return 0


def _totals(
    contract: Contract, plan: Plan, sender: Sender, lost: int, seconds: float
) -> dict[str, str | int | float | None]:
    totals = sender.totals
    return {
        "dataset": contract.id,
        "scenario": plan.scenario,
        "seed": plan.seed,
        "events": totals.events,
        "outcomes": totals.outcomes,
        "outcomes_pending": len(sender.pending),
        "failed": lost,
        "seconds": round(seconds, 3),
        "events_per_second": round(totals.events / max(seconds, 1e-9)),
        "start": _text(plan.start_ms),
        "first_event_time": _text(totals.first_event_ms),
        "last_event_time": _text(totals.last_event_ms),
    }


def _text(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_text(at_ms)


def _sentence(totals: dict[str, str | int | float | None]) -> str:
    sent = "{events:,} events and {outcomes:,} outcomes to {dataset}".format(**totals)
    return sent + " in {seconds:.1f} s ({events_per_second:,}/s), {failed:,} failed".format(**totals)
