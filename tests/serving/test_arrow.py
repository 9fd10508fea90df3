"""An Arrow body: the verdict of each row is the record decoder's, and no bytes cost more than they are."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import contract_file, decode
from pipeline.contract import Contract, Field, Reject
from serving.admission import ARROW_TYPE, JSON_TYPE, RAW, Admission
from serving.refusal import MAX_BODY, MAX_ROWS, Refusal
from tests.serving.conftest import body, frame, order

CONTRACTS = {name: contract_file.load(name) for name in ("sales", "online_retail", "paper")}
DECODERS = {name: decode.compile(contract) for name, contract in CONTRACTS.items()}
STATUS = {"size": 413, **dict.fromkeys(("syntax", "encoding", "empty", "trailing", "depth"), 400)}


def stream(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def asked_in(contract: Contract, rows: int) -> pl.DataFrame:
    return frame(contract, rows, 1).select([f.name for f in contract.fields])


# -- any column against any field ----------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    ["", "web", "north", "books", "P-1", "e\u0301", "é", "a\u200bb", "a\tb", "x" * 65, "x" * 64, "2026-01-02", "2026-02-30",
     "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.6789+01:00", "2026-01-02T24:00:00Z", "1969-12-31T23:59:59Z", "12345",
     "C123456", "536365", 'a"b\\c', "y" * 40_000]
) | st.text(max_size=5)  # fmt: skip
INTEGERS = st.sampled_from([-1, 0, 1, 7, 1000, 1001, 2**31 - 1]) | st.integers(-(2**62), 2**62)
FLOATS = st.sampled_from([0.0, -0.0, 0.5, 1.0, 12.5, 1e6, 1e6 + 0.5, float("nan"), float("inf")]) | st.floats()
DATES = st.dates()
TIMES = st.datetimes(datetime(1960, 1, 1), datetime(2210, 1, 1))
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
COLUMNS: dict[str, tuple[st.SearchStrategy[object], list[pa.DataType]]] = {
    "text": (TEXTS, TEXT_TYPES),
    "integer": (INTEGERS, [pa.int64()]),
    "small": (st.integers(0, 200), [pa.int16(), pa.uint8(), pa.uint64(), pa.int32()]),
    "huge": (st.integers(2**63 - 2, 2**64 - 1), [pa.uint64()]),
    "number": (FLOATS, [pa.float64()]),
    "single": (st.floats(width=32), [pa.float32()]),
    "boolean": (st.booleans(), [pa.bool_()]),
    "date": (DATES, [pa.date32(), pa.date64()]),
    "time": (TIMES, [pa.timestamp(u, tz=z) for u in ("s", "ms", "us", "ns") for z in ("UTC", "Europe/Berlin", None)]),
    "nothing": (st.none(), [pa.null()]),
    "list": (st.just([1]), [pa.list_(pa.int8())]),
    "bytes": (st.just(b"web"), [pa.binary()]),
    "decimal": (st.just(Decimal("1.5")), [pa.decimal128(5, 2)]),
}
OTHERS = ("list", "bytes", "decimal")
NATURAL = {
    "string": "text", "integer": "small", "number": "number", "boolean": "boolean", "date": "date", "timestamp": "time",
}  # fmt: skip


def fitting(f: Field) -> st.SearchStrategy[object]:
    """Values that the field lets pass, mostly."""
    if f.type == "string":
        return st.sampled_from(f.allowed) if f.allowed else st.sampled_from(["C123456", "536365", "P-1", "e\u0301"])
    if f.type == "number":
        return st.floats(0, 1)
    if f.type == "timestamp":
        return st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30))
    return COLUMNS[NATURAL[f.type]][0]


@st.composite
def tables(draw: st.DrawFn, contract: Contract) -> tuple[list[str], list[pa.Array], list[list[object]]]:
    """Names, arrays, and the same values as Python has them."""
    rows = draw(st.integers(1, 5))
    wrong = draw(st.sampled_from([None, None, *(f.name for f in contract.fields)]))
    names, arrays, values = [], [], []
    fields = [(f.name, f) for f in contract.fields]
    for name in draw(st.sampled_from([(), (), (), ("extra",), (fields[0][0],), ("a\u0301",)])):
        fields.append((name, contract.fields[0]))
    for name, f in fields:
        if name == wrong and draw(st.booleans()):
            if draw(st.booleans()):
                continue
            kind = draw(st.sampled_from(sorted(COLUMNS)))
            each, types = COLUMNS[kind]
        else:
            kind = NATURAL[f.type]
            each, types = COLUMNS[kind]
            each = each if name == wrong else fitting(f)
            types = [t for t in types if kind != "time" or t.tz]
        type_ = draw(st.sampled_from(types))
        cells = [draw(each) for _ in range(rows)]
        if name == wrong and kind not in OTHERS:
            cells = [None if draw(st.integers(0, 3)) == 0 else c for c in cells]
        if pa.types.is_timestamp(type_):
            cells = [c if c is None else rounded(c, type_) for c in cells]
        names.append(name)
        arrays.append(pa.array(cells, type_))
        values.append(cells)
    return names, arrays, values


def rounded(when: datetime, kind: pa.TimestampType) -> datetime:
    when = when.replace(microsecond={"s": 0, "ms": when.microsecond // 1000 * 1000}.get(kind.unit, when.microsecond))
    return when if kind.tz is None else when.replace(tzinfo=UTC).astimezone(ZoneInfo(kind.tz))


def said(value: object) -> object:
    """As JSON says it."""
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return [] if isinstance(value, list | bytes | Decimal) else value


def record(names: list[str], values: list[list[object]], row: int) -> bytes:
    pairs = [
        f"{json.dumps(n, ensure_ascii=False)}: {json.dumps(said(v[row]), ensure_ascii=False)}"
        for n, v in zip(names, values, strict=True)
    ]
    return ("{" + ", ".join(pairs) + "}").encode()


@pytest.mark.parametrize("name", sorted(CONTRACTS))
@given(data=st.data())
@settings(max_examples=80)
def test_a_row_gets_the_verdict_of_the_record_that_says_the_same(name: str, data: st.DataObject) -> None:
    contract, decoder = CONTRACTS[name], DECODERS[name]
    names, arrays, values = data.draw(tables(contract))
    table = pa.Table.from_arrays(
        arrays, schema=pa.schema([pa.field(n, a.type) for n, a in zip(names, arrays, strict=True)])
    )
    rows = [decoder.decode(record(names, values, i)) for i in range(table.num_rows)]
    wrong = next(((i, r) for i, r in enumerate(rows) if isinstance(r, Reject)), None)
    try:
        admitted = Admission(decoder).many(ARROW_TYPE, stream(table))
    except Refusal as refusal:
        assert wrong is not None, refusal.body
        expected = {"row": wrong[0], "field": wrong[1].field, "rule": wrong[1].code}
        assert {k: refusal.body[k] for k in expected} == expected
        assert refusal.status == STATUS.get(wrong[1].code, 422)
    else:
        assert wrong is None, wrong
        assert admitted.batch.equals(decoder.batch(rows))  # type: ignore[arg-type]


def test_a_batch_in_arrow_is_the_batch_in_json() -> None:
    contract, admission = CONTRACTS["sales"], Admission(DECODERS["sales"])
    rows = asked_in(contract, 300)
    raw = {"topic": "sales.events", "partition": 1, "offsets": list(range(300))}
    asked = {"rows": json.loads(rows.write_json()), "raw": raw}
    table = rows.to_arrow().replace_schema_metadata({RAW: json.dumps(raw)})
    in_arrow, in_json = admission.many(ARROW_TYPE, stream(table)), admission.many(JSON_TYPE, body(asked))
    assert in_arrow.batch.equals(in_json.batch) and in_arrow.raw == in_json.raw and len(in_arrow) == 300
    several = pa.concat_tables([table.slice(0, 7), table.slice(7, 0), table.slice(7)])
    assert admission.many(ARROW_TYPE, stream(several)).batch.equals(in_json.batch)


# -- bytes that mean harm ------------------------------------------------------------------------------------------------


def refused(data: bytes) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        Admission(DECODERS["sales"]).many(ARROW_TYPE, data)
    return caught.value.status, caught.value.body["rule"]


def column(array: pa.Array, name: str = "order_id") -> pa.Table:
    return pa.table({name: array})


LONG = "x" * 20_000
ONE = pa.array([LONG], pa.string_view()).buffers()
VIEWS = pa.Array.from_buffers(pa.string_view(), 5_000, [None, pa.py_buffer(ONE[1].to_pybytes() * 5_000), *ONE[2:]])
SINGLE = pa.Table.from_batches(column(pa.array(["a"] * 3_000)).to_batches(max_chunksize=1))
BOMBS = {
    "compressed": (stream(column(pa.array(["a" * 100_000])), compression="zstd"), (422, "compression")),
    "no rows": (stream(column(pa.array([], pa.string()))), (422, "size")),
    "too many rows": (stream(column(pa.nulls(MAX_ROWS + 1))), (413, "size")),
    "rows without bytes": (stream(column(pa.nulls((1 << 31) - 1))), (413, "size")),
    "a dictionary": (stream(column(pa.DictionaryArray.from_arrays(pa.array([0] * 5_000), pa.array([LONG])))), (413, "size")),
    "views of one text": (stream(column(VIEWS)), (413, "size")),
    "many messages": (stream(SINGLE), (413, "size")),
    "no stream": (b"ARROW1\0\0" + b"\xff" * 100, (400, "syntax")),
    "a batch": (body({"rows": [order()]}), (400, "syntax")),
    "cut off": (stream(column(pa.array(["a"] * 1000)))[:-3000], (400, "syntax")),
    "too large": (b"\xff" * (MAX_BODY + 1), (413, "size")),
    "bad coordinates": (stream(column(pa.array(["a"])).replace_schema_metadata({RAW: b"{"})), (422, "type")),
    "other coordinates": (
        stream(column(pa.array(["a"])).replace_schema_metadata({RAW: b'{"topic":"t","partition":0,"offsets":[]}'})),
        (422, "size"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_what_would_grow_is_refused_before_it_does(bomb: str) -> None:
    data, expected = BOMBS[bomb]
    assert refused(data) == expected


def test_a_delta_of_a_dictionary_is_refused() -> None:
    kind = pa.dictionary(pa.int32(), pa.string())
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, pa.schema([("order_id", kind)]), options=options) as writer:
        for values in (["a"], ["a", "b"]):
            writer.write_batch(
                pa.record_batch(
                    [pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(values))], ["order_id"]
                )
            )
    assert refused(sink.getvalue().to_pybytes()) == (422, "compression")


def test_a_time_zone_that_is_no_utf_8_is_refused():
    data = stream(column(pa.array([None], pa.timestamp("us", "UTC")), "event_time"))
    assert refused(data.replace(b"UTC", b"\x80TC")) == (400, "syntax")


@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=200)
def test_changed_bytes_are_judged_or_refused_and_never_end_the_process(at: float, byte: int, cut: bool) -> None:
    data = bytearray(stream(asked_in(CONTRACTS["sales"], 4).to_arrow()))
    data[int(at * len(data))] = byte
    try:
        admitted = Admission(DECODERS["sales"]).many(ARROW_TYPE, bytes(data[: int(at * len(data))] if cut else data))
    except Refusal as refusal:
        assert 400 <= refusal.status < 500
    else:
        admitted.batch.validate(full=True)
