"""PURE. Live figures by model version, window of event time and slice, and the records that tell them.

A window is closed when the joiner can bring no pair for it any more, so its last record is a function of the logs. Until
then each record says what is known so far, and the next one of the same window replaces it. A record carries the tallies,
so that whoever reads them may add windows up: shares and AUCs do not add, tallies do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.contract import Contract
from pipeline.times import ms, to_text
from stream_processors.live.estimate import covers, estimated
from stream_processors.live.joining import NEVER, Labelled, Prediction
from stream_processors.live.live_metrics import Figure, figures
from stream_processors.live.tally import Facts, Tally, facts, merged

WHOLE = "*"
RECENT = 5_000  # labelled predictions that a version's gauges speak of, in whole windows
Window = tuple[str, int]  # model version, start in ms
Json = dict[str, object]


class Windows:
    """Tallies of every window that is not closed. `closed_ms`: windows that end by then were told for the last time."""

    def __init__(self, contract: Contract, model: str, closed_ms: int = NEVER):
        self.closed_ms, self.width_ms = closed_ms, ms(contract.drift.window)
        self._contract, self._model, self._plan = contract, model, contract.evaluation
        self._tallies: dict[Window, dict[str, Tally]] = {}
        self._changed: set[Window] = set()

    def predicted(self, prediction: Prediction) -> None:
        found = facts(prediction.score, self._plan.threshold)
        for tally in self._of(prediction):
            tally.predict(found)

    def labelled(self, pair: Labelled) -> None:
        found: Facts = facts(pair.prediction.score, self._plan.threshold)
        for tally in self._of(pair.prediction):
            tally.label(found, pair.label)

    def records(self, settled_ms: int) -> Iterator[tuple[str, Json]]:
        """(key, record) of every window that changed since the last call; those that end by `settled_ms` close with it."""
        done = {w for w in self._tallies if w[1] + self.width_ms <= settled_ms}
        for window in sorted(self._changed | done, key=lambda w: (w[1], w[0])):
            yield f"{window[0]}/{window[1]}", self._record(window, window in done)
        for window in done:
            del self._tallies[window]
        self._changed.clear()
        self.closed_ms = max(self.closed_ms, settled_ms)

    def recent(self, version: str) -> dict[str, Tally]:
        """By slice, the newest windows that hold RECENT labelled predictions, or all there are."""
        chosen: list[dict[str, Tally]] = []
        for window in sorted((w for w in self._tallies if w[0] == version), key=lambda w: -w[1]):
            chosen.append(self._tallies[window])
            if sum(own[WHOLE].rows for own in chosen) >= RECENT:
                break
        names = dict.fromkeys(name for own in chosen for name in own)
        return {name: merged(own[name] for own in chosen if name in own) for name in names}

    def _of(self, prediction: Prediction) -> Iterator[Tally]:
        start = prediction.event_ms // self.width_ms * self.width_ms
        if start + self.width_ms <= self.closed_ms:
            return  # read again after a restart
        window = (prediction.version, start)
        self._changed.add(window)
        own = self._tallies.setdefault(window, {})
        for name in (WHOLE, *prediction.slices):
            yield own.setdefault(name, Tally())

    def _record(self, window: Window, final: bool) -> Json:
        version, start = window
        own = self._tallies[window]
        whole, realised = own[WHOLE], figures(own[WHOLE], self._plan)
        return {
            "dataset": self._contract.id,
            "contract": self._contract.name,
            "model": self._model,
            "version": version,
            "window_start": to_text(start),
            "window_end": to_text(start + self.width_ms),
            "final": final,
            "predicted": whole.predicted,
            "labelled": whole.rows,
            "estimated": told(estimated(whole, self._plan)),
            "realised": told(realised),
            "estimate_holds": covers(whole, self._plan, realised.get("log_loss")),
            "tallies": {name: own[name].json() for name in sorted(own)},
        }


def told(found: Mapping[str, Figure]) -> dict[str, list[float]]:
    """By name: value, low, high."""
    return {name: figure.json() for name, figure in found.items()}
