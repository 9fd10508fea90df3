"""PURE. A dead letter as a person may see it: values of classified fields are hidden, as the contract says.

Hidden are fields of class confidential or personal, and what the contract does not know. Bytes that are no JSON object
are shown as their shape: letters as x, digits as 0, so that a broken comma is still to be seen.
"""

from __future__ import annotations

import json
import re

from pipeline.contract import Contract, Reject
from pipeline.json_record import parse
from stream_processors.dead_letters.letter import DeadLetter

HIDDEN = "***"
CLASSES = ("confidential", "personal")


def hidden_fields(contract: Contract) -> frozenset[str]:
    return frozenset(f.name for f in contract.fields if f.classification in CLASSES)


def fields_of(value: bytes | None, contract: Contract) -> dict[str, object] | None:
    """The record's fields, the hidden ones' values replaced; None if it is no JSON object."""
    record = parse(value)
    if isinstance(record, Reject):
        return None
    shown = {f.name for f in contract.fields} - hidden_fields(contract)
    return {k: HIDDEN if _is_hidden(k, v, shown, contract) else v for k, v in record.items()}


def value_text(value: bytes | None, contract: Contract) -> str | None:
    """The value in one line; as it is where the contract hides nothing."""
    if value is None or not hidden_fields(contract):
        return text(value)
    record = fields_of(value, contract)
    return shape(text(value) or "", contract) if record is None else json.dumps(record, ensure_ascii=False)


def key_text(key: bytes | None, contract: Contract) -> str | None:
    """The record's key is a field's value, and as hidden as the field."""
    hidden = key is not None and contract.key is not None and contract.key in hidden_fields(contract)
    return HIDDEN if hidden else text(key)


def message_text(letter: DeadLetter, contract: Contract) -> str:
    """The reason, without the value it quotes where that belongs to a hidden field."""
    if letter.field not in hidden_fields(contract):
        return letter.message
    before, got, after = letter.message.partition(", got ")
    _, also, others = after.rpartition("; also ")
    return f"{before}{got}{HIDDEN if got else ''}{also}{others if also else ''}"


def shape(broken: str, contract: Contract) -> str:
    """The text with every letter and digit blotted out, field names of the contract excepted.

    >>> from pipeline.contract_file import load
    >>> shape('{"price": 12.50,, "customer_id": "C0042', load("sales"))
    '{"price": 00.00,, "customer_id": "x0000'
    """
    names = "|".join(re.escape(f.name) for f in contract.fields)
    parts = re.split(rf'("(?:{names})"(?=\s*:))', broken)
    return "".join(p if i % 2 else re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", p)) for i, p in enumerate(parts))


def text(data: bytes | str | None) -> str | None:
    return data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data


def _is_hidden(name: str, value: object, shown: set[str], contract: Contract) -> bool:
    nested = isinstance(value, list | dict)  # what is inside has no classification
    return bool(hidden_fields(contract)) and (name not in shown or nested)
