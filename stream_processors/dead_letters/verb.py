"""EDGE. `driftline dead-letters`: list the records that broke the contract, count them, show one whole, replay them.

Classified fields are masked as the contract says; who asks for the bare bytes is named in the log.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from heapq import nlargest

from confluent_kafka import Message

from pipeline import contract_file, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.dead_letters import replay_verb as replaying
from stream_processors.dead_letters.choice import Choice, place
from stream_processors.dead_letters.mask import (
    HIDDEN,
    fields_of,
    hidden_fields,
    key_text,
    message_text,
    text,
    value_text,
)
from stream_processors.dead_letters.read import Found, audits, chosen

PREVIEW_CHARS = 100
LISTED = 20


class DeadLetters:
    summary = (
        "List the records that broke the contract, show one with its reason and its bytes, repair and replay them."
    )

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="one line a dead letter, in the order of the topic, newest last")
        _add_filters(listing)
        listing.add_argument(
            "--limit", type=int, default=LISTED, help=f"how many of the newest (default {LISTED}; 0 = all)"
        )
        listing.add_argument("--counts", action="store_true", help="how many by reason and field, instead of lines")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        show = actions.add_parser("show", help="one dead letter, whole")
        show.add_argument("coordinate", help="PARTITION/OFFSET or TOPIC/PARTITION/OFFSET of the raw record")
        form = show.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true")
        form.add_argument("--raw", action="store_true", help="the value's bytes only, as they came, nothing masked")
        for one in (listing, show):
            one.add_argument("--unmasked", action="store_true", help="classified fields too; it is logged who asked")
        replay = actions.add_parser(
            "replay", help="send them again, repaired or as they are; shows first what it would do"
        )
        _add_filters(replay)
        replaying.configure(replay)
        audit = actions.add_parser("audit", help="who replayed what, with which repair")
        audit.add_argument("--json", action="store_true", help="one JSON object a line")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        if args.action == "audit":
            return _audit(args, settings, contract)
        if args.action == "show":
            return _show(args, settings, contract)
        choice = _choice(args, contract)  # before reading: a wrong argument is no reason to wait for a broker
        if args.action == "replay":
            return replaying.run(args, settings, contract, choice)
        if args.unmasked:
            _log_unmasked(settings, contract, json.dumps(choice.described()))
            contract = _unclassified(contract)
        return _list(args, contract, chosen(settings, contract, choice))


def _add_filters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("which (all that are given must hold)").add_argument
    add("places", nargs="*", metavar="PARTITION/OFFSET[-OFFSET]", help="raw coordinates, or ranges of them")
    add("--rule", "--reason", help="only this reason code")
    add("--field", help="only this field")
    add("--since", metavar="TIME", help="failed at or after this RFC 3339 time")
    add("--until", metavar="TIME", help="failed before it")
    add("--event-since", metavar="TIME", help="with an event time at or after it")
    add("--event-until", metavar="TIME", help="with an event time before it")
    add("--contract-version", metavar="V", help="judged by this version of the contract, e.g. 1.0.0")
    add("--attempt", type=int, metavar="N", help="that failed as attempt N")
    add("--state", choices=("any", "open", "replayed"), default="any", help="replayed already or not (default any)")


def _choice(args: argparse.Namespace, contract: Contract) -> Choice:
    times = {name: _time(name, getattr(args, name)) for name in ("since", "until", "event_since", "event_until")}
    version = args.contract_version
    return Choice(
        args.rule,
        args.field,
        **times,
        contract=version if version is None or "@" in version else f"{contract.id}@{version}",
        attempt=args.attempt,
        places=tuple(place(p, topics.events(contract.id)) for p in args.places),
        state=args.state,
    )


def _time(name: str, value: str | None) -> int | None:
    try:
        return None if value is None else to_ms(value)
    except ValueError as error:
        raise UsageError(f"--{name.replace('_', '-')}: {error}") from error


def _list(args: argparse.Namespace, contract: Contract, found: Iterator[Found]) -> int:
    if args.counts:
        return _counts(args, found)
    newest = sorted(found, key=_age) if not args.limit else sorted(nlargest(args.limit, found, key=_age), key=_age)
    for f in newest:
        print(json.dumps(_json(f, contract)) if args.json else _line(f, contract))
    if not args.json:
        print(f"{len(newest)} shown", file=sys.stderr)
    return 0


def _age(found: Found) -> tuple[int, int, int]:
    """When it failed; of one millisecond the log's order."""
    return found.letter.last_failed_at, found.letter.partition, found.letter.offset


def _counts(args: argparse.Namespace, found: Iterator[Found]) -> int:
    counts, open_ = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for f in found:
        counts[f.letter.rule, f.letter.field] += 1
        open_[f.letter.rule, f.letter.field] += f.marker is None
    rows = [
        {"rule": rule, "field": field, "count": n, "open": open_[rule, field]}
        for (rule, field), n in counts.most_common()
    ]
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    print(f"{'count':>9} {'open':>9}  reason")
    for row in rows:
        print(f"{row['count']:>9} {row['open']:>9}  {row['rule']:<18} {row['field']}")
    print(f"{counts.total():>9} {open_.total():>9}  in all")
    return 0


def _show(args: argparse.Namespace, settings: Settings, contract: Contract) -> int:
    topic = topics.events(contract.id)
    one = place(args.coordinate, topic)
    if one.first != one.last:
        raise UsageError(f"{args.coordinate}: expected one PARTITION/OFFSET")
    matches = list(chosen(settings, contract, Choice(places=(one,))))
    if not matches:
        raise CheckFailed(f"{topic}/{one}: no dead letter of that raw record on {topics.dead_letters(contract.id)}")
    found = matches[-1]
    if args.raw or args.unmasked:
        _log_unmasked(settings, contract, found.letter.coordinate)
        contract = _unclassified(contract)
    if args.raw:
        sys.stdout.buffer.write(found.message.value() or b"")
    elif args.json:
        print(json.dumps(_whole(found, contract)))
    else:
        _print_whole(found, contract)
    return 0


def _whole(found: Found, contract: Contract) -> dict[str, object]:
    headers = [[k, text(v)] for k, v in found.message.headers() or []]
    said = message_text(found.letter, contract)
    quoted = "__connect.errors.exception.message"
    return _json(found, contract) | {
        "value": value_text(found.message.value(), contract),
        "bytes": len(found.message.value() or b""),
        "headers": [[k, said if k == quoted else v] for k, v in headers],
    }


def _print_whole(found: Found, contract: Contract) -> None:
    letter, value = found.letter, found.message.value()
    for name, shown in _json(found, contract).items():
        print(f"{name:>16}  {shown}")
    print(f"{'value':>16}  {'none' if value is None else f'{len(value)} bytes'}")
    record = fields_of(value, contract) if value is not None else None
    for name, cell in (record or {}).items():
        mark = ">" if name == letter.field else " "
        note = f"   {message_text(letter, contract)}" if name == letter.field else ""
        print(f"{mark:>17} {name!r:<18} {cell if cell == HIDDEN else json.dumps(cell)}{note}")
    if record is None and value is not None:
        print(f"{'':>17} {value_text(value, contract)!r}")
    if letter.field and letter.field not in (record or {letter.field: None}):
        print(f"{'>':>17} {letter.field!r:<18} absent   {letter.message}")
    if letter.truncated is not None:
        print(f"the value is cut: {letter.truncated} bytes of key and value stand at {letter.coordinate}")


def _audit(args: argparse.Namespace, settings: Settings, contract: Contract) -> int:
    for one in audits(settings, contract.id):
        if args.json:
            print(json.dumps(one))
        else:
            print(
                f"{one['at']}  {one['actor']}  run {one['run']}: {one['records']} records, {one['first']} .. {one['last']}, "
                f"filter {json.dumps(one['filter'])}, repair {one['repair']!r} (sha256 {str(one['repair_sha256'])[:12]}) {one['reason']}"
            )
    return 0


def _json(found: Found, contract: Contract) -> dict[str, object]:
    letter, message, marker = found.letter, found.message, found.marker
    return {
        "coordinate": letter.coordinate,
        "rule": letter.rule,
        "field": letter.field,
        "message": message_text(letter, contract),
        "key": key_text(message.key(), contract),
        "contract": letter.contract,
        "attempt": letter.attempt,
        "first_rule": letter.first_rule,
        "first_failed_at": to_text(letter.first_failed_at),
        "last_failed_at": to_text(letter.last_failed_at),
        "timestamp": to_text(letter.timestamp),
        "sha256": letter.sha256,
        "replay_of": letter.replay_of,
        "truncated": letter.truncated,
        "replayed": None if marker is None else {"at": marker.at, "actor": marker.actor, "run": marker.run},
        "at": _at(message),
    }


def _line(found: Found, contract: Contract) -> str:
    """Data is shown through repr: a control character in it must not reach the terminal."""
    letter = found.letter
    preview = repr(value_text(found.message.value(), contract))[:PREVIEW_CHARS]
    state = "replayed" if found.marker else "open"
    return f"{to_text(letter.last_failed_at)}  {letter.coordinate:<28} {state:<8} {letter.rule:<14} {message_text(letter, contract)!r}  {preview}"


def _unclassified(contract: Contract) -> Contract:
    return replace(contract, fields=tuple(replace(f, classification="internal") for f in contract.fields))


def _log_unmasked(settings: Settings, contract: Contract, what: str) -> None:
    if hidden_fields(contract):
        log("dead_letters_unmasked", "warning", actor=settings.actor, dataset=contract.id, which=what)


def _at(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"
