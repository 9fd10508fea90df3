"""EDGE. The explanation of an answer that was given: found in the prediction log, taken apart by the version that gave it.

What the model saw stands in the log (`row`), so nothing is looked up anew: neither the record nor its entities' past, which
has gone on since. Bounded: the answer's id says when it was given, and a few seconds of the log are read (`batch.answer_log`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from confluent_kafka import KafkaException

from batch import answer_log
from batch.model import Scorer
from pipeline import topics
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.settings import Settings
from serving.explained import values_of
from serving.predicted import key_of
from serving.refusal import Refusal
from serving.scoring import Answer, Champion, Scoring, answer_of

READ_S = 5.0
SAME = 1e-9  # of a score


class Said(msgspec.Struct):
    """What an explanation needs of a log entry."""

    version: str
    digest: str
    score: float
    row: list[float | None] | None = None  # null: missing
    features: dict[str, object] | None = None


class Explaining:
    """Answers /explain: a record as it would be answered now, or a prediction as it was given."""

    def __init__(
        self, settings: Settings, contract: Contract, scoring: Scoring, model_of: Callable[[str], Scorer | None]
    ):
        self._settings, self._topic, self._key = settings, topics.predictions(contract.id), key_of(contract)
        self._scoring, self._model_of = scoring, model_of

    def explain(self, champion: Champion, content_type: str, body: bytes) -> Answer:
        """Refusal 404: no such answer is in the log, or what it takes to explain it is not kept; 503: no log to read."""
        id = self._scoring.asked_about(content_type, body)
        return self._scoring.explain(champion, content_type, body) if id is None else self._again(id)

    def _again(self, id: str) -> Answer:
        entry = self._entry(id)
        try:
            said = msgspec.convert(entry, Said)
        except msgspec.ValidationError as error:
            raise _absent(id, f"its entry in the log cannot be read: {error}") from None
        scorer = self._model_of(said.digest)
        if scorer is None:
            raise _absent(id, f"the files of version {said.version} ({said.digest[:16]}) are not kept here")
        if said.row is None or len(said.row) != len(scorer.features.names):
            raise _absent(id, "what the model saw was not kept with it")
        row = [math.nan if v is None else v for v in said.row]
        key, as_of = entry.get(self._key or ""), (said.features or {}).get("at")
        answering = Champion(said.version, said.digest, scorer)
        told = self._scoring.explain_row(answering, row, values_of(scorer.features, row), _text(key), _text(as_of))
        if abs(told.score - said.score) > SAME:
            raise _absent(id, "what was kept of it does not give the score that was answered")
        return answer_of(told)

    def _entry(self, id: str) -> dict[str, object]:
        if answer_log.made_at(id) is None:
            raise _absent(id, "it is no id that tells its time, `<request>-<row>` as /predict answers it")
        try:
            entry = answer_log.find(self._settings, self._topic, id, deadline_s=READ_S)
        except (Unreachable, KafkaException, KeyError) as error:
            raise Refusal(503, f"{self._topic} cannot be read: {error}") from None
        if entry is None:
            raise _absent(
                id,
                f"{self._topic} does not hold it; an answer gets there within a second, and stays as long as the topic keeps it",
            )
        return entry


def _absent(id: str, why: str) -> Refusal:
    return Refusal(404, f"prediction {id}: {why}", field="prediction_id", rule="unknown")


def _text(value: object) -> str | None:
    return None if value is None else str(value)
