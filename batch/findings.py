"""PURE. The batch report's figures: every rule of the contract with its violations, record rules by field, dataset rules by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from batch.rules import QualityVerdict, expected, status_of, worst
from pipeline.contract import Contract, Field, Status


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule over the whole run."""

    rule: str
    kind: Literal["record", "dataset"]
    expected: str
    violations: int  # rows; for a mean, a row count or freshness the number of windows
    share: float  # of the records judged, for rules that count rows
    reasons: Mapping[str, int]  # reject codes of a record rule
    status: Status


@dataclass(frozen=True, slots=True)
class Report:
    contract: str
    records: int
    valid: int
    dead: int
    status: Status
    findings: tuple[Finding, ...]

    @property
    def violated(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.violations)


def report(
    contract: Contract, valid: int, rejects: Mapping[tuple[str, str], int], verdicts: Sequence[QualityVerdict]
) -> Report:
    """`rejects`: dead letters by (field, reason); a dead letter names the first fault of its record."""
    dead = sum(rejects.values())
    records = valid + dead
    findings = [_of_field(f.name, expectation(f), rejects, records) for f in contract.fields]
    known = {f.name for f in contract.fields}
    for field in sorted({field for field, _ in rejects} - known):
        findings.append(_of_field(field, "a JSON object of the contract's fields", rejects, records))
    for rule in contract.dataset_rules:
        mine = [v for v in verdicts if v.rule == rule.name]
        count = sum(v.violations for v in mine)
        of_rows = rule.kind == "unique"
        findings.append(
            Finding(
                rule.name,
                "dataset",
                expected(rule),
                count,
                _share(count, records) if of_rows else 0.0,
                {},
                status_of(mine),
            )
        )
    status = worst([status_of(verdicts), *(["degraded"] if dead else [])])  # type: ignore[list-item]
    return Report(contract.name, records, valid, dead, status, tuple(findings))


def expectation(field: Field) -> str:
    """What a record must hold in this field, in words.

    >>> expectation(Field("quantity", "integer", required=True, minimum=0, maximum=1000))
    'integer in [0, 1000], not null'
    """
    text: str = field.type
    if field.minimum is not None or field.maximum is not None or field.exclusive_minimum is not None:
        low = (
            f"({field.exclusive_minimum:g}" if field.exclusive_minimum is not None else f"[{_or(field.minimum, '-inf')}"
        )
        text += f" in {low}, {_or(field.maximum, 'inf')}]"
    if field.allowed is not None:
        text += f", one of {len(field.allowed)} values"
    if field.pattern is not None:
        text += f" like {field.pattern}"
    if field.format is not None:
        text += f" in {field.format}"
    return text + (", not null" if field.required else "")


def _of_field(name: str, expected: str, rejects: Mapping[tuple[str, str], int], records: int) -> Finding:
    reasons = {reason: n for (field, reason), n in sorted(rejects.items()) if field == name}
    count = sum(reasons.values())
    return Finding(
        name or "record", "record", expected, count, _share(count, records), reasons, "degraded" if count else "ok"
    )


def _share(count: int, records: int) -> float:
    return count / records if records else 0.0


def _or(bound: float | None, text: str) -> str:
    return text if bound is None else f"{bound:g}"
