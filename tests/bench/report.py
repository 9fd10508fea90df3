"""How every benchmark reports: progress on stderr, one JSON object as the last line of stdout, exit 1 iff a required bar misses."""

from __future__ import annotations

import json
import operator
import sys
import time

_OPS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}
Bar = dict[str, object]


def bar(name: str, value: float, op: str, target: float, required: bool = True) -> Bar:
    """One figure against its target; NaN passes nothing."""
    return {
        "name": name,
        "value": value,
        "op": op,
        "target": target,
        "required": required,
        "pass": bool(_OPS[op](value, target)),
    }


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def finish(bench: str, began: float, bars: list[Bar], figures: dict[str, object], **more: object) -> int:
    """Print the report (`began` is a time.monotonic()), `more` beside its figures; returns the exit code."""
    for b in bars:
        verdict = "ok  " if b["pass"] else ("MISS" if b["required"] else "miss")
        progress(f"{verdict} {b['name']}: {b['value']} {b['op']} {b['target']}")
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"bench": bench, "seconds": seconds, **more, "bars": bars, "figures": figures}))
    return 1 if any(b["required"] and not b["pass"] for b in bars) else 0
