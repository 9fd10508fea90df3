"""The gate and the watch over many trials: how often a worse challenger passes, a better one does, a bad champion goes.

    python tests/bench/_gate.py [--trials 200]

A real model of the sales world answers a population of orders whose true probabilities are known. Others are made from it
by noise on its log odds, as much as gives the stated true loss (the expectation under the true probabilities). A trial
draws 20,000 of the orders and new labels, and asks the gate after 5,000, 7,500, ... 20,000 of them: the policy as it
stands, with its slices, groups and calibration. One "promote" at any look counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from batch import compare, fitting, policy, watch  # noqa: E402
from batch.decisions import ATTEMPT_GROWTH  # noqa: E402
from pipeline import contract_file  # noqa: E402
from stream_processors.live import model_features  # noqa: E402
from tests.bench.report import Bar, bar, finish, progress  # noqa: E402
from tests.model import sales_rows  # noqa: E402
from tests.model.evidence import decide  # noqa: E402

CONTRACT = contract_file.load("sales")
TAUGHT, POPULATION, EVENTS, FIRST = 30_000, 120_000, 20_000, 5_000
WATCHED = (0.0, 0.02, 0.05, 0.10, 0.20)  # how much worse the new champion is than the former one


@dataclass(frozen=True, slots=True)
class World:
    """Orders nobody was taught, what the model answers them, and what is true."""

    truth: np.ndarray
    model: np.ndarray
    noise: np.ndarray  # standard normal, one an order
    slices: Mapping[str, np.ndarray]

    def loss(self, p: np.ndarray) -> float:
        """Expected log loss of the answers."""
        return float(np.mean(-(self.truth * np.log(p) + (1 - self.truth) * np.log1p(-p))))

    def worse(self, share: float) -> np.ndarray:
        """The model's answers with noise that raises its expected loss by this share."""
        odds, wanted = np.log(self.model) - np.log1p(-self.model), self.loss(self.model) * (1 + share)
        low, high = 0.0, 5.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.loss(_inverse(odds + middle * self.noise)) < wanted else (low, middle)
        return _inverse(odds + high * self.noise)

    def trials(self, number: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(orders, their labels), drawn anew each time."""
        for trial in range(number):
            rng = np.random.default_rng([seed, trial])
            chosen = rng.permutation(len(self.truth))[:EVENTS]
            yield chosen, rng.random(EVENTS) < self.truth[chosen]


def world(seed: int = 7) -> World:
    """Teach a model on the first orders of a stationary week; answer the rest."""
    block = sales_rows.draw(TAUGHT + POPULATION, seed=seed, hours=7 * 24)
    rows = sales_rows.labelled(block)
    features = model_features.with_categories(model_features.features_for(CONTRACT), rows[:TAUGHT])
    matrix = features.matrix(rows)
    label = block.returned.astype(np.int8)
    fitted = fitting.fit(matrix[:TAUGHT], label[:TAUGHT], fitting.split(np.arange(TAUGHT)), seed)
    rest = rows[TAUGHT:]
    return World(
        block.return_probability[TAUGHT:],
        fitted.classifier.predict_proba(matrix[TAUGHT:])[:, 1],
        np.random.default_rng(seed).normal(size=POPULATION),
        compare.slices(CONTRACT, rest),
    )


def promoted_after(
    world: World, champion: np.ndarray, challenger: np.ndarray, chosen: np.ndarray, label: np.ndarray
) -> int | None:
    """Labelled events after which the gate said yes; None if it never did."""
    looks = [int(FIRST * ATTEMPT_GROWTH**k) for k in range(4)]
    for events in (*(n for n in looks if n < EVENTS), EVENTS):
        some = chosen[:events]
        slices = {name: values[some] for name, values in world.slices.items()}
        if decide(label[:events], champion[some], challenger[some], slices).promote:
            return events
    return None


def trials(
    number: int = 200, report: Callable[[str], None] = progress, seed: int = 20261121
) -> tuple[list[Bar], dict[str, object]]:
    """The bars of the gate and figures of the watch."""
    known = world()
    report(f"a world of {POPULATION} orders; the model's loss {known.loss(known.model):.4f}")
    two, five = known.worse(0.02), known.worse(1 / 0.95 - 1)
    worse = [promoted_after(known, known.model, two, *t) for t in known.trials(number, seed)]
    report(f"2 % worse: promoted {sum(w is not None for w in worse)} of {number}")
    better = [promoted_after(known, five, known.model, *t) for t in known.trials(number, seed + 1)]
    report(f"5 % better: promoted {sum(b is not None for b in better)} of {number}")
    little = [promoted_after(known, two, known.model, *t) for t in known.trials(number, seed + 4)]
    report(f"2 % better: promoted {sum(b is not None for b in little)} of {number}")
    same = [promoted_after(known, known.model, _twin(known), *t) for t in known.trials(number, seed + 2)]
    report(f"as good: promoted {sum(s is not None for s in same)} of {number}")
    bars = [
        bar("share promoted, truly 2 % worse", _share(worse), "<=", 0.05),
        bar("share promoted within 20,000 labelled events, truly 5 % better", _share(better), ">=", 0.90),
    ]
    watched = {f"{share:.0%} worse": _watched(known, share, number, seed + 3) for share in WATCHED}
    bars.append(
        bar("share rolled back, not worse than the former champion", watched["0% worse"]["rolled_back"], "<=", 0.01)
    )  # type: ignore[arg-type]
    figures: dict[str, object] = {
        "trials": number,
        "policy": policy.version(),
        "true_loss": {
            "model": known.loss(known.model),
            "worse": known.loss(two),
            "champion_of_better": known.loss(five),
        },
        "promoted": {
            "2 % worse": _share(worse),
            "as good": _share(same),
            "2 % better": _share(little),
            "5 % better": _share(better),
        },
        "events_to_promotion_median": float(np.median([b for b in better if b] or [np.nan])),
        "watch": watched,
    }
    return bars, figures


def _watched(known: World, share: float, number: int, seed: int) -> dict[str, float | None]:
    champion, former = (known.worse(share), known.model) if share else (_twin(known), known.model)
    limits = policy.limits("watch")
    found = [
        watch.against_former(label, champion[chosen], former[chosen], limits).crossed_at
        for chosen, label in known.trials(number, seed)
    ]
    crossed = [c for c in found if c]
    return {"rolled_back": _share(found), "answers_median": float(np.median(crossed)) if crossed else None}


def _twin(known: World) -> np.ndarray:
    """Another model with the same expected loss: worse by noise on half of the orders, nearer to the truth on the others."""
    half, noisy = np.arange(len(known.truth)) % 2 == 0, known.worse(0.02)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        made = np.where(half, noisy, known.model + middle * (known.truth - known.model))
        low, high = (middle, high) if known.loss(made) > known.loss(known.model) else (low, middle)
    return np.where(half, noisy, known.model + high * (known.truth - known.model))


def _share(found: list[int | None]) -> float:
    return sum(f is not None for f in found) / len(found)


def _inverse(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    args = parser.parse_args()
    began = time.monotonic()
    bars, figures = trials(args.trials)
    return finish("gate", began, bars, figures)


if __name__ == "__main__":
    raise SystemExit(main())
