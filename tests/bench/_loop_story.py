"""One stack under a stream that changes on cue: each planted scenario from its onset to the decision, in event and wall time.

Drives the demo's pieces (`tests/demo`): its stack, its stream, its first model, its watch over the public topics.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from batch.ledger import CROWNS, FINAL, episodes_of
from pipeline.settings import PORTS, from_environment
from pipeline.times import to_ms, to_text
from tests.bench.report import progress
from tests.demo import demo, pictures
from tests.demo.demo import Story
from tests.demo.watch import Json, StepFailed

CASES = {
    "bad-records": "data fault",
    "harmless-shift": "harmless shift",
    "price-shift": "harmful shift",
    "concept-shift": "concept drift",
    "seasonal": "harmless shift",
}  # what each one is, in the order in which they are played
RECORDS_ONLY = ("bad-records",)  # ended by hand: nobody trains a fault away
HARMFUL = ("price-shift", "concept-shift")  # a better model is possible, and wanted
ALWAYS = "defects"  # 0.5 % damaged records, as in any stream
EVENT_HOUR_MS = 3_600_000
ALERT_S, DECIDED_S, RESOLVED_S = 180.0, 420.0, 180.0
LABELS_S = 3 * 3600 * 6  # event time until the labels of a few hours are there: three delays of 6 h
FADES_S = 3600 * (24 + 6)  # event time that the model's features remember, and the labels' delay: the old world fades
CLOSED = (*FINAL, "expire")
Hours = dict[int, pictures.Hour]
Loss = dict[str, Hours]  # by version and event hour


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment in both times, ms."""

    event: int
    wall: int

    def since(self, onset: Stamp) -> dict[str, object]:
        return {
            "event_time": to_text(self.event),
            "event_minutes": round((self.event - onset.event) / 60_000, 1),
            "wall_seconds": round((self.wall - onset.wall) / 1000, 1),
        }


@dataclass
class Played:
    """What was seen of one planted change."""

    name: str
    onset: Stamp
    speed: float  # event seconds a wall second
    episodes: set[str] = field(default_factory=set)
    faded: set[str] = field(default_factory=set)  # of these: after the promotion, while the old world faded
    retrained: int = 0  # trainings that answered those
    promotions: int = 0  # that answered any of them
    alert: Stamp | None = None
    challenger: Stamp | None = None
    champion: Stamp | None = None  # another version serves, by promotion or rollback; None = the model was kept
    resolved: Stamp | None = None
    ended: Stamp | None = None  # when the next change, or the end, came
    decision: Json | None = None
    told: list[str] = field(default_factory=list)  # what the ledger got until the end
    cases: list[str] = field(default_factory=list)  # as the ledger named it, oldest first
    failed: str = ""

    @property
    def named(self) -> str:
        return self.cases[-1] if self.cases else ""


def phases(names: Sequence[str]) -> str:
    """The producer's schedule: what was changed stays changed, but a fault in the records ends.

    >>> phases(["bad-records", "price-shift", "seasonal"])
    'defects@0,bad-records+defects@next,defects@next,price-shift+defects@next,seasonal+price-shift+defects@next'
    """
    told, kept = [f"{ALWAYS}@0"], [ALWAYS]
    for name in names:
        if name in RECORDS_ONLY:
            told += [f"{'+'.join([name, *kept])}@next", f"{'+'.join(kept)}@next"]
        else:
            kept.insert(0, name)
            told.append(f"{'+'.join(kept)}@next")
    return ",".join(told)


@contextmanager
def stack(names: Sequence[str], days: int, pace: float) -> Iterator[Story]:
    """Everything that `driftline up` starts, on free ports, under a stream whose changes wait for their cue; a champion serves."""
    demo.console.stderr = True
    with tempfile.TemporaryDirectory(prefix="driftline-loop-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        environment = {
            **os.environ,
            "DRIFTLINE_HOME": str(home),
            "DRIFTLINE_FIRST_ROWS": str(demo.FIRST_ROWS),
            "DRIFTLINE_MIN_AFTER": str(demo.MIN_AFTER),
            "PYTHONUNBUFFERED": "1",
            **{f"DRIFTLINE_{name.upper()}_PORT": str(port) for name, port in free_ports().items()},
        }
        story = Story(from_environment(environment), environment, phases(names), days, pace)
        try:
            for step in (demo.start, demo.stream, demo.first_model, demo.scored, demo.quiet):
                told = step(story)
                progress(f"{time.monotonic() - story.began:6.1f} s  {step.__name__}: {told}")
            yield story
        except BaseException:
            if kept := os.environ.get("DRIFTLINE_BENCH_LOGS"):
                shutil.copytree(home / "logs", kept, dirs_exist_ok=True)
            raise
        finally:
            demo._stop(story, keep=False)


def free_ports() -> dict[str, int]:
    """One a setting; the exporters' is the first of a run."""
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        start = first.getsockname()[1]
    for base in range(max(20_000, start % 20_000 + 20_000), 60_000, 50):
        run = [base + n for n in range(len(PORTS) + 40)]
        if all(_free(port) for port in run):
            return {name: base + n for n, name in enumerate(PORTS)}
    raise SystemExit("expected some fifty free ports in a row on the loopback, found none")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def play(story: Story, name: str) -> Played:
    """Cue the change, wait for its alert, for the decision that answers it, and until nothing fires any more."""
    known = {str(a["episode"]) for a in list(_watch(story).alerts)}
    onset = Stamp(to_ms(story.next_phase()), _now())
    played = Played(name, onset, demo.SPEED * story.pace)
    try:
        _follow(story, played, known)
    except StepFailed as failure:
        played.failed = str(failure)
    _name(story, played, known)
    if played.champion and not played.failed:
        _fade(story, played, known)
    played.ended = _at(played, _now())
    played.told = [f"{e['at']} {e['action']} {e['version'] or ''}: {e['reason']}" for e in _written(story, played)]
    played.retrained = sum(e["action"] == "train" for e in _entries(story, played.faded))
    played.promotions = sum(e["action"] == "promote" for e in _entries(story, played.episodes))
    progress(
        f"{time.monotonic() - story.began:6.1f} s  {name}: {played.failed or (played.decision or {}).get('reason')}; "
        f"case: {' -> '.join(played.cases) or 'none'}"
    )
    return played


def _follow(story: Story, played: Played, known: set[str]) -> None:
    watch = _watch(story)

    def wait(found: Callable[[], object], seconds: float, what: str) -> object:
        return story.wait(found, seconds, f"{what} for {played.name}", lambda: _last(watch.ledger, watch.alerts))

    def answered() -> Json | None:
        _name(story, played, known)
        crowns = [
            e for e in _written(story, played) if e["action"] in CROWNS
        ]  # a former champion may be the better one
        return next(iter(crowns), None) or next(
            (e for e in _entries(story, played.episodes) if e["action"] in CLOSED), None
        )

    alert = wait(lambda: next((a for a in _since(story, known) if a["state"] == "firing"), None), ALERT_S, "an alert")
    played.alert = Stamp(to_ms(str(alert["event_time"])), _now())  # type: ignore[index]
    if played.name in RECORDS_ONLY:
        wait(lambda: _name(story, played, known) or any(c != "undecided" for c in played.cases), DECIDED_S, "a case")
        story.next_phase()
    played.decision = wait(answered, DECIDED_S, "a decision")  # type: ignore[assignment]
    trained = [e for e in _entries(story, played.episodes) if e["action"] == "train"]
    if trained:
        played.challenger = _at(played, to_ms(str(trained[-1]["at"])))
    if played.decision["action"] in CROWNS:  # type: ignore[index]
        played.champion = _at(played, to_ms(str(played.decision["at"])))  # type: ignore[index]
    wait(lambda: _calm(story, known), RESOLVED_S, "the end of every episode")
    played.resolved = _at(played, _now())


def _fade(story: Story, played: Played, known: set[str]) -> None:
    """A model made for a new world is asked about features that still remember the old one: what that fires is this change's."""
    try:
        _let_pass(story, FADES_S, f"the old world to fade after {played.name}")
        story.wait(lambda: _calm(story, known), DECIDED_S, f"the end of every episode after {played.name}")
    except StepFailed as failure:
        played.failed = str(failure)
    played.faded = {str(a["episode"]) for a in _since(story, known)} - played.episodes
    played.episodes |= played.faded


def _calm(story: Story, known: set[str]) -> bool:
    latest = {str(a["episode"]): a["state"] for a in _since(story, known)}
    return "firing" not in latest.values()


def _since(story: Story, known: set[str]) -> list[Json]:
    """The alerts of other episodes than those."""
    return [a for a in list(_watch(story).alerts) if str(a["episode"]) not in known]


def _let_pass(story: Story, event_s: float, what: str) -> None:
    """So much event time, at the stream's own pace: there is nothing to wait for but its clock."""
    seconds = event_s / demo.SPEED / story.pace
    until = time.monotonic() + seconds
    story.wait(lambda: time.monotonic() >= until, 2 * seconds, what)


def _name(story: Story, played: Played, known: set[str]) -> None:
    """The episodes that began since, and the case that the ledger names them until the decision."""
    played.episodes = {str(a["episode"]) for a in _since(story, known)}
    told = _entries(story, played.episodes)
    if played.decision:
        told = [e for e in told if e["seq"] <= played.decision["seq"]]
    said = [(e.get("metrics") or {}).get("case") for e in told]  # type: ignore[union-attr]
    played.cases = [str(case) for case, _ in groupby(c for c in said if c)]


def calm(story: Story, days: float) -> dict[str, object]:
    """Nothing is planted for so many event days: what fires and what is trained without a cause."""
    before, began = len(_trainings(story)), _now()
    alerts = {str(a["episode"]) for a in list(_watch(story).alerts) if a["state"] == "firing"}
    _let_pass(story, days * 86_400, "the end of the quiet stretch")
    fired = {str(a["episode"]) for a in list(_watch(story).alerts) if a["state"] == "firing"} - alerts
    return {
        "event_days": days,
        "events": round((_now() - began) / 1000 * demo.RATE * story.pace),
        "pages": len(fired),
        "retrains": len(_trainings(story)) - before,
    }


def uncaused(ledger: Sequence[Json], planted: set[str], by_hand: str = "") -> int:
    """Trainings after the first champion that answer no planted change; the version trained by hand is none."""
    crowned = next((n for n, e in enumerate(ledger) if e["action"] == "promote"), len(ledger))
    trained = [e for e in ledger[crowned:] if e["action"] == "train" and e.get("version") != by_hand]
    return sum(not planted & set(episodes_of(e)) for e in trained)


def losses(story: Story) -> Loss:
    """Served log loss by version and event hour, once the last labels have come."""
    _let_pass(story, LABELS_S, "the last labels")
    return pictures.losses(story.settings, story.contract)


def recovery(played: Played, loss: Loss) -> tuple[dict[str, object], Stamp | None]:
    """Mean hourly loss before, between onset and decision, and after it, and what the scores after it promise; when the
    new champion first did better than the old."""
    entry, end = played.decision, (played.ended or played.onset).event
    former = str(entry.get("former") or entry.get("version") or "") if entry else ""
    kept = played.champion is None
    new = former if kept else str(entry["version"])  # type: ignore[index]
    turn = played.champion.event if played.champion else played.onset.event
    every = {h: v for hours in loss.values() for h, v in hours.items()}
    before = _between(every, played.onset.event - 12 * EVENT_HOUR_MS, played.onset.event)
    during = _between(every if kept else loss.get(former, {}), played.onset.event, end if kept else turn)
    after = {} if kept else _between(loss.get(new, {}), turn, end)
    found = {"before": _mean(before), "during": _mean(during), "after": _mean(after)}
    found["promised"] = round(statistics.fmean(v.promised for v in after.values()), 4) if after else None
    better = next((h for h, v in sorted(after.items()) if during and v.loss < float(str(found["during"]))), None)
    if better is None:
        return found, None
    event = better + EVENT_HOUR_MS
    return found, Stamp(event, played.onset.wall + round((event - played.onset.event) / played.speed))


def _between(hours: Hours, start: int, end: int) -> Hours:
    """Whole hours of it."""
    return {h: v for h, v in hours.items() if start <= h and h + EVENT_HOUR_MS <= end}


def _mean(hours: Hours) -> float | None:
    return round(statistics.fmean(v.loss for v in hours.values()), 4) if hours else None


def _at(played: Played, wall_ms: int) -> Stamp:
    """Event time at a wall time, by the producer's pace since the onset."""
    return Stamp(played.onset.event + round((wall_ms - played.onset.wall) * played.speed), wall_ms)


def _watch(story: Story) -> demo.Watch:
    assert story.watch is not None
    return story.watch


def _entries(story: Story, episodes: set[str]) -> list[Json]:
    return [e for e in list(_watch(story).ledger) if episodes & set(episodes_of(e))]


def _written(story: Story, played: Played) -> list[Json]:
    """What the ledger got since the change was cued."""
    return [e for e in list(_watch(story).ledger) if to_ms(str(e["at"])) >= played.onset.wall]


def _trainings(story: Story) -> list[Json]:
    return story.decisions("train")


def _last(ledger: list[Json], alerts: list[Json]) -> object:
    return [(e["action"], e["reason"]) for e in ledger][-3:], [(a["episode"], a["state"]) for a in alerts][-3:]


def _now() -> int:
    return round(time.time() * 1000)
