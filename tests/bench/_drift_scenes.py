"""Question: does every scenario reach its alert? Each of the eight from the producer through a real broker to the page and its cause."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.broker import Broker
from pipeline.times import to_ms, to_text
from stream_processors.judging.causes import Kind
from tests.bench._drift_answers import Answer, Size, Table
from tests.bench._hops import Hops
from tests.bench.report import bar, progress
from tests.contracts import contract_file_named

SCENES: Mapping[str, Kind] = {
    "unit-change": "unit_change",
    "dropped-segment": "dropped_segment",
    "null-burst": "null_burst",
    "new-category": "new_category",
    "price-move": "level_move",
    "mix-change": "mix_change",
    "clock-skew": "clock_skew",
    "duplicate-producer": "duplicate_producer",
}  # scenario of the producer, the cause that it plants
SHORT = ("unit-change", "duplicate-producer")
HOUR, MINUTE = 3_600_000, 60_000
START = to_ms("2025-03-03T17:00:00Z")  # a Monday; a fixed day, so that the same events lie in the same windows
LEARNT_H, QUIET_H = 40, 3  # of the past that the reference is made of, and judged quietly before the scenario
OFF_MIN = 20  # the scenario begins within a window
RATE = 1_500 / 3600  # events a second of event time, in the mean over a week
EVENTS = 78_000  # until more than eight hours after the scenario began: one page is asked of all of them
SPEED = 3600
LANES = 2  # scenes at a time: most of a scene is the starts of its processes
LATEST_MIN = 180  # event minutes from the scenario to the end of the window that paged


@dataclass(frozen=True, slots=True)
class Played:
    """One scenario, as the alerts topic tells it."""

    scene: str
    early: int  # pages before it began
    pages: int  # episodes that fired since
    after_min: float  # event minutes from its beginning to the end of the window that pages
    moved: str  # the feature ranked first
    causes: tuple[Mapping[str, str], ...]  # of the first page, the likeliest first
    seconds: Mapping[str, float]  # by verb

    @property
    def right(self) -> bool:
        return [c["kind"] for c in self.causes[:1]] == [SCENES[self.scene]]


def play(folder: Path, broker: Broker, scene: str) -> Played:
    """A dataset of its own learns from 40 quiet hours, judges three more, then the scenario begins.

    The reference is made of the lake, as an operator makes it: it knows how many records are usually rejected. `compact`
    has told the dataset rules, uniqueness among them, before `drift` asks for causes.
    """
    run = Hops(folder / scene, broker, str(contract_file_named(folder, id=f"scene_{scene.replace('-', '_')}")))
    judged = START + LEARNT_H * HOUR
    begins = judged + QUIET_H * HOUR + OFF_MIN * MINUTE
    run.run(
        "produce", "--events", str(EVENTS), "--flat-out", "--rate", str(RATE * SPEED), "--speed", str(SPEED), "--no-outcomes",
        "--start", to_text(START), "--schedule", f"baseline@0,{scene}@{(begins - START) // MINUTE}m", "--seed", "17",
    )  # fmt: skip
    run.run("validate", "--exit-at-end")
    run.run("compact", "--once")
    run.run("reference", "build", "--to", to_text(judged), "--effective-from", to_text(judged))
    run.judge(run.clocks())
    return _told(run, scene, begins)


def play_all(folder: Path, broker: Broker, scenes: Sequence[str]) -> list[Played]:
    with ThreadPoolExecutor(LANES) as lanes:
        return list(lanes.map(lambda scene: play(folder, broker, scene), scenes))


def _told(run: Hops, scene: str, begins: int) -> Played:
    fired = [a for a in run.alerts() if a["state"] == "firing"]
    early = {a["episode"] for a in fired if to_ms(a["window_end"]) <= begins}
    pages = [a for a in fired if a["episode"] not in early]
    if not pages:
        return Played(scene, len(early), 0, float("nan"), "", (), run.seconds)
    first, count = pages[0], len({a["episode"] for a in pages})
    after = (to_ms(first["window_end"]) - begins) / MINUTE
    return Played(scene, len(early), count, after, first["features"][0]["feature"], tuple(first["causes"]), run.seconds)


def run(size: Size) -> Answer:
    scenes = SHORT if size == "short" else tuple(SCENES)
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, Broker(Path(folder) / "broker") as broker:
        played = play_all(Path(folder), broker, scenes)
    for one in played:
        progress(f"scenes: {one}")
    paged = [p for p in played if p.pages]
    latest = max((p.after_min for p in paged), default=float("nan"))
    return Answer(
        "Every scenario, on a broker, to its alert",
        f"The producer's {len(scenes)} scenarios of one cause each, one dataset a scenario with the sales contract, on one real broker. "
        f"Each learns its reference from {LEARNT_H} quiet event hours in its own lake, judges {QUIET_H} quiet hours and {OFF_MIN} minutes, then the scenario begins: "
        f"`produce --schedule`, `validate`, `compact`, `reference build`, `drift`, until drift has no more to say. About 1,500 orders an hour in the mean, 2,000 by day.",
        [
            bar(f"scenes: scenarios that page, of {len(scenes)}", len(paged), "==", len(scenes)),
            bar("scenes: whose first cause is the planted one", sum(p.right for p in played), ">=", len(scenes)),
            bar("scenes: pages before a scenario began", sum(p.early for p in played), "==", 0),
            bar("scenes: most pages of one scenario", max(p.pages for p in played), "==", 1),
            bar("scenes: event minutes from a scenario to the end of the window that pages, most", latest, "<=", LATEST_MIN),
        ],
        {"seconds_by_hop": {p.scene: dict(p.seconds) for p in played}},
        [
            Table(
                "By scenario: event minutes to the end of the window that pages, and the first cause that the page names",
                ("scenario", "page after", "moved most", "first cause", "where", "evidence"),
                [_row(p) for p in played],
            )
        ],
    )  # fmt: skip


def _row(played: Played) -> tuple[object, ...]:
    if not played.pages:
        return f"`{played.scene}`", "never", "", "", "", ""
    first = played.causes[0] if played.causes else {"kind": "none", "place": "", "evidence": ""}
    named = f"`{first['kind']}`" + ("" if played.right else f", not `{SCENES[played.scene]}`")
    return f"`{played.scene}`", f"{played.after_min:.0f}", played.moved, named, first["place"], first["evidence"]
