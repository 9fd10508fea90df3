"""PURE. The endless stream of sales: arrivals, orders, their JSON and their late labels, block by block.

The same seed, start, schedule and timeline give the same bytes, however many of them are taken and however they are cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.contract import Contract, OutcomeLabel
from pipeline.errors import UsageError
from pipeline.times import ms
from producers import sales_faults, sales_json
from producers.arrivals import Timeline
from producers.batches import NO_LABELS, Batch, Key, Labels, Source
from producers.sales import BLOCK_ORDERS, FIELDS, Orders, World, orders
from producers.scenarios import Schedule, worlds

_KEYS: dict[str, Callable[[Orders, list[str]], list[str]]] = {
    "order_id": lambda block, ids: ids,
    "customer_id": lambda block, ids: sales_json.customer_ids(block),
    "product_id": lambda block, ids: sales_json.product_ids(block),
}


def check(contract: Contract) -> None:
    """UsageError if the contract describes other fields, or another key, than the generator makes."""
    names = tuple(field.name for field in contract.fields)
    if sorted(names) != sorted(FIELDS):
        raise UsageError(
            f"contract {contract.name}: the generator makes {', '.join(FIELDS)}; it has {', '.join(names)}; use --replay FILE"
        )
    if contract.key not in (None, *_KEYS):
        raise UsageError(f"contract {contract.name}: key {contract.key}: the generator can key by {', '.join(_KEYS)}")


def prefix(seed: int, start_ms: int) -> str:
    """Before the running number of an order id: two streams of different seed or start share no id."""
    return hashlib.blake2s(f"{seed}/{start_ms}".encode(), digest_size=4).hexdigest()


def arrivals(seed: int, timeline: Timeline) -> Iterator[np.ndarray]:
    """Event times (ms, never falling) of blocks of BLOCK_ORDERS orders: a Poisson process of the timeline's intensity.

    The time that n arrivals take is Gamma(n); within it the first n - 1 are uniform. So a block needs its start only.
    """
    lengths = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0, 1])))
    begin, block = 0.0, 0
    while True:
        length = lengths.gamma(BLOCK_ORDERS)
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, block, 2])))
        inside = np.sort(np.append(rng.random(BLOCK_ORDERS - 1), 1.0))
        yield timeline.event_ms(begin + length * inside).astype(np.int64)
        begin, block = begin + length, block + 1


Cue = Callable[[int], World | None]  # first event time of a block -> the world that begins with it, if somebody asked


def no_cue(first_ms: int) -> None:
    """Nobody asks."""


def stream(
    contract: Contract, phases: Schedule, seed: int, timeline: Timeline, *, labels: bool = True, cue: Cue = no_cue
) -> Source:
    """Batches without end. A damaged record has no label: nobody can say which order it was."""
    world_at, name = worlds(phases, timeline.start_ms), prefix(seed, timeline.start_ms)
    for block, event_ms in enumerate(arrivals(seed, timeline)):
        if world := cue(int(event_ms[0])):
            world_at[int(event_ms[0])] = world
        yield render(contract, orders(world_at, seed, block, event_ms), name, labels=labels)


def render(contract: Contract, ordered: Orders, name: str, *, labels: bool) -> Batch:
    block = sales_faults.arriving(ordered)
    ids = sales_json.order_ids(name, block.number)
    sent = sales_faults.mended(block, sales_json.values(sales_faults.stamped(block), ids))
    return Batch(
        event_ms=block.event_ms,
        keys=_keys(contract, block, ids),
        values=sent,
        labels=_labels(contract, block, ids) if labels else NO_LABELS,
    )


def _keys(contract: Contract, block: Orders, ids: list[str]) -> list[Key]:
    return list(_KEYS[contract.key](block, ids)) if contract.key else [None] * len(block)


def _labels(contract: Contract, block: Orders, ids: list[str]) -> Labels:
    label = contract.label
    if not isinstance(label, OutcomeLabel):
        return NO_LABELS
    first = np.diff(block.number, prepend=-1) != 0  # an order that is sent twice comes back once
    sound = np.flatnonzero((block.defect == 0) & first)
    at_ms = block.event_ms[sound] + (block.label_after[sound] * ms(label.delay)).astype(np.int64)
    kept = [ids[row] for row in sound.tolist()]
    values = sales_json.outcomes(kept, block.returned[sound], at_ms, label.key, label.name, contract.time.field)
    return Labels(sound, at_ms, np.array(kept, dtype=object), np.array(values, dtype=object))
