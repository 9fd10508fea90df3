"""PURE. A contract's history plan, compiled: entities, horizons in steps, and the name of what the numbers mean.

What is stored of an entity is a run of SUMS, one a step of event time in which something came, oldest first. An entity
remembers the `keep` steps up to its newest one; what lies before is forgotten, online and offline alike.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from pipeline.contract import APPEND_TIME, Contract, HistoryPlan, OutcomeLabel
from pipeline.times import ms

KINDS = ("count", "sum", "mean", "rate")
HUNDREDTHS = 100  # amounts are whole hundredths: floats do not add up to the same in every order
SUMS = np.dtype([("step", "<i4"), ("count", "<i4"), ("amount", "<i8"), ("labelled", "<i4"), ("positive", "<i4")])
NOTHING = np.zeros(0, SUMS).tobytes()
_LATE_STEPS = 1  # remembered beyond the longest horizon, for rows that are late by up to a step


@dataclass(frozen=True, slots=True)
class Entity:
    """One kind of entity, compiled from the contract's history plan."""

    name: str
    field: str
    amount: tuple[str, ...]
    columns: np.ndarray  # int64[features], their places among all of the plan
    horizons: np.ndarray  # int64[features], in steps
    kinds: np.ndarray  # int64[features], places in KINDS
    keep: int  # steps


@dataclass(frozen=True, slots=True)
class History:
    """A contract's history plan, compiled. `definition` names what the stored sums and the values mean."""

    names: tuple[str, ...]
    entities: tuple[Entity, ...]
    step_ms: int
    prior: float
    weight: float
    definition: str

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(e.field for e in self.entities)


def compiled(contract: Contract) -> History | None:
    """None where the contract declares no history."""
    plan = contract.history
    if plan is None:
        return None
    return History(
        tuple(f.name for f in plan.features),
        tuple(_entity(plan, i) for i in range(len(plan.entities))),
        ms(plan.step),
        plan.prior,
        plan.weight,
        hashlib.sha256(json.dumps([LAYOUT, contract.id, repr(plan), repr(contract.label)]).encode()).hexdigest()[:8],
    )


LAYOUT = 2  # of the stored bytes and of what they mean; a change of this code's meaning needs a new number


def _entity(plan: HistoryPlan, number: int) -> Entity:
    entity = plan.entities[number]
    own = [(i, f) for i, f in enumerate(plan.features) if f.entity == entity.name]
    horizons = np.array([f.horizon // plan.step for _, f in own], np.int64)
    kinds = np.array([KINDS.index(f.kind) for _, f in own], np.int64)
    columns = np.array([i for i, _ in own], np.int64)
    keep = int(horizons.max(initial=1)) + _LATE_STEPS
    return Entity(entity.name, entity.field, entity.amount, columns, horizons, kinds, keep)


def event_columns(history: History, contract: Contract) -> list[str]:
    """What is read of an event."""
    label = [contract.label.key] if isinstance(contract.label, OutcomeLabel) else []
    match = [] if contract.label is None or label else [contract.label.field]
    amounts = [a for e in history.entities for a in e.amount]
    return list(dict.fromkeys([*history.fields, *amounts, *label, *match, contract.time.field, APPEND_TIME]))
