"""EDGE. `driftline verify`: walks raw, blocks, valid topic, dead letters and lake, partition by partition, through the checker.

Its first line says whether everything was consumed; what follows speaks of what was.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from batch import table as lake
from batch.checker import check, check_commits
from batch.history import CounterExample, Verdict, total
from batch.revisions import check_revisions
from batch.verify_read import Progress as Tell
from batch.verify_read import Reader
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.settings import Settings

POLL_S = 0.25
_M_ARENA_MAX = -8  # malloc.h
OF_ALL = (
    "produced", "replayed", "consumed", "valid", "dead", "quarantined", "late", "lake", "open_dead", "unmarked",
)  # fmt: skip
OF_A_PARTITION = ("produced", "replayed", "consumed", "valid", "dead", "quarantined", "late", "lake", "lag")


class Verify:
    summary = (
        "Prove raw = valid + dead and valid = lake from the records themselves; exit 1 with the first counter-example."
    )

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object")
        parser.add_argument(
            "--wait",
            type=float,
            default=0.0,
            metavar="S",
            help="wait so long until everything is consumed and in the lake; fail if it is not",
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        _small_heaps()
        contract = contract_file.load(settings.contract)
        kafka.reach(settings, deadline_s=30)
        if args.wait:
            _wait(settings, contract, args.wait)
        report = verify(settings, contract, bar=sys.stderr.isatty())
        report["ok"] = bool(report["ok"]) and (not args.wait or bool(report["drained"]))
        print(json.dumps(report) if args.json else _text(report))
        return 0 if report["ok"] else 1


def verify(settings: Settings, contract: Contract, *, bar: bool = False) -> dict[str, object]:
    """The report of `verify --json`: counts, coordinates, `ok`, one entry a partition."""
    with _progress(bar) as tell:
        reader = Reader(settings, contract, tell)
        tell(-reader.raw_offsets)
        verdicts = {p: check(history) for p, history in reader.histories()}
    whole = total(verdicts.values())
    for example in (*_commit_faults(settings, contract), *check_revisions(reader.said())):
        whole.report(example)
    behind = reader.behind()
    return {
        **{k: getattr(whole, k) for k in OF_ALL},
        "missing": whole.missing,
        "duplicated": whole.duplicated,
        "missing_total": whole.missing_total,
        "duplicated_total": whole.duplicated_total,
        "ok": whole.ok,
        "lag": whole.lag,
        "drained": not behind,
        "behind": behind,
        "first": whole.found[0].message if whole.found else None,
        "found": [asdict(e) for e in whole.found],
        "peak_rss_mb": _peak_mb(),
        "partitions": {str(p): _partition(v, reader.lake_end.get(p, 0)) for p, v in sorted(verdicts.items())},
    }


@contextmanager
def _progress(shown: bool) -> Iterator[Tell]:
    """A bar on the terminal; a negative number of records is the total."""
    columns = (TextColumn("raw offsets"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task("verify", total=None)

        def tell(records: int) -> None:
            if records < 0:
                progress.update(task, total=-records)
            else:
                progress.advance(task, records)

        yield tell


def _commit_faults(settings: Settings, contract: Contract) -> list[CounterExample]:
    if not lake.exists(settings, contract.id):
        return []
    commits = [
        json.loads(v.metadata["ranges"])
        for v in reversed(lake.versions(settings, contract.id))
        if "ranges" in v.metadata and v.operation == "WRITE"
    ]
    return check_commits(topics.events(contract.id), commits)


def _wait(settings: Settings, contract: Contract, seconds: float) -> None:
    """Wait until the validator is at the end and the lake where the validator is, or the time is over."""
    until = time.monotonic() + seconds
    while Reader(settings, contract).behind() and time.monotonic() < until:
        time.sleep(POLL_S)


def _small_heaps() -> None:
    """Give memory back: two heaps for the threads that librdkafka starts for every stream, Arrow's buffers from malloc.

    Each heap, and Arrow's own pool, keeps what it once had (measured at 3 million rows: 311 MB instead of 376).
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):  # glibc's own; elsewhere there is nothing to limit
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _peak_mb() -> int | None:
    """This process's highest resident size. Not `ru_maxrss`: a child inherits its parent's."""
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    except (OSError, IndexError):
        return None  # no Linux


def _partition(v: Verdict, lake_end: int) -> dict[str, int | bool]:
    return {
        "start": v.start,
        "end": v.end,
        "lake_end": lake_end,
        **{k: getattr(v, k) for k in OF_A_PARTITION},
        "missing": v.missing_total,
        "duplicated": v.duplicated_total,
        "ok": v.ok,
    }


def _text(report: dict[str, object]) -> str:
    unread = f"{report['lag']} records unread; " if report["lag"] else ""
    first = (
        "drained: everything in the raw topic was consumed and is in the lake"
        if report["drained"]
        else f"NOT DRAINED: {unread}{report['behind']}. What follows speaks of what was consumed only"
    )
    lines = [
        first,
        "{consumed} consumed = {valid} valid + {dead} dead ({open_dead} open, {replayed} replayed)   lake {lake}   missing {missing_total}   duplicated {duplicated_total}   late {late}   lag {lag}".format(
            **report
        ),
    ]
    if report["unmarked"]:
        said = "records say that they are replays, and no marker does: counted as new ones"
        lines.append(f"{report['unmarked']} {said}")
    if report["first"]:
        lines.append(f"first counter-example: {report['first']}")
    of_what = "" if report["drained"] else " (of what was consumed)"
    return "\n".join([*lines, f"ok{of_what}" if report["ok"] else "NOT OK"])
