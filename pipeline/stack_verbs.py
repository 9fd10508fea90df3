"""EDGE. The verbs of the local stack: up, down, status, top."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline import access, contract_file, probe, processes, security, top, topics
from pipeline.errors import Fatal, UsageError
from pipeline.kafka import create_topics
from pipeline.processes import Process
from pipeline.settings import Settings, with_brokers
from pipeline.stack import Row, Stack, local_place

UP_DEADLINE_S = 240.0
TOP_EVERY_S = 2.0


class Up:
    summary = "Start the broker and every process, wait until each is ready, print where they are."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", metavar="NAME,...", help="these processes of the table and no others")
        parser.add_argument("--without", metavar="NAME,...", help="all processes but these")
        parser.add_argument("--deadline", type=float, default=UP_DEADLINE_S, metavar="S", help="default %(default)s")
        parser.add_argument("--json", action="store_true", help="one JSON object a process instead of the table")
        parser.add_argument(
            "--brokers",
            type=int,
            choices=(1, 3),
            help="three keep a copy each of every record, so one may be lost (default: DRIFTLINE_BROKERS, or 1)",
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        if args.brokers not in (None, settings.brokers):
            settings = with_brokers(settings, args.brokers)
        contract = contract_file.load(settings.contract)
        if settings.security.profile == "scram":
            security.ensure(settings.home / "kafka" / "security", contract.id)
        chosen = _chosen(args, processes.table(local_place(settings), contract))
        stack = _stack(settings, chosen)
        began, ready = time.monotonic(), {}

        def report(name: str, seconds: float) -> None:
            ready[name] = seconds
            print(f"{time.monotonic() - began:6.1f} s  {name} is ready", file=sys.stderr, flush=True)

        rows = stack.up(
            prepare=lambda: _render(settings),
            topics=lambda: _create(settings, contract.id, contract.partitions),
            deadline_s=args.deadline,
            report=report,
        )
        _print(rows, args.json, ready)
        late = [r for r in rows if not r.ready]
        for row in late:
            print(f"{row.name} is {row.state}: {row.problem}; log: {stack.logs / row.name}.log", file=sys.stderr)
        return 1 if late else 0


class Down:
    summary = "Stop every process of this home, the broker last; also what a killed run left behind."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        began = time.monotonic()
        ended = Stack(settings, (), os.environ).down()
        print(f"stopped {ended} processes in {time.monotonic() - began:.1f} s" if ended else "nothing was running")
        return 0


class Status:
    summary = "Say which processes are ready; exit 1 if one is not."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object a process")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        rows = _whole(settings).rows()
        _print(rows, args.json, {})
        return 0 if all(r.ready for r in rows) else 1


class Top:
    summary = "A live table: state, memory, busiest counter and lag of every process."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="two looks, one table, done")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        stack = _whole(settings)
        before = _look(stack)
        with Live(console=Console(), auto_refresh=False, screen=False) as live:
            while True:
                time.sleep(TOP_EVERY_S)
                now = _look(stack)
                live.update(_top_table(top.lines(before, now)), refresh=True)
                if args.once:
                    return 0
                before = now


def _whole(settings: Settings) -> Stack:
    contract = contract_file.load(settings.contract)
    return _stack(settings, processes.table(local_place(settings), contract))


def _stack(settings: Settings, chosen: Sequence[Process]) -> Stack:
    return Stack(settings, chosen, os.environ, processes.urls(chosen, local_place(settings)))


def _chosen(args: argparse.Namespace, every: Sequence[Process]) -> list[Process]:
    only = set(args.only.split(",")) if args.only else {p.name for p in every}
    without = set(args.without.split(",")) if args.without else set()
    unknown = (only | without) - {p.name for p in every}
    if unknown:
        raise UsageError(f"no such process: {', '.join(sorted(unknown))}; one of: {', '.join(p.name for p in every)}")
    return [p for p in every if p.name in only - without]


def _render(settings: Settings) -> None:
    """Prometheus', Alertmanager's and Grafana's files are another room's business, so another process writes them."""
    command = [sys.executable, "-m", "pipeline.cli", "--contract", settings.contract, "render"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Fatal(f"`driftline render` ended with {done.returncode}: {done.stderr.strip()[-2000:]}")


def _create(settings: Settings, dataset: str, partitions: int) -> None:
    create_topics(settings, topics.all_topics(dataset, partitions))
    if settings.security.profile == "scram":
        security.grant(settings, access.grants(dataset))


def _print(rows: Sequence[Row], as_json: bool, ready: dict[str, float]) -> None:
    if as_json:
        for row in rows:
            print(json.dumps({**asdict(row), "ready": row.ready, "ready_after_s": ready.get(row.name)}))
        return
    shown = Table(box=None, pad_edge=False)
    for title in ("process", "state", "ready after s" if ready else "up for s", "pid", "address"):
        shown.add_column(title, justify="right" if title.endswith(" s") or title == "pid" else "left")
    for row in rows:
        seconds = ready.get(row.name) if ready else row.since_s if row.pid else None
        mark = "[green]" if row.ready else "[red]"
        shown.add_row(
            row.name,
            mark + row.state,
            "-" if seconds is None else f"{seconds:.1f}",
            str(row.pid or "-"),
            row.url or row.problem,
        )
    Console(highlight=False).print(shown)


def _look(stack: Stack) -> list[top.Look]:
    now = time.monotonic()
    by_name = {p.name: p for p in stack.processes}
    looks = []
    for row in stack.rows():
        address = by_name[row.name].at(by_name[row.name].metrics)
        body = probe.text(address) if address and row.pid else ""
        looks.append(top.Look(row.name, row.state, top.memory_mb(row.pid), now, top.series(body)))
    return looks


def _top_table(lines: Sequence[top.Line]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for title in ("process", "state", "memory MB", "lag records", "a second", "of"):
        shown.add_column(title, justify="right" if title in ("memory MB", "lag records", "a second") else "left")
    for line in lines:
        lag = "-" if line.lag is None else f"{line.lag:,.0f}"
        rate = f"{line.rate:,.0f}" if line.counter else "-"
        shown.add_row(line.name, line.state, f"{line.memory_mb:,.0f}", lag, rate, line.counter)
    return shown
