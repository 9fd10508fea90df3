"""EDGE. `driftline verdicts` and `driftline alerts`: what the judge has said, as JSON lines or as text."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping

from pipeline import contract_file, topics
from pipeline.kafka import read_all
from pipeline.settings import Settings
from stream_processors.judging import told

Json = Mapping[str, object]
MIN_WIDTH = 80


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
            _show(told.verdicts(chosen, _width()))
        return 0


class Alerts:
    summary = "Episodes: state, onset with its interval, probable causes, segments that carry the shift."

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
        ledger = list(read(settings, topics.LEDGER))
        decided = {name: named(ledger, name) for name in ("case", "rules", "attribution")}
        found = [{**a, **{name: by.get(str(a["episode"])) for name, by in decided.items()}} for a in found]
        if args.json:
            _lines(found)
        else:
            _show(told.episodes(found, _width()))
        return 0


def read(settings: Settings, topic: str, dataset: str | None = None) -> Iterator[Json]:
    """JSON messages of a topic; with a dataset, those whose key begins with it."""
    for message in read_all(settings, topic):
        if message.value() and (dataset is None or (message.key() or b"").startswith(f"{dataset}/".encode())):
            yield json.loads(message.value())


def named(ledger: Iterable[Json], name: str = "case") -> dict[str, object]:
    """By episode what its newest decision says: the case (harmless or harmful shift, ...), dataset rules that were broken,
    what changed the answers."""
    found: dict[str, object] = {}
    for entry in ledger:
        metrics, also = entry.get("metrics"), entry.get("also")
        if isinstance(metrics, dict) and name in metrics:
            answered = [entry.get("episode"), *(also if isinstance(also, list) else [])]
            found |= {str(episode): metrics[name] for episode in answered if episode}
    return found


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


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _width() -> int:
    return max(MIN_WIDTH, shutil.get_terminal_size((MIN_WIDTH, 24)).columns)
