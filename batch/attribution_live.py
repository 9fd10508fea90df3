"""EDGE. Attribution drift as it happens: the champion's newest whole window beside what it was measured on.

A look is `driftline models attribution` over that window, in a child process (it imports scikit-learn): at most 1,000 rows
of the lake, one look a new window, and at most one in EVERY_S. So the cost has a bound whatever the rate, no request is
delayed by it, and who runs the verb over the same window reads the same figures. It decides nothing and pages nobody; a
decision about an episode is told what it last saw, if that lies behind the onset.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batch import dataset, ledger, training_child
from batch.ledger import Ledger
from batch.train import model_name
from monitoring.metrics import PrometheusMeter
from pipeline.contract import Contract
from pipeline.errors import DriftlineError
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.judging.panes import clock_of

EVERY_S = 60.0  # wall time between two looks: one takes 6 s of a core, most of it imports (2026-11-21)
POLL_S = 5.0
TOLD = 3  # features in a sentence
DAY_MS = 86_400_000
Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Looked:
    """What the last look found, of the window [start, end) in event time, ms."""

    version: str
    start: int
    end: int
    said: str

    def json(self) -> dict[str, object]:
        return {"from": to_text(self.start), "to": to_text(self.end), "said": self.said}


@dataclass
class AttributionWatch:
    """The last look; gauges follow it."""

    settings: Settings
    contract: Contract
    meter: PrometheusMeter
    seen: Looked | None = None
    _asked: tuple[str, int] | None = None  # champion's version, start of the window
    _next: float = field(default=-math.inf)

    def follow(self, stopped: threading.Event) -> None:
        while not stopped.wait(POLL_S):
            self.turn(stopped)

    def turn(self, stopped: threading.Event) -> None:
        """One look, if it is time and there is a window that the champion was not asked about."""
        if time.monotonic() < self._next:
            return
        try:
            asked = self._due()
            if asked is None:
                return
            self._next = time.monotonic() + EVERY_S
            if asked != self._asked:
                self._look(*asked, stopped)
                self._asked = asked
        except DriftlineError as error:
            if not stopped.is_set():
                log("attribution_failed", "warning", model=model_name(self.contract), error=error)

    def since(self, version: str | None, onset: int) -> dict[str, object]:
        """For a decision about what began at `onset` (ms): what this version's answers hung on since then; {} if not seen."""
        seen = self.seen
        known = seen is not None and seen.version == version and seen.end > onset
        return {"attribution": seen.json()} if seen is not None and known else {}

    def _due(self) -> tuple[str, int] | None:
        champion = ledger.champion(Ledger(ledger.path_of(self.settings)).entries(model_name(self.contract)))
        newest = dataset.newest_event_time(self.settings, self.contract) if champion else None
        if champion is None or newest is None:
            return None
        length = window_length(self.contract)
        return str(champion.draft.version), (newest // length - 1) * length

    def _look(self, version: str, start: int, stopped: threading.Event) -> None:
        end = start + window_length(self.contract)
        verb = ["models", "attribution", "--version", version, "--json", "--from", to_text(start), "--to", to_text(end)]
        found = training_child.ask(self.settings, verb, beat=lambda: None, stopped=stopped)
        window = _items(found["windows"])[-1]
        features = _items(window["features"])
        if not features:
            return  # fewer rows than can be compared
        self._show(window, features)
        self.seen = Looked(version, to_ms(str(window["start"])), to_ms(str(window["end"])), sentence(features))
        log("attribution", model=found["model"], version=version, window=window["start"], said=self.seen.said)

    def _show(self, window: Json, features: Sequence[Json]) -> None:
        model = model_name(self.contract)
        for told in features:
            name = str(told["feature"])
            self.meter.set("driftline_attribution_answer_change", _number(told["score"]), model=model, feature=name)
            self.meter.set("driftline_attribution_input_distance", _number(told["input"]), model=model, feature=name)
            for figure, place in (("mean", "difference"), ("size", "size_difference")):
                interval = told[place]
                assert isinstance(interval, Mapping)
                for bound in ("value", "low", "high"):
                    self.meter.set(
                        "driftline_attribution_log_odds_change", _number(interval[bound]),
                        model=model, feature=name, figure=figure, bound=bound,
                    )  # fmt: skip
        self.meter.set("driftline_attribution_ranking", _number(window["ndcg"]), model=model)
        self.meter.set("driftline_attribution_window_end_seconds", to_ms(str(window["end"])) / 1000, model=model)


def window_length(contract: Contract) -> int:
    """The contract's drift window, ms; a day where that goes by rows, as such windows lie where the judge puts them."""
    clock = clock_of(contract)
    return clock.window if clock.rows is None else DAY_MS


def sentence(features: Sequence[Json]) -> str:
    """What changed the answers most, by the look's own figures.

    >>> sentence([{"feature": "price", "input": 0.25, "moved": True, "score": 0.031, "changed": True}])
    'price moved by 0.250 and changed the mean answer by +0.0310'
    """
    shown = sorted((f for f in features if f["changed"]), key=lambda f: -abs(_number(f["score"])))[:TOLD]
    moved = [f"moved by {_number(f['input']):.3f} and" if f["moved"] else "did not move, yet" for f in shown]
    told = [f"{f['feature']} {m} changed the mean answer by {_number(f['score']):+.4f}" for f, m in zip(shown, moved, strict=True)]  # fmt: skip
    return "; ".join(told) or "no feature is shown to have changed the answers"


def _items(value: object) -> list[Json]:
    assert isinstance(value, list)
    return value


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
