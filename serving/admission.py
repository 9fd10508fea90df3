"""PURE. Which request bodies are let in: the same contract, the same decoder, the same verdict as on the stream.

Knows no HTTP server and no model: bytes in, an Admitted batch or a Refusal with its status out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import polars as pl
from pipeline.decode import Decoder

from pipeline.contract import Contract, Reject

MAX_ROWS = 10_000
MAX_BODY = 16 * 1024 * 1024
MAX_RECORD = 64 * 1024  # as on the stream
JSON_TYPE = "application/json"


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

    def __init__(self, contract: Contract, decoder: Decoder):
        self.contract, self._decoder = contract, decoder
        self._schema = pl.Schema(pl.from_arrow(contract.row_schema.empty_table()).schema)  # type: ignore[union-attr]

    def one(self, content_type: str, body: bytes) -> Admitted:
        """One record; Refusal 400 not JSON, 413 too large, 415 content type, 422 breaks the contract."""
        _check_envelope(content_type, body, MAX_RECORD)
        return Admitted(self._frame([self._row(body, None)]))

    def many(self, content_type: str, body: bytes) -> Admitted:
        """`{"rows": [...]}`, at most MAX_ROWS of them, all of them or none; `row` in a refusal counts from 0."""
        _check_envelope(content_type, body, MAX_BODY)
        try:
            batch = _BATCH.decode(body)
        except msgspec.ValidationError as error:
            raise Refusal(422, f'expected {{"rows": [record, ...]}}: {error}', field="rows", rule="type") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refusal(400, f"expected JSON: {error}", field="", rule="syntax") from None
        if not 0 < len(batch.rows) <= MAX_ROWS:
            raise Refusal(
                413 if batch.rows else 422,
                f"expected 1 to {MAX_ROWS} rows, got {len(batch.rows)}",
                field="rows",
                rule="size",
            )
        if batch.raw and len(batch.raw.offsets) != len(batch.rows):
            raise Refusal(
                422,
                f"expected one offset a row, got {len(batch.raw.offsets)} for {len(batch.rows)} rows",
                field="raw",
                rule="size",
            )
        return Admitted(self._frame([self._row(bytes(r), i) for i, r in enumerate(batch.rows)]), batch.raw)

    def _row(self, body: bytes, number: int | None) -> object:
        row = (
            self._decoder.decode(body)
            if len(body) <= MAX_RECORD
            else Reject("size", "", f"expected a record of at most {MAX_RECORD} bytes, got {len(body)}")
        )
        if not isinstance(row, Reject):
            return row
        where = {} if number is None else {"row": number}
        status = {"size": 413, "syntax": 400, "encoding": 400, "empty": 400, "trailing": 400, "depth": 400}.get(
            row.code, 422
        )
        raise Refusal(status, row.message, field=row.field, rule=row.code, **where)

    def _frame(self, rows: Sequence[object]) -> pl.DataFrame:
        return pl.DataFrame(dict(zip(self._schema, self._decoder.columns(rows), strict=True)), schema=self._schema)


def _check_envelope(content_type: str, body: bytes, limit: int) -> None:
    if content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        raise Refusal(
            415, f"expected content type {JSON_TYPE}, got {content_type or 'none'}", field="", rule="content_type"
        )
    if len(body) > limit:
        raise Refusal(413, f"expected a body of at most {limit} bytes, got {len(body)}", field="", rule="size")
    if not body:
        raise Refusal(400, "expected a JSON body, got none", field="", rule="empty")
