"""Writes docs/drift-quality.md and its pictures from the answers of one run of the bench `drift`."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib

from tests.bench._drift_answers import Answer, Picture, Size, Table
from tests.bench.report import Bar

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "drift-quality.md"
PICTURES = ROOT / "docs" / "pictures"
FORMS = {"short": "`--short`: its rates mean nothing", "default": "the default form", "full": "`--full`"}


def write(answers: Mapping[str, Answer], size: Size, seconds: float) -> Path:
    """The page; pictures beside it. Equal answers give an equal page but for the machine's own figures."""
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "driftline", "svg.fonttype": "none"})
    for answer in answers.values():
        for picture in answer.pictures:
            _draw(picture)
    PAGE.write_text("\n".join(_page(answers, size, seconds)) + "\n", encoding="utf-8")
    return PAGE


def _page(answers: Mapping[str, Answer], size: Size, seconds: float) -> Iterator[str]:
    bars = [b for a in answers.values() for b in a.bars]
    missed = [b for b in bars if not b["pass"]]
    yield "# Drift: how good it is"
    yield ""
    yield (
        f"Written by `driftline bench drift` ({FORMS[size]}), {seconds / 60:.0f} minutes on {platform.machine()}, two processes. "
        f"Seeded: speeds depend on the machine, and the event times of the broker's month on the day. {len(bars) - len(missed)} of {len(bars)} bars hold."
    )
    yield "How it works is in [drift.md](drift.md) and [drift-stream.md](drift-stream.md)."
    yield ""
    yield from _misses(missed)
    yield "| question | bars that hold | seconds |"
    yield "|---|---|---|"
    for name, answer in answers.items():
        held = sum(bool(b["pass"]) for b in answer.bars)
        yield f"| [{answer.title}](#{_anchor(answer.title)}) (`{name}`) | {held} of {len(answer.bars)} | {answer.figures.get('seconds', '')} |"
    for answer in answers.values():
        yield ""
        yield from _section(answer)


def _misses(missed: list[Bar]) -> Iterator[str]:
    if not missed:
        return
    yield "Missed:"
    yield ""
    for b in missed:
        yield f"- {b['name']}: {_figure(b['value'])}, wanted {b['op']} {_figure(b['target'])}{'' if b['required'] else ' (an aim, not required)'}"
    yield ""


def _section(answer: Answer) -> Iterator[str]:
    yield f"## {answer.title}"
    yield ""
    yield answer.how
    for table in answer.tables:
        yield ""
        yield from _table(table)
    for picture in answer.pictures:
        yield ""
        yield f"![{picture.alt}](pictures/drift-{picture.stem}.svg)"
    if answer.notes:
        yield ""
        yield " ".join(answer.notes)
    yield ""
    yield "| bar | measured | wanted | verdict |"
    yield "|---|---|---|---|"
    for b in answer.bars:
        name = str(b["name"]).partition(": ")[2] or b["name"]
        yield f"| {_cell(name)} | {_figure(b['value'])} | {b['op']} {_figure(b['target'])} | {_verdict(b)} |"


def _table(table: Table) -> Iterator[str]:
    yield f"{table.caption}:"
    yield ""
    yield f"| {' | '.join(table.head)} |"
    yield "|" + "---|" * len(table.head)
    for row in table.rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|")


def _verdict(b: Bar) -> str:
    return "holds" if b["pass"] else "**missed**" if b["required"] else "missed (aim)"


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _draw(picture: Picture) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    picture.draw(axes)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"drift-{picture.stem}.svg", metadata={"Date": None})
    pyplot.close(figure)
