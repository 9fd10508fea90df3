"""PURE. What a reference says of its rhythm, in one line: the laws, why slots were merged, what is apart, what it is too short for."""

from __future__ import annotations

from collections.abc import Sequence

from stream_processors.reference.cells import FeatureReference
from stream_processors.reference.plans import FLOOR
from stream_processors.reference.rhythm import DAYS, WEEK_DAYS
from stream_processors.reference.slots import UNMATCHED

_NAMED = 6  # slots, before the rest is a number


def told(reference: FeatureReference) -> str:
    return "; ".join((_laws(reference), *_merged(reference), *_apart(reference), *_too_short(reference)))


def _laws(reference: FeatureReference) -> str:
    slots, evidence = reference.slots, reference.evidence
    if slots is None:
        return "one law at all times" + ("" if "days" in evidence else ", rhythm not tested")
    if slots.judged == 1:
        return "one law"
    size = max(evidence.get("hour_size", 0.0), evidence.get("week_size", 0.0))
    names = _listed(slots.names[: slots.judged])
    return f"{slots.judged} slots of the week ({names})" + (f", a rhythm of {size:.2g} sd" if size else "")


def _merged(reference: FeatureReference) -> list[str]:
    wanted, least = (int(reference.evidence.get(name, 0)) for name in ("slots_wanted", "least_rows"))
    if not wanted or least >= FLOOR:
        return []
    into = "one law that hides the rhythm" if reference.slots is None or reference.slots.judged == 1 else "these"
    into += ", which never pages" if UNMATCHED in reference.evidence else ""
    return [
        f"{wanted} slots, the smallest with {least:,} rows of the {FLOOR:,} that one needs, were merged into {into}"
    ]


def _apart(reference: FeatureReference) -> list[str]:
    slots = reference.slots
    if slots is None or not slots.some_apart:
        return []
    held = [f"{n} ({r:,} rows)" for n, r in zip(slots.names, slots.rows.tolist(), strict=True)][slots.judged :]
    return [f"departing and below {FLOOR:,} rows, charted and never judged: {_listed(held)}"]


def _too_short(reference: FeatureReference) -> list[str]:
    days = int(reference.evidence.get("days", WEEK_DAYS))
    needs = [f"a {name} rhythm needs {n} days" for name, n in (("daily", DAYS), ("weekday", WEEK_DAYS)) if days < n]
    return [f"{', '.join(needs)}: {days} here"] if needs else []


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
