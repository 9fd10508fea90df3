"""EDGE. What `driftline reference show` and `diff` print. Knows references, not where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from batch.reference_build import as_window
from pipeline.contract import Contract
from pipeline.errors import CheckFailed
from stream_processors.comparing import statistics
from stream_processors.detectors import budget
from stream_processors.judging.panes import Key
from stream_processors.reference import rhythm_told
from stream_processors.reference.cells import WHOLE, FeatureReference
from stream_processors.reference.store import ReferenceRecord, ReferenceStore

_COMPARED = (
    "n", "statistic", "p_value", "psi", "wasserstein", "effect", "at", "new_share", "vanished", "top_moves",
)  # fmt: skip


def members(store: ReferenceStore, version: int) -> Mapping[Key, FeatureReference]:
    found = store.timeline.of(version)
    if found is None:
        known = ", ".join(str(s.version) for s in store.timeline.sets) or "none"
        raise CheckFailed(f"reference version {version}: there is none; published are: {known}")
    return found.load()


def show(store: ReferenceStore, contract: Contract, as_json: bool) -> int:
    """Every version by its records; the newest with what its files say."""
    if not store.timeline.sets:
        raise CheckFailed(
            f"no reference for {contract.id} yet; `driftline reference build` or the first training publishes one"
        )
    newest = store.timeline.sets[-1]
    print_records(
        [r for s in store.timeline.sets for _, r in sorted(store.records(s.version).items())], as_json, newest.load()
    )
    return 0


def print_records(
    records: Sequence[ReferenceRecord], as_json: bool, loaded: Mapping[Key, FeatureReference] | None = None
) -> None:
    rows = []
    for record in records:
        reference = (loaded or {}).get((record.feature, record.segment))
        same = reference is not None and reference.version == record.version
        rows.append({**msgspec.to_builtins(record), **(told(reference) if same else {})})
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    for version in dict.fromkeys(r["version"] for r in rows):
        own = [r for r in rows if r["version"] == version]
        more = ("pages", "rhythm", "dependence") if "pages" in own[0] else ()
        columns = ("feature", "segment", "kind", "rows", "cells", *more)
        model = next((f", answers of model version {r['model']}" for r in own if r["model"]), "")
        table = Table(
            *columns, title=f"version {version}, in force from {own[0]['effective_from']}{model}", title_justify="left"
        )
        for row in own:
            table.add_row(*(str(row[c]) for c in columns))
        console = Console(soft_wrap=True, highlight=False, markup=False)
        console.print(table)
        for row in own:
            if "rhythm_told" in row and row["segment"] == WHOLE:
                console.print(f"rhythm of {row['feature']}: {row['rhythm_told']}")


def told(reference: FeatureReference) -> dict[str, object]:
    """What a reference says beyond its record: whether it may page, its rhythm and dependence with their evidence."""
    refusal = budget.refusal(reference)
    evidence = {k: float(f"{v:.4g}") for k, v in reference.evidence.items()}
    return {
        "pages": "yes" if refusal is None else f"no: {refusal}",
        "rhythm": _rhythm(reference),
        "rhythm_told": rhythm_told.told(reference),
        "slots": list(reference.slots.names) if reference.slots else [],
        "slot_rows": reference.slots.rows.tolist() if reference.slots else [],
        "judged_slots": reference.slots.judged if reference.slots else 0,
        "dependence": _dependence(reference),
        "cardinality": reference.cardinality,
        "evidence": evidence,
    }


def diff(old: Mapping[Key, FeatureReference], new: Mapping[Key, FeatureReference], alpha: float, as_json: bool) -> int:
    """Every feature and segment of either, the new rows taken as a window of the old reference; largest effect first."""
    rows = sorted(
        _compared(old, new, alpha), key=lambda r: (-float(r["effect"] or 0), str(r["feature"]), str(r["segment"]))
    )
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return 0
    shown = ("feature", "segment", *(name for name in _COMPARED if name not in ("at", "top_moves")), "said")
    table = Table(*shown)
    for row in rows:
        table.add_row(*(_short(row[k]) for k in shown))
    Console(soft_wrap=True).print(table)
    return 0


def _compared(
    old: Mapping[Key, FeatureReference], new: Mapping[Key, FeatureReference], alpha: float
) -> Iterable[dict[str, object]]:
    for key in sorted({*old, *new}):
        row: dict[str, object] = {"feature": key[0], "segment": key[1]}
        if key not in old or key not in new or old[key].kind != new[key].kind:
            said = "only in the new" if key not in old else "only in the old" if key not in new else "another kind"
            yield {**row, **dict.fromkeys(_COMPARED), "said": said}
            continue
        s = statistics.compare(old[key], as_window(old[key], new[key]), alpha)
        yield {**row, **{name: getattr(s, name) for name in _COMPARED}, "said": s.undefined or ""}


def _rhythm(reference: FeatureReference) -> str:
    evidence = reference.evidence
    p = min(evidence.get("hour_p_value", 1.0), evidence.get("week_p_value", 1.0))
    if reference.slots:
        apart = len(reference.slots.names) - reference.slots.judged
        return f"{reference.slots.judged} slots (p {p:.1g})" + (f", {apart} apart" if apart else "")
    return "none" if "hour_p_value" in evidence else "not tested" if not evidence else "too few days"


def _dependence(reference: FeatureReference) -> str:
    if reference.temper:
        return f"variance x{reference.evidence.get('inflation', 1):.2g}, tail /{reference.temper.tail:.2g}"
    return "none" if "inflation" in reference.evidence else "not tested"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
