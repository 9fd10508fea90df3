"""The hostile-input corpus: `records.jsonl` (one record each) and `files.jsonl` (one file each), with their expected outcomes.

A record is given by one of: `text` (UTF-8), `base64`, `null`, `sale` (the good record with fields changed), `literal`
([field, bytes as they stand]), `repeat` ([head, unit, times, tail]; @ in the head is the good record up to that field).
`number` is that of the research note's list. Outcomes: `stream` a reject code or `valid`; `http` a status, null where
HTTP has no such thing; `jsonl` the outcomes of the records that the file reader makes of it as one line of a file.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tests.contract.records import SALE

FOLDER = Path(__file__).parent
GOOD = SALE


@dataclass(frozen=True)
class Record:
    number: int
    name: str
    value: bytes | None
    stream: str
    http: int | None
    jsonl: tuple[str, ...] | None  # None = no file can hold it


@dataclass(frozen=True)
class File:
    number: int
    name: str
    path: Path
    outcomes: dict[str, int] | None  # how many records came to which outcome; None = refused with a message


def good(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}, separators=(",", ":"), ensure_ascii=False).encode()


def records() -> list[Record]:
    return [_record(case) for case in _lines("records.jsonl")]


def files() -> list[File]:
    return [File(c["number"], c["name"], FOLDER / "files" / c["file"], c["outcomes"]) for c in _lines("files.jsonl")]


def _lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def _record(case: dict) -> Record:
    jsonl = case["jsonl"]
    return Record(
        case["number"],
        case["name"],
        _value(case),
        case["stream"],
        case["http"],
        None if jsonl is None else tuple(jsonl),
    )


def _value(case: dict) -> bytes | None:
    if "text" in case:
        return case["text"].encode()
    if "base64" in case:
        return base64.b64decode(case["base64"])
    if "sale" in case:
        return good(**case["sale"])
    if "literal" in case:
        field, text = case["literal"]
        return good(**{field: "@@"}).replace(b'"@@"', text.encode())
    if "repeat" in case:
        head, unit, times, tail = case["repeat"]
        return (head + unit * times + tail).encode()
    if "padded" in case:  # the good record, blanks before its last brace up to this many bytes
        return good()[:-1] + b" " * (case["padded"] - len(good())) + b"}"
    return None
