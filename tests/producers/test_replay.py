"""A file becomes a stream of records of the contract's types; what does not cast is left to the validator."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipeline import decode
from pipeline.contract import Contract, DriftPlan, Field, TimePlan
from pipeline.contract_file import load
from pipeline.errors import UsageError
from producers import replay

SLICE = Path(__file__).parents[1] / "data" / "online-retail-slice.parquet"
CONTRACT = Contract(
    "shop",
    "1.0.0",
    (
        Field("id", "string"),
        Field("pieces", "integer"),
        Field("price", "number"),
        Field("gift", "boolean"),
        Field("at", "timestamp"),
    ),
    "id",
    TimePlan("at"),
    DriftPlan(()),
)


def records(path: Path, contract: Contract = CONTRACT, rows: int = 2) -> list[object]:
    return [json.loads(value) for batch in replay.stream(contract, path, rows=rows) for value in batch.values]


@pytest.mark.parametrize(
    "kind, text, sent",
    [
        ("integer", "6", 6),
        ("integer", "-12", -12),
        ("integer", "17850.0", 17850),
        ("integer", "1.5", "1.5"),
        ("integer", "1_000", "1_000"),
        ("integer", "9" * 30, "9" * 30),
        ("number", "2.55", 2.55),
        ("number", "-11062.06", -11062.06),
        ("number", "nan", "nan"),
        ("number", "inf", "inf"),
        ("number", "2,55", "2,55"),
        ("boolean", "True", True),
        ("boolean", "yes", "yes"),
        ("string", "17850.0", "17850.0"),
        ("string", 17850, "17850"),
        ("timestamp", "2010-12-01 08:26:00", "2010-12-01T08:26:00.000Z"),
        ("timestamp", "2010-12-01T08:26:00+02:00", "2010-12-01T06:26:00.000Z"),
        ("timestamp", "12/1/2010 8:26", "12/1/2010 8:26"),
        ("date", "2010-12-01", "2010-12-01"),
        ("number", None, None),
    ],
)
def test_text_is_cast_to_the_type_or_sent_as_it_is(kind: str, text: object, sent: object) -> None:
    assert replay.cast(text, Field("x", kind)) == sent
    assert type(replay.cast(text, Field("x", kind))) is type(sent)


def test_csv_columns_are_text_and_gaps_are_null(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(
        "id,pieces,price,gift,at,note\n007,3.0,1.5,true,2026-01-01 10:00:00,x\nA,,many,,2026-01-01 10:00:01,\n"
    )
    assert records(path) == [
        {"id": "007", "pieces": 3, "price": 1.5, "gift": True, "at": "2026-01-01T10:00:00.000Z", "note": "x"},
        {"id": "A", "pieces": None, "price": "many", "gift": None, "at": "2026-01-01T10:00:01.000Z", "note": None},
    ]


def test_json_lines_keep_what_is_no_json_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    lines = [
        b'{"id": "a", "pieces": "4", "at": "2026-01-01T00:00:00Z"}',
        b"{broken",
        b'{"price": NaN}',
        b"[1]",
        b'"\xff"',
    ]
    path.write_bytes(b"\n".join(lines) + b"\n\n")
    batches = list(replay.stream(CONTRACT, path, rows=2))
    sent = [value for batch in batches for value in batch.values]
    assert json.loads(sent[0]) == {"id": "a", "pieces": 4, "at": "2026-01-01T00:00:00.000Z"}
    assert sent[1:] == lines[1:]
    assert [key for batch in batches for key in batch.keys] == ["a", None, None, None, None]


def test_event_times_never_fall_and_a_gap_takes_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    times = ["2026-01-01 00:00:05", "2026-01-01 00:00:03", "later", "2026-01-01 00:00:09"]
    pl.DataFrame({"id": list("abcd"), "at": times}).write_parquet(path)
    event_ms = [t for batch in replay.stream(CONTRACT, path, rows=2) for t in batch.event_ms.tolist()]
    assert [t - event_ms[0] for t in event_ms] == [0, 0, 0, 4_000]


def test_typed_columns_keep_their_values(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    frame = pl.DataFrame({"id": [1], "pieces": [2.0], "price": [3], "gift": [True]})
    frame.with_columns(at=pl.datetime(2026, 1, 1)).write_parquet(path)
    assert records(path) == [{"id": "1", "pieces": 2, "price": 3.0, "gift": True, "at": "2026-01-01T00:00:00.000Z"}]


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    for name, said in (
        ("none.csv", "no such file"),
        (".", "expected a file, got a folder"),
        ("a.xlsx", "expected a name that ends in"),
        ("a.parquet", "not readable"),
    ):
        if name not in ("none.csv", "."):
            (tmp_path / name).write_text("nothing")
        with pytest.raises(UsageError, match=said):
            list(replay.stream(CONTRACT, tmp_path / name))


def test_real_invoices_keep_their_defects_and_the_rest_is_valid() -> None:
    contract = load("online_retail")
    batches = list(replay.stream(contract, SLICE))
    sent = [value for batch in batches for value in batch.values]
    decoded = decode.compile(contract).decode_batch(sent, range(len(sent)), [0] * len(sent))
    assert len(sent) == 25_000
    # free-text stock codes, zero and negative prices; every quantity without C is among those lines
    assert 150 < len(decoded.rejects) < 300
    assert {reject.field for reject in decoded.rejects.values()} == {"StockCode", "UnitPrice"}
    first, last = batches[0].event_ms[0], batches[-1].event_ms[-1]
    assert timedelta(milliseconds=int(last - first)) > timedelta(days=22)
