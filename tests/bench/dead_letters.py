"""The round trip of dead letters on a broker of the bench's own, one command a step: fail, list, repair, replay, land once, window revised.

    python tests/bench/dead_letters.py [--json] [--full] [--events N]      40,000 events; --full 400,000

The validator and the drift process run throughout; every step is a `driftline` verb. The second replay must change
nothing, a record that fails again must be named, and the third attempt must be refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from batch import table  # noqa: E402
from pipeline import kafka, topics  # noqa: E402
from pipeline.times import ms, to_ms, to_text  # noqa: E402
from stream_processors.drift.read_verbs import Json, latest, read  # noqa: E402
from tests.bench._hops import Hops, hops  # noqa: E402
from tests.bench.report import bar, finish, progress  # noqa: E402

EVENTS, EVENTS_AN_HOUR = 40_000, 7_200
CHOSEN = ("--rule", "range", "--field", "quantity")
REPAIR = ("--repair", "quantity = min(abs(quantity), 1000)")
AGAIN = ("--rule", "allowed", "--limit", "3")  # no repair: they fail again
WAIT_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--events", type=int)
    args = parser.parse_args()
    events = args.events or (10 * EVENTS if args.full else EVENTS)
    began = time.monotonic()
    with hops("sales") as run:
        with process(run, "validate"), process(run, "compact", "--interval", "1"):
            fail(run, events)
            with process(run, "drift"):
                wait(run, "closed windows", lambda: len(final(run)) >= 2)
                bars, figures = round_trip(run)
        figures["seconds_by_command"] = run.seconds
    return finish("dead-letters", began, bars, figures)


def fail(run: Hops, events: int) -> None:
    hours = 2 * events / EVENTS_AN_HOUR  # the rate is a week's mean: at night the same events take twice as long
    start = ("--start", f"{hours + 2:.0f}h ago", "--rate", f"{EVENTS_AN_HOUR / 3600:g}", "--flat-out")
    run.run("produce", "--events", str(events), *start, "--scenario", "bad-records", "--no-outcomes")
    run.run("verify", "--wait", f"{WAIT_S:.0f}")
    first = table.scan(run.settings, run.contract.id).select(pl.col(run.contract.time.field).min()).collect().item()
    run.run("reference", "build", "--effective-from", first.strftime("%Y-%m-%dT%H:00:00Z"))


def round_trip(run: Hops) -> tuple[list[dict[str, object]], dict[str, object]]:
    dead = [row for row in counts(run) if (row["rule"], row["field"]) == ("range", "quantity")]
    open_ = sum(int(row["open"]) for row in dead)
    before, raw = final(run), ends(run)
    dry = run.json("dead-letters", "replay", *CHOSEN, *REPAIR, "--json")
    dry_wrote = ends(run) != raw
    applied = run.json("dead-letters", "replay", *CHOSEN, *REPAIR, "--apply", "--note", "bench", "--json")
    seconds = run.seconds["dead-letters"]
    closed = sum(
        window(run, str(s["value"])) in before for s in dry["steps"]
    )  # the others are on time, or not yet closed
    wait(run, "revised windows", lambda: revised(before, final(run)) >= closed)
    proof = run.json("verify", "--wait", f"{WAIT_S:.0f}", "--json", expect=(0, 1))
    after, raw = final(run), ends(run)
    second = run.json("dead-letters", "replay", *CHOSEN, *REPAIR, "--apply", "--json")
    second_wrote = ends(run) != raw or final(run) != after
    again = run.json("dead-letters", "replay", *AGAIN, "--apply", "--json", expect=(1,))
    third = run.json("dead-letters", "replay", "--attempt", "2", "--apply", "--json", expect=(1,))
    landed = rows_at(run, [str(s["at"]) for s in applied["steps"]])
    windows = {k for k in before if revision(after.get(k)) > revision(before[k])}
    last = run.json("verify", "--json", expect=(0, 1))
    bars = [
        bar("failed", open_, ">=", 20),
        bar("dry_run_wrote", int(dry_wrote), "==", 0),
        bar("foreseen_valid", int(dry["foreseen_valid"]), "==", open_),
        bar("replayed", int(applied["replayed"]), "==", open_),
        bar("landed_in_blocks", int(applied["landed"]), "==", open_),
        bar("rows_in_the_lake_of_replayed", landed, "==", open_),
        bar("verify_ok", int(bool(proof["ok"])), "==", 1),
        bar("verify_replayed", int(proof["replayed"]), "==", open_),
        bar("open_dead_plus_replayed_minus_dead", int(proof["open_dead"]) + open_ - int(proof["dead"]), "==", 0),
        bar("missing", int(proof["missing_total"]), "==", 0),
        bar("duplicated", int(proof["duplicated_total"]), "==", 0),
        bar("windows_revised", len(windows), ">=", 1),
        bar("rows_added_by_revisions", revised(before, after), "==", closed),
        bar("second_replay_replayed", int(second["replayed"]), "==", 0),
        bar("second_replay_skipped", int(second["skipped"]), "==", open_),
        bar("second_replay_wrote", int(second_wrote), "==", 0),
        bar("failed_again_named", len(again["failed"]), "==", 3),
        bar("failed_again_as_attempt_2", sum(f["attempt"] == 2 for f in again["failed"]), "==", 3),
        bar("third_attempt_refused", int(third["refused"]), "==", 3),
        bar("verify_ok_at_the_end", int(bool(last["ok"])), "==", 1),
    ]
    figures = {
        "consumed": last["consumed"],
        "dead": last["dead"],
        "open_dead": last["open_dead"],
        "late": last["late"],
        "seconds_of_the_replay": seconds,
        "windows_revised": sorted(windows),
        "audited": len(run.run("dead-letters", "audit", "--json").splitlines()),
    }
    return bars, figures


def counts(run: Hops) -> list[Json]:
    return [json.loads(line) for line in run.run("dead-letters", "list", "--counts", "--json").splitlines()]


def final(run: Hops) -> dict[str, Json]:
    """The latest final verdict of each window, for one feature over all rows."""
    found = latest(read(run.settings, topics.VERDICTS, run.contract.id))
    feature = run.contract.drift.features[0].name
    return {
        str(v["window_start"]): v
        for v in found
        if v["feature"] == feature and v["segment"] == "*" and not v["provisional"]
    }


def revised(before: dict[str, Json], after: dict[str, Json]) -> int:
    """Late rows that were added to windows closed before."""
    return sum(revision(after.get(k)) - revision(v) for k, v in before.items())


def window(run: Hops, value: str) -> str:
    """The window that a record falls into."""
    length = ms(run.contract.drift.window)
    return to_text(to_ms(json.loads(value)[run.contract.time.field]) // length * length)


def revision(verdict: Json | None) -> int:
    return int(str(verdict["revision"])) if verdict else 0


def ends(run: Hops) -> dict[tuple[str, int], int]:
    client = kafka.consumer(run.settings, "bench-ends")
    try:
        wanted = (topics.events(run.contract.id), topics.REPLAYED, topics.dead_letters(run.contract.id))
        return {(t, p): high for t in wanted for p, (_, high) in kafka.bounds(client, t).items()}
    finally:
        client.close()


def rows_at(run: Hops, coordinates: list[str]) -> int:
    """How many rows of the lake stand at these raw coordinates."""
    wanted = pl.DataFrame(
        [tuple(map(int, c.rsplit("/", 2)[1:])) for c in coordinates],
        schema={"raw_partition": pl.Int32, "raw_offset": pl.Int64},
        orient="row",
    )
    rows = table.scan(run.settings, run.contract.id).select("raw_partition", "raw_offset")
    return rows.join(wanted.lazy(), on=["raw_partition", "raw_offset"]).collect().height


def wait(run: Hops, what: str, condition: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > WAIT_S:
            progress(f"waited {WAIT_S:.0f} s for {what}")
            return
        time.sleep(0.5)
    run.seconds[what] = round(time.monotonic() - began, 1)
    progress(f"{run.seconds[what]:6.1f} s  {what}")


@contextmanager
def process(run: Hops, verb: str, *options: str) -> Iterator[None]:
    """A long-running verb, ended when the block ends."""
    with (run.home / f"{verb}.log").open("w") as log:
        child = subprocess.Popen(run.command(verb, *options), env=run.environment, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield
        finally:
            if child.poll() is not None:
                progress(f"{verb} ended by itself:\n" + (run.home / f"{verb}.log").read_text()[-2000:])
            child.terminate()
            child.wait(40)


if __name__ == "__main__":
    sys.exit(main())
