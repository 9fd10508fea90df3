"""PURE. One record against the contract, slowly and exactly: the verdict that every other path must agree with.

`decode` parses thousands of rows at a time and only decides which ones are beyond doubt; a row in doubt comes here, is
parsed again with the standard library, and gets its reject code and every cell that has a value of its type.
The first fault in the order of `CODES`' groups decides: framing, then the object, then fields in contract order, then
rules over several fields, then the clock. Knows no Kafka and no Arrow batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.cells import Cell, cell_of, matches
from pipeline.contract import Contract, CrossFieldRule, Reject
from pipeline.json_record import label, parse, show
from pipeline.times import ms
from pipeline.topics import RECORD_LIMIT

# Every reject code that a record can get, beside the codes that a contract's own cross-field rules name.
CODES: dict[str, str] = {
    "tombstone": "the value is null",
    "empty": "the value has no byte",
    "size": f"the value is over {RECORD_LIMIT} bytes; it is not parsed",
    "encoding": "not UTF-8: a byte order mark, an overlong or broken sequence, a lone surrogate (escaped or not)",
    "depth": "arrays and objects nested deeper than the limit",
    "syntax": "not JSON (RFC 8259): truncated, comments, single quotes, NaN, Infinity, 01, +1, a raw control character",
    "trailing": "more than one JSON value",
    "not_object": "JSON, but no object",
    "duplicate_key": "a key stands twice in the object, escapes resolved; equal values do not help",
    "unknown_field": "a field that the contract does not know",
    "missing": "a required field is absent",
    "not_null": "a required field is null",
    "type": 'a value of another JSON type; 1.0 is no integer, "1" is no number; an integer is a number',
    "control_char": "a control character (Unicode Cc) in a text",
    "charset": "an invisible format character (Unicode Cf) in a text: zero-width, direction override",
    "length": "a text too short or too long, in code points",
    "allowed": "a text that is not in the list of allowed values",
    "format": "a text without the required pattern, a date that is not in the calendar, a time that is not RFC 3339",
    "range": "a number outside its bounds, or outside 64 bits",
    "cross_field": "a rule over several fields is broken and names no code of its own",
    "time_range": "an event time before 1970 or after 2199: milliseconds taken for seconds, a clock never set",
    "time_future": "an event time further ahead of the broker's append time than the contract allows",
    "quarantined": "decoding it failed or ended the process; nothing is known of its content",
    "batch_undecodable": "one dead letter for a whole range of offsets: a batch that cannot be decompressed, or with a wrong checksum",
}


@dataclass(frozen=True, slots=True)
class Examined:
    """A record's verdict: `reject` None = valid; `cells` None = it could not be decoded, else one a field."""

    reject: Reject | None
    cells: tuple[Cell, ...] | None


Examine = Callable[[bytes | None, int | None], Examined]


def examiner(contract: Contract) -> Examine:
    """`examine(value, append_ms)`: the verdict of one record; `append_ms` None skips the bound on future times."""
    names = [f.name for f in contract.fields]
    known = frozenset(names)
    at = {name: i for i, name in enumerate(names)}

    def examine(value: bytes | None, append_ms: int | None = None) -> Examined:
        parsed = parse(value)
        if isinstance(parsed, Reject):
            return Examined(parsed, None)
        faults: list[Reject] = []
        if (twice := parsed.duplicate) is not None:
            faults.append(Reject("duplicate_key", label(twice), f"expected each key once, got {show(twice)} again"))
        if contract.unknown_fields == "reject":
            faults += [
                Reject("unknown_field", label(k), f"expected only fields of {contract.name}, got {show(k)}")
                for k in parsed
                if k not in known
            ]
        cells: list[Cell] = []
        for f in contract.fields:
            cell, fault = cell_of(f, parsed, f.name == contract.time.field)
            cells.append(cell)
            if fault:
                faults.append(fault)
        faults += [fault for rule in contract.rules if (fault := _rule(rule, cells, at))]
        if fault := _future(contract, cells[at[contract.time.field]], append_ms):
            faults.append(fault)
        return Examined(_first(faults), tuple(cells))

    return examine


COMPARE: dict[str, Callable[[object, object], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,  # type: ignore[operator]
    "<=": lambda a, b: a <= b,  # type: ignore[operator]
    ">": lambda a, b: a > b,  # type: ignore[operator]
    ">=": lambda a, b: a >= b,  # type: ignore[operator]
    "matches": lambda a, b: matches(str(b), str(a)),
}


def _rule(rule: CrossFieldRule, cells: Sequence[Cell], at: Mapping[str, int]) -> Reject | None:
    """Broken iff every `when` holds and a `then` does not; a comparison with null is never what decides."""

    def holds(side: tuple[str, str, object], of_null: bool) -> bool:
        name, op, wanted = side
        cell = cells[at[name]]
        return of_null if cell is None else COMPARE[op](float(cell) if isinstance(wanted, float) else cell, wanted)

    if all(holds(w, False) for w in rule.when) and not all(holds(t, True) for t in rule.then):
        then = " and ".join(f"{n} {op} {v:g}" if isinstance(v, float) else f"{n} {op} {v}" for n, op, v in rule.then)
        return Reject(rule.code, rule.field, f"expected {then} ({rule.name}), got {show(cells[at[rule.field]])}")
    return None


def _future(contract: Contract, event_ms: Cell, append_ms: int | None) -> Reject | None:
    bound = contract.time.future
    if bound is None or append_ms is None or not isinstance(event_ms, int) or event_ms <= append_ms + ms(bound):
        return None
    return Reject(
        "time_future",
        contract.time.field,
        f"expected at most {bound} ahead of the append time, got {(event_ms - append_ms) / 1000:.3f} s",
    )


def _first(faults: Sequence[Reject]) -> Reject | None:
    """The first fault, its message telling the others too."""
    if len(faults) < 2:
        return faults[0] if faults else None
    also = ", ".join(f"{f.field} {f.code}" for f in faults[1:4]) + (" ..." if len(faults) > 4 else "")
    return Reject(faults[0].code, faults[0].field, f"{faults[0].message}; also {also}")
