"""PURE. What was answered, and the messages that tell it: one a row, for whoever joins predictions with what happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from pipeline.contract import Contract, OutcomeLabel
from pipeline.times import to_text
from serving.admission import RawCoordinates

SLICE = 200  # rows, 1 ms of work


@dataclass(frozen=True, slots=True)
class Answered:
    """What one request was answered: a row each in `keys`, `times` (ms) and `scores`; row i is prediction `<id>-<i>`."""

    id: str
    keys: Sequence[str | None]
    times: Sequence[int] | np.ndarray
    scores: Sequence[float]
    version: str
    digest: str
    raw: RawCoordinates | None = None
    features: Mapping[str, object] | None = None  # up to where the history of the row's entities was known
    slices: Mapping[str, Sequence[object]] = field(default_factory=dict)  # the contract's slices: a value a row
    rows: np.ndarray | None = None  # what the model saw, a column a feature; NaN becomes null


def key_of(contract: Contract) -> str | None:
    """The field that names a prediction's row: the label's, so that outcomes find it."""
    return contract.label.key if isinstance(contract.label, OutcomeLabel) else contract.key


def messages(answered: Answered, at: int, model: str, key: str, time: str) -> Iterator[list[dict[str, object]]]:
    """As the client takes them, `SLICE` at a time; `key` and `time` name the fields of the row's key and event time."""
    raw, said = answered.raw, to_text(at)
    for start in range(0, len(answered.scores), SLICE):
        end = min(start + SLICE, len(answered.scores))
        times = np.datetime_as_string(np.array(answered.times[start:end], "M8[ms]")).tolist()
        rows = None if answered.rows is None else answered.rows[start:end].tolist()
        part: list[dict[str, object]] = []
        for i, when in zip(range(start, end), times, strict=True):
            where = {"topic": raw.topic, "partition": raw.partition, "offset": raw.offsets[i]} if raw else None
            entry = {
                "id": f"{answered.id}-{i}",
                key: answered.keys[i],
                "score": answered.scores[i],
                "model": model,
                "version": answered.version,
                "digest": answered.digest,
                "at": said,
                time: f"{when}Z",
                "raw": where,
                "features": answered.features,
                "slices": {name: values[i] for name, values in answered.slices.items()},
                "row": rows and rows[i - start],
            }
            part.append({"value": _ENCODER.encode(entry), "key": answered.keys[i]})
        yield part


_ENCODER = msgspec.json.Encoder()
