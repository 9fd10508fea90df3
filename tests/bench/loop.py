"""The model loop on the real stack: planted changes from onset to recovered loss, a quiet stretch, the gate over many trials.

    driftline bench loop --json                     every part; the scenarios share one stack
    driftline bench loop --only price-shift         some of: quiet, the scenarios, rollback, gate, live
    driftline bench loop --full --json              a quiet stretch of 15 event days

scenarios   played one after the other on one stack; what was changed stays changed, a fault in the records ends
quiet       nothing is planted: nothing may be trained
rollback    a bad model is promoted by force: it goes by itself (`_loop_rollback.py`)
gate        trials in a world whose true probabilities are known (`_gate.py`)
live        the estimate of the loss before labels, against the later truth (`_live.py`)
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stream_processors.live.loss_watch import MATERIAL
from tests.bench import _gate, _loop_rollback
from tests.bench import _loop_story as world
from tests.bench._loop_story import CASES, HARMFUL, Played, Stamp
from tests.bench.report import Bar, bar, finish, progress

QUIET, ROLLBACK, GATE, LIVE = "quiet", "rollback", "gate", "live"
PARTS = (QUIET, *CASES, ROLLBACK, GATE, LIVE)
QUIET_DAYS = (2, 15)  # default and full
TRIALS = 200
MOST_FADING = 1  # trainings while features forget the old world: the next model is made for the new one alone
Found = tuple[list[Bar], dict[str, object]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--pace", type=float, default=1.0, help="of the stream: 0.25 on a slow or busy machine (1)")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"--only {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    began = time.monotonic()
    played = [c for c in chosen if c in CASES or c in (QUIET, ROLLBACK)]
    # `live` forks: before a client of the broker has threads that a fork would leave holding their locks
    found = [part(args.full) for name, part in ((LIVE, live), (GATE, gate)) if name in chosen]
    found += [scenarios(played, args.full, args.pace)] if played else []
    bars: list[Bar] = [b for some, _ in found for b in some]
    figures = {k: v for _, some in found for k, v in some.items()}
    return finish("loop", began, bars, figures)


def scenarios(chosen: Sequence[str], full: bool, pace: float) -> Found:
    """One stack; each chosen scenario in the order of `CASES`. What breaks off leaves the rest as missed bars."""
    names, quiet = [n for n in CASES if n in chosen], QUIET_DAYS[full]
    played: list[Played] = []
    loss: world.Loss = {}
    figures: dict[str, object] = {}
    staged = _loop_rollback.Staged()
    try:
        with world.stack(names, 30 + quiet, pace) as story:
            if QUIET in chosen:
                figures[QUIET] = world.calm(story, quiet)
            for name in names:
                played.append(world.play(story, name))
                if played[-1].failed:
                    break
            loss = world.losses(story) if played else {}
            if ROLLBACK in chosen:
                staged = _loop_rollback.stage(story)
            planted = {e for p in played for e in p.episodes} | staged.episodes
            figures["trainings_without_a_cause"] = world.uncaused(list(story.watch.ledger), planted, staged.version)
    except Exception:
        progress(traceback.format_exc())
    bars = [bar("stack: trainings without a cause", figures.get("trainings_without_a_cause", -1), "==", 0)]  # type: ignore[arg-type]
    if QUIET in chosen:
        stretch = figures.get(QUIET, {})
        bars.append(bar("quiet: false retrains", stretch.get("retrains", -1), "==", 0))  # type: ignore[attr-defined]
    for name in names:
        found = next((p for p in played if p.name == name), None)
        told = told_of(found, loss) if found else ([bar(f"{name}: played", 0, "==", 1)], {})
        bars += told[0]
        figures[name] = told[1]
    if ROLLBACK in chosen:
        more, figures[ROLLBACK] = _loop_rollback.told_of(staged)
        bars += more
    return bars, figures


def told_of(played: Played, loss: world.Loss) -> Found:
    name, onset = played.name, played.onset
    mean, recovered = world.recovery(played, loss)
    stamps: dict[str, Stamp | None] = {
        "alert": played.alert,
        "challenger": played.challenger,
        "champion": played.champion,
        "recovered": recovered,
        "quiet_again": played.resolved,
    }
    figures = {
        "case": played.named,
        "cases": played.cases,
        "decision": {k: played.decision[k] for k in ("action", "version", "former", "reason")}
        if played.decision
        else None,
        "episodes": sorted(played.episodes),
        "while_the_old_world_faded": sorted(played.faded),
        "trained_while_it_faded": played.retrained,
        "onset": onset.since(onset),
        **{moment: stamp and stamp.since(onset) for moment, stamp in stamps.items()},
        "loss": mean,
        "ledger": played.told,
        "failed": played.failed,
    }
    bars = [bar(f"{name}: decided and quiet again", int(not played.failed), "==", 1)]
    bars.append(bar(f"{name}: named {CASES[name]}", int(played.named == CASES[name]), "==", 1))
    if name in HARMFUL:
        bars.append(bar(f"{name}: a better champion", int(played.champion is not None), "==", 1))
        ratio = mean["after"] / mean["during"] if mean["after"] and mean["during"] else float("nan")  # type: ignore[operator]
        bars.append(bar(f"{name}: loss after the promotion against before it", round(ratio, 4), "<", 1.0))
        kept = mean["after"] / mean["promised"] if mean["after"] and mean["promised"] else float("nan")  # type: ignore[operator]
        bars.append(
            bar(f"{name}: loss after the promotion against what its scores promise", round(kept, 4), "<=", 1 + MATERIAL)
        )
        bars.append(bar(f"{name}: trainings while the old world faded", played.retrained, "<=", MOST_FADING))
    else:
        bars.append(bar(f"{name}: needless promotions", played.promotions, "==", 0))
    return bars, figures


def gate(_: bool) -> Found:
    bars, figures = _gate.trials(TRIALS)
    return bars, {GATE: figures}


def live(full: bool) -> Found:
    from tests.bench import _live

    answer = _live.run("full" if full else "default")
    return answer.bars, {LIVE: answer.figures}


if __name__ == "__main__":
    sys.exit(main())
