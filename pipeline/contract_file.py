"""EDGE. Reads a data contract: an Open Data Contract Standard v3.1 file, or the name of one that is shipped.

`load("sales")` or `load("path/to/file.yaml")`, `parse(text, source)` -> Contract. What the standard has no word for stands
in `customProperties`: key, eventTime, drift, label, evaluation, history, partitions, validTopic, unknownFields; a quality rule's `window`.
An error is a UsageError that lists every `file:line: key: expected ..., got ...`.
"""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pipeline.contract import RESERVED, Classification, Contract, Field, LogicalType
from pipeline.contract_evaluation import evaluation_plan
from pipeline.contract_history import history_plan
from pipeline.contract_plans import drift_plan, label, time_plan
from pipeline.contract_rules import check_rule_names, dataset_rule, is_record_rule, record_rule
from pipeline.contract_terms import custom, field_name, pattern
from pipeline.contract_yaml import At, document
from pipeline.errors import UsageError

SHIPPED = files("pipeline") / "contracts"
_DATE_FORMAT = "yyyy-MM-dd"
_OPTIONS = {
    "string": ("minLength", "maxLength", "pattern"),
    "integer": ("minimum", "maximum", "exclusiveMinimum"),
    "number": ("minimum", "maximum", "exclusiveMinimum"),
    "date": ("format",),
    "timestamp": (),
    "boolean": (),
}


def load(name_or_path: str) -> Contract:
    """A shipped contract by its name, or a contract file."""
    return parse(*read(name_or_path))


def read(name_or_path: str) -> tuple[str, str]:
    """(text, source for messages) of a shipped contract or a file; UsageError where there is none."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and "/" not in name_or_path:
        return shipped_text(name_or_path), f"{name_or_path}.yaml"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--contract {name_or_path}: expected a contract file in UTF-8, got {error}") from error


def shipped_text(name: str) -> str:
    """The text of a shipped contract; UsageError names those that are shipped."""
    if name not in shipped():
        raise UsageError(f"--contract {name}: expected a file or one of: {', '.join(shipped())}")
    return (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def shipped() -> list[str]:
    return sorted(f.name.removesuffix(".yaml") for f in SHIPPED.iterdir() if f.name.endswith(".yaml"))


def parse(text: str, source: str) -> Contract:
    """The contract of a YAML text; `source` names it in errors."""
    root = document(text, source)
    contract = _contract(root)
    if root.errors:
        raise UsageError("\n".join(root.errors))
    return contract


def _contract(root: At) -> Contract:
    root.only(
        "apiVersion", "kind", "id", "version", "status", "name", "description", "domain", "tenant", "dataProduct", "tags", "team",
        "roles", "support", "servers", "slaProperties", "authoritativeDefinitions", "contractCreatedTs", "schema", "customProperties",
    )  # fmt: skip
    root.get("apiVersion").text(pattern=r"v3\.[01]\.[0-9]+", like="v3.1.0")
    root.get("kind").text(pattern="DataContract", like="DataContract")
    root.get("status").text()
    table = _table(root.get("schema"))
    own = custom(root, "key", "eventTime", "drift", "label", "evaluation", "history", "partitions", "validTopic",
        "unknownFields",
    )  # fmt: skip
    fields = tuple(_field(p) for p in table.get("properties").items())
    if not fields:
        table.get("properties").wrong("a list of fields")
    _check_names(table.get("properties"))
    known = {f.name: f for f in fields}
    quality = table.get("quality").items()
    rules = tuple(record_rule(q, known) for q in quality if is_record_rule(q))
    dataset_rules = tuple(dataset_rule(q, known) for q in quality if not is_record_rule(q))
    check_rule_names(quality)
    key = None if own["key"].absent else field_name(own["key"], known)
    past = history_plan(own["history"], known, not own["label"].absent)
    return Contract(
        id=root.get("id").text(pattern="[a-z][a-z0-9_]{0,63}", like="sales (small letters, digits, _)"),
        version=root.get("version").text(pattern=r"[0-9]+\.[0-9]+\.[0-9]+", like="1.0.0"),
        fields=fields,
        key=key,
        time=time_plan(own["eventTime"], known),
        drift=drift_plan(own["drift"], known, key, labelled=not own["label"].absent, past=past),
        rules=rules,
        dataset_rules=dataset_rules,
        label=label(own["label"], known),
        evaluation=evaluation_plan(own["evaluation"], known, labelled=not own["label"].absent),
        history=past,
        unknown_fields=own["unknownFields"].choice(Literal["reject", "ignore"], "reject"),
        valid_topic=own["validTopic"].flag(True),
        partitions=own["partitions"].integer(4, least=1),
        description=root.get("description").get("purpose").text(""),
        owner=root.get("team").get("name").text(""),
    )


def _table(schema: At) -> At:
    tables = schema.items()
    if len(tables) != 1:
        schema.wrong("a list of exactly one object: one contract, one dataset")
    if not tables:
        return schema
    return tables[0].only(
        "name",
        "logicalType",
        "physicalType",
        "physicalName",
        "description",
        "businessName",
        "tags",
        "dataGranularityDescription",
        "properties",
        "quality",
    )


# -- fields ---------------------------------------------------------------------------------------------------------


def _field(at: At) -> Field:
    at.only(
        "name",
        "logicalType",
        "logicalTypeOptions",
        "physicalType",
        "required",
        "unique",
        "description",
        "businessName",
        "classification",
        "tags",
        "examples",
        "quality",
    )
    if not at.get("unique").absent:
        at.get("unique").wrong("no such key", "say it as a quality rule with metric duplicateValues: it needs a window")
    if at.get("logicalType").absent:
        at.get("logicalType").wrong("one of: string, integer, number, boolean, date, timestamp")
    kind = at.get("logicalType").choice(LogicalType, "string")
    options = at.get("logicalTypeOptions")
    if not options.absent:
        options.only(*_OPTIONS[kind])
    low, high = options.get("minimum").number(), options.get("maximum").number()
    if low is not None and high is not None and low > high:
        options.get("maximum").wrong(f"a number >= the minimum, {low:g}")
    if low is not None and not options.get("exclusiveMinimum").absent:
        options.get("exclusiveMinimum").wrong("either minimum or exclusiveMinimum")
    shortest, longest = _length(options.get("minLength")), _length(options.get("maxLength"))
    if shortest is not None and longest is not None and shortest > longest:
        options.get("maxLength").wrong(f"an integer >= minLength, {shortest}")
    return Field(
        name=at.get("name").text(),
        type=kind,
        required=at.get("required").flag(False),
        minimum=low,
        maximum=high,
        exclusive_minimum=options.get("exclusiveMinimum").number(),
        min_length=shortest,
        max_length=longest,
        pattern=None if options.get("pattern").absent else pattern(options.get("pattern")),
        format=_format(options.get("format"), kind),
        allowed=_allowed(at.get("quality"), kind),
        classification=at.get("classification").choice(Classification, "internal"),
        description=at.get("description").text(""),
    )


def _length(at: At) -> int | None:
    return None if at.absent else at.integer(0, least=0)


def _format(at: At, kind: LogicalType) -> str | None:
    if at.absent or kind != "date":
        return None
    at.text(pattern=_DATE_FORMAT, like=f"{_DATE_FORMAT} (JSON carries ISO dates only)")
    return "%Y-%m-%d"


def _allowed(quality: At, kind: LogicalType) -> tuple[str, ...] | None:
    """A field's own quality rules: `invalidValues` with `validValues` is the list of allowed values."""
    allowed: tuple[str, ...] | None = None
    for rule in quality.items():
        rule.only("name", "description", "metric", "arguments", "mustBe", "severity", "dimension")
        rule.get("metric").text(
            pattern="invalidValues", like="invalidValues (a rule with a window stands at the schema)"
        )
        if rule.get("mustBe").integer(0) != 0:
            rule.get("mustBe").wrong("0: a value that is not allowed is a dead letter")
        values = rule.get("arguments").only("validValues").get("validValues")
        allowed = values.texts()
        if kind != "string" or not allowed or len(set(allowed)) != len(allowed):
            values.wrong("distinct texts, for a field of type string")
    return allowed


def _check_names(properties: At) -> None:
    seen: set[str] = set()
    for at in properties.items():
        name = at.get("name").text()
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
            at.get("name").wrong("a name of letters, digits and _")
        elif name in RESERVED:
            at.get("name").wrong(f"a name that is not reserved ({', '.join(RESERVED)})")
        elif name in seen:
            at.get("name").wrong("a name that no other field has")
        seen.add(name)
