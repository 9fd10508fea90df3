"""EDGE. `driftline breaker`: which partitions the reject breaker stopped, and the word to go on.

The stop stands in the metadata of the validator's committed offset, the resume is a request on `control.requests` that
names the offset: nothing needs the validator to run.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable
from pipeline.settings import Settings
from pipeline.times import to_text
from stream_processors.validator import reject_breaker
from stream_processors.validator.reject_breaker import Stop

VERB = "validate"


class Breaker:
    summary = "List the partitions that the reject breaker stopped, or let one go on."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="the partitions that stand still, with the reason")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        resume = actions.add_parser("resume", help="go on behind the record that stopped the partition")
        resume.add_argument("--partition", type=int, required=True)
        resume.add_argument("--reason", default="", help="kept with the request")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        kafka.reach(settings, deadline_s=10)
        open_ = stops(settings, contract)
        if args.action == "resume":
            return _resume(settings, contract, args.partition, open_, args.reason)
        for partition, stop in sorted(open_.items()):
            print(json.dumps({"partition": partition, **asdict(stop)}) if args.json else _line(partition, stop))
        if not open_ and not args.json:
            print("no partition is stopped")
        return 0


def stops(settings: Settings, contract: Contract) -> dict[int, Stop]:
    """Every partition of the raw topic that stands still and whose resume was not asked for yet."""
    topic = topics.events(contract.id)
    client = kafka.consumer(settings, topics.group(contract.id, VERB))
    try:
        found = kafka.committed(client, topic, kafka.partitions(client, topic))
        committed = {p: reject_breaker.from_metadata(tp.metadata) for p, tp in found.items()}
    finally:
        client.close()
    asked = _asked(settings, contract.id) if any(committed.values()) else set()
    return {p: stop for p, stop in committed.items() if stop and (p, stop.offset) not in asked}


def _asked(settings: Settings, dataset: str) -> set[tuple[int, int]]:
    found = (reject_breaker.resumed(message.value(), dataset) for message in kafka.read_all(settings, topics.REQUESTS))
    return {request for request in found if request}


def _resume(settings: Settings, contract: Contract, partition: int, open_: dict[int, Stop], reason: str) -> int:
    if partition not in open_:
        there = ", ".join(map(str, sorted(open_))) or "none"
        raise CheckFailed(f"partition {partition} of {topics.events(contract.id)} is not stopped; stopped are: {there}")
    stop = open_[partition]
    now = to_text(time.time_ns() // 1_000_000)
    producer = kafka.producer(settings, "breaker")
    producer.produce(
        topics.REQUESTS,
        reject_breaker.resume_request(contract.id, partition, stop.offset, settings.actor, reason, now),
        key=contract.id,
    )
    if producer.flush(10):
        raise Unreachable(f"{topics.REQUESTS}: the request was not acknowledged within 10 s")
    print(f"partition {partition} goes on at offset {stop.offset}")
    return 0


def _line(partition: int, stop: Stop) -> str:
    return f"partition {partition} stopped before offset {stop.offset} at {stop.at}: {stop.rejected} of the last {stop.of} records were rejected ({stop.cause})"
