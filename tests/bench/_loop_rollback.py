"""A bad promotion on the running stack, by the verbs that people have, and how it is taken back by itself.

A version is trained on two early hours of the stream, when nobody had a past yet, and promoted by force: the statistics that
would refuse it are overridden, as a person may. From then on nobody helps. Seen from outside: the ledger's topic, /predict,
Prometheus' alerts.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import httpx

from batch import dataset
from batch.promotion import newest_event_time
from pipeline.times import to_ms, to_text
from tests.bench._loop_story import EVENT_HOUR_MS, Stamp
from tests.bench.report import Bar, bar, progress
from tests.demo.demo import SPEED, Story
from tests.demo.watch import Json, StepFailed

PILOT_H = 2  # 5,000 orders: some 1,800 to learn from once the last quarter measures and a fifth calibrates
BACK_S, SERVED_S, ALERT_S = 300.0, 30.0, 90.0
ALERT = "DriftlineModelRolledBack"


@dataclass
class Staged:
    """What was seen; moments are None until they came."""

    version: str = ""
    former: str = ""
    promoted: Stamp | None = None
    rolled_back: Stamp | None = None
    served_again: Stamp | None = None
    alerted: Stamp | None = None
    entry: Json = field(default_factory=dict)  # the ledger's, of the rollback
    by_itself: bool = False
    gate: Json = field(default_factory=dict)  # what the statistics said before they were overridden
    episodes: set[str] = field(
        default_factory=set
    )  # that fired meanwhile: another model's scores are a shift of scores
    failed: str = ""


def stage(story: Story) -> Staged:
    staged, known = Staged(), _episodes(story)
    try:
        _follow(story, staged)
    except StepFailed as failure:
        staged.failed = str(failure)
    staged.episodes = _episodes(story) - known
    progress(f"rollback: {staged.failed or staged.entry.get('reason')}")
    return staged


def _follow(story: Story, staged: Staged) -> None:
    staged.former = str(story.decisions("promote", "rollback")[-1]["version"])
    trained = _trained(story)
    staged.version, staged.gate = str(trained["version"]), trained["gate"]  # type: ignore[assignment]
    story.driftline("models", "promote", staged.version, "--force", "--reason", "a pilot of two hours")
    crowned: Json = story.wait(
        lambda: next((e for e in story.decisions("promote") if e["version"] == staged.version), None),
        60,
        "the promotion",
    )  # type: ignore[assignment]
    event, wall = newest_event_time(story.settings, story.contract) or 0, to_ms(str(crowned["at"]))
    staged.promoted = Stamp(event, wall)

    def at(wall_ms: int) -> Stamp:
        return Stamp(event + round((wall_ms - wall) * SPEED * story.pace), wall_ms)

    _served(story, staged.version, "the bad version")
    back: Json = story.wait(
        lambda: next((e for e in story.decisions("rollback") if int(str(e["seq"])) > int(str(crowned["seq"]))), None),
        BACK_S,
        "the rollback",
        lambda: [(e["action"], e["reason"]) for e in story.watch.ledger][-3:],  # type: ignore[union-attr]
    )  # type: ignore[assignment]
    staged.entry, staged.rolled_back = back, at(to_ms(str(back["at"])))
    watched = (back["metrics"] or {}).get("watch")  # type: ignore[attr-defined]
    staged.by_itself = (back["actor"], watched, back["version"]) == ("control", crowned["seq"], staged.former)
    _served(story, staged.former, "the former champion")
    staged.served_again = at(_now())
    story.wait(lambda: _fires(story), ALERT_S, f"{ALERT} in Prometheus")
    staged.alerted = at(_now())


def _trained(story: Story) -> Json:
    first, _ = dataset.event_times(story.settings, story.contract) or (0, 0)
    span = ("--from", to_text(first), "--to", to_text(first + PILOT_H * EVENT_HOUR_MS))
    said = story.driftline("train", "--json", "--search", "0", "--reason", "a pilot of two hours", *span)
    return json.loads(said.strip().splitlines()[-1])


def _served(story: Story, version: str, what: str) -> None:
    story.wait(lambda: story.ask()["version"] == version, SERVED_S, f"{what}, version {version}, to answer")


def _fires(story: Story) -> bool:
    url = f"http://127.0.0.1:{story.settings.ports['prometheus']}/api/v1/alerts"
    try:
        alerts = httpx.get(url, timeout=10).json()["data"]["alerts"]
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return any(a["labels"]["alertname"] == ALERT and a["state"] == "firing" for a in alerts)


def told_of(staged: Staged) -> tuple[list[Bar], dict[str, object]]:
    onset, evidence = staged.promoted, (staged.entry.get("metrics") or {}).get("evidence") or {}  # type: ignore[attr-defined]
    moments = ("rolled_back", "served_again", "alerted")
    stamps: dict[str, Stamp | None] = {name: getattr(staged, name) for name in moments}
    figures: dict[str, object] = {
        "version": staged.version,
        "former": staged.former,
        "gate": {k: staged.gate.get(k) for k in ("promote", "denied", "overall", "replay")},
        "promoted": onset and onset.since(onset),
        **{name: stamp and onset and stamp.since(onset) for name, stamp in stamps.items()},
        "labelled_answers": evidence.get("rows"),
        "excess_loss": evidence.get("excess"),
        "reason": staged.entry.get("reason"),
        "failed": staged.failed,
    }
    bars = [
        bar(
            "rollback: by the controller, on the outcomes of the promotion that it watched",
            int(staged.by_itself),
            "==",
            1,
        ),
        bar("rollback: the former champion answers again", int(staged.served_again is not None), "==", 1),
        bar(f"rollback: {ALERT} fires", int(staged.alerted is not None), "==", 1),
    ]
    return bars, figures


def _episodes(story: Story) -> set[str]:
    return {str(a["episode"]) for a in list(story.watch.alerts)}  # type: ignore[union-attr]


def _now() -> int:
    return round(time.time() * 1000)
