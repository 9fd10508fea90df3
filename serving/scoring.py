"""PURE. A request's bytes and one model into an answer: admitted by the contract, scored, said in the kind it was asked in.

    scoring = Scoring(contract, model, Admission(decode.compile(contract)), store, new_id)
    scoring.one(champion, content_type, body)       -> Answer of a record          /predict
    scoring.many(champion, content_type, body)      -> Answer of a batch           /predict_batch
    scoring.explain(champion, content_type, body)   -> Answer about a prediction   /explain
    scoring.model(champion, content_type, body)     -> Answer about the model      /model

One champion is passed in and used throughout, so an answer comes from exactly one version. Knows no HTTP server; what was
answered goes into `Answer.answered`, for the prediction log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from batch.model import Scorer
from batch.tree_shap import Explainer, explainer_of
from pipeline.contract import Contract
from pipeline.decode import Row
from pipeline.times import ms
from serving.admission import ARROW_TYPE, JSON_TYPE, Admission, RawCoordinates
from serving.explained import Explanation, base_of, contributions
from serving.predicted import Answered, key_of
from stream_processors.live.model_features import FeatureSet


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that answers: made once by the ledger's follower, read once a request."""

    version: str
    digest: str
    scorer: Scorer


class AsOf(Protocol):
    """Up to where the history of a request's entities was known."""

    @property
    def text(self) -> str: ...

    def json(self) -> dict[str, object]: ...


class Store(Protocol):
    """History features of the entities that a request names; an entity that is not there has its defaults."""

    def row(self, record: Row) -> tuple[Sequence[float], AsOf | None]: ...

    def matrix(self, frame: pl.DataFrame, raw: RawCoordinates | None) -> tuple[np.ndarray, AsOf | None]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    media_type: str = JSON_TYPE
    answered: Answered | None = None  # None: nothing was predicted


class Prediction(msgspec.Struct):
    """What /predict says; `serving.service` documents these fields."""

    id: str
    key: str | None
    score: float
    model: str
    version: str
    digest: str
    features_as_of: str | None


class Predictions(msgspec.Struct, omit_defaults=True):
    """What /predict_batch says."""

    id: str
    model: str
    version: str
    digest: str
    features_as_of: str | None
    keys: list[str | None]
    scores: list[float]
    history: dict[str, list[float]] | None = (
        None  # where it was asked for: what the model knew of each row's past, by feature
    )


class Scoring:
    """Answers the requests of one contract's model."""

    def __init__(self, contract: Contract, model: str, admission: Admission, store: Store, new_id: Callable[[], str]):
        self._contract, self._model, self._admission, self._store = contract, model, admission, store
        self._new_id = new_id
        self._key, self._time, self._slices = key_of(contract), contract.time.field, contract.evaluation.slices
        self._explainer: tuple[str, Explainer] | None = None  # of the digest that was asked about last

    def one(self, champion: Champion, content_type: str, body: bytes) -> Answer:
        record = self._admission.one(content_type, body)
        features = champion.scorer.features
        history, as_of = self._row_history(features, record)
        row = np.array([features.row(record, history)])
        score = float(champion.scorer.score_matrix(row)[0])
        key, slices = self._key_of(record), {s: [record[s]] for s in self._slices}
        answered = self._answered(champion, [key], [_ms(record[self._time])], [score], None, as_of, slices, row)
        said = Prediction(f"{answered.id}-0", key, score, self._model, champion.version, champion.digest, _text(as_of))
        return Answer(_ENCODER.encode(said), JSON_TYPE, answered)

    def many(self, champion: Champion, content_type: str, body: bytes) -> Answer:
        admitted = self._admission.many(content_type, body)
        features = champion.scorer.features
        frame = pl.DataFrame(pl.from_arrow(admitted.batch))
        history, as_of = self._history(features, frame, admitted.raw)
        matrix = features.matrix(frame, history)
        scores = champion.scorer.score_matrix(matrix)
        keys = frame[self._key].cast(pl.String).to_list() if self._key else [None] * len(frame)
        times = admitted.batch.column(self._time).view(pa.int64()).to_numpy(zero_copy_only=False)
        slices = {s: frame[s].to_list() for s in self._slices}
        answered = self._answered(champion, keys, times, scores.tolist(), admitted.raw, as_of, slices, matrix)
        if admitted.arrow:
            return Answer(self._in_arrow(champion, answered, scores, as_of), ARROW_TYPE, answered)
        said = Predictions(
            answered.id, self._model, champion.version, champion.digest, _text(as_of), keys, answered.scores,
            dict(zip(features.history, history.T.tolist(), strict=True)) if admitted.history and history is not None else None,
        )  # fmt: skip
        return Answer(_ENCODER.encode(said), JSON_TYPE, answered)

    def explain(self, champion: Champion, content_type: str, body: bytes) -> Answer:
        """What /predict answers to the record, and what each feature adds to it. No prediction: nothing is logged."""
        record, features = self._admission.one(content_type, body), champion.scorer.features
        history, as_of = self._row_history(features, record)
        row = features.row(record, history)
        return answer_of(self.explain_row(champion, row, record, self._key_of(record), _text(as_of)))

    def asked_about(self, content_type: str, body: bytes) -> str | None:
        """The id of the prediction that is to be explained; None where the body is to be judged as a record."""
        return self._admission.asked_about(content_type, body)

    def explain_row(
        self, champion: Champion, row: Sequence[float], record: Mapping[str, object], key: str | None, as_of: str | None
    ) -> Explanation:
        """Of what the model sees (`row`); `record` has the categories' own values."""
        explainer, matrix = self._explainer_of(champion), np.array([row])
        score, added = float(champion.scorer.score_matrix(matrix)[0]), explainer.contributions(matrix)[0]
        parts = contributions(champion.scorer.features, record, row, explainer.base, added)
        return Explanation(
            key, score, self._model, champion.version, champion.digest, as_of,
            base_of(explainer.base), explainer.base + float(added.sum()), parts,
        )  # fmt: skip

    def model(self, champion: Champion, content_type: str, body: bytes) -> Answer:
        """What answers now: model, version, digest, contract, and the facts its training left."""
        said = {
            "model": self._model,
            "version": champion.version,
            "digest": champion.digest,
            "contract": self._contract.name,
            "meta": champion.scorer.meta,
        }
        return Answer(_ENCODER.encode(said))

    def _key_of(self, record: Row) -> str | None:
        return str(record[self._key]) if self._key and record[self._key] is not None else None

    def _explainer_of(self, champion: Champion) -> Explainer:
        kept = self._explainer
        if kept is None or kept[0] != champion.digest:
            kept = self._explainer = (champion.digest, explainer_of(champion.scorer.plan))
        return kept[1]

    def _row_history(self, features: FeatureSet, record: Row) -> tuple[Sequence[float], AsOf | None]:
        return self._store.row(record) if features.history else ((), None)

    def _history(
        self, features: FeatureSet, frame: pl.DataFrame, raw: RawCoordinates | None
    ) -> tuple[np.ndarray | None, AsOf | None]:
        return self._store.matrix(frame, raw) if features.history else (None, None)

    def _answered(
        self,
        champion: Champion,
        keys: Sequence[str | None],
        times: Sequence[int] | np.ndarray,
        scores: list[float],
        raw: RawCoordinates | None,
        as_of: AsOf | None,
        slices: Mapping[str, Sequence[object]],
        rows: np.ndarray,
    ) -> Answered:
        known = None if as_of is None else as_of.json()
        return Answered(
            self._new_id(), keys, times, scores, champion.version, champion.digest, raw, known, slices, rows
        )

    def _in_arrow(self, champion: Champion, answered: Answered, scores: np.ndarray, as_of: AsOf | None) -> bytes:
        """Columns `key` and `score`; what is one a batch stands in the schema's metadata."""
        said = {"id": answered.id, "model": self._model, "version": champion.version, "digest": champion.digest}
        metadata = {**said, "features_as_of": _text(as_of) or ""}
        columns = [pa.array(answered.keys, pa.string()), pa.array(scores)]
        schema = pa.schema([("key", pa.string()), ("score", pa.float64())], metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        return sink.getvalue().to_pybytes()


def answer_of(said: msgspec.Struct) -> Answer:
    """As JSON; nothing was predicted."""
    return Answer(_ENCODER.encode(said))


_ENCODER = msgspec.json.Encoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _ms(when: object) -> int:
    assert isinstance(when, datetime)
    return ms(when - _EPOCH)


def _text(as_of: AsOf | None) -> str | None:
    return None if as_of is None else as_of.text
