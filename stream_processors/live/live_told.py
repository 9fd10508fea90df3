"""PURE. Records of live windows added up: one line a model version and slice, over the newest windows of each version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.contract import EvaluationPlan
from stream_processors.live.estimate import estimated
from stream_processors.live.live_metrics import FIGURES, figures
from stream_processors.live.live_windows import WHOLE, told
from stream_processors.live.tally import Tally, merged

Json = Mapping[str, object]


def latest(records: Iterable[Json]) -> list[Json]:
    """The newest record of each version and window, in window order."""
    newest = {(str(r["window_start"]), str(r["version"])): r for r in records}
    return [newest[place] for place in sorted(newest)]


def summed(records: Iterable[Json], plan: EvaluationPlan, windows: int) -> Iterator[dict[str, object]]:
    """Over the newest `windows` of each version: what was realised, what the scores promised, how often that held."""
    listed = latest(records)
    for version in dict.fromkeys(str(r["version"]) for r in listed):
        own = [r for r in listed if r["version"] == version][-windows:]
        held = [r["estimate_holds"] for r in own]
        for name in sorted({s for r in own for s in _tallies(r)}, key=lambda s: (s != WHOLE, s)):
            tally = merged(Tally.from_json(_tallies(r)[name]) for r in own if name in _tallies(r))
            yield {
                "model": own[0]["model"],
                "version": version,
                "slice": name,
                "from": own[0]["window_start"],
                "to": own[-1]["window_end"],
                "windows": len(own),
                "open": sum(not r["final"] for r in own),
                "predicted": tally.predicted,
                "labelled": tally.rows,
                "realised": told(figures(tally, plan)),
                "estimated": told(estimated(tally, plan)),
                "estimate_held": held.count(True) if name == WHOLE else None,
                "estimate_missed": held.count(False) if name == WHOLE else None,
            }


def paragraph(lines: Sequence[Json]) -> Iterator[str]:
    """One version's lines as text: the whole with its intervals beside its estimates, then a row a slice."""
    whole = lines[0]
    yield (
        f"{whole['model']} version {whole['version']}: {whole['labelled']:,} of {whole['predicted']:,} predictions labelled, "
        f"{whole['windows']} windows ({whole['open']} open), {_minute(whole['from'])} to {_minute(whole['to'])}"
    )
    realised, promised = _figures(whole, "realised"), _figures(whole, "estimated")
    for name in FIGURES:
        if name in realised:
            beside = f"   before labels {_shown(promised[name])}" if name in promised else ""
            yield f"  {name:<18}{_shown(realised[name])}{beside}"
    yield f"  estimate held in {whole['estimate_held']} closed windows, missed in {whole['estimate_missed']}"
    columns = ("log_loss", "roc_auc", "precision", "recall", "calibration_error", "cost")
    if len(lines) > 1:
        yield f"  {'slice':<24}{'labelled':>9}" + "".join(f"{c.replace('calibration_error', 'calibration'):>12}" for c in columns)  # fmt: skip
    for line in lines[1:]:
        own = _figures(line, "realised")
        cells = (f"{own[c][0]:>12.4f}" if c in own else f"{'-':>12}" for c in columns)
        yield f"  {line['slice']!s:<24}{line['labelled']:>9,}" + "".join(cells)


def _figures(line: Json, name: str) -> Mapping[str, Sequence[float]]:
    found = line[name]
    assert isinstance(found, dict)
    return found


def _shown(figure: Sequence[float]) -> str:
    value, low, high = figure
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _minute(value: object) -> str:
    return str(value)[:16].replace("T", " ")


def _tallies(record: Json) -> Mapping[str, Mapping[str, list]]:  # type: ignore[type-arg]
    found = record["tallies"]
    assert isinstance(found, dict)
    return found
