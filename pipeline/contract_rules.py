"""PURE. A contract file's quality rules: those over several fields of a record, and those over the rows of a window."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pipeline.contract import CrossFieldRule, DatasetRule, Field, Severity
from pipeline.contract_terms import custom, field_name, pattern
from pipeline.contract_yaml import At

OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "matches")


def is_record_rule(at: At) -> bool:
    kind = at.get("implementation").get("rule")
    return not kind.absent and kind.text() == "record"


def check_rule_names(quality: list[At]) -> None:
    seen: set[str] = set()
    for at in quality:
        name = at.get("name").text(pattern="[a-z][a-z0-9_]*", like="unique_order_id")
        if name in seen:
            at.get("name").wrong("a name that no other rule has")
        seen.add(name)


def record_rule(at: At, known: dict[str, Field]) -> CrossFieldRule:
    at.only("name", "description", "type", "engine", "implementation", "dimension")
    _is_ours(at)
    rule = at.get("implementation").only("rule", "code", "field", "when", "then")
    if not rule.get("then").items():
        rule.get("then").wrong("a list of comparisons like: quantity > 0")
    return CrossFieldRule(
        name=at.get("name").text(),
        when=tuple(_comparison(c, known) for c in rule.get("when").items()),
        then=tuple(_comparison(c, known) for c in rule.get("then").items()),
        code=rule.get("code").text("cross_field", pattern="[a-z][a-z0-9_]*", like="range"),
        field=field_name(rule.get("field"), known),
    )


def _comparison(at: At, known: dict[str, Field]) -> tuple[str, str, object]:
    """`field operator value`, the value typed as the field is."""
    parts = at.text().split(None, 2)
    if len(parts) != 3 or parts[0] not in known or parts[1] not in OPERATORS:
        at.wrong(f"field operator value, with a field of the schema and one of {' '.join(OPERATORS)}")
        return "", "==", ""
    name, op, value = parts
    kind = known[name].type
    if op == "matches":
        if kind != "string":
            at.wrong(f"a field of type string for `matches` ({name} is {kind})")
        return name, op, pattern(at, value)
    if kind in ("integer", "number"):
        try:
            return name, op, float(value)
        except ValueError:
            at.wrong(f"a number after {name} {op}")
    elif kind != "string" or op not in ("==", "!="):
        at.wrong("numbers compared by == != < <= > >=, strings by == != matches")
    return name, op, value


def dataset_rule(at: At, known: dict[str, Field]) -> DatasetRule:
    at.only(
        "name", "description", "type", "metric", "arguments", "engine", "implementation", "severity", "dimension", "unit", "customProperties",
        "mustBe", "mustBeGreaterOrEqualTo", "mustBeLessOrEqualTo",
    )  # fmt: skip
    window = custom(at, "window")["window"]
    kind, columns, low, high = _metric(at, known) if not at.get("metric").absent else _custom_rule(at, known)
    return DatasetRule(
        name=at.get("name").text(),
        kind=kind,
        columns=columns,
        minimum=low,
        maximum=high,
        severity=at.get("severity").choice(Severity, "degraded"),
        window=None if window.absent else window.duration(None),
        description=at.get("description").text(""),
    )


_RuleKind = Literal["row_count", "mean", "unique", "freshness"]


def _metric(at: At, known: dict[str, Field]) -> tuple[_RuleKind, tuple[str, ...], float | None, float | None]:
    metric = at.get("metric").choice(Literal["rowCount", "duplicateValues"], "rowCount")
    exact, low, high = (at.get(k).number() for k in ("mustBe", "mustBeGreaterOrEqualTo", "mustBeLessOrEqualTo"))
    if sum(v is not None for v in (exact, low, high)) != 1:
        at.wrong("exactly one of mustBe, mustBeGreaterOrEqualTo, mustBeLessOrEqualTo")
    if metric == "rowCount":
        return "row_count", (), exact if exact is not None else low, exact if exact is not None else high
    columns = tuple(field_name(c, known) for c in at.get("arguments").only("properties").get("properties").items())
    if not columns or exact != 0:
        at.get("arguments").wrong("properties: [field, ...], and mustBe: 0")
    return "unique", columns, None, 0.0


def _custom_rule(at: At, known: dict[str, Field]) -> tuple[_RuleKind, tuple[str, ...], float | None, float | None]:
    _is_ours(at)
    rule = at.get("implementation").only("rule", "column", "minimum", "maximum", "within")
    kind = rule.get("rule").choice(Literal["mean", "freshness"], "mean")
    if rule.get("rule").absent:
        rule.get("rule").wrong("one of: record, mean, freshness")
    column = field_name(rule.get("column"), known)
    if kind == "freshness":
        if column in known and known[column].type != "timestamp":
            rule.get("column").wrong("a field of type timestamp")
        return "freshness", (column,), None, rule.get("within").duration(None) / timedelta(seconds=1)
    low, high = rule.get("minimum").number(), rule.get("maximum").number()
    if column in known and known[column].type not in ("integer", "number"):
        rule.get("column").wrong("a field of type integer or number")
    if low is None and high is None:
        rule.wrong("minimum, maximum or both")
    return "mean", (column,), low, high


def _is_ours(at: At) -> None:
    at.get("type").text(pattern="custom", like="custom (or give a metric)")
    at.get("engine").text(pattern="driftline", like="driftline")
