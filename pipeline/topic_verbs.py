"""EDGE. `driftline topics`: create what is missing, list what is there."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table

from pipeline import contract_file, topics
from pipeline.errors import UsageError
from pipeline.kafka import bounds, consumer, create_topics, reach
from pipeline.settings import Settings

DEADLINE_S = 60.0


class Topics:
    summary = "Create the topics of a dataset that are missing, or list them with their record counts."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("what", choices=["create", "list"], nargs="?", default="list")
        parser.add_argument("--deadline", type=float, default=DEADLINE_S, metavar="S", help="default %(default)s")
        parser.add_argument("--json", action="store_true")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        wanted = topics.all_topics(contract.id, contract.partitions)
        if args.what == "create":
            created = create_topics(settings, wanted, deadline_s=args.deadline)
            print(json.dumps({"created": created}) if args.json else f"created {len(created)} topics of {len(wanted)}")
            return 0
        return _list(settings, [t.name for t in wanted], args)


def _list(settings: Settings, wanted: list[str], args: argparse.Namespace) -> int:
    there = reach(settings, deadline_s=args.deadline).list_topics(timeout=10).topics
    client = consumer(settings, "driftline.topics")
    try:
        found = {
            name: (len(there[name].partitions), sum(hi - lo for lo, hi in bounds(client, name).values()))
            for name in wanted
            if name in there
        }
    finally:
        client.close()
    missing = [name for name in wanted if name not in there]
    if args.json:
        for name, (partitions, offsets) in found.items():
            print(json.dumps({"topic": name, "partitions": partitions, "offsets": offsets}))
    else:
        _print(found)
    if missing:
        raise UsageError(f"missing: {', '.join(missing)}; `driftline topics create` creates them")
    return 0


def _print(found: dict[str, tuple[int, int]]) -> None:
    shown = Table(box=None, pad_edge=False)
    for title in ("topic", "partitions", "offsets"):
        shown.add_column(title, justify="left" if title == "topic" else "right")
    for name, (partitions, offsets) in found.items():
        shown.add_row(name, str(partitions), f"{offsets:,}")
    Console(highlight=False).print(shown)
