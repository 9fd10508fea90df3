"""PURE. A repair as a small expression: `quantity = abs(quantity)` over the fields of one record, interpreted, never executed.

What there is: assignments, `del name`, `if` without loops; + - * / // % of numbers, + of texts, comparisons, and/or/not,
`a if c else b`, slices of texts, and the functions below. What is absent from a record is an error, except inside
`coalesce`. A record that cannot be repaired is a value with its reason; an expression that makes no sense is a UsageError.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.contract import Contract, Reject
from pipeline.errors import UsageError
from pipeline.json_record import kind, parse
from pipeline.times import to_ms, to_text
from pipeline.topics import RECORD_LIMIT

MAX_CHARS = 2_000  # of an expression; a longer repair is a function in a file
_BIGGEST = 2**127  # of an integer on the way: what is beyond is a mistake, and its arithmetic takes for ever
_MOST_DIGITS = 308  # of round, either way: no double has more
Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class Repaired:
    """The record's new bytes; or None with the reason why it has none."""

    value: bytes | None
    why: str = ""


Repair = Callable[[bytes | None], Repaired]


class _Cannot(Exception):
    """This record cannot be repaired so."""


def unchanged(value: bytes | None) -> Repaired:
    return Repaired(value)


def compile_repair(text: str, contract: Contract) -> Repair:
    """The repair that `text` describes. Only fields of the contract can be assigned; any may be deleted."""
    tree = _parse(text)
    known = {f.name for f in contract.fields}
    for node in ast.walk(tree):
        _check(node, known, contract)
    said = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}

    def repair(value: bytes | None) -> Repaired:
        record = parse(value)
        if isinstance(record, Reject):
            return Repaired(None, f"the repair needs a JSON object: {record.message}")
        if record.duplicate is not None and record.duplicate not in said:
            return Repaired(None, f"key {record.duplicate!r} stands twice: the repair has to say what it is to be")
        return repaired(dict(record), lambda fields: _run(tree.body, fields) or fields)

    return repair


def repaired(record: Record, change: Callable[[Record], Record | None]) -> Repaired:
    """A record after `change`, as JSON again."""
    try:
        after = change(record)
        if after is None:
            return Repaired(None, "the repair gave nothing for it")
        return Repaired(json.dumps(after, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
    except _Cannot as error:
        return Repaired(None, str(error))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return Repaired(None, f"the repaired record is no JSON: {error}")


# -- what an expression may say ----------------------------------------------------------------------------------------

_NODES = (
    ast.Module, ast.Assign, ast.AugAssign, ast.Delete, ast.If, ast.Name, ast.Load, ast.Store, ast.Del, ast.Constant,
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Subscript, ast.Slice, ast.List, ast.Tuple,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.UAdd, ast.USub, ast.Not, ast.And, ast.Or,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
)  # fmt: skip


def _parse(text: str) -> ast.Module:
    if len(text) > MAX_CHARS:
        raise UsageError(f"--repair: expected at most {MAX_CHARS} characters, got {len(text)}; put it into a file")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"--repair {text!r}: {error}; e.g. 'quantity = abs(quantity)'") from error
    if not tree.body:
        raise UsageError("--repair: expected an expression such as 'quantity = abs(quantity)', got nothing")
    return tree


def _check(node: ast.AST, known: set[str], contract: Contract) -> None:
    if not isinstance(node, _NODES):
        raise UsageError(f"--repair: {type(node).__name__} is not allowed in an expression; put the repair into a file")
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in known:
        raise UsageError(f"--repair: {node.id!r} is no field of {contract.name}; fields: {', '.join(sorted(known))}")
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
        targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
        if not all(isinstance(t, ast.Name) for t in targets):
            raise UsageError("--repair: expected a field's name on the left, as in 'quantity = abs(quantity)'")
    if isinstance(node, ast.Call) and (
        not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS or node.keywords
    ):
        raise UsageError(f"--repair: {ast.unparse(node)}: functions are {', '.join(sorted(_FUNCTIONS))}")
    if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | bool | None):
        raise UsageError(f"--repair: {ast.unparse(node)}: expected a text, a number, True, False or None")


# -- running it --------------------------------------------------------------------------------------------------------


def _run(statements: list[ast.stmt], record: Record) -> None:
    for statement in statements:
        match statement:
            case ast.Assign(targets=targets, value=value):
                found = _value(value, record)
                record.update({t.id: found for t in targets if isinstance(t, ast.Name)})
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                record[name] = _binary(op, _field(name, record), _value(value, record))
            case ast.Delete(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Name):
                        record.pop(target.id, None)
            case ast.If(test=test, body=body, orelse=orelse):
                _run(body if _value(test, record) else orelse, record)


def _value(node: ast.expr, record: Record) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _field(name, record)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, record), _value(right, record))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, record)
        case ast.UnaryOp(op=op, operand=operand):
            number = _number(_value(operand, record))
            return -number if isinstance(op, ast.USub) else number
        case ast.BoolOp(op=op, values=values):
            found: object = None
            for value in values:
                found = _value(value, record)
                if bool(found) == isinstance(op, ast.Or):
                    break
            return found
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compared(_value(left, record), ops, [_value(o, record) for o in others])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, record) else orelse, record)
        case ast.Call(func=ast.Name(id="coalesce"), args=args):
            found = (_value(a, record) for a in args if not (isinstance(a, ast.Name) and a.id not in record))
            return next((f for f in found if f is not None), None)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _called(name, [_value(a, record) for a in args])
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=None)):
            bounds = [None if b is None else _whole(_value(b, record)) for b in (lower, upper)]
            return _text(_value(value, record))[slice(*bounds)]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(e, record) for e in elements]
    raise _Cannot(f"the repair: {ast.unparse(node)} is not allowed")


def _field(name: str, record: Mapping[str, object]) -> object:
    if name not in record:
        raise _Cannot(f"the repair needs {name}, which the record does not have")
    return record[name]


_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,  # type: ignore[dict-item]
    ast.LtE: operator.le,  # type: ignore[dict-item]
    ast.Gt: operator.gt,  # type: ignore[dict-item]
    ast.GtE: operator.ge,  # type: ignore[dict-item]
    ast.In: lambda a, b: a in b,  # type: ignore[operator]
    ast.NotIn: lambda a, b: a not in b,  # type: ignore[operator]
}


def _binary(op: ast.operator, left: object, right: object) -> object:
    if isinstance(op, ast.Add) and isinstance(left, str) and isinstance(right, str):
        return _bounded(left + right)
    try:
        return _bounded(_BINARY[type(op)](_number(left), _number(right)))
    except ArithmeticError as error:
        raise _Cannot(f"the repair: {error}") from error


def _compared(left: object, ops: list[ast.cmpop], others: list[object]) -> bool:
    for op, right in zip(ops, others, strict=True):
        try:
            if not _COMPARE[type(op)](left, right):
                return False
        except TypeError as error:
            raise _Cannot(f"the repair: {error}") from error
        left = right
    return True


def _called(name: str, values: list[object]) -> object:
    try:
        return _bounded(_FUNCTIONS[name](*values))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _Cannot(f"the repair: {name}: {error}") from error


def _bounded(value: object) -> object:
    if isinstance(value, int) and abs(value) > _BIGGEST:
        raise _Cannot("the repair: an integer of more than 127 bits")
    if isinstance(value, str) and len(value) > RECORD_LIMIT:
        raise _Cannot(f"the repair: a text of more than {RECORD_LIMIT} characters")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Cannot(f"the repair: expected a number, got {kind(value)}")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Cannot("the repair: expected a whole number in a slice")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Cannot(f"the repair: expected a text, got {kind(value)}")
    return value


def _integer(value: object) -> int:
    number = float(_text(value)) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else value
    if isinstance(number, float) and not (math.isfinite(number) and number == int(number)):
        raise ValueError(f"expected a whole number, got {number}")
    return int(number)  # type: ignore[call-overload]


def _digits(value: object) -> int:
    if not isinstance(value, int) or abs(value) > _MOST_DIGITS:
        raise _Cannot(f"the repair: round: expected at most {_MOST_DIGITS} digits, got {value!r}")
    return value


def _replaced(text: str, old: str, new: str) -> str:
    """Its length is known before it is made."""
    if len(text) + text.count(old) * (len(new) - len(old)) > RECORD_LIMIT:
        raise _Cannot(f"the repair: a text of more than {RECORD_LIMIT} characters")
    return text.replace(old, new)


def _later(time: object, seconds: object) -> str:
    return to_text(to_ms(_text(time)) + round(_number(seconds) * 1000))


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "abs": lambda x: abs(_number(x)),
    "round": lambda x, digits=None: round(_number(x), None if digits is None else _digits(digits)),
    "min": lambda *xs: min(map(_number, xs)),
    "max": lambda *xs: max(map(_number, xs)),
    "int": _integer,
    "float": lambda x: float(x) if isinstance(x, str) else float(_number(x)),
    "str": lambda x: x if isinstance(x, str) else json.dumps(x),
    "len": lambda x: len(_text(x)),
    "lower": lambda x: _text(x).lower(),
    "upper": lambda x: _text(x).upper(),
    "strip": lambda x: _text(x).strip(),
    "replace": lambda x, old, new: _replaced(_text(x), _text(old), _text(new)),
    "startswith": lambda x, head: _text(x).startswith(_text(head)),
    "add_seconds": _later,
    "coalesce": lambda *_: None,  # evaluated apart: what is absent is null there
}
