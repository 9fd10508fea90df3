"""PURE. From a closed window's counts and its detectors' findings to verdicts.

A finding is fixed when the window closes and knows on-time rows only; the statistics beside it describe every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from pipeline.contract import Contract
from pipeline.times import to_text
from stream_processors.comparing import statistics
from stream_processors.comparing.change import named
from stream_processors.detectors.budget import Budget
from stream_processors.judging.closed import Finding, Tally
from stream_processors.judging.panes import WHOLE, Key
from stream_processors.judging.timeline import ReferenceSet
from stream_processors.judging.verdict import State, Verdict
from stream_processors.reference.cells import FeatureReference, Kind
from stream_processors.reference.counts import EMPTY
from stream_processors.reference.plans import FLOOR


def findings_of(
    contract: Contract, found: ReferenceSet | None, budget: Budget | None, peaks: Mapping[Key, Finding], tally: Tally
) -> dict[Key, Finding]:
    """One finding for every monitored feature and segment, with the states that need the whole window settled."""
    made: dict[Key, Finding] = {}
    for key, reference in _monitored(contract, found):
        if found is None or reference is None or budget is None:
            made[key] = _without("reference_missing", found, contract)
        elif budget.too_small(key):
            made[key] = _without("reference_too_small", found, contract)
        else:
            peak = peaks.get(key)
            peak = (
                peak if peak is not None and peak.version == found.version else _without("undefined", found, contract)
            )
            made[key] = _settle(peak, reference, tally, contract)
    return made


def _settle(peak: Finding, reference: FeatureReference, tally: Tally, contract: Contract) -> Finding:
    """From the on-time rows alone."""
    key = reference.key
    counts = tally.in_time.counts.get(key, EMPTY)
    slots = _slot_rows(reference, tally.in_time.placed_of(key))
    unseen = apart(reference, slots)
    if contract.drift.rule == "ks_alpha":
        on_time = statistics.compare(reference, counts, contract.drift.alpha, slots)
        state = "undefined" if unseen else ks_state(reference, on_time)
        return msgspec.structs.replace(peak, rule="ks_alpha", state=state)
    n = counts.rows
    none = unseen or statistics.undefined(n, n + counts.nulls, reference.rows) or reference.rounded
    return msgspec.structs.replace(peak, state="undefined") if none and peak.state != "alarm" else peak


def ks_state(reference: FeatureReference, told: statistics.WindowStatistics) -> Literal["alarm", "ok", "undefined"]:
    """Rule `ks_alpha`: the statistic against its critical value, each window by itself."""
    if told.undefined is not None or told.statistic is None or told.critical_value is None:
        return "undefined"
    quiet = "undefined" if reference.rounded else "ok"
    return "alarm" if told.statistic > told.critical_value else quiet


def apart(reference: FeatureReference, slot_rows: Mapping[int, int] | None) -> str | None:
    """Why no detector saw the rows of a window; None if one saw any."""
    slots = reference.slots
    if slots is None or not slot_rows or min(slot_rows) < slots.judged:
        return None
    held = ", ".join(f"{slots.names[s]} ({int(slots.rows[s]):,})" for s in sorted(slot_rows))
    return f"{held}: reference rows below {FLOOR:,}, charted and never judged"


def _slot_rows(reference: FeatureReference, placed: Mapping[int, int]) -> dict[int, int] | None:
    """Rows by slot of the reference; None if it has no rhythm."""
    if reference.slots is None:
        return None
    found: dict[int, int] = {}
    for pane, rows in placed.items():
        slot = reference.slots.at(pane)
        found[slot] = found.get(slot, 0) + rows
    return found


def _without(state: State, found: ReferenceSet | None, contract: Contract) -> Finding:
    return Finding(found.version if found else 0, None, None, contract.drift.rule, state, None, 0, 0)


def verdicts_of(
    contract: Contract,
    span: tuple[int, int],
    found: ReferenceSet | None,
    tally: Tally,
    findings: Mapping[Key, Finding],
    provisional: bool,
) -> tuple[Verdict, ...]:
    """The window's verdicts in contract order, `*` first."""
    offsets = {str(p): tally.raw[p] for p in sorted(tally.raw)}
    kinds, times = {f.name: f.kind for f in contract.drift.watched}, (to_text(span[0]), to_text(span[1]))
    return tuple(
        _verdict(contract, times, found, key, kinds[key[0]], reference, tally, offsets, findings[key], provisional)
        for key, reference in _monitored(contract, found)
    )


def _verdict(
    contract: Contract,
    times: tuple[str, str],
    found: ReferenceSet | None,
    key: Key,
    kind: Kind,
    reference: FeatureReference | None,
    tally: Tally,
    offsets: Mapping[str, tuple[int, int]],
    finding: Finding,
    provisional: bool,
) -> Verdict:
    slots, unseen = None, None
    if reference is None:
        told = statistics.WindowStatistics(kind, tally.rows, 0, 0, contract.drift.alpha)
    else:
        slots = _slot_rows(reference, tally.total_placed(key))
        told = statistics.compare(reference, tally.total(key), contract.drift.alpha, slots)
        unseen = apart(reference, slots) or reference.rounded
    return Verdict(
        contract=contract.name,
        dataset=contract.id,
        window_start=times[0],
        window_end=times[1],
        feature=key[0],
        segment=key[1],
        kind=kind,
        n=told.n,
        reference_n=reference.rows if reference else 0,
        statistic=told.statistic,
        p_value=told.p_value,
        rule=finding.rule,
        alpha=contract.drift.alpha,
        critical_value=told.critical_value,
        threshold=finding.threshold,
        e_value=finding.e_value,
        effect=told.effect,
        psi=told.psi,
        js=told.js,
        null_ratio=told.null_ratio,
        quantiles_reference=told.quantiles_reference,
        quantiles_window=told.quantiles_window,
        change=named(told, finding.change) if finding.state in ("alarm", "warning") else None,
        state=finding.state,
        provisional=provisional,
        revision=tally.late,
        reference_version=found.version if found else 0,
        contract_version=contract.version,
        offsets=offsets,
        cramer_von_mises=told.cramer_von_mises,
        wasserstein=told.wasserstein,
        quantile_shifts=told.quantile_shifts,
        null_p_value=told.null_p_value,
        reject_p_value=told.reject_p_value,
        new_share=told.new_share,
        vanished=told.vanished,
        top_moves=told.top_moves,
        slot=" + ".join(reference.slots.names[s] for s in sorted(slots))
        if reference and reference.slots and slots
        else None,
        lower_effect=finding.lower_effect,
        tolerance=finding.tolerance,
        at=told.at,
        sign=told.sign,
        cvm_p_value=told.cvm_p_value,
        g_statistic=told.g_statistic,
        g_p_value=told.g_p_value,
        other_model=_other_model(reference, tally),
        undefined={**told.reasons, **({"state": unseen} if finding.state == "undefined" and unseen else {})},
    )


def _other_model(reference: FeatureReference | None, tally: Tally) -> int:
    """Rows of the window that the reference's model did not answer; known of the whole only."""
    if reference is None or not reference.model or reference.segment != WHOLE:
        return 0
    counts = tally.total(reference.key)
    return tally.rows - counts.rows - counts.nulls


def _monitored(contract: Contract, found: ReferenceSet | None) -> Iterator[tuple[Key, FeatureReference | None]]:
    members = found.load() if found else {}
    for feature in contract.drift.watched:
        segments = sorted(s for f, s in members if f == feature.name and s != WHOLE)
        for segment in (WHOLE, *segments):
            yield (feature.name, segment), members.get((feature.name, segment))
