"""EDGE. `driftline dead-letters replay`: says what it would do; with --apply does it, and waits for what comes of it.

Exit 1 names every record that failed again and every one that was refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.logs import log
from pipeline.record import examiner
from pipeline.settings import Settings
from stream_processors.dead_letters.choice import Choice
from stream_processors.dead_letters.mask import message_text, value_text
from stream_processors.dead_letters.read import Found, Originals, chosen
from stream_processors.dead_letters.repair import Repair, compile_repair, unchanged
from stream_processors.dead_letters.repair_file import load_repair
from stream_processors.dead_letters.replay import BYTES, LIMIT, Original, Run, Step, step
from stream_processors.dead_letters.send import Outcome, Replayer, ends, outcomes

WAIT_S = 60.0
SHOWN = 20  # lines of a kind


def configure(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--repair", metavar="EXPR", help="e.g. 'quantity = abs(quantity)' or 'del coupon'")
    how.add_argument(
        "--repair-file",
        type=Path,
        metavar="FILE",
        help="Python: repair(record) -> record, or repair_bytes(value) -> bytes",
    )
    add = parser.add_argument
    add("--apply", action="store_true", help="do it; without, only say what would be done")
    add("--limit", type=int, default=LIMIT, help=f"at most so many records, and 64 MiB of them (default {LIMIT})")
    add("--force", action="store_true", help="attempt 3 and above, and records that ended the validator, too")
    add("--note", default="", help="why; kept in the audit")
    add("--wait", type=float, default=WAIT_S, metavar="S", help=f"for the validator (default {WAIT_S:.0f}; 0 = not)")
    add("--json", action="store_true", help="one JSON object")


@dataclass(slots=True)
class Planned:
    steps: list[Step] = field(default_factory=list)
    skipped: list[Step] = field(default_factory=list)
    refused: list[Step] = field(default_factory=list)
    left: int = 0  # matched beyond the limit

    @property
    def changed(self) -> int:
        return sum(s.changed for s in self.steps)


def run(args: argparse.Namespace, settings: Settings, contract: Contract, choice: Choice) -> int:
    repair, text, sha256 = _repair(args, contract)
    if args.limit < 1 or args.wait < 0:
        raise UsageError("--limit is at least 1, --wait at least 0")
    head = Run(
        uuid.uuid4().hex[:12],
        contract.id,
        settings.actor,
        args.note,
        choice.described(),
        text,
        sha256,
        args.limit,
        args.force,
    )
    replayer = Replayer(settings, contract.id)
    if args.apply:
        replayer.open()  # before the markers are read: from here on nobody else can write one
    originals = Originals(settings)
    try:
        planned = plan(chosen(settings, contract, choice), originals.of, contract, repair, args)
    finally:
        originals.close()
    if not args.apply:
        return _say_plan(args, contract, planned)
    since = ends(settings, contract.id)
    placed = replayer.send(head, planned.steps)
    if args.wait and placed:
        log("dead_letters_waiting", run=head.id, records=len(placed), at_most_s=args.wait)
    found = outcomes(settings, contract.id, placed, since, args.wait)
    return _say_outcome(args, contract, planned, found, head)


def plan(
    found: Iterable[Found],
    original_of: Callable[[Found], Original],
    contract: Contract,
    repair: Repair,
    args: argparse.Namespace,
) -> Planned:
    """What is done with each letter, up to the limit of records and bytes; what matches beyond is counted."""
    planned, examine, size = Planned(), examiner(contract), 0
    now = time.time_ns() // 1_000_000
    nothing = Original(None, None, ())
    for one in found:
        full = len(planned.steps) >= args.limit or size >= BYTES
        original = nothing if one.marker or full else original_of(one)
        if full and not one.marker:
            planned.left += 1
            continue
        made = step(one.letter, original, one.marker, repair, examine, now, force=args.force)
        {"replay": planned.steps, "skip": planned.skipped, "refuse": planned.refused}[made.action].append(made)
        size += made.size
    return planned


def _repair(args: argparse.Namespace, contract: Contract) -> tuple[Repair, str, str]:
    """The repair, its text or file name, its SHA-256."""
    if args.repair is not None:
        return compile_repair(args.repair, contract), args.repair, hashlib.sha256(args.repair.encode()).hexdigest()
    if args.repair_file is not None:
        repair = load_repair(args.repair_file)
        return repair, args.repair_file.name, hashlib.sha256(args.repair_file.read_bytes()).hexdigest()
    return unchanged, "", ""


def _counts(planned: Planned) -> dict[str, object]:
    return {
        "chosen": len(planned.steps) + len(planned.skipped) + len(planned.refused),
        "changed": planned.changed,
        "skipped": len(planned.skipped),
        "refused": len(planned.refused),
        "left": planned.left,
    }


def _say_plan(args: argparse.Namespace, contract: Contract, planned: Planned) -> int:
    valid = sum(s.foreseen == "valid" for s in planned.steps)
    report = {"applied": False, "would_replay": len(planned.steps), "foreseen_valid": valid, **_counts(planned)}
    if args.json:
        steps = [*planned.steps, *planned.skipped, *planned.refused]
        print(json.dumps({**report, "steps": [_step(s, contract) for s in steps]}))
        return 0
    for s in planned.steps[:SHOWN]:
        change = f"  -> {value_text(s.value, contract)!r}" if s.changed else ""
        print(
            f"replay  {s.letter.coordinate}  {s.letter.rule}: {message_text(s.letter, contract)}  => {_rule(s)}{change}"
        )
    _say_rest(planned)
    failing = Counter(_rule(s) for s in planned.steps if s.foreseen != "valid")
    again = ", ".join(f"{n} {rule}" for rule, n in failing.most_common())
    print(
        f"would replay {len(planned.steps)} ({planned.changed} changed by the repair): {valid} would be valid"
        + (f"; would fail again: {again}" if again else "")
    )
    print("nothing was done; --apply does it")
    return 0


def _say_outcome(
    args: argparse.Namespace, contract: Contract, planned: Planned, found: list[Outcome], head: Run
) -> int:
    counts = Counter(o.result for o in found)
    failed = [o for o in found if o.result == "failed"]
    report = {
        "applied": True,
        "run": head.id,
        "replayed": len(found),
        "landed": counts["landed"],
        "failed_again": counts["failed"],
        "unknown": counts["unknown"],
        **_counts(planned),
    }
    if args.json:
        named = {
            "failed": [_failed(o, contract) for o in failed],
            "refusals": [_step(s, contract) for s in planned.refused],
            "steps": [{"coordinate": o.step.letter.coordinate, "at": o.at, "result": o.result} for o in found],
        }
        print(json.dumps(report | named))
    else:
        _say_rest(planned)
        print(
            "replayed {replayed}: {landed} landed, {failed_again} failed again, {unknown} not known yet; skipped {skipped}, refused {refused}".format(
                **report
            )
        )
    names = ", ".join(f"{o.step.letter.coordinate} ({o.letter.rule})" for o in failed[:SHOWN] if o.letter)
    if failed:
        raise CheckFailed(f"{len(failed)} failed again, each as a new dead letter: {names}")
    if counts["unknown"] and args.wait:
        raise Unreachable(
            f"{counts['unknown']} were replayed and have no outcome after {args.wait:.0f} s: does the validator run? `driftline breaker list` shows stopped partitions"
        )
    if planned.refused:
        raise CheckFailed(f"{len(planned.refused)} were refused: {_named(planned.refused)}")
    return 0


def _say_rest(planned: Planned) -> None:
    if len(planned.steps) > SHOWN:
        print(f"... {len(planned.steps) - SHOWN} more")
    if planned.skipped:
        print(f"skipped {len(planned.skipped)}, replayed before: {_named(planned.skipped)}")
    if planned.refused:
        print(f"refused {len(planned.refused)}: {_named(planned.refused)}")
    if planned.left:
        print(f"{planned.left} more match, beyond --limit: run it again for them", file=sys.stderr)


def _named(steps: list[Step]) -> str:
    more = f", {len(steps) - SHOWN} more" if len(steps) > SHOWN else ""
    return "; ".join(f"{s.letter.coordinate} ({s.why})" for s in steps[:SHOWN]) + more


def _rule(planned: Step) -> str:
    return planned.foreseen.partition(":")[0]


def _step(planned: Step, contract: Contract) -> dict[str, object]:
    return {
        "coordinate": planned.letter.coordinate,
        "action": planned.action,
        "why": planned.why,
        "attempt": planned.letter.attempt,
        "rule": planned.letter.rule,
        "foreseen": _rule(planned),
        "changed": planned.changed,
        "value": value_text(planned.value, contract) if planned.action == "replay" else None,
    }


def _failed(outcome: Outcome, contract: Contract) -> dict[str, object]:
    letter = outcome.letter
    assert letter is not None
    return {
        "coordinate": outcome.step.letter.coordinate,
        "at": outcome.at,
        "rule": letter.rule,
        "message": message_text(letter, contract),
        "attempt": letter.attempt,
        "first_rule": letter.first_rule,
    }
