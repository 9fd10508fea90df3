"""PURE. Episodes and verdicts as text for a terminal: no line longer than the width, nothing cut off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

Json = Mapping[str, object]
_ORDER = {"alarm": 0, "warning": 1, "ok": 2}
_LABEL = 10  # columns of a label
MOVED, SHORT = 3, 28  # features told; columns of a name in a table


def episodes(alerts: Sequence[Json], width: int = 80) -> Iterator[str]:
    """One paragraph an episode: what its newest firing alert says, when its state changed, what the ledger calls it."""
    for at, name in enumerate(dict.fromkeys(str(a["episode"]) for a in alerts)):
        own = [a for a in alerts if a["episode"] == name]
        if at:
            yield ""
        yield from _episode(name, own, width)


def _episode(name: str, own: Sequence[Json], width: int) -> Iterator[str]:
    last, firing = own[-1], [a for a in own if a["state"] == "firing"]
    told = firing[-1] if firing else last
    resolution = f", {last['resolution']}" if last.get("resolution") else ""
    yield from _wrapped("", f"{name}: {last['state']}{resolution}", width)
    yield from _line("changes", "; ".join(f"{a['state']} {_minute(a['event_time'])}" for a in own), width)
    yield from _line("since", _since(told), width)
    if last.get("case"):
        broken = f": {', '.join(map(str, last['rules']))} broken" if isinstance(last.get("rules"), list) else ""
        yield from _line("case", f"{last['case']}{broken}", width)
    if isinstance(seen := last.get("attribution"), Mapping):
        yield from _line("answers", f"{seen['said']} ({_minute(seen['from'])} to {_minute(seen['to'])})", width)
    for number, cause in enumerate(_list(told.get("causes")), 1):
        yield from _line(
            f"cause {number}",
            f"{cause['kind']} {cause['place']} ({_number(cause['score'], 2)}): {cause['evidence']}",
            width,
        )
    for f in _list(told.get("features"))[:MOVED]:
        yield from _line("moved", _feature(f), width)
    for feature, shares in groupby(_list(told.get("segments")), key=lambda s: s["feature"]):
        text = "; ".join(
            f"{s['segment']} {_percent(s['carries'])} of it with {_percent(s['rows'])} of the rows" for s in shares
        )
        yield from _line("carried", f"{feature} by {text}", width)
    if told["reference_version"] is not None:  # an episode of the loss has none
        yield from _line("reference", f"v{told['reference_version']}", width)


def _since(told: Json) -> str:
    low, high = _minute(told.get("onset_low")), _minute(told.get("onset_high"))
    shape = (
        f", {told['onset_shape']}, 90 % interval" if told.get("onset_shape") else ", interval without stated coverage"
    )
    return f"{_minute(told.get('onset'))} ({low} to {high}{shape})"


def _feature(f: Json) -> str:
    effect = f", effect {_number(f.get('effect'))}" if f.get("effect") is not None else ""
    evidence = (
        f", evidence {_number(f.get('e_value'))} over {_number(f.get('threshold'))}"
        if f.get("e_value") is not None
        else ""
    )
    return f"{f['feature']} {f['segment']} {f.get('change') or ''}".strip() + effect + evidence


def verdicts(found: Iterable[Json], width: int = 80) -> Iterator[str]:
    """A table for each window; what does not fit beside the figures stands below them."""
    ordered = sorted(found, key=lambda v: (str(v["window_start"]), _ORDER.get(str(v["state"]), 3), str(v["feature"]), str(v["segment"])))  # fmt: skip
    for at, ((start, end), own) in enumerate(groupby(ordered, key=lambda v: (v["window_start"], v["window_end"]))):
        rows = list(own)
        long = min(SHORT, max(len(_name(v)) for v in rows))
        if at:
            yield ""
        yield f"{_minute(start)} to {_minute(end)}"
        yield f"  {'feature, segment':<{max(long, 16)}}{'n':>8}{'statistic':>10}{'p':>9}{'evidence':>9}  state"
        for v in rows:
            yield from _verdict(v, max(long, 16), width)


def _verdict(v: Json, long: int, width: int) -> Iterator[str]:
    name, state = _name(v), str(v["state"])
    if len(name) > long:
        yield from _wrapped("  ", name, width)
        name = ""
    figures = (
        f"{_number(v['n']):>8}{_number(v['statistic']):>10}{_number(v['p_value'], 2):>9}{_number(v['e_value']):>9}"
    )
    marks = [m for m, on in (("provisional", v["provisional"]), (f"revision {v['revision']}", v["revision"])) if on]
    if v["change"]:
        marks.append(str(v["change"]))
    if v.get("other_model"):
        marks.append(f"{v['other_model']} rows answered by another model")
    if state in ("alarm", "warning"):
        marks.append(f"threshold {_number(v['threshold'])}")
    line = f"  {name:<{long}}{figures}  {state}"
    if len(line) > width:
        yield f"  {name:<{long}}{figures}"
        line = f"    {state}"
    yield line
    if marks:
        yield from _wrapped("    ", ", ".join(marks), width)


def _name(v: Json) -> str:
    return f"{v['feature']} {v['segment']}"


def _line(label: str, text: str, width: int) -> Iterator[str]:
    yield from _wrapped(f"  {label:<{_LABEL}}", text, width)


def _wrapped(head: str, text: str, width: int) -> Iterator[str]:
    yield from textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * max(len(head), 2)) or [
        head.rstrip()
    ]


def _list(value: object) -> list[dict[str, object]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _minute(value: object) -> str:
    return str(value)[:16].replace("T", " ") if value else "-"


def _percent(value: object) -> str:
    return f"{value:.0%}" if isinstance(value, int | float) else "-"


def _number(value: object, digits: int = 4) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:.{digits}g}" if isinstance(value, float) else "-"
