"""PURE. Faults between an order and its record: whole parts of the stream go wrong, each record by itself looks sound.

    unit      a field is in another unit: 19.90 becomes 1990
    silent    the order's record is never sent
    null      a field is null
    renamed   a field holds a value that did not exist
    clock     the sender's clock is wrong: event time and date are those of the wrong clock
    twice     two producers send the same record

What an order is, and whether it comes back, does not change. `sales.Fault` says which orders are hit; without faults every
function here gives back what it got. A damaged record (`sales_defects`) is not mended further.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from producers.sales import Fault, Orders


def arriving(orders: Orders) -> Orders:
    """Without those that are silent; those sent twice stand twice, side by side."""
    copies = np.ones(len(orders), np.int64)
    for row, faults in _hit(orders):
        kinds = {fault.kind for fault in faults}
        copies[row] = 0 if "silent" in kinds else 2 if "twice" in kinds else 1
    if (copies == 1).all():
        return orders
    return orders.take(np.repeat(np.arange(len(orders)), copies))


def stamped(orders: Orders) -> Orders:
    """With the event times that the senders' clocks show."""
    ahead = np.zeros(len(orders), np.int64)
    for row, faults in _hit(orders):
        ahead[row] = round(1000 * sum(fault.size for fault in faults if fault.kind == "clock"))
    return replace(orders, event_ms=orders.event_ms + ahead) if ahead.any() else orders


def mended(orders: Orders, sent: Sequence[bytes | None]) -> list[bytes | None]:
    """The records with the fields that the faults changed."""
    values = list(sent)
    for row, faults in _hit(orders):
        edits = [fault for fault in faults if fault.field]
        if edits and not orders.defect[row]:
            values[row] = _edited(values[row] or b"", edits)
    return values


def _hit(orders: Orders) -> list[tuple[int, tuple[Fault, ...]]]:
    return [(row, orders.faults[row]) for row in np.flatnonzero(orders.faults.astype(bool)).tolist()]


def _edited(sound: bytes, edits: Sequence[Fault]) -> bytes:
    record = json.loads(sound)
    for fault in edits:
        record[fault.field] = _value(record[fault.field], fault)
    return json.dumps(record, separators=(",", ":")).encode()


def _value(before: object, fault: Fault) -> object:
    if fault.kind != "unit":
        return None if fault.kind == "null" else fault.value
    return before if not isinstance(before, int | float) else type(before)(round(before * fault.size, 6))
