"""PURE. Which request bodies are let in: the same contract, the same decoder, the same verdict as on the stream.

Knows no HTTP server and no model: bytes in, an Admitted batch or a Refusal with its status out.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.contract import Reject
from pipeline.decode import Decoder, Row
from pipeline.json_record import constant_field
from serving import arrow_body, arrow_rows
from serving.refusal import MAX_BODY, MAX_RECORD, MAX_ROWS, Refusal

JSON_TYPE = "application/json"
ARROW_TYPE = "application/vnd.apache.arrow.stream"
RAW = b"driftline.raw"  # key of an Arrow schema's metadata: RawCoordinates as JSON
_STATUS = {"size": 413, **dict.fromkeys(("syntax", "encoding", "empty", "trailing", "depth"), 400)}  # else 422


class RawCoordinates(msgspec.Struct, forbid_unknown_fields=True):
    """Where on the stream the rows of a batch were read: makes a repeated prediction recognisable."""

    topic: str
    partition: int
    offsets: list[int]


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[msgspec.Raw]
    raw: RawCoordinates | None = None
    history: bool = False  # also say what is known of each row's past


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    prediction_id: str


_ASKED = msgspec.json.Decoder(_Asked, strict=True)
_BATCH = msgspec.json.Decoder(_Batch, strict=True)
_RAW = msgspec.json.Decoder(RawCoordinates, strict=True)


@dataclass(frozen=True, slots=True)
class Admitted:
    batch: pa.RecordBatch  # the contract's columns, one row a record, in request order
    raw: RawCoordinates | None
    arrow: bool  # asked in Arrow, and answered so
    history: bool = False  # asked for what is known of each row's past

    def __len__(self) -> int:
        return self.batch.num_rows


class Admission:
    """Judges bodies by one contract."""

    def __init__(self, decoder: Decoder):
        self._decoder = decoder

    def one(self, content_type: str, body: bytes) -> Row:
        """One record; Refusal 400 not JSON, 413 too large, 415 content type, 422 breaks the contract."""
        _check_envelope(content_type, body, MAX_RECORD, (JSON_TYPE,))
        row = self._decoder.decode(body)
        if isinstance(row, Reject):
            raise _refusal(row)
        return row

    def asked_about(self, content_type: str, body: bytes) -> str | None:
        """The id in `{"prediction_id": id}`; None for any other body, which `one` judges."""
        _check_envelope(content_type, body, MAX_RECORD, (JSON_TYPE,))
        try:
            return _ASKED.decode(body).prediction_id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def many(self, content_type: str, body: bytes) -> Admitted:
        """`{"rows": [...]}` or an Arrow stream, at most MAX_ROWS rows, all of them or none; `row` counts from 0."""
        if _check_envelope(content_type, body, MAX_BODY, (JSON_TYPE, ARROW_TYPE)) == ARROW_TYPE:
            return self._arrow(body)
        batch = _parse(body)
        size = len(batch.rows)
        if not 0 < size <= MAX_ROWS:
            status = 413 if size else 422
            raise Refusal(status, f"expected 1 to {MAX_ROWS} rows, got {size}", field="rows", rule="size")
        _check_offsets(batch.raw, size)
        decoded = self._decoder.decode_batch([bytes(r) for r in batch.rows], range(size), _NO_APPEND_TIME[:size])
        for number, reject in decoded.rejects.items():
            raise _refusal(reject, row=number)
        return Admitted(decoded.batch.select(self._decoder.contract.row_schema.names), batch.raw, False, batch.history)

    def _arrow(self, body: bytes) -> Admitted:
        stream = arrow_body.read(body)
        raw = _raw(stream.metadata.get(RAW))
        _check_offsets(raw, stream.rows)
        judged = arrow_rows.judge(self._decoder, stream)
        if isinstance(judged, tuple):
            raise _refusal(judged[1], row=judged[0])
        return Admitted(judged, raw, arrow=True)


# A request has no append time; the end of time makes no record a future one.
_NO_APPEND_TIME = np.full(MAX_ROWS, np.iinfo(np.int64).max // 2)


def _parse(body: bytes) -> _Batch:
    try:
        return _BATCH.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(422, f'expected {{"rows": [record, ...]}}: {error}', field="rows", rule="type") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # a key that is not UTF-8 is the second
        field = constant_field(body.decode("utf-8", "replace"))
        raise Refusal(400, f"expected JSON: {error}", field=field, rule="syntax") from None


def _refusal(reject: Reject, **where: int) -> Refusal:
    status = _STATUS.get(reject.code, 422)
    return Refusal(status, reject.message, field=reject.field, rule=reject.code, **where)


def _raw(text: bytes | None) -> RawCoordinates | None:
    try:
        return None if text is None else _RAW.decode(text)
    except msgspec.MsgspecError as error:
        raise Refusal(422, f"expected raw coordinates as JSON: {error}", field="raw", rule="type") from None


def _check_offsets(raw: RawCoordinates | None, rows: int) -> None:
    if raw and len(raw.offsets) != rows:
        found = len(raw.offsets)
        raise Refusal(422, f"expected one offset a row, got {found} for {rows} rows", field="raw", rule="size")


def _check_envelope(content_type: str, body: bytes, limit: int, types: tuple[str, ...]) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in types:
        expected = " or ".join(types)
        raise Refusal(
            415, f"expected content type {expected}, got {content_type or 'none'}", field="", rule="content_type"
        )
    if len(body) > limit:
        raise Refusal(413, f"expected a body of at most {limit} bytes, got {len(body)}", field="", rule="size")
    if not body:
        raise Refusal(400, "expected a body, got none", field="", rule="empty")
    return kind
