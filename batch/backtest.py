"""EDGE. `driftline backtest`: what a contract would have said about data that is already there, and when it would have paged.

    lake rows + dead letters, or a file --> blocks --> the stream's own judge --> verdicts, episodes --> table, plot

Without `--reference-...` the published references judge, each from its own `effective_from` on, and `--check` compares
the verdicts with those of the live topic, byte for byte. A file needs neither broker nor lake: its records go through
the contract's checks in the file's order, as `driftline produce --replay` and the validator would send them. A file with
the lake's own columns (raw partition and offset) counts as checked.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from batch.reference_build import build
from batch.rejudge import Rejudged, rejudge
from batch.stored_rows import File, Lake
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.alert import Alert
from stream_processors.panes import WHOLE, Clock, clock_of
from stream_processors.reference_store import read_store
from stream_processors.timeline import ReferenceSet, Timeline
from stream_processors.verdict import Verdict

SHOWN_DIFFERENCES = 5


@dataclass(frozen=True, slots=True)
class Backtested:
    """What the judge said of the windows in [since, until), and the changes of episode state in it."""

    contract: Contract
    clock: Clock
    since: int
    until: int
    rows: int
    rejects: int
    verdicts: tuple[Verdict, ...]
    alerts: tuple[Alert, ...]
    references: tuple[tuple[int, int], ...]  # (version, effective from)

    @property
    def pages(self) -> tuple[Alert, ...]:
        """Each episode's first `firing`."""
        return tuple({a.episode: a for a in reversed(self.alerts) if a.state == "firing"}.values())[::-1]


class Backtest:
    summary = "What this contract would have said about stored data, and on which days it would have paged."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--from", dest="since", metavar="TIME", help="first event time, RFC 3339 (default: where the reference takes effect)")  # fmt: skip
        parser.add_argument("--to", dest="until", metavar="TIME", help="event time behind the last (default: all)")
        parser.add_argument("--file", type=Path, help="Parquet, CSV or JSON lines instead of the lake; needs no broker")
        parser.add_argument("--reference-version", type=int, metavar="N", help="judge by this published reference (default: by each while it was in force)")  # fmt: skip
        parser.add_argument("--reference-from", metavar="TIME", help="judge by a reference of the rows from here ...")
        parser.add_argument("--reference-to", metavar="TIME", help="... up to here, built for this run alone")
        parser.add_argument("--check", action="store_true", help="compare with the live verdicts; exit 1 on a difference")  # fmt: skip
        parser.add_argument("--json", action="store_true", help="one JSON object")
        parser.add_argument("--plot", type=Path, metavar="FILE", help="evidence against its threshold, as svg or png")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        _refuse(args)
        began, contract = time.monotonic(), contract_file.load(settings.contract)
        found = backtest(args, settings, contract)
        compared = _compare(settings, found) if args.check else None
        seconds = round(time.monotonic() - began, 2)
        if args.plot:
            from batch.backtest_plot import draw  # matplotlib takes half a second to import

            draw(found, args.plot)
        print(json.dumps(_report(found, seconds, compared)) if args.json else "", end="\n" if args.json else "")
        if not args.json:
            _print(found, seconds)
        return _verdict_on(compared)


def backtest(args: argparse.Namespace, settings: Settings, contract: Contract) -> Backtested:
    """Judge the rows that the arguments name; CheckFailed if there is none."""
    clock = clock_of(contract)
    since, until = (_time(getattr(args, name), f"--{flag}") for name, flag in (("since", "from"), ("until", "to")))
    stored = File(args.file, contract) if args.file else Lake(settings, contract)
    timeline = _timeline(args, settings, contract, clock, stored, since)
    first = timeline.sets[0].effective_from
    said = rejudge(contract, clock, timeline, stored.blocks(first, until))
    begin = clock.window_of(first if since is None else max(first, since))
    return _within(contract, clock, begin, until, said, timeline)


# -- the references


def _timeline(
    args: argparse.Namespace,
    settings: Settings,
    contract: Contract,
    clock: Clock,
    stored: Lake | File,
    since: int | None,
) -> Timeline:
    """The references that judge: built here, one published version, or each published one in its time."""
    if args.reference_from or args.reference_to:
        begin, end = _time(args.reference_from, "--reference-from"), _time(args.reference_to, "--reference-to")
        rows, rejects = stored.reference_rows(begin, end)
        effective = since if since is not None else end
        if effective is None:
            raise UsageError("--reference-from: say --reference-to too, or --from: where does the backtest begin?")
        effective = -(-effective // clock.window) * clock.window
        members = build(contract, clock, rows, 1, effective, rejects)
        return Timeline((ReferenceSet(1, effective, lambda: members),))
    sets = read_store(settings, contract.id).timeline.sets
    if args.reference_version is not None:
        chosen = [s for s in sets if s.version == args.reference_version]
        if not chosen:
            raise UsageError(f"--reference-version {args.reference_version}: expected one of {[s.version for s in sets]}")  # fmt: skip
        effective = chosen[0].effective_from if since is None else min(chosen[0].effective_from, clock.window_of(since))
        return Timeline((ReferenceSet(chosen[0].version, effective, chosen[0].load),))
    if not sets:
        raise CheckFailed(
            f"no reference for {contract.id} is published; say --reference-from and --reference-to, or `driftline reference build`"
        )
    in_force = Timeline(sets).at(since) if since is not None else None
    return Timeline(tuple(s for s in sets if in_force is None or s.version >= in_force.version))


# -- what came of it


def _within(
    contract: Contract, clock: Clock, since: int, until: int | None, said: Rejudged, timeline: Timeline
) -> Backtested:
    last = max((to_ms(v.window_end) for v in said.verdicts), default=since)
    end = last if until is None else min(last, until)
    verdicts = tuple(v for v in said.verdicts if to_ms(v.window_start) >= since and to_ms(v.window_end) <= end)
    if not verdicts:
        raise CheckFailed(f"backtest: expected windows from {to_text(since)} to {to_text(end)}, got none; are there rows?")  # fmt: skip
    alerts = tuple(a for a in said.alerts if since <= to_ms(a.window_start) and to_ms(a.window_end) <= end)
    references = tuple((s.version, s.effective_from) for s in timeline.sets)
    return Backtested(contract, clock, since, end, said.rows, said.rejects, verdicts, alerts, references)


@dataclass(frozen=True, slots=True)
class Compared:
    same: int
    different: tuple[str, ...]  # where, and which fields


def _compare(settings: Settings, found: Backtested) -> Compared:
    """Our final verdicts with the newest live ones of the same window, feature and segment."""
    prefix = f"{found.contract.id}/".encode()
    live: dict[tuple[str, str, str], bytes] = {}
    for message in kafka.read_all(settings, topics.VERDICTS):
        if message.value() and (message.key() or b"").startswith(prefix):
            told = json.loads(message.value())
            live[told["window_start"], told["feature"], told["segment"]] = message.value()
    return compare(found.verdicts, live)


def compare(ours: Iterable[Verdict], live: dict[tuple[str, str, str], bytes]) -> Compared:
    """Byte for byte, where both are final: a provisional verdict is not the last word."""
    same, different = 0, []
    for verdict in ours:
        other = live.get(verdict.place)
        if other is None or verdict.provisional or (told := json.loads(other))["provisional"]:
            continue
        if other == verdict.to_bytes():
            same += 1
        else:
            mine = json.loads(verdict.to_bytes())
            fields = [name for name in mine if mine[name] != told.get(name)]
            different.append(f"{' '.join(verdict.place)}: {', '.join(fields) or 'order of fields'}")
    return Compared(same, tuple(different))


def _verdict_on(compared: Compared | None) -> int:
    if compared is None:
        return 0
    if compared.different:
        shown = "; ".join(compared.different[:SHOWN_DIFFERENCES])
        raise CheckFailed(f"backtest: {len(compared.different)} verdicts differ from the live ones, {compared.same} are equal: {shown}")  # fmt: skip
    if not compared.same:
        raise CheckFailed("backtest: expected live verdicts in this range to compare with, got none")
    return 0


def _report(found: Backtested, seconds: float, compared: Compared | None) -> dict[str, object]:
    pages = [asdict(a) for a in found.pages]
    return {
        "contract": found.contract.name,
        "from": to_text(found.since),
        "to": to_text(found.until),
        "rows": found.rows,
        "rejects": found.rejects,
        "references": [{"version": v, "effective_from": to_text(e)} for v, e in found.references],
        "windows": len({v.window_start for v in found.verdicts}),
        "verdicts": len(found.verdicts),
        "states": dict(sorted(Counter(v.state for v in found.verdicts).items())),
        "pages": pages,
        "days": sorted({str(p["event_time"])[:10] for p in pages}),
        "episodes": [asdict(a) for a in found.alerts],
        "features": [_feature_report(found, *key) for key in _keys(found)],
        "compared": None if compared is None else {"same": compared.same, "different": list(compared.different)},
        "seconds": seconds,
    }


def _keys(found: Backtested) -> list[tuple[str, str]]:
    return list(dict.fromkeys((v.feature, v.segment) for v in found.verdicts))


def _feature_report(found: Backtested, feature: str, segment: str) -> dict[str, object]:
    own = [v for v in found.verdicts if (v.feature, v.segment) == (feature, segment)]
    alarmed = [v for v in own if v.state == "alarm"]
    return {
        "feature": feature,
        "segment": segment,
        "windows": len(own),
        "alarms": len(alarmed),
        "first_alarm": alarmed[0].window_start if alarmed else None,
        "change": Counter(v.change for v in alarmed).most_common(1)[0][0] if alarmed else None,
        "largest_effect": max((v.effect for v in own if v.effect is not None), default=None),
        "state": own[-1].state,
    }


def _print(found: Backtested, seconds: float) -> None:
    console = Console(soft_wrap=True)
    pages = found.pages
    days = sorted({p.event_time[:10] for p in pages})
    windows = len({v.window_start for v in found.verdicts})
    console.print(
        f"{found.contract.name}, {to_text(found.since)[:16]} to {to_text(found.until)[:16]}: {found.rows:,} rows, {found.rejects:,} rejects, "
        f"{windows} windows in {seconds:.1f} s"
    )
    console.print(f"pages: {len(pages)}" + (f", on {', '.join(days)}" if days else " - it would have stayed silent"))
    if pages:
        resolved = {a.episode: a for a in found.alerts if a.state == "resolved"}
        table = Table("page", "began about", "ended", "what moved")
        for page in pages:
            end = resolved.get(page.episode)
            moved = "; ".join(_moved(f.feature, f.segment, f.change) for f in page.features[:3])
            table.add_row(page.event_time[:16], page.onset[:16], f"{end.event_time[:16]} {end.resolution}" if end else "still open", moved)  # fmt: skip
        console.print(table)
    table = Table("feature", "segment", "windows", "in alarm", "first", "change", "largest effect")
    for key in _keys(found):
        told = _feature_report(found, *key)
        if key[1] == WHOLE or told["alarms"]:
            effect = told["largest_effect"]
            table.add_row(*key, str(told["windows"]), str(told["alarms"]), str(told["first_alarm"] or "")[:16], str(told["change"] or ""), "-" if effect is None else f"{effect:.3f}")  # fmt: skip
    console.print(table)


def _moved(feature: str, segment: str, change: str | None) -> str:
    return f"{feature}{'' if segment == WHOLE else ' ' + segment}: {change or 'moved'}"


def _refuse(args: argparse.Namespace) -> None:
    built = args.reference_from or args.reference_to
    if args.file and not built:
        raise UsageError("--file: say --reference-from and --reference-to: which of its rows are the reference?")
    if built and args.reference_version is not None:
        raise UsageError("--reference-version and --reference-from: expected one of them")
    if args.check and (args.file or built):
        raise UsageError("--check: expected the lake and published references: live verdicts know no others")
    if args.plot and args.plot.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {args.plot}: expected a name that ends in .svg or .png")


def _time(text: str | None, option: str) -> int | None:
    """A time, or a day (`2011-04-01`)."""
    try:
        return None if text is None else to_ms(text if "T" in text else f"{text}T00:00:00Z")
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
