"""PURE. The published verdicts of a window, in the order of their topic: revisions only rise, and one revision says one thing.

Per window, feature and segment, under one version of the reference and of the contract. A provisional verdict may be
said again as long as no final one stands. Memory is one entry a place, whatever the number of revisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from batch.history import CounterExample


class Said(NamedTuple):
    """One verdict as published. `place` = window start/feature/segment."""

    place: str
    reference: int
    contract: str
    revision: int
    provisional: bool
    digest: bytes


def check_revisions(verdicts: Iterable[Said]) -> list[CounterExample]:
    """Every verdict that contradicts the one before it.

    >>> a = Said("09:00/price/*", 1, "sales@1.0.0", 3, False, b"x")
    >>> [e.message for e in check_revisions([a, a, a._replace(revision=2)])]
    ['09:00/price/*: revision 2 after revision 3']
    """
    newest: dict[str, Said] = {}
    found = []
    for said in verdicts:
        last = newest.get(said.place)
        if last is not None and (last.reference, last.contract) == (said.reference, said.contract):
            wrong = _wrong(last, said)
            if wrong:
                found.append(CounterExample("wrong_revision", said.place, f"{said.place}: {wrong}"))
        newest[said.place] = said
    return found


def _wrong(last: Said, said: Said) -> str:
    if last.provisional:
        return ""
    if said.provisional:
        return f"provisional again after the final revision {last.revision}"
    if said.revision < last.revision:
        return f"revision {said.revision} after revision {last.revision}"
    if said.revision == last.revision and said.digest != last.digest:
        return f"revision {said.revision} was published twice with different contents"
    return ""
