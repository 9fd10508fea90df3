"""PURE. What several parts of a contract file say in the same words: field names, patterns, custom properties."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cells import anchored
from pipeline.contract import Field
from pipeline.contract_yaml import At


def custom(at: At, *known: str) -> dict[str, At]:
    """The values of a `customProperties` list by their names; a name that is not ours is an error."""
    entries = at.get("customProperties")
    found = {name: at.get("customProperties").get(name) for name in known}
    for entry in entries.items():
        name = entry.only("property", "value", "description").get("property")
        if name.text() in known:
            found[name.text()] = entry.get("value")
        else:
            name.wrong(f"one of: {', '.join(known)}")
    return found


def field_name(at: At, known: dict[str, Field]) -> str:
    name = at.text()
    if name and name not in known:
        at.wrong(f"a field of the schema: {', '.join(known)}")
    return name


def pattern(at: At, text: str | None = None) -> str:
    """A regular expression of RE2: linear in the text, so no value can stall the validator."""
    text = at.text() if text is None else text
    try:
        pc.match_substring_regex(pa.array([""]), anchored(text))
    except pa.ArrowInvalid as error:
        at.wrong(f"a regular expression of RE2 ({error})")
    return text
