"""Question: how good is the model before its labels come, and do the labels say when that was wrong?

    python tests/bench/_live.py [short|default|full]

A model of the sales world is taught on 20,000 orders of two stationary days, as `driftline train` teaches it; then the
scenario begins. Its answers fall into windows of equal size; each window's estimate, made from the scores alone, is held
against the loss that the labels give, as `driftline evaluate` does when a window closes. Worlds are drawn anew by seed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from batch import fitting
from pipeline import contract_file
from producers.sales import Orders
from stream_processors.live import model_features
from stream_processors.live.estimate import estimated
from stream_processors.live.live_metrics import figures
from stream_processors.live.loss_watch import LossWatch
from stream_processors.live.tally import Tally, facts
from tests.bench._drift_answers import Answer, Size, Table, shared_out
from tests.bench.report import bar, finish, progress
from tests.model import sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS

CONTRACT = contract_file.load("sales")
TAUGHT, TOLD = 20_000, 20_000  # orders before and after the scenario begins; 10,000 a day
DAY_H = 24
SAME_LAW = ("baseline", "harmless-shift", "price-move", "mix-change", "seasonal")  # what the label depends on stays
OTHER_LAW = ("concept-shift", "price-shift")
WORLDS = {"short": 1, "default": 3, "full": 12}
WINDOWS = (500, 1_000, 4_000)  # rows
TOLD_FIGURES = ("log_loss", "brier", "accuracy", "precision", "cost", "roc_auc")
SEED = 4_100


@dataclass(frozen=True, slots=True)
class Held:
    """Of one scenario in one world."""

    scenario: str
    held: dict[int, dict[str, list[bool]]]  # rows a window -> figure -> by window
    fired_after: int | None  # labelled rows until the watch of the loss fired


def answered(seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each scenario's scores and labels after the model's two days."""
    before = sales_rows.draw(TAUGHT, seed=seed, hours=2 * DAY_H)
    scorer = None
    for number, scenario in enumerate((*SAME_LAW, *OTHER_LAW), 1):
        start = START_MS + 2 * DAY_H * HOUR_MS
        after = sales_rows.draw(TOLD, scenario, seed=seed + number, start_ms=start, hours=2 * DAY_H)
        both = Orders(*(np.concatenate([getattr(part, name) for part in (before, after)]) for name in Orders.__slots__))
        rows = sales_rows.labelled(both)
        if scorer is None:
            features = model_features.with_categories(model_features.features_for(CONTRACT), rows[:TAUGHT])
            taught = features.matrix(rows[:TAUGHT])
            scorer = fitting.fit(taught, before.returned.astype(np.int8), fitting.split(np.arange(TAUGHT)), seed)
        scores = scorer.classifier.predict_proba(features.matrix(rows[TAUGHT:]))[:, 1]
        yield scenario, scores, after.returned.astype(bool)


def world(seed: int) -> list[Held]:
    told = list(answered(seed))
    (_, *calm), *_ = told  # the baseline, which the watch of the loss sees before each other scenario
    return [held(*one, (calm[0], calm[1])) for one in told]


def held(scenario: str, scores: np.ndarray, labels: np.ndarray, before: tuple[np.ndarray, np.ndarray]) -> Held:
    plan = CONTRACT.evaluation
    known = [facts(p, plan.threshold) for p in scores.tolist()]
    found: dict[int, dict[str, list[bool]]] = {rows: {name: [] for name in TOLD_FIGURES} for rows in WINDOWS}
    for rows, by_figure in found.items():
        for at in range(0, len(scores) - rows + 1, rows):
            tally = Tally()
            for fact, label in zip(known[at : at + rows], labels[at : at + rows].tolist(), strict=True):
                tally.predict(fact)
                tally.label(fact, label)
            promised, happened = estimated(tally, plan), figures(tally, plan)
            for name, answers in by_figure.items():
                answers.append(bool(promised[name].low <= happened[name].value <= promised[name].high))
    watch, fired = LossWatch(), None
    for n, (score, label) in enumerate(zip(*(a.tolist() for a in before), strict=True)):
        watch.add(score, label, n)
    for n, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True), 1):
        if watch.add(score, label, n) and fired is None and watch.state == "firing":
            fired = n
    return Held(scenario, found, fired)


def run(size: Size) -> Answer:
    found = [h for part in shared_out(world, range(SEED, SEED + 100 * WORLDS[size], 100)) for h in part]

    def share(scenarios: tuple[str, ...], rows: int, figure: str = "log_loss") -> float:
        return float(np.mean([x for h in found if h.scenario in scenarios for x in h.held[rows][figure]]))

    required = size != "short"
    bars = [
        bar(f"live: estimates that hold, same law, windows of {rows}", share(SAME_LAW, rows), ">=", 0.90, required)
        for rows in WINDOWS
    ]
    worst = min(TOLD_FIGURES, key=lambda figure: share(SAME_LAW, 1_000, figure))
    bars.append(bar("live: estimates that hold, same law, windows of 1000, of the figure that holds least", share(SAME_LAW, 1_000, worst), ">=", 0.90, required))  # fmt: skip
    bars.append(bar("live: estimates that miss, concept shift, windows of 1000", 1 - share(("concept-shift",), 1_000), ">=", 0.90, required))  # fmt: skip
    fired = {s: [h.fired_after for h in found if h.scenario == s] for s in (*SAME_LAW, *OTHER_LAW)}
    shifted = [f for s in OTHER_LAW for f in fired[s]]
    bars.append(bar("live: share of shifts of the law that the labels detect within 10000 rows", float(np.mean([f is not None and f <= 10_000 for f in shifted])), "==", 1.0, required))  # fmt: skip
    bars.append(bar("live: alarms of the loss where the law stays", sum(f is not None for s in SAME_LAW for f in fired[s]), "==", 0, required))  # fmt: skip
    rows = [
        (s, *(f"{share((s,), n):.1%}" for n in WINDOWS), *(f"{share((s,), 1_000, f):.1%}" for f in TOLD_FIGURES[1:]),
         *(_median(fired[s]),))
        for s in (*SAME_LAW, *OTHER_LAW)
    ]  # fmt: skip
    head = ("scenario", *(f"log loss, {n}" for n in WINDOWS), *(f"{f}, 1000" for f in TOLD_FIGURES[1:]), "fired after")
    return Answer(
        "How good is the model before its labels come?",
        " ".join((__doc__ or "").split("\n\n")[2].split()),
        bars,
        {"worlds": WORLDS[size], "rows": [dict(zip(head, row, strict=True)) for row in rows]},
        [Table("Windows whose realised figure lies within its estimate", head, rows)],
    )


def _median(fired: list[int | None]) -> object:
    known = [f for f in fired if f is not None]
    return int(np.median(known)) if known else "-"


def main() -> int:
    began = time.monotonic()
    size: Size = sys.argv[1] if len(sys.argv) > 1 else "default"  # type: ignore[assignment]
    answer = run(size)
    for table in answer.tables:
        progress("\n".join(" | ".join(map(str, row)) for row in (table.head, *table.rows)))
    return finish("live", began, answer.bars, answer.figures)


if __name__ == "__main__":
    raise SystemExit(main())
