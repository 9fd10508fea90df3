"""PURE. From a closed window's counts and its detectors' findings to verdicts.

A finding is fixed when the window closes and knows on-time rows only; the statistics beside it describe every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from pipeline.contract import Contract
from pipeline.times import to_text
from stream_processors import statistics
from stream_processors.budget import Budget
from stream_processors.cells import EMPTY, FeatureReference
from stream_processors.closed import Finding, Tally
from stream_processors.panes import WHOLE, Clock, Key
from stream_processors.timeline import ReferenceSet
from stream_processors.verdict import State, Verdict


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
            made[key] = _settle(
                peak, statistics.compare(reference, tally.counts.get(key, EMPTY), contract.drift.alpha), contract
            )
    return made


def _settle(peak: Finding, on_time: statistics.WindowStatistics, contract: Contract) -> Finding:
    if contract.drift.rule == "ks_alpha":
        return msgspec.structs.replace(peak, rule="ks_alpha", state=_ks_state(on_time))
    undefined = on_time.undefined is not None and peak.state != "alarm"
    return msgspec.structs.replace(peak, state="undefined") if undefined else peak


def _ks_state(on_time: statistics.WindowStatistics) -> State:
    if on_time.undefined is not None or on_time.statistic is None or on_time.critical_value is None:
        return "undefined"
    return "alarm" if on_time.statistic > on_time.critical_value else "ok"


def _without(state: State, found: ReferenceSet | None, contract: Contract) -> Finding:
    return Finding(found.version if found else 0, None, None, contract.drift.rule, state, None, 0, 0)


def verdicts_of(
    contract: Contract,
    clock: Clock,
    found: ReferenceSet | None,
    window: int,
    tally: Tally,
    findings: Mapping[Key, Finding],
    provisional: bool,
) -> tuple[Verdict, ...]:
    """The window's verdicts in contract order, `*` first."""
    offsets = {str(p): tally.raw[p] for p in sorted(tally.raw)}
    made = []
    for (feature, segment), reference in _monitored(contract, found):
        finding, key = findings[feature, segment], (feature, segment)
        kind = next(f.kind for f in contract.drift.features if f.name == feature)
        told = statistics.compare(reference, tally.total(key), contract.drift.alpha) if reference else None
        made.append(
            Verdict(
                contract=contract.name,
                dataset=contract.id,
                window_start=to_text(window),
                window_end=to_text(window + clock.window),
                feature=feature,
                segment=segment,
                kind=kind,
                n=told.n if told else tally.rows,
                reference_n=reference.rows if reference else 0,
                statistic=told.statistic if told else None,
                p_value=told.p_value if told else None,
                rule=finding.rule,
                alpha=contract.drift.alpha,
                critical_value=told.critical_value if told else None,
                threshold=finding.threshold,
                e_value=finding.e_value,
                effect=told.effect if told else None,
                psi=told.psi if told else None,
                js=told.js if told else None,
                null_ratio=told.null_ratio if told else None,
                quantiles_reference=told.quantiles_reference if told else None,
                quantiles_window=told.quantiles_window if told else None,
                change=finding.change if finding.state in ("alarm", "warning") else None,
                state=finding.state,
                provisional=provisional,
                revision=tally.late,
                reference_version=found.version if found else 0,
                contract_version=contract.version,
                offsets=offsets,
            )
        )
    return tuple(made)


def _monitored(contract: Contract, found: ReferenceSet | None) -> Iterator[tuple[Key, FeatureReference | None]]:
    members = found.load() if found else {}
    for feature in contract.drift.features:
        segments = sorted(s for f, s in members if f == feature.name and s != WHOLE)
        for segment in (WHOLE, *segments):
            yield (feature.name, segment), members.get((feature.name, segment))
