"""PURE. What a backtest found, and what must be said with it: a report, and what could not have paged."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from pipeline.contract import Contract
from pipeline.times import to_text
from stream_processors.detectors import budget
from stream_processors.judging.alert import Alert
from stream_processors.judging.panes import WHOLE, Clock, Key
from stream_processors.judging.timeline import Members
from stream_processors.judging.verdict import Verdict
from stream_processors.reference import rhythm_told

_MUTE = ("reference_missing", "reference_too_small")


@dataclass(frozen=True, slots=True)
class Backtested:
    """What the judge said of the windows in [since, until), and the changes of episode state in it."""

    contract: Contract
    clock: Clock
    since: int
    until: int
    rows: int  # valid, of event times in there
    rejects: int  # beside them
    verdicts: tuple[Verdict, ...]
    alerts: tuple[Alert, ...]
    references: tuple[tuple[int, int], ...]  # (version, effective from)
    members: Members = field(default_factory=dict)  # the references in force at the end
    late: int = 0  # rows that came too late for a detector, of everything read
    notes: tuple[str, ...] = ()  # what to know before believing the rest

    @property
    def pages(self) -> tuple[Alert, ...]:
        """Each episode's first `firing`."""
        return tuple({a.episode: a for a in reversed(self.alerts) if a.state == "firing"}.values())[::-1]


@dataclass(frozen=True, slots=True)
class Compared:
    same: int
    different: tuple[str, ...]  # where, and which fields


def unable(found: Backtested) -> dict[Key, str]:
    """Features and segments that could not page, or not in every window, and why: their silence says nothing."""
    made: dict[Key, str] = {}
    for key in keys_of(found):
        own = [v for v in found.verdicts if (v.feature, v.segment) == key]
        mute = [v for v in own if v.state in _MUTE]
        if not mute:
            continue
        reference = found.members.get(key)
        refusal = None if reference is None else budget.refusal(reference) or "an earlier reference was too small"
        why = refusal or "it has no reference"
        made[key] = why if len(mute) == len(own) else f"{why}; in {len(mute):,} of {len(own):,} windows"
    return made


def silent(found: Backtested) -> str:
    """What no page means."""
    cannot = {key for key in unable(found) if key[1] == WHOLE}
    if not cannot:
        return "it would have stayed silent" + (", but see above" if found.notes else "")
    all_of_them = all(v.state in _MUTE for v in found.verdicts)
    return "nothing could page" if all_of_them else "silent, but not all of it could page"


def fitted(found: Backtested) -> list[str]:
    """What each feature was compared with: rows, rhythm, dependence."""
    made = []
    for (name, segment), reference in sorted(found.members.items()):
        if segment == WHOLE:
            varied = reference.temper.inflation if reference.temper else 1.0
            depends = (
                f"sums of rows vary {varied:.1f} times as much as of independent ones"
                if reference.temper
                else "independent rows"
            )
            made.append(
                f"{name}: {reference.rows:,} row{'s' * (reference.rows != 1)}, {depends}, {rhythm_told.told(reference)}"
            )
    return made


def name_of(feature: str, segment: str) -> str:
    return feature if segment == WHOLE else f"{feature} {segment}"


def report(found: Backtested, seconds: float, compared: Compared | None) -> dict[str, object]:
    pages = [asdict(a) for a in found.pages]
    return {
        "contract": found.contract.name,
        "from": to_text(found.since),
        "to": to_text(found.until),
        "rows": found.rows,
        "rejects": found.rejects,
        "late": found.late,
        "notes": list(found.notes),
        "cannot_page": {name_of(*key): why for key, why in unable(found).items()},
        "references": [{"version": v, "effective_from": to_text(e)} for v, e in found.references],
        "windows": len({v.window_start for v in found.verdicts}),
        "verdicts": len(found.verdicts),
        "states": dict(sorted(Counter(v.state for v in found.verdicts).items())),
        "pages": pages,
        "days": sorted({str(p["event_time"])[:10] for p in pages}),
        "episodes": [asdict(a) for a in found.alerts],
        "features": [feature_report(found, *key) for key in keys_of(found)],
        "compared": None if compared is None else {"same": compared.same, "different": list(compared.different)},
        "seconds": seconds,
    }


def keys_of(found: Backtested) -> list[tuple[str, str]]:
    return list(dict.fromkeys((v.feature, v.segment) for v in found.verdicts))


def feature_report(found: Backtested, feature: str, segment: str) -> dict[str, object]:
    own = [v for v in found.verdicts if (v.feature, v.segment) == (feature, segment)]
    alarmed = [v for v in own if v.state == "alarm"]
    reference = found.members.get((feature, segment))
    return {
        "feature": feature,
        "segment": segment,
        "windows": len(own),
        "alarms": len(alarmed),
        "first_alarm": alarmed[0].window_start if alarmed else None,
        "change": max(alarmed, key=lambda v: v.effect or 0.0).change if alarmed else None,  # where it was largest
        "largest_effect": max((v.effect for v in own if v.effect is not None), default=None),
        "state": own[-1].state,
        "reference_rows": reference.rows if reference else 0,
        "rhythm": list(reference.slots.names) if reference and reference.slots else [],
        "rhythm_told": rhythm_told.told(reference) if reference else "",
        "dependence": reference.temper.inflation if reference and reference.temper else 1.0,
    }
