"""EDGE. What the validator makes of the records in hand, whatever they do to the decoder.

A record on which the decoder raises is quarantined at once. One that ends the process is found by its successors: the
mark of `attempts` tells what was being decoded, `trial` which record it was. Everything else is `validation`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from confluent_kafka import Message

from pipeline import decode, topics
from pipeline.bad_batches import BadBatch
from pipeline.contract import Contract
from pipeline.logs import log
from pipeline.settings import Settings
from stream_processors.validator import inputs as inputs
from stream_processors.validator import trial, validation
from stream_processors.validator.attempts import Attempts, Range
from stream_processors.validator.inputs import Place
from stream_processors.validator.reject_breaker import Limits
from stream_processors.validator.validation import Consumed, Judged, Piece


class Judging:
    def __init__(self, contract: Contract, settings: Settings, name: str, limits: Limits, alive: Callable[[], None]):
        self._contract, self._limits, self._alive = contract, limits, alive
        self._contract_file, self._topic = settings.contract, topics.events(contract.id)
        self._decoder = decode.compile(contract)
        self._ranges: dict[int, Range] = {}  # being decoded
        self.attempts = Attempts(settings.home / "validator" / f"{name}.attempt")

    def warm_up(self) -> None:
        validation.warm_up(self._decoder, self._contract)

    def judge(self, runs: Mapping[int, list[Message]], places: Mapping[int, Place]) -> list[Judged]:
        """Marked as an attempt from here until `cut` is through."""
        self._ranges = {p: (places[p].next, int(run[-1].offset() or 0) + 1) for p, run in runs.items()}
        if runs:
            self.attempts.begin(self._ranges)
        return [self._judge(inputs.consumed(p, places[p].next, run), places[p]) for p, run in runs.items()]

    def cut(self, judged: list[Judged]) -> list[list[Piece]]:
        pieces = [validation.cut(j, self._topic, self._contract) for j in judged]
        if judged:
            self.attempts.done(self._ranges)
        return pieces

    def unread(self, bad: BadBatch, place: Place) -> Piece:
        """The block of a batch that could not be opened."""
        return validation.unread(bad, place.next, place.watermark, self._decoder, self._contract)

    def _judge(self, run: Consumed, place: Place) -> Judged:
        run = self._without_poison(run)
        try:
            return validation.judge(run, self._decoder, place.watermark, place.recent, self._limits)
        except Exception as error:
            poison = validation.culprits(run, self._decoder)
            log("decoder_failed", "error", partition=run.partition, culprits=len(poison), error=repr(error))
            if not poison:
                raise
            run = replace(run, poison={**run.poison, **poison})
            return validation.judge(run, self._decoder, place.watermark, place.recent, self._limits)

    def _without_poison(self, run: Consumed) -> Consumed:
        """Records at which earlier processes died are tried in a child first."""
        at = run.start, run.end
        if not self.attempts.suspected(run.partition, at):
            return run
        found = trial.culprits(self._contract_file, run.values, run.append_ms.tolist(), self._alive)
        if not found and len(run.values) == 1 and self.attempts.only(run.partition, at):
            found = {0: f"the process died at it {self.attempts.deaths} times"}
        log("suspects_tried", "warning", partition=run.partition, records=len(run.values), poison=len(found))
        return replace(run, poison=found)
