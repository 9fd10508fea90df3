"""Bench `drift`: what the drift engine claims, measured: one module a question (`_drift_*.py`), every bar printed with its verdict.

    driftline bench drift --json              the default form, about 35 minutes on two cores
    driftline bench drift --full --json       the long form; writes docs/drift-quality.md and its pictures
    driftline bench drift --only delay,speed  some questions
    driftline bench drift --calibrate         finds the peers' thresholds anew and prints them

Everything is seeded; the speed figures alone depend on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench._drift_answers import Answer, Size
from tests.bench.report import bar, finish, progress

QUESTIONS = {
    "speed": "_drift_speed",
    "exactness": "_drift_exact",
    "budget": "_drift_budget",
    "run-length": "_drift_runlength",
    "delay": "_drift_delay",
    "others": "_drift_others",
    "material": "_drift_material",
    "rhythm": "_drift_rhythm",
    "order": "_drift_order",
    "incidents": "_drift_incidents",
    "causes": "_drift_causes",
    "segments": "_drift_segments",
    "self-monitoring": "_drift_self",
    "backtest": "_drift_backtest",
    "real-file": "_drift_retail",
    "broker": "_drift_broker",
    "scenes": "_drift_scenes",
}  # speed first, while the machine is cool


def answered(name: str, size: Size) -> Answer:
    """One question's answer; one that cannot be answered is a missed bar, so that the others are still asked."""
    began = time.monotonic()
    try:
        answer = importlib.import_module(f"tests.bench.{QUESTIONS[name]}").run(size)
    except (Exception, SystemExit):  # a verb that a question ran ended otherwise than expected
        progress(traceback.format_exc())
        answer = Answer(name, "It ended with an error.", [bar(f"{name}: answered", 0, "==", 1)])
    answer.figures["seconds"] = round(time.monotonic() - began, 1)
    progress(
        f"{name}: {answer.figures['seconds']} s; {sum(bool(b['pass']) for b in answer.bars)} of {len(answer.bars)} bars hold"
    )
    return answer


def calibrate() -> int:
    """A bisection for every peer, towards the run length that the tables compare at."""
    from tests.bench._drift_peers import PEERS, calibrated

    for peer in PEERS:
        for threshold, length in calibrated(peer, 60_000_000 if peer.run_length > 1e5 else 300_000):
            progress(f"{peer.name}: threshold {threshold:.5g} gives one alarm in {length} quiet events")
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="as always: one JSON object on the last line")
    parser.add_argument("--full", action="store_true", help="the long form; writes the document")
    parser.add_argument("--short", action="store_true", help="the least that runs every line; its rates mean nothing")
    parser.add_argument("--only", default="", help=f"comma-separated, of: {', '.join(QUESTIONS)}")
    parser.add_argument("--write-docs", action="store_true", help="write docs/drift-quality.md from this run")
    parser.add_argument("--calibrate", action="store_true", help="find the peers' thresholds anew, print them, end")
    args = parser.parse_args(arguments)
    if args.calibrate:
        return calibrate()
    chosen = args.only.split(",") if args.only else list(QUESTIONS)
    if unknown := set(chosen) - set(QUESTIONS):
        parser.error(f"no such question: {', '.join(sorted(unknown))}; one of: {', '.join(QUESTIONS)}")
    size: Size = "full" if args.full else "short" if args.short else "default"
    began = time.monotonic()
    answers = {name: answered(name, size) for name in chosen}
    if args.write_docs or (args.full and not args.only):
        from tests.bench._drift_docs import write

        progress(f"wrote {write(answers, size, time.monotonic() - began)}")
    bars = [b for a in answers.values() for b in a.bars]
    return finish("drift", began, bars, {name: a.figures for name, a in answers.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
