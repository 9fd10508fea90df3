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
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from batch.backtested import Backtested, Compared, feature_report, fitted, keys_of, name_of, report, silent, unable
from batch.reference_build import build
from batch.rejudge import Rejudged, rejudge, rows_within
from batch.stored_rows import File, Lake
from pipeline import contract_file, kafka, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.judging.panes import WHOLE, Clock, clock_of
from stream_processors.judging.timeline import ReferenceSet, Timeline
from stream_processors.judging.verdict import Verdict
from stream_processors.reference.store import read_store

SHOWN_DIFFERENCES = 5
MANY = 0.02  # late or rejected rows worth a word


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
        print(json.dumps(report(found, seconds, compared)) if args.json else "", end="\n" if args.json else "")
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
    blocks = stored.blocks(first, until)
    said = rejudge(contract, clock, timeline, blocks)
    begin = clock.window_of(first if since is None else max(first, since))
    found = _within(contract, clock, begin, until, said, timeline)
    if not found.verdicts:
        raise CheckFailed(f"expected windows from {to_text(begin)} to {to_text(found.until)}, got none; {stored.holds()}")  # fmt: skip
    rows, rejects = rows_within(blocks, contract, found.since, found.until)
    notes = _notes(args, contract, stored, said, found)
    return replace(found, rows=rows, rejects=rejects, notes=tuple(notes))


def _notes(args: argparse.Namespace, contract: Contract, stored: Lake | File, said: Rejudged, found: Backtested) -> list[str]:  # fmt: skip
    """What makes silence, or a page, worth less than it looks."""
    made = []
    if said.late + said.late_beyond > MANY * said.rows:
        order = f"; sort the file by {contract.time.field}" if args.file else ""
        made.append(f"{said.late + said.late_beyond:,} of {said.rows:,} rows came late ({said.late_beyond:,} later than reviseWithin), and late rows reach no detector{order}")  # fmt: skip
    if said.rejects > MANY * (said.rows + said.rejects):
        made.append(stored.holds())
    made += [
        f"{name_of(*key)}: {r.rounded}" for key, r in sorted(found.members.items()) if key[1] == WHOLE and r.rounded
    ]
    if contract.drift.scores:
        names = ", ".join(f.name for f in contract.drift.scores)
        made.append(f"not replayed, for the lake holds rows and no answers of a model: {names}")
    kind = contract.drift.reference.kind
    if kind != "training" and (args.reference_from or args.reference_to):
        made.append(f"the contract's {kind} reference was not followed: the one built here judged everything")
    end = _time(args.reference_to, "--reference-to")
    if (args.reference_from or args.reference_to) and (end is None or found.since < end):
        made.append("windows are judged by a reference that holds their own rows: they look quieter than they are")
    return made


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
        if rows.is_empty():
            span = " ".join(f"{name} {text}" for name, text in (("from", args.reference_from), ("to", args.reference_to)) if text)  # fmt: skip
            raise CheckFailed(f"expected valid rows for a reference {span}, got none; {stored.holds()}")
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
    alerts = tuple(a for a in said.alerts if since <= to_ms(a.window_start) and to_ms(a.window_end) <= end)
    references = tuple((s.version, s.effective_from) for s in timeline.sets)
    last_in_force = timeline.at(max(since, end - 1))
    members = last_in_force.load() if last_in_force and verdicts else {}
    late = said.late + said.late_beyond
    return Backtested(contract, clock, since, end, said.rows, said.rejects, verdicts, alerts, references, members, late)


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


def _print(found: Backtested, seconds: float) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    pages = found.pages
    days = sorted({p.event_time[:10] for p in pages})
    windows = len({v.window_start for v in found.verdicts})
    for note in found.notes:  # rows that came late, say, may be why a reference is too small
        console.print(note)
    cannot = unable(found)
    for key, why in [(k, w) for k, w in cannot.items() if k[1] == WHOLE]:
        console.print(f"{name_of(*key)} cannot page: {why}")
    if segments := [k for k in cannot if k[1] != WHOLE]:
        console.print(f"{len(segments)} segments cannot page, e.g. {name_of(*segments[0])}: {cannot[segments[0]]}")
    console.print(
        f"{found.contract.name}, {_minute(to_text(found.since))} to {_minute(to_text(found.until))} UTC: {found.rows:,} rows, "
        f"{found.rejects:,} rejects, {windows} windows in {seconds:.1f} s; {found.late:,} late rows in all that was read"
    )
    for line in fitted(found):
        console.print(f"  reference of {line}")
    console.print(f"pages: {len(pages)}" + (f", on {', '.join(days)}" if days else f" - {silent(found)}"))
    if pages:
        console.print(_pages(found))
    console.print(_features(found))


def _pages(found: Backtested) -> Table:
    resolved = {a.episode: a for a in found.alerts if a.state == "resolved"}
    table = Table(*(Column(name, no_wrap=True) for name in ("page, UTC", "began about", "ended")), Column("what moved", overflow="fold"))  # fmt: skip
    for page in found.pages:
        end = resolved.get(page.episode)
        moved = "; ".join(f"{name_of(f.feature, f.segment)}: {f.change or 'moved'}" for f in page.features[:3])
        table.add_row(_minute(page.event_time), _minute(page.onset), f"{_minute(end.event_time)}\n{end.resolution}" if end else "still open", Text(moved))  # fmt: skip
    return table


def _features(found: Backtested) -> Table:
    table = Table(
        Column("feature", overflow="fold"), Column("segment", overflow="fold"), Column("in alarm", no_wrap=True),
        Column("first, UTC", no_wrap=True), Column("change", overflow="fold"), Column("effect", no_wrap=True),
    )  # fmt: skip
    for key in keys_of(found):
        told = feature_report(found, *key)
        if key[1] == WHOLE or told["alarms"]:
            effect, first, state = told["largest_effect"], told["first_alarm"], str(told["state"]).replace("_", " ")
            table.add_row(
                Text(key[0]), Text(key[1]), f"{told['alarms']}/{told['windows']}", _minute(str(first)) if first else "-",
                Text(str(told["change"] or (state if effect is None else "-"))), "-" if effect is None else f"{effect:.3f}",
            )  # fmt: skip
    return table


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")


def _refuse(args: argparse.Namespace) -> None:
    built = args.reference_from or args.reference_to
    if args.file and not built:
        raise UsageError("--file: say --reference-from and --reference-to: which of its rows are the reference?")
    if built and args.reference_version is not None:
        raise UsageError("--reference-version and --reference-from: expected one of them")
    if args.check and (args.file or built):
        raise UsageError("--check: expected the lake and published references: live verdicts know no others")
    _ordered("--from", args.since, "--to", args.until)
    _ordered("--reference-from", args.reference_from, "--reference-to", args.reference_to)
    if args.plot and args.plot.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {args.plot}: expected a name that ends in .svg or .png")
    if args.plot and not args.plot.parent.is_dir():
        raise UsageError(f"--plot {args.plot}: there is no folder {args.plot.parent}")


def _ordered(first: str, early: str | None, second: str, late: str | None) -> None:
    begin, end = _time(early, first), _time(late, second)
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"{first} {early}: expected a time before {second} {late}")


def _time(text: str | None, option: str) -> int | None:
    """A time, or a day (`2011-04-01`)."""
    try:
        return None if text is None else to_ms(text if "T" in text else f"{text}T00:00:00Z")
    except ValueError:
        raise UsageError(f"{option}: expected a day like 2011-04-01 or a time like 2011-04-01T09:00:00Z, got {text!r}") from None  # fmt: skip
