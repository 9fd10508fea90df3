"""EDGE. The online challenger between trainings: it learns labels as they land, at most EVERY_S behind them.

A look is `driftline models online` in a child process, which goes on from its checkpoint over the rows that are new. Where it
is stands in the same file as what it knows, replaced whole: a look that is killed, or two at once, neither lose a row nor learn
one twice. It decides nothing; a training's ledger entry says what it is worth by then.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from batch import dataset, ledger, training_child
from batch.ledger import Ledger
from batch.train import model_name
from pipeline.contract import Contract
from pipeline.errors import DriftlineError
from pipeline.logs import log
from pipeline.settings import Settings

EVERY_S = 120.0  # wall time between two looks: one takes 6 to 8 s of a core, most of it imports (2026-11-21)


@dataclass
class OnlineWatch:
    settings: Settings
    contract: Contract
    _seen: int | None = None  # newest event time of the lake at the last look

    def follow(self, stopped: threading.Event) -> None:
        while not stopped.wait(EVERY_S):
            self.turn(stopped)

    def turn(self, stopped: threading.Event) -> None:
        """A look, if the lake went on; before the first champion a training is soon to come, and learns the same rows."""
        try:
            champion = ledger.champion(Ledger(ledger.path_of(self.settings)).entries(model_name(self.contract)))
            newest = dataset.newest_event_time(self.settings, self.contract) if champion else None
            if newest is None or newest == self._seen:
                return
            said = training_child.ask(self.settings, ["models", "online", "--json"], beat=lambda: None, stopped=stopped)
        except DriftlineError as error:
            if not stopped.is_set():
                log("online_failed", "warning", model=model_name(self.contract), error=error)
            return
        self._seen = newest
        log("online", model=model_name(self.contract), **{k: said[k] for k in ("champion", "learned", "better")})
