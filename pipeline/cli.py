"""EDGE. The `driftline` command: finds a verb by its entry point, gives it settings, turns errors into exit codes.

Knows no verb's code: a verb is loaded when it is called, so that one command does not pay for another's imports.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from pipeline.errors import DriftlineError, Unreachable
from pipeline.settings import Settings, from_environment


class Verb(Protocol):
    """What an entry point of the group `driftline.verbs` names: a class with these static members."""

    summary: str

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int: ...


GROUPS = {
    "the stack": ["up", "status", "top", "down", "watch", "topics", "render", "page"],
    "the contract": ["contract"],
    "events": ["produce", "validate", "dead-letters", "breaker"],
    "drift": ["drift", "verdicts", "alerts", "reference", "backtest"],
    "the lake": ["compact", "quality", "verify", "export", "report"],
    "the model": ["features", "train", "models", "control", "serve", "score", "evaluate"],
    "from a checkout": ["demo", "bench", "faults"],
}


def main(argv: list[str] | None = None) -> int:
    verbs = {e.name: e for e in entry_points(group="driftline.verbs")}
    parser = argparse.ArgumentParser(
        prog="driftline", description="A streaming pipeline with real-time drift monitoring.", add_help=False
    )
    parser.add_argument("--contract", metavar="NAME|FILE", help="data contract (default: sales)")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("verb", nargs="?")
    known, rest = _split(parser, list(sys.argv[1:] if argv is None else argv))
    if known.verb is None:
        print(_overview(), file=sys.stdout if known.help else sys.stderr)
        return 0 if known.help else 2
    if known.verb not in verbs:
        print(f"driftline: {known.verb!r} is no verb; `driftline --help` lists them", file=sys.stderr)
        return 2
    return _run(verbs[known.verb], known, rest)


def _split(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Global options stand before the verb, everything after it is the verb's own."""
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        at += 2 if argv[at] == "--contract" else 1
    return parser.parse_args(argv[: at + 1]), argv[at + 1 :]


def _run(entry: EntryPoint, known: argparse.Namespace, rest: list[str]) -> int:
    verb: type[Verb] = entry.load()
    parser = argparse.ArgumentParser(prog=f"driftline {entry.name}", description=verb.summary)
    parser.add_argument(
        "--contract", metavar="NAME|FILE", default=known.contract, help="data contract (default: sales)"
    )
    verb.configure(parser)
    args = parser.parse_args(rest)
    try:
        settings = from_environment({"USER": _account(), **os.environ}, args.contract)
        return verb.run(args, settings)
    except DriftlineError as error:
        print(f"driftline {entry.name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _of_kafka(error):
            raise
        what = f"Kafka at {settings.bootstrap}: {error.args[0].str()}; `driftline status` shows whether it runs"
        print(f"driftline {entry.name}: {what}", file=sys.stderr)
        return Unreachable.exit_code


def _account() -> str:
    """The account this process runs under: who acted, where neither DRIFTLINE_ACTOR nor USER says it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number that no file names
        return f"uid-{os.getuid()}"


def _of_kafka(error: Exception) -> bool:
    """Whether the client raised it; a verb without Kafka has not loaded the client."""
    client = sys.modules.get("confluent_kafka")
    return client is not None and isinstance(error, client.KafkaException)


def _overview() -> str:
    lines = ["usage: driftline [--contract NAME|FILE] VERB ...", "", "`driftline VERB --help` explains a verb.", ""]
    lines += [f"  {group + ':':<17} {'  '.join(verbs)}" for group, verbs in GROUPS.items()]
    return "\n".join(
        [
            *lines,
            "",
            "exit status: 0 done, 1 the check failed, 2 usage, 3 a dependency stayed away, 70 fatal: start me again",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
