"""Question: one incident, one page, with a start time? Injected incidents through detectors, judge and episodes (`_incidents`)."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench import _incidents
from tests.bench._drift_answers import Answer, Size, Table, shared_out
from tests.bench.report import Bar, bar, progress

COUNT = {"short": 4, "default": 500, "full": 1_000}
SEED = 101


def run(size: Size) -> Answer:
    bars, figures = _incidents.measure(SEED, COUNT[size], progress, shared_out)
    about = " ".join((_incidents.__doc__ or "").split("\n\n")[-1].split())
    return Answer(
        "One incident, one page, with a start time",
        f"{COUNT[size]:,} incidents of {len(_incidents.KINDS)} kinds. {about}",
        asked("incidents", bars, 0.75 if size == "short" else 1.0),
        figures,
        [
            table("By kind of incident", "kind", figures["kinds"]),
            table("Rules with a `for:` clause on the same verdicts", "rule", figures["with a for clause"]),
        ],
    )


def asked(question: str, bars: list[Bar], most: float) -> list[Bar]:
    """The bars under their question's name, none above `most`: of the short form's few draws one may miss."""
    return [bar(f"{question}: {b['name']}", b["value"], b["op"], min(b["target"], most)) for b in bars]


def table(caption: str, first: str, rows: object) -> Table:
    """A mapping of mappings as a table."""
    assert isinstance(rows, Mapping)
    columns = list(next(iter(rows.values())))
    return Table(caption, (first, *columns), [(name, *(_shown(row[c]) for c in columns)) for name, row in rows.items()])


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)
