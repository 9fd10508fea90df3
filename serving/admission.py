"""PURE. Which request bodies are let in: the same contract, the same decoder, the same verdict as on the stream.

Knows no HTTP server and no model: bytes in, an Admitted batch or a Refusal with its status out.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.contract import Reject
from pipeline.decode import Decoder
from pipeline.json_record import constant_field

MAX_ROWS = 10_000
MAX_BODY = 16 * 1024 * 1024
MAX_RECORD = 64 * 1024  # as on the stream
JSON_TYPE = "application/json"
_STATUS = {"size": 413, **dict.fromkeys(("syntax", "encoding", "empty", "trailing", "depth"), 400)}  # else 422


class Refusal(Exception):
    """An answer with a 4xx status; `body` says what was expected, where, and what came."""

    def __init__(self, status: int, error: str, **detail: object):
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **detail}


class RawCoordinates(msgspec.Struct, forbid_unknown_fields=True):
    """Where on the stream the rows of a batch were read: makes a repeated prediction recognisable."""

    topic: str
    partition: int
    offsets: list[int]


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[msgspec.Raw]
    raw: RawCoordinates | None = None


_BATCH = msgspec.json.Decoder(_Batch, strict=True)


@dataclass(frozen=True, slots=True)
class Admitted:
    frame: pl.DataFrame  # the contract's columns, one row a record, in request order
    raw: RawCoordinates | None = None


class Admission:
    """Judges bodies by one contract."""

    def __init__(self, decoder: Decoder):
        self._decoder = decoder

    def one(self, content_type: str, body: bytes) -> Admitted:
        """One record; Refusal 400 not JSON, 413 too large, 415 content type, 422 breaks the contract."""
        _check_envelope(content_type, body, MAX_RECORD)
        row = self._decoder.decode(body)
        if isinstance(row, Reject):
            raise _refusal(row)
        return Admitted(_frame(self._decoder.batch([row])))

    def many(self, content_type: str, body: bytes) -> Admitted:
        """`{"rows": [...]}`, at most MAX_ROWS of them, all of them or none; `row` in a refusal counts from 0."""
        _check_envelope(content_type, body, MAX_BODY)
        batch = _parse(body)
        size = len(batch.rows)
        if not 0 < size <= MAX_ROWS:
            status = 413 if size else 422
            raise Refusal(status, f"expected 1 to {MAX_ROWS} rows, got {size}", field="rows", rule="size")
        if batch.raw and len(batch.raw.offsets) != size:
            found = len(batch.raw.offsets)
            raise Refusal(422, f"expected one offset a row, got {found} for {size} rows", field="raw", rule="size")
        decoded = self._decoder.decode_batch([bytes(r) for r in batch.rows], range(size), _NO_APPEND_TIME[:size])
        for number, reject in decoded.rejects.items():
            raise _refusal(reject, row=number)
        return Admitted(_frame(decoded.batch), batch.raw)


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


def _frame(rows: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_envelope(content_type: str, body: bytes, limit: int) -> None:
    if content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        raise Refusal(
            415, f"expected content type {JSON_TYPE}, got {content_type or 'none'}", field="", rule="content_type"
        )
    if len(body) > limit:
        raise Refusal(413, f"expected a body of at most {limit} bytes, got {len(body)}", field="", rule="size")
    if not body:
        raise Refusal(400, "expected a JSON body, got none", field="", rule="empty")
