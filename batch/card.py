"""PURE. A model card as one HTML page that needs nothing else: data, figures by slice and group, limits, reference, decision.

Everything that it says was measured or recorded by the training that writes it. Texts are escaped: names of categories come
from data. It knows no file and no registry.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batch.card_figures import Figures, Interval, Slice
from pipeline.contract import Contract

Json = Mapping[str, object]
WIDTH, BAR = 360, 22  # of the chart of gaps, pixels

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#1d2733;margin:2em auto;max-width:64em;padding:0 1em}
h1{margin-bottom:0}h2{margin-top:2em;border-bottom:2px solid #e4e8ec}table{border-collapse:collapse;margin:.6em 0}
td,th{padding:.25em .8em;text-align:left;border-bottom:1px solid #e4e8ec;vertical-align:top}.n{text-align:right;font-variant-numeric:tabular-nums}
.lead{color:#53606e}.yes{color:#2f7d4f;font-weight:600}.no{color:#b3372f;font-weight:600}code{font-size:.9em;overflow-wrap:anywhere}
.pictures{display:flex;flex-wrap:wrap;gap:1em}.pictures img{max-width:31%;min-width:18em;flex:1}small{color:#53606e}"""


@dataclass(frozen=True, slots=True)
class Card:
    """What the page is made of."""

    contract: Contract
    model: str
    version: str
    at: str
    data: Json  # the identity
    recipe: Json
    params: Json
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    figures: Figures
    features: Sequence[str]
    gate: Json
    artifact: Json
    tested_from: str
    sizes: tuple[int, int, int]  # rows that were taught, calibrated, tested
    fewest: int  # rows from which a slice is told


def page(card: Card, pictures: Mapping[str, bytes]) -> str:
    """`pictures`: PNG files by what they show."""
    label = card.contract.label.name if card.contract.label else ""
    title = f"{card.model} version {card.version}"
    parts = [
        f"<h1>{_h(title)}</h1>",
        f"<p class=lead>The probability that <b>{_h(label)}</b> is true of a row of <b>{_h(card.contract.name)}</b>. "
        f"{_h(card.contract.description)} Trained {_h(card.at)}; owner: {_h(card.contract.owner or 'not named')}.</p>",
        _decision(card),
        _data(card),
        _metrics(card),
        _pictures(pictures),
        _slices(card),
        _fairness(card),
        _features(card),
        _reference(card),
        _limits(card),
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{_h(title)}</title><style>{_STYLE}</style>"
    return head + "\n".join(parts) + "\n"


def _decision(card: Card) -> str:
    gate = card.gate
    yes = bool(gate["promote"])
    reasons = "".join(f"<li>{_h(r)}</li>" for r in _list(gate["reasons"]))
    champion = (
        f"champion version {gate['champion']}"
        if gate["champion"]
        else "always answering the base rate (there was no champion)"
    )
    said = "<span class=yes>may serve</span>" if yes else "<span class=no>may not serve</span>"
    return (
        f"<h2>Decision</h2><p>At training the gate said: {said}, beside {_h(champion)}. Policy {_code(gate['policy'])}. "
        "Whether it serves, since when and by whom stands in the ledger: <code>driftline models history</code>.</p>"
        f"<ul>{reasons}</ul>"
    )


def _data(card: Card) -> str:
    d, recipe = card.data, card.recipe
    code = _map(recipe["code"])
    ranges = ", ".join(f"[{p}] {_list(r)[0]} to {_whole(_list(r)[1]) - 1}" for p, r in _map(d["ranges"]).items())
    left = ", ".join(f"{_h(k)} {n}" for k, n in _map(d["dead_letters"]).items()) or "none"
    rows = [
        (
            "rows",
            f"{_whole(d['rows']):,} labelled ({_whole(d['positives']):,} true), {_whole(d['unlabelled']):,} whose label never came",
        ),
        ("event time", f"{_h(d['start'])} to {_h(d['end'])}"),
        (
            "parts, by event time",
            f"taught {card.sizes[0]:,}, calibrated {card.sizes[1]:,}, tested {card.sizes[2]:,} (from {_h(card.tested_from)})",
        ),
        ("table version", f"{_h(d['table_version'])}, outcomes {_h(d['outcomes_version'])}"),
        ("raw offsets", _h(ranges)),
        ("dead letters left out", left),
        ("quality", _h(d["status"])),
        ("content digest", _code(d["digest"])),
        ("contract, features", f"{_h(d['contract'])}, {_h(d['features'])}"),
        ("code", _h(", ".join(f"{k} {v}" for k, v in code.items()))),
        ("seed, onset", f"{_h(recipe['seed'])}, {_h(recipe['since'] or 'none')}"),
        ("bundle digest", _code(card.artifact["sha256"])),
    ]
    again = f"<p>The same rows and the same model again: <code>driftline models rebuild {_h(card.version)}</code>.</p>"
    return "<h2>Data</h2>" + _table(("", ""), rows) + again


def _metrics(card: Card) -> str:
    rows = [
        (_h(name.replace("_", " ")), _n(value), _n(card.baseline[name]) if name in card.baseline else "")
        for name, value in card.metrics.items()
    ]
    loss, gap = card.figures.loss, card.figures.gap
    note = (
        f"<p>On {card.figures.rows:,} rows later than all that it was taught. Log loss with its 95 % interval: {_interval(loss)}; "
        f"promised minus observed share: {_interval(gap)}.</p>"
    )
    return "<h2>Figures</h2>" + note + _table(("figure", "model", "always the base rate"), rows)


def _pictures(pictures: Mapping[str, bytes]) -> str:
    images = "".join(
        f'<img alt="{_h(name)}" src="data:image/png;base64,{base64.b64encode(body).decode()}">'
        for name, body in pictures.items()
    )
    return f"<div class=pictures>{images}</div>"


def _slices(card: Card) -> str:
    rows = [
        (
            _h(f"{s.column} = {s.value or '(null)'}"),
            f"{s.rows:,}",
            f"{s.positive:.1%}",
            _interval(s.loss),
            _n(s.base_loss),
            "" if s.auc is None else _n(s.auc),
        )
        for s in card.figures.slices
    ]
    head = ("slice", "rows", "observed", "log loss", "base rate's", "AUC")
    return "<h2>By slice</h2>" + _table(head, rows) + _untold(card)


def _untold(card: Card) -> str:
    return f"<p><small>Slices of fewer than {card.fewest} test rows are not told ({card.figures.untold:,} rows, a row counting once a column).</small></p>"


def _fairness(card: Card) -> str:
    widest = [
        (
            _h(w.column),
            _h(w.high or "(null)"),
            _h(w.low or "(null)"),
            _interval(w.difference),
            "yes" if w.difference.low > 0 else "no",
        )
        for w in card.figures.widest
    ]
    return (
        "<h2>Gaps between groups</h2><p>A group's gap is what the model promises on average minus what happened: above zero it is "
        "told riskier than it is. Intervals hold together with 95 % confidence (Bonferroni); red ones leave zero out.</p>"
        + _chart(card.figures.slices)
        + (
            "<p>The two groups of each category that lie furthest apart:</p>"
            + _table(("category", "highest gap", "lowest gap", "difference", "shown to differ"), widest)
            if widest
            else "<p>No category has two groups with enough rows to compare.</p>"
        )
    )


def _chart(slices: Iterable[Slice]) -> str:
    """A line an interval, the zero line through all of them."""
    shown = list(slices)
    if not shown:
        return "<p>No group has enough rows.</p>"
    reach = max(max(abs(s.gap.low), abs(s.gap.high)) for s in shown) * 1.05 or 1.0
    left, height = 190, BAR * len(shown) + 24

    def x(value: float) -> float:
        return left + (value / reach + 1) / 2 * WIDTH

    lines = []
    for i, s in enumerate(shown):
        y = BAR * i + BAR / 2
        colour = "#3b6ea8" if s.gap.low <= 0 <= s.gap.high else "#b3372f"
        lines.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{_h(f"{s.column} = {s.value}")}</text>'
            f'<line x1="{x(s.gap.low):.1f}" x2="{x(s.gap.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{x(s.gap.value):.1f}" cy="{y}" r="4" fill="{colour}"/>'
            f'<text x="{left + WIDTH + 12}" y="{y + 4}">{_interval(s.gap)}</text>'
        )
    zero = f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height - 22}" stroke="#9aa4ae"/>'
    ends = "".join(
        f'<text x="{x(v):.1f}" y="{height - 5}" text-anchor="middle">{v:+.3f}</text>' for v in (-reach, 0, reach)
    )
    return (
        f'<svg width="{left + WIDTH + 220}" height="{height}" font-size="13" fill="#1d2733" role="img" '
        f'aria-label="Gap of each group with its interval">{zero}{"".join(lines)}{ends}</svg>'
    )


def _features(card: Card) -> str:
    names = ", ".join(_h(n) for n in card.features)
    params = ", ".join(f"{_h(k)} {v}" for k, v in card.params.items())
    return f"<h2>Model</h2><p>Gradient-boosted trees ({params}), then a sigmoid on later rows. Features, in order: {names}.</p>"


def _reference(card: Card) -> str:
    start = card.recipe["since"] or card.data["start"]
    kind = card.contract.drift.reference.kind
    if kind != "training":
        return f"<h2>Reference</h2><p>The contract states its own drift reference ({_h(kind)}); a promotion leaves it as it is.</p>"
    return (
        f"<h2>Reference</h2><p>A promotion publishes a drift reference from the rows of {_h(start)} to {_h(card.data['end'])}, in force "
        "from the next window: drift is then counted against what this model was taught. <code>driftline reference show</code></p>"
    )


def _limits(card: Card) -> str:
    unlabelled, rows = _whole(card.data["unlabelled"]), _whole(card.data["rows"])
    loss = card.figures.loss.value
    widest = [w for w in card.figures.widest if w.difference.low > 0]
    told = [
        f"Measured on the newest {card.sizes[2]:,} rows of its range only; what comes after may differ, which is what drift and live loss are watched for.",
        f"{unlabelled / (unlabelled + rows):.1%} of the mature rows have no label and are not in these figures; if they are missing for a reason, the figures do not know it.",
        f"{card.metrics['log_loss'] / card.baseline['log_loss']:.1%} of the base rate's loss remains: a score is a probability among many, no verdict about one row."
        if card.baseline.get("log_loss")
        else f"Log loss {loss:.4f}; there is no base rate to compare it with.",
        "Intervals take rows as independent; rows of one customer or one product are not quite.",
        "Groups are the contract's monitored categories. A group that is no field of the contract was not looked at.",
        *(f"Promises differ between {w.column} {w.high} and {w.low} by {_interval(w.difference)}." for w in widest),
    ]
    return "<h2>Limits</h2><ul>" + "".join(f"<li>{_h(t)}</li>" for t in told) + "</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already; the first column is text, the others are numbers unless the head is empty."""
    kind = "" if not any(head) else " class=n"
    top = (
        "<tr>" + "".join(f"<th{kind if i else ''}>{_h(h)}</th>" for i, h in enumerate(head)) + "</tr>"
        if any(head)
        else ""
    )
    body = "".join(
        "<tr>" + "".join(f"<td{kind if i else ''}>{c}</td>" for i, c in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table>{top}{body}</table>"


def _interval(i: Interval) -> str:
    return f"{i.value:.4f} ({i.low:.4f} to {i.high:.4f})"


def _n(value: float) -> str:
    return f"{value:.4f}"


def _whole(value: object) -> int:
    return int(str(value))


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _code(value: object) -> str:
    return f"<code>{_h(value)}</code>"


def _h(value: object) -> str:
    return html.escape(str(value))
