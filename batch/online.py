"""PURE. A second challenger that learns row by row (river): logistic regression over scaled numbers and categories.

Prequential with delayed labels: a row is scored when it happens, by what was learned from rows whose label had its whole
delay by then, and is learned itself when its own label has had it. Its loss is paired with the champion's on the same rows,
and the bound is the gate's (`gate.bound`, from sums). It is a signal and never serves: a bundle holds trees.

Bounded: a weight and three sums a number, a weight a category, at most MOST_WEIGHTS; rows behind the last one learned are
left out. The state is JSON, and a learner that goes on from it answers as one that never stopped. Cost: 20 us a row.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
from river.linear_model import LogisticRegression
from river.optim import SGD
from river.preprocessing import StandardScaler
from river.utils import VectorDict
from scipy.special import ndtri

from batch.gate import CONFIDENCE, Bound, log_loss
from stream_processors.live.model_features import FeatureSet

RATE = 0.01  # of the gradient steps: regret 7.5 % of the loss on 20,000 sales rows, 5 % for trees (2026-11-21)
FEWEST = 500  # rows below which the normal bound is no bound
FAR = 4.0  # standard deviations at which a scaled number is cut
MOST_WEIGHTS = 5_000
Json = dict[str, object]
Row = tuple[dict[str, float], dict[str, float]]  # numbers, categories


@dataclass(frozen=True, slots=True)
class Event:
    at: int  # event time, ms
    row: Row
    label: bool


@dataclass(slots=True)
class Paired:
    """Sums over the rows that a champion answered too."""

    champion: str
    rows: int = 0
    difference: float = 0.0
    square: float = 0.0
    loss: float = 0.0  # the champion's

    def add(self, difference: np.ndarray, loss: np.ndarray) -> None:
        self.rows += len(difference)
        self.difference += float(difference.sum())
        self.square += float((difference**2).sum())
        self.loss += float(loss.sum())

    def bound(self) -> Bound:
        """As `gate.bound` of all rows at once."""
        n, nan = self.rows, math.nan
        if n < 2:
            return Bound(n, nan, nan, nan, nan)
        mean = self.difference / n
        error = math.sqrt(max(0.0, self.square - n * mean**2) / (n - 1) / n)
        return Bound(n, mean, error, mean + float(ndtri(CONFIDENCE)) * error, self.loss / n)


@dataclass(slots=True)
class Learner:
    """River's model and scaler, and how far they are."""

    learned: int | None = None  # event time in ms of the last row learned
    scored: int | None = None  # ... and scored
    rows: int = 0  # learned
    scaler: StandardScaler = field(default_factory=StandardScaler)
    model: LogisticRegression = field(default_factory=lambda: LogisticRegression(SGD(RATE), intercept_lr=RATE))

    def score(self, row: Row) -> float:
        """Probability of a positive label; 0.5 before anything was learned."""
        return float(self.model.predict_proba_one(self._seen(row)).get(True, 0.5))

    def learn(self, row: Row, label: bool) -> None:
        self.scaler.learn_one(row[0])
        seen, known = self._seen(row), self.model._weights
        if len(known) >= MOST_WEIGHTS:
            seen = {k: v for k, v in seen.items() if k in known}
        self.model.learn_one(seen, label)
        self.rows += 1

    def _seen(self, row: Row) -> dict[str, float]:
        scaled = self.scaler.transform_one(row[0])
        return {k: min(FAR, max(-FAR, v)) for k, v in scaled.items()} | row[1]

    def state(self) -> Json:
        """JSON from which `restored` goes on."""
        return {
            "learned": self.learned,
            "scored": self.scored,
            "rows": self.rows,
            "scaler": {k: dict(getattr(self.scaler, k)) for k in ("counts", "means", "vars")},
            "weights": dict(self.model.weights),
            "intercept": self.model.intercept,
            "steps": self.model.optimizer.n_iterations,
        }


def restored(state: Mapping[str, object]) -> Learner:
    made = Learner(_whole(state["learned"]), _whole(state["scored"]), int(str(state["rows"])))
    kept: Mapping[str, Mapping[str, float]] = state["scaler"]  # type: ignore[assignment]
    made.scaler.counts = Counter(kept["counts"])
    made.scaler.means, made.scaler.vars = defaultdict(float, kept["means"]), defaultdict(float, kept["vars"])
    made.model._weights = VectorDict(state["weights"])
    made.model.intercept = float(str(state["intercept"]))
    made.model.optimizer.n_iterations = int(str(state["steps"]))
    return made


def follow(learner: Learner, events: Iterable[Event], delay_ms: int) -> np.ndarray:
    """Score and learn events in the order of their times; NaN for one that was scored before.

    Give it every event since `learner.learned`, the ones that were scored already too.
    """
    scores, waiting = list[float](), deque[Event]()
    scored, learned = learner.scored, learner.learned
    for event in events:
        while waiting and waiting[0].at <= event.at - delay_ms:
            due = waiting.popleft()
            if learned is None or due.at > learned:
                learner.learn(due.row, due.label)
                learner.learned = due.at
        waiting.append(event)
        fresh = scored is None or event.at > scored
        scores.append(learner.score(event.row) if fresh else math.nan)
        learner.scored = event.at if fresh else learner.scored
    return np.array(scores)


def compare(paired: Paired, label: np.ndarray, ours: np.ndarray, champion: np.ndarray) -> None:
    """Add the rows that both have answered."""
    both = np.isfinite(ours) & np.isfinite(champion)
    base = log_loss(label[both], champion[both])
    paired.add(log_loss(label[both], ours[both]) - base, base)


def events_of(features: FeatureSet, frame: pl.DataFrame, label: str) -> Iterator[Event]:
    """Numbers (a missing one is left out) and categories by their own values, of a frame in event-time order."""
    numbers = [(i, n) for i, n in enumerate(features.names) if n not in features.categories]
    texts = [[None if v is None else f"{c}={v}" for v in frame[c].to_list()] for c in features.categories]
    times, labels = frame[features.clock].dt.epoch("ms").to_list(), frame[label].to_list()
    for i, values in enumerate(features.matrix(frame).tolist()):
        present = {n: values[k] for k, n in numbers if math.isfinite(values[k])}
        yield Event(times[i], (present, {t: 1.0 for column in texts if (t := column[i]) is not None}), labels[i])


def sums(paired: Paired) -> Json:
    return asdict(paired)


def told(paired: Paired, learner: Learner) -> Json:
    """Log loss less the champion's: mean, error and upper 95 % bound over the rows that both answered; their champion's loss."""
    known = {k: v for k, v in asdict(paired.bound()).items() if math.isfinite(v)}
    better = paired.rows >= FEWEST and known.get("upper", 0.0) < 0
    return {"champion": paired.champion, "learned": learner.rows, **known, "better": better}


def text(said: Mapping[str, object]) -> str:
    """One line of `told`."""
    if not said.get("loss"):
        return f"online model: {said['learned']} labels learned, no row yet to compare with a champion on"
    mean, upper, loss = (float(str(said[k])) for k in ("mean", "upper", "loss"))
    word = "better than" if said["better"] else "not shown to be better than"
    return (
        f"online model: {word} version {said['champion']} over {said['rows']} labels: {mean / loss:+.2%} of its loss "
        f"(upper bound {upper / loss:+.2%}); {said['learned']} labels learned"
    )


def _whole(value: object) -> int | None:
    return None if value is None else int(str(value))
