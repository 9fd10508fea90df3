"""The compactor's commit under every fault of a disk: killed at its system calls, told of errors there, and the power lost at every moment.

    python tests/bench/compactor.py [--json] [--full] [--seed S]      every 4th kill, every 12th error; --full: all kills, every 4th error

Real broker, real compactor, strace; see tests/lake/system_calls.py and tests/lake/power_loss.py for what is assumed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from batch.verify import verify  # noqa: E402
from pipeline.broker import Broker  # noqa: E402
from tests.bench.report import bar, finish, progress  # noqa: E402
from tests.lake import power_loss  # noqa: E402
from tests.lake.system_calls import calls_of_a_commit, fail_each, kill_each, refused, shop  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    if why := refused():
        progress(f"cannot run here: {why}")
        return finish("compactor", began, [bar("strace_attaches", 0, "==", 1)], {"reason": why})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with Broker(folder / "broker") as broker, shop(folder, broker.bootstrap, f"calls_{args.seed}") as made:
            calls = calls_of_a_commit(made)
            progress(f"{len(calls)} calls of a commit change the lake: {dict(Counter(c.name for c in calls))}")
            killed = kill_each(made, calls if args.full else calls[args.seed % 4 :: 4], progress)
            some = calls[args.seed % 4 :: 4] if args.full else calls[args.seed % 12 :: 12]
            failed = fail_each(made, [c for c in some if c.name != "unlink"], ["ENOSPC", "EIO"], progress)
            proof = verify(made.settings, made.contract)
        home, scratch = folder / "recorded", folder / "calls"
        home.mkdir()
        scratch.mkdir()
        steps = power_loss.record([sys.executable, power_loss.__file__, str(home)], home, scratch)
        tried, wrong = power_loss.survey(steps, args.seed, folder / "disks", 1 if args.full else 3)
        progress(f"{tried} directories that a disk may hold after a power loss, {len(wrong)} wrong")
    bars = [
        bar("kills_that_fired", killed.fired.total(), ">=", len(calls) if args.full else len(calls) // 4),
        bar("kills_that_missed", len(killed.missed), "==", 0),
        bar("wrong_after_a_kill", len(killed.wrong), "==", 0),
        bar("errors_that_fired", failed.fired.total(), ">=", 10),
        bar("wrong_after_an_error", len(failed.wrong), "==", 0),
        bar("verify_ok", int(bool(proof["ok"]) and bool(proof["drained"])), "==", 1),
        bar("disks_opened", tried, ">=", 300),
        bar("wrong_after_a_power_loss", len(wrong), "==", 0),
    ]
    figures = {
        "calls_of_a_commit": dict(Counter(c.name for c in calls)),
        "kills": dict(killed.fired),
        "errors": dict(failed.fired),
        "steps_recorded": len(steps),
        "disks_opened": tried,
        "rows": proof["lake"],
        "wrong": (killed.wrong + failed.wrong + wrong)[:20],
    }
    return finish("compactor", began, bars, figures)


if __name__ == "__main__":
    sys.exit(main())
