"""The fault campaign: kill everything under live load, heal, drain, and prove that nothing was lost, doubled or judged otherwise.

    python tests/faults/faults.py --kills 1000 --seed 7 [--json] [--planted] [--out DIR] [--keep]

A real broker and real processes of this checkout on free ports and in a folder of their own. Progress on stderr; the last
line of stdout is one JSON object; exit 1 iff a required bar misses. A plot, the series and every process's log are left in DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: E402
from rich.progress import Progress as Bar  # noqa: E402

from batch import table  # noqa: E402
from pipeline import contract_file, kafka, topics  # noqa: E402
from pipeline.broker import Broker  # noqa: E402
from pipeline.contract import Contract  # noqa: E402
from pipeline.settings import Settings, from_environment  # noqa: E402
from pipeline.times import to_text  # noqa: E402
from producers import sales_stream, scenarios  # noqa: E402
from producers.arrivals import Timeline  # noqa: E402
from producers.batches import first  # noqa: E402
from tests.bench.report import bar, finish, progress  # noqa: E402
from tests.faults import plain, plot, undisturbed  # noqa: E402
from tests.faults.campaign import Campaign, GaveUp, Struck  # noqa: E402
from tests.faults.load import SCENARIO, Load  # noqa: E402
from tests.faults.observe import Observer, Sample  # noqa: E402
from tests.faults.processes import Producer, Run, Slot  # noqa: E402
from tests.faults.schedule import POINTS, START_POINTS, Kind, Schedule, draw  # noqa: E402

DATASET = "sales"
FILL, RATE, SPEED = (
    40_000,
    500.0,
    600.0,
)  # events before the first kill, from which the reference is built; the live load
PAST = 90 * 86_400_000  # ms: where event time begins
DRAIN_S = 180.0
QUIET_LIMIT_S, LIMIT_S = 240, 3600  # of the short and of the long form, on two quiet cores
SHORT = 30
EVERY_POINT = 500  # from so many kills on each named point must have struck


@dataclass
class Home:
    """A campaign's own broker, settings and folder."""

    broker: Broker
    environment: dict[str, str]
    settings: Settings
    contract: Contract
    logs: Path
    runs: list[Run] = field(default_factory=list)

    @property
    def table(self) -> Path:
        return table.location(self.settings, DATASET)

    def command(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> str:
        """A verb's standard output."""
        with (self.logs / f"{arguments[0]}.log").open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.cli", *arguments],
                cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert done.returncode in expect, (
            f"driftline {' '.join(arguments)} ended with {done.returncode}; see {self.logs}"
        )
        return done.stdout


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a campaign found, as plain values."""

    schedule: Schedule
    began: float  # monotonic, of the first sample
    samples: list[Sample]
    struck: list[Struck]
    missed: Counter[str]
    pauses: Counter[str]
    rebalances: list[tuple[float, int]]
    reclaimed: int  # times that partitions of members that had left had to be taken from them
    restarts: Counter[str]  # processes that ended by themselves, by kind and exit code
    crashes: list[str]  # those of them that no named error ended
    beyond: int  # kills that struck and are in no schedule: two processes were armed, both passed the point
    proof: dict[str, object]  # of `driftline verify`
    plain: plain.Found
    producer: list[str]  # partitions of the raw topic that are not what the producers were to send
    differences: list[str]
    verdicts: int
    seconds: dict[str, float]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="driftline faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, metavar="N", help="kill so often (default 100, with --planted alone 0)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same schedule (default 1)")
    parser.add_argument("--planted", action="store_true", help="plant known bugs; the checkers must catch each")
    parser.add_argument("--rate", type=float, default=RATE, help=f"events a second of live load (default {RATE:.0f})")
    parser.add_argument("--fill", type=int, default=FILL, help=f"events before the first kill (default {FILL})")
    parser.add_argument(
        "--out", type=Path, help="where plot, series and logs go (default DRIFTLINE_HOME/faults/N-SEED)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the broker's folder and the lake there, too")
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    args = parser.parse_args(arguments)
    if (args.kills or 0) < 0 or args.rate <= 0 or args.fill < 1:
        parser.error("expected --kills 0 or more, --rate above 0, --fill 1 or more")
    began = time.monotonic()
    kills = args.kills if args.kills is not None else 0 if args.planted else 100
    out = args.out or Path(os.environ.get("DRIFTLINE_HOME", ROOT / ".driftline")) / "faults" / f"{kills}-{args.seed}"
    out.mkdir(parents=True, exist_ok=True)
    bars, figures, more = [], {"seed": args.seed, "cores": os.cpu_count()}, {}
    if kills:
        outcome = campaign(draw(kills, args.seed), args.rate, args.fill, out, args.keep)
        bars, figures, more = report(outcome, out, figures)
    if args.planted:
        clean, caught, total = planted(args.seed)
        more |= {"planted_caught": caught, "planted_total": total}
        bars += [bar("planted_total", total, ">=", 20), bar("planted_missed", total - caught, "==", 0)]
        bars.append(bar("clean_without_a_bug", int(clean), "==", 1))
    limit = QUIET_LIMIT_S if kills <= SHORT else LIMIT_S
    bars.append(bar("seconds", round(time.monotonic() - began), "<=", limit, required=False))
    return finish("faults", began, bars, figures, **more)


def planted(seed: int) -> tuple[bool, int, int]:
    """Whether the run without a bug was found clean; bugs caught, bugs planted."""
    from tests.faults import planted as bugs

    found = bugs.run(seed, progress)
    for bug in found:
        progress(f"{'caught' if bug.caught else 'MISSED'}  {bug.name}: {bug.by}")
    control, *real = sorted(found, key=lambda bug: bug.name != bugs.CONTROL)
    return control.caught, sum(bug.caught for bug in real), len(real)


# -- the run ---------------------------------------------------------------------------------------------------------


def campaign(schedule: Schedule, rate: float, fill: int, out: Path, keep: bool) -> Outcome:
    """Everything from an empty broker to the comparison. Call it from the main thread: the broker dies with its thread."""
    seconds: dict[str, float] = {}
    load, clock = Load(rate, SPEED, schedule.seed), _Clock(seconds)
    with home(out, keep) as at:
        before = prepare(at, load, fill)
        clock.mark("prepare")
        producer = Producer(at.environment, at.logs, before, load)
        slots: dict[Kind, list[Slot]] = {
            "validator": [Slot("validator", n, at.environment, at.logs) for n in range(4)],
            "compactor": [Slot("compactor", 0, at.environment, at.logs)],
            "drift": [Slot("drift", n, at.environment, at.logs) for n in range(2)],
            "producer": [producer],
        }
        try:
            with Observer(at.settings, DATASET, at.table) as observer, _shown(schedule.kills) as tell:
                for slot in (slots["validator"][0], *slots["compactor"], *slots["drift"], producer):
                    slot.start()
                run = Campaign(schedule, at.broker, observer, slots, tell)
                run.run()
                clock.mark("campaign")
                drain(observer, slots)
                clock.mark("drain")
            at.runs += producer.runs
            proof = json.loads(at.command("verify", "--json", "--wait", "60", expect=(0, 1)))
            clock.mark("verify")
            seen, raw = plain.look(at.broker.bootstrap, DATASET, at.table)
            sent = [_sent(at.contract, one, load, fill if i == 0 else None) for i, one in enumerate(at.runs)]
            wrong = plain.unlike_sent(raw, sent, at.contract.partitions)
            clock.mark("plain look")
            undisturbed.await_verdicts(at.settings, at.contract)
            disturbed = undisturbed.latest(at.settings, DATASET)
            for slot in slots["drift"]:
                slot.stop()
            clock.mark("last verdicts")
            expected = undisturbed.again(at.settings, at.contract, at.environment, at.logs)
            clock.mark("undisturbed run")
        finally:
            for slot in itertools.chain(*slots.values()):
                slot.close()
        restarts = Counter(
            {f"{s.kind} {code}": n for own in slots.values() for s in own for code, n in s.restarts.items()}
        )
        differences = undisturbed.differences(disturbed, expected)
        (out / "differences.txt").write_text("\n".join(differences))
    return Outcome(
        schedule, observer.samples[0].at, observer.samples, run.struck, run.missed, run.pauses, run.rebalances, len(run.reclaimed), restarts,
        [words for own in slots.values() for s in own for words in s.crashes],
        sum(s.beyond for own in slots.values() for s in own), proof, seen, wrong, differences, len(expected), seconds,
    )  # fmt: skip


@contextmanager
def home(out: Path, keep: bool) -> Iterator[Home]:
    """A folder and a broker of the campaign's own, both gone afterwards unless they are to be kept."""
    folder = out / "home" if keep else Path(tempfile.mkdtemp(prefix="driftline-faults-"))
    logs = out / "logs"
    for each in (logs, *([folder] if keep else [])):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    try:
        with Broker(folder / "broker") as broker:
            own = {"DRIFTLINE_HOME": str(folder / "driftline"), "DRIFTLINE_BOOTSTRAP": broker.bootstrap}
            own |= {"DRIFTLINE_ACTOR": "faults", "DRIFTLINE_CONTRACT": DATASET, "PYTHONPATH": str(ROOT)}
            others = {k: v for k, v in os.environ.items() if not k.startswith("DRIFTLINE_")}
            settings = from_environment(own)
            yield Home(broker, {**others, **own}, settings, contract_file.load(DATASET), logs)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def prepare(at: Home, load: Load, fill: int) -> int:
    """Topics, the first records, and a reference built from them by the verbs; the event time at which the live load begins."""
    kafka.create_topics(at.settings, topics.all_topics(DATASET, at.contract.partitions))
    start = time.time_ns() // 1_000_000 - PAST
    at.runs.append(Run(load.seed * 1000, start))
    at.command(
        "produce", *load.arguments, "--events", str(fill), "--flat-out", "--seed", str(at.runs[0].seed), "--start", to_text(start)
    )  # fmt: skip
    at.command("validate", "--exit-at-end")
    at.command("compact", "--once")
    clock = pl.col(at.contract.time.field)
    oldest, newest = (
        t.timestamp() * 1000
        for t in table.scan(at.settings, DATASET)
        .select(clock.min().alias("a"), clock.max().alias("b"))
        .collect()
        .row(0)
    )
    at.command("reference", "build", "--effective-from", to_text(int(oldest) // 3_600_000 * 3_600_000))
    return int(newest) + 1


def drain(observer: Observer, slots: dict[Kind, list[Slot]]) -> None:
    """The producer stops; validator and compactor come to the end, then stop too. The drift processes go on to the last verdict."""
    slots["producer"][0].stop()
    for stage in ("validator", "compactor"):
        goal = observer.after(time.monotonic()).goal(stage)
        assert observer.await_goal(stage, goal, DRAIN_S) is not None, f"{stage}: {goal} not reached in {DRAIN_S:.0f} s"
        for slot in slots[stage]:  # type: ignore[index]
            slot.stop()


def _sent(contract: Contract, run: Run, load: Load, events: int | None) -> Iterator[tuple[bytes, bytes | None]]:
    """The records of a producer's run, made again from its seed."""
    timeline = Timeline(run.start_ms, run.start_ms, load.rate, load.speed, catches_up=False)
    source = sales_stream.stream(contract, scenarios.scenario(SCENARIO), run.seed, timeline, labels=False)
    for batch in source if events is None else first(source, events):
        yield from ((k.encode() if isinstance(k, str) else k or b"", v) for k, v in zip(batch.keys, batch.values, strict=True))  # fmt: skip


class _Clock:
    def __init__(self, seconds: dict[str, float]):
        self._seconds, self._at = seconds, time.monotonic()

    def mark(self, what: str) -> None:
        now = time.monotonic()
        self._seconds[what], self._at = round(now - self._at, 1), now
        progress(f"{self._seconds[what]:7.1f} s  {what}")


@contextmanager
def _shown(kills: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then in a log."""
    columns = (TextColumn("kills"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    terminal, done, every = sys.stderr.isatty(), itertools.count(1), max(1, kills // 20)
    with Bar(*columns, console=Console(stderr=True), disable=not terminal, transient=True) as shown:
        task = shown.add_task("kills", total=kills)

        def tell(n: int) -> None:
            shown.advance(task, n)
            if (at := next(done)) % every == 0 and not terminal:
                progress(f"{at} of {kills} kills")

        yield tell


# -- the report ------------------------------------------------------------------------------------------------------


def report(
    o: Outcome, out: Path, figures: dict[str, object]
) -> tuple[list[dict[str, object]], dict[str, object], dict[str, object]]:
    fired = Counter(s.kind for s in o.struck)
    by_point = Counter(f"{s.kind}.{s.point}" for s in o.struck)
    lost = o.plain.lost + int(str(o.proof["missing_total"]))
    duplicated = o.plain.duplicated + int(str(o.proof["duplicated_total"]))
    never = sorted(f"{k}.{p}" for k in POINTS for p in (*POINTS[k], *START_POINTS[k]) if not by_point[f"{k}.{p}"])
    not_fenced = sum(n for what, n in o.pauses.items() if "NOT FENCED" in what)
    more = {
        "kills": o.schedule.kills,
        "fired": sum(fired.values()),
        "lost": lost,
        "duplicated": duplicated,
        "verdicts_equal": not o.differences,
    }
    bars = [
        bar("fired", sum(fired.values()), "==", o.schedule.kills),
        bar("lost", lost, "==", 0),
        bar("duplicated", duplicated, "==", 0),
        bar("verify_ok_and_drained", int(bool(o.proof["ok"]) and bool(o.proof["drained"])), "==", 1),
        bar("altered_or_out_of_order", o.plain.altered, "==", 0),
        bar("partitions_not_as_sent", len(o.producer), "==", 0),
        bar("verdicts", o.verdicts, ">=", 1),
        bar("verdicts_that_differ", len(o.differences), "==", 0),
        bar("zombies_not_fenced", not_fenced, "==", 0),
        bar("ended_by_crash", len(o.crashes), "==", 0),
        bar("points_that_never_struck", len(never), "==", 0, required=o.schedule.kills >= EVERY_POINT),
    ]
    series = plot.series(o.samples)
    (out / "series.json").write_text(json.dumps({"series": series, "kills": _marks(o)}))
    plot.draw(series, _marks(o), [(at - o.began, n) for at, n in o.rebalances], out / "faults.png")
    figures |= {
        "kills_by_kind": dict(fired),
        "kills_by_point": dict(sorted(by_point.items())),
        "points_that_never_struck": never,
        "not_counted": dict(o.missed),
        "kills_beyond_the_schedule": o.beyond,
        "pauses": dict(o.pauses),
        "rebalances": [members for _, members in o.rebalances],
        "partitions_reclaimed": o.reclaimed,
        "ended_by_themselves": dict(o.restarts),
        "crashes": o.crashes,
        "partials_counted_again": sum(f.read_text().count(" partials_missing ") for f in out.glob("logs/drift-*.log")),
        "events": {k: o.proof[k] for k in ("produced", "consumed", "valid", "dead", "late", "lake")},
        "plain_look": {k: getattr(o.plain, k) for k in ("raw", "valid", "dead", "lake", "lost", "duplicated", "examples")},
        "not_as_sent": o.producer[:5],
        "first_counter_example": o.proof["first"],
        "verdicts_compared": o.verdicts,
        "first_differences": o.differences[:3],
        "recovery_seconds": {kind: recovery([s for s in o.struck if kind in (s.kind, "all")]) for kind in ("all", *fired)},
        "validated_per_second": round(_rate(o.samples)),
        "oldest_unread_seconds": {stage: max(values) for stage, values in series["age"].items()},
        "seconds_of": o.seconds,
        "cpu_seconds": round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])),  # all processes, the broker's too
        "plot": str(out / "faults.png"),
        "series": str(out / "series.json"),
        "logs": str(out / "logs"),
    }  # fmt: skip
    return bars, figures, more


def recovery(struck: list[Struck]) -> dict[str, float]:
    """From the kill until everything that was there, and one record more in each partition, was dealt with."""
    found = sorted(s.recovered_s for s in struck if s.recovered_s is not None)
    if len(found) < 2:
        return {"n": len(found), "max": max(found, default=0.0)}
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return {"n": len(found), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "max": round(found[-1], 2)}


def _marks(o: Outcome) -> list[dict[str, object]]:
    return [
        {"at": round(s.at - o.began, 2), "kind": s.kind, "point": s.point, "recovered_s": s.recovered_s}
        for s in sorted(o.struck, key=lambda s: s.at)
    ]


def _rate(samples: list[Sample]) -> float:
    return (samples[-1].validated - samples[0].validated) / max(1e-9, samples[-1].at - samples[0].at)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GaveUp as error:
        sys.exit(f"driftline faults: {error}")
