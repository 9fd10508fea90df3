"""PURE. What compacting, training and promoting are as OpenLineage runs; `pipeline.lineage` has the form.

A table is a dataset in the namespace `file` whose version is its commit; a model is one in the registry's namespace, of
type MODEL, whose version is the registry's. So the table version that `compact` writes is what `train` reads, and the model
version that `train` writes is what `promote` reads. Knows no transport.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.ledger import Entry
from batch.rules import QualityVerdict
from pipeline import topics
from pipeline.lineage import Assertion, Dataset, Run, kafka_namespace
from pipeline.settings import Settings

if TYPE_CHECKING:
    from batch.train import Order, Trained

TAG = 500  # characters of a tag's value


def table(path: Path, version: int | None = None) -> Dataset:
    return Dataset("file", str(path), None if version is None else str(version), kind="TABLE")


def verdict(v: QualityVerdict) -> Assertion:
    """A dataset rule over one window."""
    where = f"{v.window_start} to {v.window_end}, {v.rows} rows"
    severity = "error" if v.severity == "critical" else "warn"
    return Assertion(v.kind, v.passed, v.rule, where, severity, v.expected, str(v.value))


def training(name: str, key: str, tables: Sequence[Path]) -> Run:
    """As it begins: nothing is known but which tables it reads, the events first."""
    return Run(f"{name}.train", key, tuple(table(path) for path in tables))


def trained(run: Run, settings: Settings, order: Order, made: Trained) -> Run:
    """The same with the versions that were read, the status that they were trained on, and the model version."""
    data = made.data
    events, *others = run.inputs
    status = Assertion("quality_status", data.status != "critical", None, None, "error", "not critical", data.status)
    events = replace(events, version=str(data.table_version), rows=data.rows, assertions=(status,))
    late = [replace(d, version=str(data.outcomes_version)) if data.outcomes_version is not None else d for d in others]
    written = Dataset(settings.mlflow, made.model, made.version, kind="MODEL")
    said = _tags(
        contract=data.contract,
        data=data.digest,
        history=data.history,
        bundle=made.artifact["sha256"],
        mlflow_run=made.run_id,
        seed=order.seed,
        search=order.search,
        actor=settings.actor,
        reason=order.reason,
        episode=order.episode,
    )
    return replace(run, inputs=(events, *late), outputs=(written,), tags=said)


def crowning(bootstrap: str, registry: str, entry: Entry) -> Run:
    """A promotion or a rollback; each check of the gate that did not pass is an assertion about the model version."""
    d = entry.draft
    denied = d.metrics.get("denied")
    failed = [str(name) for name in denied] if isinstance(denied, Sequence) and not isinstance(denied, str) else []
    forced = "by force, whatever the gate says" if d.metrics.get("force") else ""
    gate = Assertion(
        "gate",
        not (failed or forced),
        d.policy,
        d.reason[:TAG],
        "error",
        "no check denied",
        ", ".join(failed) or forced or "none",
    )
    checked = (gate, *(Assertion("gate_check", False, name, severity="error") for name in failed))
    read = Dataset(registry, d.model, d.version, kind="MODEL", assertions=checked if d.action == "promote" else ())
    written = Dataset(kafka_namespace(bootstrap), topics.LEDGER, entry.hash, kind="TOPIC", rows=1)
    champion = Dataset(registry, f"{d.model}@champion", d.version, kind="MODEL")
    said = _tags(
        action=d.action,
        actor=d.actor,
        former=d.former,
        episode=d.episode,
        ledger_entry=entry.seq,
        bundle=_sha(d.artifact),
    )
    return Run(f"{d.model}.promote", entry.hash, (read,), (champion, written), said)


def _sha(artifact: Mapping[str, object] | None) -> object:
    return (artifact or {}).get("sha256")


def _tags(**values: object) -> dict[str, str]:
    return {k: str(v)[:TAG] for k, v in values.items() if v not in (None, "")}
