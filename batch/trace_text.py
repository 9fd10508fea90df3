"""PURE. A trace as a tree of text: one line a station, what is absent beside what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

SHOWN = 5  # files; JSON has all of them
Json = Mapping[str, object]
Branch = tuple[str, list["Branch"]]


def text(trace: Json) -> str:
    absent = cast(Mapping[str, str], trace["absent"])
    top: Branch = (
        f"{trace['asked']} ({trace['model']})",
        [_answer(trace, absent), _row(trace, absent), _model(trace, absent)],
    )
    return "\n".join([top[0], *_lines(top[1], "")])


def _answer(trace: Json, absent: Mapping[str, str]) -> Branch:
    said, others = cast(Json | None, trace["prediction"]), cast(Sequence[Json], trace["others"])
    if said is None:
        return f"prediction: absent: {absent.get('prediction')}", []
    more = [(f"also answered by version {o['version']} at {o['at']}: {o['score']:.4f}", []) for o in others]
    return f"prediction {said['id']}: {said['score']:.4f} by version {said['version']} at {said['at']}", more


def _row(trace: Json, absent: Mapping[str, str]) -> Branch:
    row, outcome = cast(Json | None, trace["row"]), cast(Json | None, trace["outcome"])
    if row is None:
        return f"row: absent: {absent.get('row')}", []
    below: list[Branch] = []
    if outcome:
        name, value = next(iter(outcome.items()))
        below = [(f"outcome: {name} = {value}, heard {outcome['append_time']}", [])]
    elif "outcome" in absent:
        below = [(f"outcome: absent: {absent['outcome']}", [])]
    return f"row {row['topic']}[{row['partition']}]@{row['offset']}, arrived {row['append_time']}", below


def _model(trace: Json, absent: Mapping[str, str]) -> Branch:
    inferred = " (inferred: the champion when the row arrived)" if trace["inferred"] else ""
    bundle = cast(Json | None, trace["bundle"])
    files = f"bundle: absent: {absent.get('bundle') or absent.get('training')}"
    if bundle:
        intact = (
            "as the ledger names it"
            if bundle["intact"]
            else f"NOT what the ledger names ({str(bundle['sha256'])[:16]})"
        )
        files = f"bundle {bundle['uri']}: digest {str(bundle['on_disk'])[:16]}, {intact}"
        files += "" if bundle["answered_by_it"] else "; the answer came from OTHER files"
    below = [(files, []), _decision(trace, absent), _training(trace, absent)]
    return f"model version {trace['version'] or 'unknown'}{inferred}", below


def _decision(trace: Json, absent: Mapping[str, str]) -> Branch:
    made = cast(Json | None, trace["decision"])
    if made is None:
        return f"decision: absent: {absent.get('decision')}", []
    said = f"decision: ledger entry {made['seq']}, {made['action']} at {made['at']} by {made['actor']}, former {made['former'] or 'none'}"
    said += ", LATER than the answer" if made["later"] else ""
    return said, [(str(made["reason"]), []), (f"policy {made['policy']}; ledger: {trace['ledger']}", [])]


def _training(trace: Json, absent: Mapping[str, str]) -> Branch:
    made = cast(Json | None, trace["training"])
    if made is None:
        return f"training: absent: {absent.get('training')}", []
    data = cast(Json, made["data"])
    ranges = cast(Mapping[str, Sequence[int]], data.get("ranges") or {})
    letters = cast(Mapping[str, int], data.get("dead_letters") or {})
    recipe = cast(Json, data.get("recipe") or {})
    code = cast(Json, recipe.get("code") or {})
    told = [
        f"table version {data.get('table_version')}, outcomes version {data.get('outcomes_version')}, quality {data.get('status')}",
        f"{data.get('rows')} rows, {data.get('positives')} positive, {data.get('start')} to {data.get('end')}",
        f"digest {data.get('digest')}",
        f"contract {data.get('contract')}, features {data.get('features')}, code {code.get('driftline')}",
    ]
    left = ", ".join(f"{reason} {n}" for reason, n in letters.items()) or "none"
    row = cast(Json, trace["row"] or {})
    offsets: list[Branch] = [(f"[{p}] {low} to {high - 1}", []) for p, (low, high) in ranges.items()]
    below = [*((line, []) for line in told), _files(trace, absent)]
    below += [(f"offsets of {row.get('topic', 'the events topic')}", offsets), (f"dead letters left out: {left}", [])]
    return f"training: ledger entry {made['seq']} at {made['at']} by {made['actor']}: {made['reason']}", below


def _files(trace: Json, absent: Mapping[str, str]) -> Branch:
    files = cast(Sequence[Json] | None, trace["files"])
    if files is None:
        return f"files: absent: {absent.get('files')}", []
    gone = sum(not f["there"] for f in files)
    title = f"{len(files)} files" + (
        f", {gone} merged since and vacuumed (`models rebuild` needs none of them)" if gone else ""
    )
    shown: list[Branch] = [(f"{f['path']} ({f['rows']} rows)", []) for f in files[:SHOWN]]
    return title, shown + ([(f"and {len(files) - SHOWN} more", [])] if len(files) > SHOWN else [])


def _lines(branches: Sequence[Branch], margin: str) -> list[str]:
    found: list[str] = []
    for i, (title, below) in enumerate(branches):
        last = i == len(branches) - 1
        found.append(f"{margin}{'└─' if last else '├─'} {title}")
        found += _lines(below, margin + ("   " if last else "│  "))
    return found
