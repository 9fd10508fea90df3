"""EDGE. Verbs that run a script of the checkout (tests/) as a child process: demo, bench, faults."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def _script(relative: str) -> Path:
    path = ROOT / relative
    if not path.is_file():
        raise UsageError(
            f"{relative} is not there: this verb needs a checkout of the repository, not only the installed package"
        )
    return path


class Demo:
    summary = "Run the whole story end to end on a real broker and print what happened."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("rest", nargs=argparse.REMAINDER, help="passed to the demo script")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        return subprocess.call([sys.executable, str(_script("tests/demo/demo.py")), *args.rest])


class Bench:
    summary = "Run one benchmark and print its figures as JSON."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        names = sorted(
            p.stem.replace("_", "-") for p in (ROOT / "tests" / "bench").glob("[!_]*.py") if p.stem != "report"
        )
        parser.add_argument("name", help=f"one of: {', '.join(names) or 'none here'}")
        parser.add_argument("rest", nargs=argparse.REMAINDER, help="passed to the benchmark, e.g. --json --full")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        script = _script(f"tests/bench/{args.name.replace('-', '_')}.py")
        return subprocess.call([sys.executable, str(script), *args.rest])


class Faults:
    summary = (
        "Kill every process again and again under live load; prove that nothing was lost, doubled or judged otherwise."
    )

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--kills", type=int, metavar="N", help="kill so often (default 100, with --planted alone 0)"
        )
        parser.add_argument("--seed", type=int, metavar="S", help="the same seed draws the same schedule (default 1)")
        parser.add_argument("--planted", action="store_true", help="plant known bugs; the checkers must catch each")
        parser.add_argument("--rate", type=float, metavar="R", help="events a second of live load (default 500)")
        parser.add_argument("--fill", type=int, metavar="N", help="events before the first kill (default 40000)")
        parser.add_argument("--out", type=Path, metavar="DIR", help="where plot, series and logs go")
        parser.add_argument("--keep", action="store_true", help="keep the broker's folder and the lake there, too")
        parser.add_argument("--json", action="store_true", help="(the report is always JSON)")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        given = {
            f"--{name}": getattr(args, name)
            for name in ("kills", "seed", "planted", "rate", "fill", "out", "keep", "json")
        }
        words = [
            word
            for name, value in given.items()
            if value not in (None, False)
            for word in ((name,) if value is True else (name, str(value)))
        ]
        return subprocess.call([sys.executable, str(_script("tests/faults/faults.py")), *words])
