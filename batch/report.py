"""EDGE. `driftline report`: the batch report of a run: every rule with its violations, as a table, JSON and a chart."""

from __future__ import annotations

import argparse
import html
import json
from dataclasses import asdict
from pathlib import Path

import polars as pl

from batch import table as lake
from batch.findings import Report as Findings
from batch.findings import report
from batch.quality import assess
from pipeline import contract_file
from pipeline.contract import Contract
from pipeline.settings import Settings

COLOURS = {"ok": "#4c9f70", "degraded": "#e0a030", "critical": "#c8443c", "unknown": "#8a8f98"}


class Report:
    summary = "Write the batch report of the lake's data: violations by rule, as text, JSON and a chart."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--out",
            type=Path,
            metavar="DIR",
            help="where report.html, report.json and violations.png go (default: <home>/reports/<dataset>)",
        )
        parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
        parser.add_argument("--version", type=int, help="table version (default: the newest)")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        found = batch_report(settings, contract, version=args.version)
        out = args.out or settings.home / "reports" / contract.id
        write(found, out)
        figures = {**asdict(found), "chart": str(out / "violations.png"), "html": str(out / "report.html")}
        print(json.dumps(figures) if args.json else f"{text(found)}\n{out / 'report.html'}")
        return 0


def batch_report(settings: Settings, contract: Contract, version: int | None = None) -> Findings:
    """The figures of a table version and the dead letters beside it. Each dead letter's latest failure counts, once a raw record."""
    rejects: dict[tuple[str, str], int] = {}
    if lake.exists(settings, contract.id, lake.DEAD_LETTERS):
        letters = (
            lake.scan(settings, contract.id, lake.DEAD_LETTERS)
            .group_by("field", "reason")
            .agg(pl.struct("raw_partition", "raw_offset").n_unique().alias("n"))
        )
        rejects = {(field, reason): n for field, reason, n in letters.collect().rows()}
    valid = lake.count(settings, contract.id, version=version)
    return report(contract, valid, rejects, assess(settings, contract, version=version).verdicts)


def write(found: Findings, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    chart(found, out / "violations.png")
    (out / "report.json").write_text(json.dumps(asdict(found), indent=1))
    (out / "report.html").write_text(page(found), encoding="utf-8")


def chart(found: Findings, path: Path) -> None:
    """Violations by rule, a bar a rule, the count and share beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rules = list(reversed(found.findings))
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rules) + 1.4))
    bars = axes.barh([f.rule for f in rules], [f.violations for f in rules], color=[COLOURS[f.status] for f in rules])
    axes.bar_label(
        bars,
        [f"{f.violations} ({f.share:.2%})" if f.violations and f.share else str(f.violations) for f in rules],
        padding=4,
        fontsize=9,
    )
    axes.set_xlabel("violations")
    axes.set_xlim(0, max([f.violations for f in rules] + [1]) * 1.25)
    axes.set_title(
        f"{found.contract}: {found.records:,} records, {found.valid:,} valid, {found.dead:,} dead letters, {found.status}",
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def text(found: Findings) -> str:
    lines = [
        f"{found.contract}: {found.records} records, {found.valid} valid, {found.dead} dead letters, quality {found.status}"
    ]
    lines += [f"  {f.rule:<22} {f.violations:>8}  {f.share:>8.2%}  {f.status:<9} {f.expected}" for f in found.findings]
    return "\n".join(lines)


def page(found: Findings) -> str:
    rows = "".join(
        f"<tr><td>{_h(f.rule)}</td><td>{f.kind}</td><td>{_h(f.expected)}</td><td class=n>{f.violations:,}</td>"
        f"<td class=n>{f.share:.2%}</td><td>{_h(', '.join(f'{k} {n}' for k, n in f.reasons.items()))}</td>"
        f'<td style="color:{COLOURS[f.status]}">{f.status}</td></tr>'
        for f in found.findings
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{_h(found.contract)}: batch report</title><style>body{{font:15px sans-serif;margin:2em auto;max-width:60em}}"
        "td,th{padding:.3em .7em;text-align:left;border-bottom:1px solid #ddd}.n{text-align:right}img{max-width:100%}</style>"
        f"<h1>{_h(found.contract)}</h1><p>{found.records:,} records: {found.valid:,} valid, {found.dead:,} dead letters. Quality: <b>{found.status}</b>.</p>"
        '<img src="violations.png" alt="Violations by rule">'
        f"<table><tr><th>Rule<th>Kind<th>Expected<th>Violations<th>Share<th>Reasons<th>Status</tr>{rows}</table>\n"
    )


def _h(text: str) -> str:
    return html.escape(text)
