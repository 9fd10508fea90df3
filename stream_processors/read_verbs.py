"""EDGE. `driftline verdicts` and `driftline alerts`: what the judge has said, as JSON lines or as a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from pipeline import contract_file, topics
from pipeline.kafka import read_all
from pipeline.settings import Settings

Json = Mapping[str, object]
_ORDER = {"alarm": 0, "warning": 1, "ok": 2}


class Verdicts:
    summary = "Verdicts of closed windows: the latest revision of each window, feature and segment."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object a line")
        parser.add_argument("--feature", help="only this feature")
        parser.add_argument("--segment", help="only this segment (`*` = every row)")
        parser.add_argument(
            "--state", help="only this state (ok, warning, alarm, undefined, reference_missing, reference_too_small)"
        )
        parser.add_argument("--revisions", action="store_true", help="every revision, not only the latest")
        parser.add_argument("--last", type=int, metavar="N", help="only the last N windows")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        dataset = contract_file.load(settings.contract).id
        found = list(read(settings, topics.VERDICTS, dataset))
        chosen = [v for v in (found if args.revisions else latest(found)) if _wanted(v, args)]
        windows = sorted({str(v["window_start"]) for v in chosen})[-args.last if args.last else 0 :]
        chosen = [v for v in chosen if v["window_start"] in windows]
        if args.json:
            _lines(chosen)
        else:
            _verdict_table(chosen)
        return 0


class Alerts:
    summary = "Episodes and their changes of state: pending, firing, resolved."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object a line")
        parser.add_argument("--episode", help="only this episode")
        parser.add_argument("--open", action="store_true", help="only episodes that are not resolved")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        dataset = contract_file.load(settings.contract).id
        found = [
            a
            for a in read(settings, topics.ALERTS)
            if a.get("dataset") == dataset and args.episode in (None, a["episode"])
        ]
        if args.open:
            resolved = {a["episode"] for a in found if a["state"] == "resolved"}
            found = [a for a in found if a["episode"] not in resolved]
        if args.json:
            _lines(found)
        else:
            _alert_table(found)
        return 0


def read(settings: Settings, topic: str, dataset: str | None = None) -> Iterator[Json]:
    """JSON messages of a topic; with a dataset, those whose key begins with it."""
    for message in read_all(settings, topic):
        if message.value() and (dataset is None or (message.key() or b"").startswith(f"{dataset}/".encode())):
            yield json.loads(message.value())


def latest(verdicts: Iterable[Json]) -> list[Json]:
    """The newest of each window, feature and segment, in window order: the last one written, for one judge writes them."""
    newest = {(str(v["window_start"]), str(v["feature"]), str(v["segment"])): v for v in verdicts}
    return [newest[place] for place in sorted(newest)]


def _wanted(verdict: Json, args: argparse.Namespace) -> bool:
    asked = {"feature": args.feature, "segment": args.segment, "state": args.state}
    return all(value is None or verdict[name] == value for name, value in asked.items())


def _lines(found: Iterable[Json]) -> None:
    for one in found:
        print(json.dumps(one, separators=(",", ":")))


def _verdict_table(found: Sequence[Json]) -> None:
    table = Table(
        "window", "feature", "segment", "n", "statistic", "p", "evidence", "threshold", "state", "change", "rev"
    )
    for v in sorted(found, key=lambda v: (str(v["window_start"]), _ORDER.get(str(v["state"]), 3))):
        mark = " (provisional)" if v["provisional"] else ""
        figures = [_number(v[name]) for name in ("statistic", "p_value", "e_value", "threshold")]
        table.add_row(str(v["window_start"])[:16], str(v["feature"]), str(v["segment"]), str(v["n"]), *figures, str(v["state"]) + mark, str(v["change"] or ""), str(v["revision"]))  # fmt: skip
    Console(soft_wrap=True).print(table)


def _alert_table(found: Sequence[Json]) -> None:
    table = Table("episode", "state", "event time", "onset", "reference", "resolution", "features")
    for a in found:
        table.add_row(str(a["episode"]), str(a["state"]), str(a["event_time"])[:16], str(a["onset"])[:16], f"v{a['reference_version']}", str(a["resolution"] or ""), _features(a["features"]))  # fmt: skip
    Console(soft_wrap=True).print(table)


def _features(ranked: object) -> str:
    if not isinstance(ranked, list):
        return ""
    return "; ".join(f"{f['feature']} {f['segment']} {f['change'] or ''}".strip() for f in ranked[:3])


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"
