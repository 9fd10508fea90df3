"""EDGE. A repair that is a Python function in a file: `repair(record) -> record` or `repair_bytes(value) -> value`.

The file is the operator's own code and runs with his rights; its SHA-256 stands in the audit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from pipeline.contract import Reject
from pipeline.errors import UsageError
from pipeline.json_record import parse
from stream_processors.dead_letters.repair import Repair, Repaired, repaired


def load_repair(path: Path) -> Repair:
    """The file's repair; a UsageError where it cannot be loaded or has none of the two functions."""
    spec = importlib.util.spec_from_file_location("driftline_repair", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"--repair-file {path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the operator's file raises
        raise UsageError(f"--repair-file {path}: {type(error).__name__}: {error}") from error
    of_record, of_bytes = (getattr(module, name, None) for name in ("repair", "repair_bytes"))
    if callable(of_bytes) == callable(of_record):
        raise UsageError(f"--repair-file {path}: expected either repair(record) or repair_bytes(value)")
    return _guarded(_bytes_repair(of_bytes) if callable(of_bytes) else _record_repair(of_record))  # type: ignore[arg-type]


def _record_repair(change: Callable[[dict[str, object]], dict[str, object] | None]) -> Repair:
    def repair(value: bytes | None) -> Repaired:
        record = parse(value)
        if isinstance(record, Reject):
            return Repaired(None, f"repair(record) needs a JSON object: {record.message}; repair_bytes(value) does not")
        return repaired(dict(record), change)

    return repair


def _bytes_repair(change: Callable[[bytes | None], bytes | None]) -> Repair:
    def repair(value: bytes | None) -> Repaired:
        after = change(value)
        if after is None:
            return Repaired(None, "the repair gave nothing for it")
        return Repaired(after) if isinstance(after, bytes) else Repaired(None, "repair_bytes must return bytes")

    return repair


def _guarded(repair: Repair) -> Repair:
    def safely(value: bytes | None) -> Repaired:
        try:
            return repair(value)
        except Exception as error:  # one record must not end the run of the others
            return Repaired(None, f"the repair raised {type(error).__name__}: {error}")

    return safely
