"""PURE. A contract file's history plan: which entities a model knows the past of, and over which horizons."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Literal, get_args

from pipeline.contract import Field, HistoryEntity, HistoryFeature, HistoryPlan
from pipeline.contract_terms import field_name
from pipeline.contract_yaml import At
from pipeline.times import length_text

LEAST_STEP = timedelta(minutes=1)
MOST_STEPS = 400  # of a horizon: an entity keeps at most so many sums, 24 bytes each
Kind = Literal["count", "sum", "mean", "rate"]
NUMERIC = ("integer", "number")


def history_plan(at: At, known: dict[str, Field], labelled: bool) -> HistoryPlan | None:
    if at.absent:
        return None
    at.only("step", "rate", "entities")
    step = at.get("step").duration(timedelta(hours=6))
    if step < LEAST_STEP:
        at.get("step").wrong(f"at least {length_text(LEAST_STEP)}")
        step = LEAST_STEP
    rate = at.get("rate") if at.get("rate").absent else at.get("rate").only("prior", "weight")
    prior, weight = rate.get("prior").number(0.5), rate.get("weight").number(10.0)
    if prior is None or not 0 < prior < 1:
        rate.get("prior").wrong("a share between 0 and 1")
    if weight is None or weight <= 0:
        rate.get("weight").wrong("a number > 0")
    items = at.get("entities").items()
    entities = tuple(_entity(item, known) for item in items)
    features = [f for item, e in zip(items, entities, strict=True) for f in _features(item, e, step, labelled)]
    if not features:
        at.get("entities").wrong("at least one entity with a horizon")
    for names in ([e.name for e in entities], [*known, *(f.name for f in features)]):
        if len(set(names)) < len(names):
            at.get("entities").wrong("each name once, and none that a field has")
    return HistoryPlan(entities, tuple(features), step, prior or 0.0, weight or 0.0)


def _entity(at: At, known: dict[str, Field]) -> HistoryEntity:
    at.only("name", "field", "amount", *get_args(Kind))
    field = field_name(at.get("field"), known)
    if field in known and known[field].type not in ("string", "integer"):
        at.get("field").wrong(f"a text or an integer, not a {known[field].type}")
    amounts = tuple(field_name(c, known) for c in at.get("amount").items())
    if any(known[a].type not in NUMERIC for a in amounts if a in known):
        at.get("amount").wrong("numeric fields")
    return HistoryEntity(at.get("name").text(pattern="[a-z][a-z0-9_]*", like="customer"), field, amounts)


def _features(at: At, entity: HistoryEntity, step: timedelta, labelled: bool) -> Iterator[HistoryFeature]:
    for kind in get_args(Kind):
        for item in at.get(kind).items():
            horizon = item.duration(None)
            if horizon % step or not 0 < horizon // step <= MOST_STEPS:
                item.wrong(f"a multiple of the step, {length_text(step)}, at most {MOST_STEPS} of them")
            if kind in ("sum", "mean") and not entity.amount:
                item.wrong(f"no {kind} without an amount")
            if kind == "rate" and not labelled:
                item.wrong("no rate without a label in the contract")
            yield HistoryFeature(
                f"{entity.name}_{kind}_{length_text(horizon).replace(' ', '')}", entity.name, kind, horizon
            )
