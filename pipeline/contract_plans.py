"""PURE. A contract file's plans: event time, drift and label."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Literal, TypedDict, cast

import yaml

from pipeline.contract import (
    RESERVED,
    SCORE_COLUMNS,
    SCORES,
    DriftPlan,
    Field,
    HistoryPlan,
    MatchLabel,
    MonitoredFeature,
    OutcomeLabel,
    ReferencePlan,
    Rhythm,
    TimePlan,
    Tolerance,
)
from pipeline.contract_terms import field_name, pattern
from pipeline.contract_yaml import At
from pipeline.times import length_text

_ROWS = re.compile(r"([0-9]+) rows")
MOST_REFERENCE_ROWS = 10_000_000
LEAST_REFERENCE_ROWS = 10_000  # below it a feature never pages


def time_plan(at: At, known: dict[str, Field]) -> TimePlan:
    at.only("field", "lateness", "idle", "future", "reviseWithin")
    plan = TimePlan(
        field=field_name(at.get("field"), known),
        lateness=at.get("lateness").duration(timedelta(minutes=10)),
        idle=at.get("idle").duration(timedelta(seconds=5)),
        future=at.get("future").duration_or_off(timedelta(hours=1)),
        revise_within=at.get("reviseWithin").duration_or_off(timedelta(days=14)),
    )
    field = known.get(plan.field)
    if field and (field.type != "timestamp" or not field.required):
        at.get("field").wrong("a required field of type timestamp")
    return plan


def drift_plan(
    at: At, known: dict[str, Field], key: str | None = None, labelled: bool = False, past: HistoryPlan | None = None
) -> DriftPlan:
    at.only(
        "features", "segments", "window", "slide", "pane", "pageBudget", "rule", "alpha", "rhythm", "dependence",
        "reference", "rejects", "nullMonitor", "model",
    )  # fmt: skip
    pane = at.get("pane").duration(timedelta(minutes=5))
    seen = len(at.errors)
    window, rows = _window(at.get("window"), pane)
    if len(at.errors) == seen and window % pane:
        at.get("pane").wrong(f"a divisor of the window, {length_text(window)}")
    alpha = at.get("alpha").number(0.05) or 0.0
    if not 0 < alpha < 1:
        at.get("alpha").wrong("a number between 0 and 1")
    pages, per = _budget(at.get("pageBudget"), pane)
    return DriftPlan(
        features=_features(at.get("features"), known),
        segments=_segments(at.get("segments"), known, key),
        window=window,
        pane=pane,
        pages=pages,
        pages_per=per,
        rule=at.get("rule").choice(Literal["bank", "scan", "confseq", "ks_alpha"], "bank"),
        alpha=alpha,
        window_rows=rows,
        slide=_slide(at.get("slide"), window, pane, rows),
        rhythm=at.get("rhythm").choice(Rhythm, "auto"),
        dependence=at.get("dependence").choice(Literal["auto", "none"], "auto"),
        reference=_reference(at.get("reference"), pane),
        rejects=at.get("rejects").flag(True),
        null_monitor=at.get("nullMonitor").flag(True),
        scores=_scores(at.get("model"), known, labelled, past),
    )


def _scores(at: At, known: dict[str, Field], labelled: bool, past: HistoryPlan | None) -> tuple[MonitoredFeature, ...]:
    """The model's score and confidence, watched wherever there is a label and no field of such a name; its history if asked."""
    if not at.absent:
        at.only("scores", *(f.name for f in SCORES), "history")
    taken = [name for name in SCORE_COLUMNS if name in known]
    wanted = at.get("scores").flag(labelled and not taken)
    if wanted and not labelled:
        at.get("scores").wrong("false, or a label: without one there is no model")
    if wanted and taken:
        at.get("scores").wrong(f"false, or no field called {', '.join(taken)}")
    found = []
    for feature in SCORES:
        own = at.get(feature.name)
        if not own.absent:
            own.only("tolerance", "weight", "rhythm")
        found.append(replace(feature, **_watching(own, feature.kind)))
    found += _pasts(at.get("history"), past)
    if not wanted and not at.get("history").absent:
        at.get("history").wrong("no history beside `scores: false`: both come with the model's answers")
    return tuple(found) if wanted else ()


def _pasts(at: At, past: HistoryPlan | None) -> list[MonitoredFeature]:
    there = {f.name for f in past.features} if past else set()
    found: dict[str, MonitoredFeature] = {}
    for item in at.items():
        item.only("name", "tolerance", "weight", "rhythm")
        name = item.get("name").text()
        if name not in there or name in found:
            item.get("name").wrong(
                f"each once, one of the contract's history: {', '.join(sorted(there)) or 'it has none'}"
            )
        found[name] = replace(MonitoredFeature(name, "numeric"), **_watching(item, "numeric"))
    return list(found.values())


def _window(at: At, pane: timedelta) -> tuple[timedelta, int | None]:
    """`1 h`, or `10000 rows`: such windows begin and end with a pane."""
    match = None if at.absent or not isinstance(at.node, yaml.ScalarNode) else _ROWS.fullmatch(at.node.value)
    if match and int(match[1]):
        return pane, int(match[1])
    seen = len(at.errors)
    window = at.duration(timedelta(hours=1))
    if len(at.errors) > seen:
        del at.errors[seen:]
        at.wrong("a duration like 1 h (units: ms, s, min, h, d), or a number of rows like 10000 rows")
    return window, None


def _slide(at: At, window: timedelta, pane: timedelta, rows: int | None) -> timedelta | None:
    if at.absent:
        return None
    seen = len(at.errors)
    slide = at.duration(None)
    if len(at.errors) > seen:
        return None
    if rows is not None:
        at.wrong("no slide beside a window of rows")
    elif window % slide or slide % pane:
        at.wrong(f"a multiple of the pane, {length_text(pane)}, that divides the window, {length_text(window)}")
    return None if slide == window else slide


def _reference(at: At, pane: timedelta) -> ReferencePlan:
    if at.absent:
        return ReferencePlan()
    at.only("kind", "span", "every", "rows")
    rows = at.get("rows").integer(200_000, least=LEAST_REFERENCE_ROWS)
    if rows > MOST_REFERENCE_ROWS:
        at.get("rows").wrong(f"at most {MOST_REFERENCE_ROWS}")
    kind = at.get("kind").choice(Literal["training", "last-week", "rolling"], "training")
    span, every = at.get("span").duration(timedelta(days=7)), at.get("every").duration(timedelta(days=1))
    if not at.get("span").absent and kind != "rolling":
        at.get("span").wrong(f"no span beside kind {kind}, only beside rolling")
    if not at.get("every").absent and kind == "training":
        at.get("every").wrong("nothing beside kind training: promotions decide when it is replaced")
    elif every < pane:
        at.get("every").wrong(f"at least the pane, {length_text(pane)}")
    elif span < pane:
        at.get("span").wrong(f"at least the pane, {length_text(pane)}")
    return ReferencePlan(kind=kind, span=span, every=every, rows=rows)


def _features(at: At, known: dict[str, Field]) -> tuple[MonitoredFeature, ...]:
    found: dict[str, MonitoredFeature] = {}
    for item in at.items():
        feature = _feature(item, known)
        if feature.name in found:
            item.get("name").wrong("a field that is not watched already")
        found[feature.name] = feature
    return tuple(found.values())


def _feature(at: At, known: dict[str, Field]) -> MonitoredFeature:
    at.only("name", "kind", "tolerance", "weight", "rhythm")
    name = field_name(at.get("name"), known)
    if name in known and known[name].type in ("timestamp", "date"):
        at.get("name").wrong(f"a number, a text or a boolean, as no two stretches of time share a {known[name].type}")
    numeric = name in known and known[name].type in ("integer", "number")
    kind = at.get("kind").choice(Literal["numeric", "categorical"], "numeric" if numeric else "categorical")
    if name in known and (kind == "numeric") != numeric:
        at.get("kind").wrong(f"{'numeric' if numeric else 'categorical'}, as {name} is of type {known[name].type}")
    return replace(MonitoredFeature(name, kind), **_watching(at, kind))


class _Watching(TypedDict):
    tolerance: Tolerance
    weight: float
    rhythm: Rhythm | None


def _watching(at: At, kind: str) -> _Watching:
    weight = at.get("weight").number(1.0) or 0.0
    if weight <= 0:
        at.get("weight").wrong("a number > 0")
    rhythm = None if at.get("rhythm").absent else at.get("rhythm").choice(Rhythm, "auto")
    return _Watching(tolerance=_tolerance(at.get("tolerance"), kind), weight=weight, rhythm=rhythm)


def _tolerance(at: At, kind: str) -> Tolerance:
    """A number is a distance of numbers and a share of categories; `{wasserstein: 5.0}` is in the feature's units."""
    known = ("distance", "wasserstein") if kind == "numeric" else ("share",)
    if at.absent or isinstance(at.node, yaml.ScalarNode):
        name, value = known[0], at.number(0.0) or 0.0
    else:
        at.only(*known)
        given = [k for k in known if not at.get(k).absent]
        if len(given) != 1:
            at.wrong(f"exactly one of: {', '.join(known)}")
        name, at = (given or known)[0], at.get((given or known)[0])
        value = at.number(0.0) or 0.0
    if value < 0 or (name != "wasserstein" and value >= 1):
        unit = {"distance": "a K-S distance, 0 or more and below 1", "share": "a share, 0 or more and below 1"}
        at.wrong(unit.get(name, "a number >= 0, in units of the feature"))
    return Tolerance(cast(Literal["distance", "wasserstein", "share"], name), value)


SEGMENT_TYPES = ("string", "integer", "boolean")  # what rows can be grouped by


def _segments(at: At, known: dict[str, Field], key: str | None) -> tuple[tuple[str, ...], ...]:
    """Groupings that differ, whatever the order of their columns."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for item in at.items():
        columns = _segment(item, known, key)
        if columns and frozenset(columns) in found:
            item.wrong("columns that are not grouped by already")
        found[frozenset(columns)] = columns
    return tuple(found.values())


def _segment(at: At, known: dict[str, Field], key: str | None) -> tuple[str, ...]:
    seen = len(at.errors)
    columns = tuple(field_name(c, known) for c in at.items())
    if len(at.errors) > seen:
        return columns
    if not columns:
        at.wrong("a list of one field or more")
    elif any(known[c].type not in SEGMENT_TYPES for c in columns):
        at.wrong(f"fields of type {', '.join(SEGMENT_TYPES)}")
    elif len(set(columns)) < len(columns):
        at.wrong("each field once")
    elif key in columns:
        at.wrong(f"fields that many records share, not {key}, the key of the records")
    return columns


def _budget(at: At, pane: timedelta) -> tuple[float, timedelta]:
    """`1 per 30 d`: expected false pages in event time, over everything monitored."""
    if at.absent:
        return 1.0, timedelta(days=30)
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) per ([0-9]+(?:\.[0-9]+)?) ?(h|d)", at.text())
    if not match or not float(match[1]) or not float(match[2]):
        at.wrong("a page budget like 1 per 30 d (units: h, d)")
        return 1.0, timedelta(days=30)
    pages = float(match[1])
    try:
        per = float(match[2]) * {"h": timedelta(hours=1), "d": timedelta(days=1)}[match[3]]
    except OverflowError:
        at.wrong("a page budget over at most 999999999 d")
        return 1.0, timedelta(days=30)
    if pages > per / pane:
        at.wrong(f"at most one page a pane, which is {per / pane:g} per {match[2]} {match[3]}")
    return pages, per


def label(at: At, known: dict[str, Field]) -> OutcomeLabel | MatchLabel | None:
    if at.absent:
        return None
    if at.get("match").absent:
        at.only("name", "key", "delay")
        return OutcomeLabel(_label_name(at, known), field_name(at.get("key"), known), at.get("delay").duration(None))
    match = at.only("name", "match").get("match").only("field", "pattern", "on", "horizon")
    columns = tuple(field_name(c, known) for c in match.get("on").items())
    if not columns:
        match.get("on").wrong("a list of fields")
    return MatchLabel(
        _label_name(at, known),
        field_name(match.get("field"), known),
        pattern(match.get("pattern")),
        columns,
        match.get("horizon").duration(None),
    )


def _label_name(at: At, known: dict[str, Field]) -> str:
    name = at.get("name").text(pattern="[a-z][a-z0-9_]*", like="returned")
    if name in known or name in RESERVED:
        at.get("name").wrong("a name that no field has")
    return name
