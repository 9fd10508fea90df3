"""EDGE. `driftline dead-letters`: read the dead letters of a dataset, list them, count them by reason, show one whole."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from confluent_kafka import Message

from pipeline import contract_file, kafka, topics
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.dead_letters import BadDeadLetter, DeadLetter, from_headers

PREVIEW_CHARS = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter as read; `letter` is None for a message on the topic that is not ours."""

    letter: DeadLetter | None
    problem: str
    message: Message


class DeadLetters:
    summary = "List the records that broke the contract, or show one with its reason and its bytes."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="one line a dead letter, in the order of the topic, newest last")
        listing.add_argument("--limit", type=int, default=20, help="how many of the newest (default 20; 0 = all)")
        listing.add_argument("--rule", help="only this reason code")
        listing.add_argument("--field", help="only this field")
        listing.add_argument("--since", metavar="TIME", help="only those that failed at or after this RFC 3339 time")
        listing.add_argument("--counts", action="store_true", help="how many by rule and field, instead of lines")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        show = actions.add_parser("show", help="one dead letter, whole")
        show.add_argument("coordinate", help="PARTITION/OFFSET or TOPIC/PARTITION/OFFSET of the raw record")
        form = show.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true")
        form.add_argument("--raw", action="store_true", help="the value's bytes only, as they came")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        dataset = contract_file.load(settings.contract).id
        if args.action == "list":
            since = _since(args.since)  # before reading: a wrong argument is no reason to wait for a broker
            return _list(args, _chosen(_read(settings, dataset), args, since))
        coordinate = (
            args.coordinate if args.coordinate.count("/") == 2 else f"{topics.events(dataset)}/{args.coordinate}"
        )
        if coordinate.count("/") != 2:
            raise UsageError(
                f"{args.coordinate}: expected PARTITION/OFFSET or TOPIC/PARTITION/OFFSET, as `dead-letters list` prints it"
            )
        return _show(args, settings, dataset, coordinate)


def _since(text: str | None) -> int | None:
    try:
        return None if text is None else to_ms(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}") from error


def _read(settings: Settings, dataset: str) -> Iterator[Found]:
    kafka.reach(settings, deadline_s=10)
    for message in kafka.read_all(settings, topics.dead_letters(dataset)):
        try:
            yield Found(from_headers(kafka.headers_of(message)), "", message)
        except BadDeadLetter as error:
            yield Found(None, str(error), message)


def _chosen(found: Iterable[Found], args: argparse.Namespace, since: int | None) -> Iterator[Found]:
    for f in found:
        if f.letter is None:
            print(
                f"{f.message.topic()}/{f.message.partition()}/{f.message.offset()}: no dead letter of ours: {f.problem}",
                file=sys.stderr,
            )
        elif (
            args.rule in (None, f.letter.rule)
            and args.field in (None, f.letter.field)
            and (since is None or f.letter.last_failed_at >= since)
        ):
            yield f


def _list(args: argparse.Namespace, found: Iterator[Found]) -> int:
    if args.counts:
        return _counts(args, found)
    newest = deque(found, maxlen=args.limit or None)
    for f in newest:
        assert f.letter is not None
        print(json.dumps(_json(f.letter, f.message)) if args.json else _line(f.letter, f.message))
    if not args.json:
        print(f"{len(newest)} shown", file=sys.stderr)
    return 0


def _counts(args: argparse.Namespace, found: Iterator[Found]) -> int:
    counts = Counter((f.letter.rule, f.letter.field) for f in found if f.letter)
    rows = [{"rule": rule, "field": field, "count": n} for (rule, field), n in counts.most_common()]
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    for row in rows:
        print(f"{row['count']:>9}  {row['rule']:<18} {row['field']}")
    print(f"{counts.total():>9}  in all")
    return 0


def _show(args: argparse.Namespace, settings: Settings, dataset: str, coordinate: str) -> int:
    matches = [f for f in _read(settings, dataset) if f.letter and f.letter.coordinate == coordinate]
    if not matches:
        raise CheckFailed(f"{coordinate}: no dead letter of that raw record on {topics.dead_letters(dataset)}")
    letter, message = matches[-1].letter, matches[-1].message
    assert letter is not None
    if args.raw:
        sys.stdout.buffer.write(message.value() or b"")
    elif args.json:
        print(
            json.dumps(
                _json(letter, message)
                | {"value": _text(message.value()), "headers": [[k, _text(v)] for k, v in message.headers() or []]}
            )
        )
    else:
        for name, value in (_json(letter, message) | {"value": _text(message.value())}).items():
            print(f"{name:>16}  {value}")
        if letter.truncated is not None:
            print(f"the value is cut: {letter.truncated} bytes of key and value stand at {letter.coordinate}")
    return 0


def _json(letter: DeadLetter, message: Message) -> dict[str, object]:
    return {
        "coordinate": letter.coordinate,
        "rule": letter.rule,
        "field": letter.field,
        "message": letter.message,
        "key": _text(message.key()),
        "contract": letter.contract,
        "attempt": letter.attempt,
        "first_rule": letter.first_rule,
        "first_failed_at": to_text(letter.first_failed_at),
        "last_failed_at": to_text(letter.last_failed_at),
        "timestamp": to_text(letter.timestamp),
        "sha256": letter.sha256,
        "replay_of": letter.replay_of,
        "truncated": letter.truncated,
        "at": f"{message.topic()}/{message.partition()}/{message.offset()}",
    }


def _line(letter: DeadLetter, message: Message) -> str:
    """Data is shown through repr: a control character in it must not reach the terminal."""
    preview = repr(_text(message.value()))[:PREVIEW_CHARS]
    return f"{to_text(letter.last_failed_at)}  {letter.coordinate:<28} {letter.rule:<14} {letter.message!r}  {preview}"


def _text(data: bytes | str | None) -> str | None:
    return data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
