"""PURE. The drift page and the report: plain values in, one self-contained HTML document out. It fetches nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from monitoring.charts import Series, line_chart
from pipeline.times import to_ms

STYLE = """
:root{color-scheme:light dark;--ink:#1f2937;--soft:#6b7280;--line:#e5e7eb;--card:#fff;--page:#f3f4f6;--bad:#b91c1c;--good:#047857;--warn:#b45309}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--soft:#9ca3af;--line:#374151;--card:#111827;--page:#030712;--bad:#f87171;--good:#34d399;--warn:#fbbf24}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px}h1{margin:0 0 4px;font-size:24px}h2{font-size:17px;margin:0 0 10px}
.sub{color:var(--soft);margin:0 0 20px}.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin:0 0 18px;overflow-x:auto}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:18px}.two .card{margin:0}.two{margin-bottom:18px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;font-size:13px}td.n{text-align:right}th.n{text-align:right}.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}.warn{color:var(--warn);font-weight:600}
.chart{width:100%;height:auto}.chart text{font-size:11px;fill:var(--soft)}.chart .grid{stroke:var(--line)}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:12.5px;color:var(--soft)}.legend i{display:inline-block;width:18px;margin-right:5px;vertical-align:middle}
figure{margin:0 0 14px}figure img{max-width:100%;border-radius:6px}figcaption{color:var(--soft);font-size:13px}
"""

STATE_CLASS = {"alarm": "bad", "firing": "bad", "warning": "warn", "pending": "warn", "ok": "good", "resolved": "good"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: its text, whether it is a number, and a colour class."""

    text: str
    number: bool = False
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    empty: str = "nothing yet"


@dataclass(frozen=True, slots=True)
class Section:
    """One card: a heading, a sentence, then any of a chart (SVG text), a table, pictures (source, caption)."""

    title: str
    text: str = ""
    chart: str = ""
    table: Table | None = None
    pictures: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section | tuple[Section, ...]] = field(default_factory=tuple)  # a tuple stands side by side
    refresh_s: int | None = None


def html(page: Page) -> str:
    refresh = f'<meta http-equiv="refresh" content="{page.refresh_s}">' if page.refresh_s else ""
    body = "".join(
        _card(s) if isinstance(s, Section) else f'<div class="two">{"".join(map(_card, s))}</div>'
        for s in page.sections
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{refresh}'
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(page.title)}</h1><p class="sub">{escape(page.subtitle)}</p>{body}</main></body></html>'
    )


def number(value: object, digits: int = 4) -> Cell:
    """A figure for people; None and non-finite values are a dash."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return Cell("-", True)
    return Cell(f"{value:,d}" if isinstance(value, int) else f"{value:.{digits}g}", True)


def state(text: str) -> Cell:
    return Cell(text, tone=STATE_CLASS.get(text, ""))


def _card(section: Section) -> str:
    text = f'<p class="sub">{escape(section.text)}</p>' if section.text else ""
    pictures = "".join(
        f'<figure><img src="{escape(src)}" alt="{escape(cap)}"><figcaption>{escape(cap)}</figcaption></figure>'
        for src, cap in section.pictures
    )
    return f'<section class="card"><h2>{escape(section.title)}</h2>{text}{section.chart}{pictures}{_table(section.table) if section.table else ""}</section>'


def _table(table: Table) -> str:
    if not table.rows:
        return f'<p class="sub">{escape(table.empty)}</p>'
    numeric = [all(isinstance(r[i], Cell) and r[i].number for r in table.rows) for i in range(len(table.head))]  # type: ignore[union-attr]
    head = "".join(f'<th class="{"n" if n else ""}">{escape(h)}</th>' for h, n in zip(table.head, numeric, strict=True))
    rows = "".join(f"<tr>{''.join(map(_cell, r))}</tr>" for r in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    classes = " ".join(c for c in ("n" if cell.number else "", cell.tone) if c)
    return f'<td class="{classes}">{escape(cell.text)}</td>'


Verdict = Mapping[str, object]
Alert = Mapping[str, object]


def drift_page(
    dataset: str, verdicts: Sequence[Verdict], alerts: Sequence[Alert], ledger: Sequence[Mapping[str, object]]
) -> Page:
    """The live page of one dataset from its latest verdict revisions, alert records and ledger entries, oldest first."""
    whole = [v for v in verdicts if v["segment"] == "*"]
    features = sorted({str(v["feature"]) for v in whole})
    last = max((str(v["window_end"]) for v in verdicts), default="-")
    return Page(
        f"driftline / {dataset}",
        f"Latest closed window ends {last} (event time). {len(alerts)} changes of alert state, {len(ledger)} ledger entries.",
        (
            (
                Section(
                    "Distance from the reference",
                    "K-S distance (Jensen-Shannon for categories) of each closed window.",
                    chart=_chart(whole, features, "statistic"),
                ),
                Section(
                    "Evidence against its threshold",
                    "Natural log of the alarm statistic. A page needs it above the dashed line, which the page budget gives.",
                    chart=_chart(whole, features, "e_value", "threshold", logarithmic=True),
                ),
            ),
            Section("Episodes", table=_episode_table(alerts)),
            Section("Decisions", table=_ledger_table(ledger)),
            Section("Last window", table=_window_table([v for v in verdicts if v["window_end"] == last])),
        ),
        refresh_s=5,
    )


def _chart(
    verdicts: Sequence[Verdict],
    features: Sequence[str],
    value: str,
    limit: str | None = None,
    *,
    logarithmic: bool = False,
) -> str:
    ends = sorted({str(v["window_end"]) for v in verdicts})
    series = [
        Series(f, [(to_ms(str(v["window_end"])), v[value]) for v in verdicts if v["feature"] == f]) for f in features
    ]  # type: ignore[misc]
    if limit:
        tops = {e: [v[limit] for v in verdicts if v["window_end"] == e and v[limit] is not None] for e in ends}
        series.append(Series(limit, [(to_ms(e), min(t) if t else None) for e, t in tops.items()], dashed=True))  # type: ignore[type-var]
    labels = (ends[0][:16], ends[-1][:16]) if ends else ("", "")
    return line_chart(series, x_labels=labels, logarithmic=logarithmic)


def _window_table(verdicts: Sequence[Verdict]) -> Table:
    order = sorted(verdicts, key=lambda v: (v["segment"] != "*", str(v["segment"]), str(v["feature"])))
    return Table(
        (
            "feature",
            "segment",
            "state",
            "rows",
            "statistic",
            "critical value",
            "p-value",
            "PSI",
            "evidence",
            "threshold",
            "change",
        ),
        [
            (
                str(v["feature"]),
                str(v["segment"]),
                state(str(v["state"])),
                number(v["n"]),
                number(v["statistic"]),
                number(v["critical_value"]),
                number(v["p_value"], 3),
                number(v.get("psi"), 3),
                number(v["e_value"], 3),
                number(v["threshold"], 3),
                str(v.get("change") or ""),
            )
            for v in order
        ],
        empty="no window has closed yet",
    )


def _episode_table(alerts: Sequence[Alert]) -> Table:
    rows = []
    for alert in reversed(alerts):
        features = alert.get("features") or []
        moved = "; ".join(
            f"{f['feature']}{'' if f['segment'] == '*' else ' ' + f['segment']}: {f.get('change') or 'moved'}, D={f['statistic']:.3f}"
            for f in features[:4]
            if f.get("statistic") is not None
        )  # type: ignore[index,union-attr]
        rows.append(
            (
                str(alert["episode"]),
                str(alert["source"]),
                state(str(alert["state"])),
                str(alert.get("event_time") or "-"),
                str(alert.get("onset") or "-"),
                moved,
                str(alert.get("resolution") or ""),
            )
        )
    return Table(
        ("episode", "source", "state", "at (event time)", "began about", "what moved", "resolution"),
        rows,
        empty="no episode so far",
    )


def _ledger_table(ledger: Sequence[Mapping[str, object]]) -> Table:
    rows = [
        (
            number(e["seq"]),
            str(e["at"]),
            str(e["action"]),
            str(e.get("version") or "-"),
            str(e.get("former") or "-"),
            str(e.get("actor") or ""),
            str(e.get("reason") or ""),
        )
        for e in reversed(ledger)
    ]
    return Table(("seq", "at", "action", "version", "former", "actor", "reason"), rows, empty="no decision so far")
