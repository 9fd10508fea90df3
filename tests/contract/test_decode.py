"""The decoder: every path gives the same verdict, and a bad record never costs a good one."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import contract_file, decode
from pipeline.contract import APPEND_TIME, RAW_OFFSET, REJECT, Reject
from pipeline.record import CODES
from tests.contract.corpus import cases
from tests.contract.records import ABSENT, APPENDED, LINE, SALE, line, raw, sale, with_literal

SALES = contract_file.load("sales")
RETAIL = contract_file.load("online_retail")
DECODER = decode.compile(SALES)
RETAIL_DECODER = decode.compile(RETAIL)


def batch_of(values: list[bytes | None], decoder: decode.Decoder = DECODER) -> decode.Decoded:
    return decoder.decode_batch(values, range(100, 100 + len(values)), [APPENDED] * len(values))


def code_of(verdict: decode.Row | Reject) -> str | None:
    return verdict.code if isinstance(verdict, Reject) else None


@pytest.mark.parametrize(("value", "expected"), [pytest.param(v, e, id=n) for n, v, e in cases()])
def test_corpus_record_gets_its_code_alone_and_among_good_neighbours(value: bytes | None, expected: str | None) -> None:
    assert code_of(DECODER.decode(value, APPENDED)) == expected
    among = batch_of([sale(), value, sale()])
    assert {i: r.code for i, r in among.rejects.items()} == ({1: expected} if expected else {})
    assert len(among.event_times) == (2 if expected else 3)
    assert expected is None or expected in CODES


def test_corpus_in_one_batch_gives_the_same_verdicts() -> None:
    listed = list(cases())
    decoded = batch_of([v for _, v, _ in listed])
    assert {n: decoded.rejects[i].code if i in decoded.rejects else None for i, (n, _, _) in enumerate(listed)} == {
        n: e for n, _, e in listed
    }
    assert sum(decoded.counts.values()) == len(listed)
    decoded.batch.validate(full=True)


@pytest.mark.parametrize("cut", range(1, len(sale()) - 1, 7))
def test_a_record_truncated_anywhere_is_a_syntax_reject(cut: int) -> None:
    assert code_of(DECODER.decode(sale()[:cut], APPENDED)) == "syntax"


def test_no_hostile_record_takes_long() -> None:
    for name, value, _ in cases():
        began = time.perf_counter()
        DECODER.decode(value, APPENDED)
        assert time.perf_counter() - began < 0.5, name  # measured: 20 ms at most; the limit allows for a busy machine


def test_block_rows_carry_offset_append_time_and_typed_cells() -> None:
    rows = batch_of([sale(), b"{", sale(quantity=-1)]).batch.to_pylist()
    assert [r[RAW_OFFSET] for r in rows] == [100, 102]  # `{` is no row
    assert [r[REJECT] for r in rows] == [None, "range"]
    assert rows[0]["event_time"] == datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
    assert rows[0]["order_date"] == date(2026, 3, 4)
    assert rows[0][APPEND_TIME] == datetime(2026, 3, 4, 5, 6, 8, tzinfo=UTC)
    assert rows[1]["quantity"] == -1


def test_rejected_row_keeps_every_cell_that_has_a_value_of_its_type() -> None:
    row = batch_of(
        [sale(quantity="7", price=-5, category="cars", event_time="never", order_date="2026-02-30", region=ABSENT)]
    ).batch.to_pylist()[0]
    assert (row["quantity"], row["event_time"], row["order_date"], row["region"]) == (None, None, None, None)
    assert (row["price"], row["category"], row["customer_id"]) == (-5.0, "cars", "C000123")


def test_the_first_broken_field_in_contract_order_decides_and_the_message_tells_the_others() -> None:
    reject = DECODER.decode(sale(price=-5, quantity="7"), APPENDED)
    assert reject == Reject("type", "quantity", "expected an integer from 0 to 1000, got '7'; also price range")


def test_batch_of_nothing_and_batch_without_a_row() -> None:
    assert batch_of([]).batch.num_rows == 0
    nothing = batch_of([None, b"", b"[]"])
    assert (nothing.batch.num_rows, nothing.batch.schema) == (0, SALES.block_schema)
    assert nothing.counts == {"valid": 0, "tombstone": 1, "empty": 1, "not_object": 1}


def test_one_bad_calendar_day_does_not_touch_other_times() -> None:
    times = [
        "2026-03-04T05:06:07.001Z",
        "2025-02-29T05:06:07.001Z",
        "2026-03-04t05:06:07.002z",
        "2026-03-04T05:06:07.003Z",
    ]
    decoded = batch_of([sale(event_time=t) for t in times])
    assert list(decoded.rejects) == [1]
    assert [ms % 1000 for ms in decoded.event_times.tolist()] == [1, 2, 3]
    assert decoded.batch.column("event_time").null_count == 1


def test_text_is_stored_in_normal_form_c_in_rows_and_blocks() -> None:
    assert batch_of([sale(customer_id="e\u0301")]).batch.column("customer_id").to_pylist() == ["é"]
    row = DECODER.decode(sale(customer_id="e\u0301"))
    assert isinstance(row, dict) and row["customer_id"] == "é"


def test_future_bound_needs_the_append_time_and_can_be_off() -> None:
    ahead = sale(event_time="2027-01-01T00:00:00.000Z")
    assert code_of(DECODER.decode(ahead, None)) is None
    assert code_of(DECODER.decode(ahead, APPENDED)) == "time_future"
    paper = decode.compile(contract_file.load("paper"))
    assert batch_of([ahead], paper).counts == {"valid": 1}


def test_row_of_the_endpoint_makes_the_same_columns_as_the_stream() -> None:
    row = DECODER.decode(sale(), APPENDED)
    assert isinstance(row, dict)
    columns = [f.name for f in SALES.fields]
    assert DECODER.batch([row]).equals(batch_of([sale()]).batch.select(columns))


# -- the second contract: optional fields, patterns, a rule over several fields ---------------------------------------

RETAIL_CASES = [
    (line(), None),
    (line(CustomerID=None), None),
    (line(CustomerID=ABSENT), None),
    (line(Description=None, CustomerID=None), None),
    (line(Description='3D "PAPER" £20.00'), None),
    (line(InvoiceNo="C536365", Quantity=-6), None),
    (line(Quantity=-6), "range"),
    (line(Quantity=0), "range"),
    (line(InvoiceNo="A563185", StockCode="B", UnitPrice=11062.06, Quantity=1), "format"),
    (line(UnitPrice=0), "range"),
    (line(UnitPrice=-0.01), "range"),
    (line(StockCode="POST"), "format"),
    (line(StockCode="85123ABC"), "format"),
    (line(StockCode="X85123"), "format"),
    (line(StockCode="85123A\n"), "control_char"),
    (line(StockCode="٨٥١٢٣"), "format"),  # digits, but not 0-9
    (line(Quantity="six"), "type"),
    (line(Quantity=2**53 + 1), "range"),
    (line(InvoiceDate="01/12/2010 08:26"), "format"),
    (line()[:-1] + b',"CustomerID":null}', "duplicate_key"),
    (line(CustomerID=None)[:-1] + b',"CustomerID":null}', "duplicate_key"),
    (line(CustomerID=ABSENT)[:-1] + b',"Country":"X"}', "duplicate_key"),
]


@pytest.mark.parametrize(
    ("value", "expected"), RETAIL_CASES, ids=lambda v: v.decode()[-60:] if isinstance(v, bytes) else str(v)
)
def test_real_sales_line_gets_its_code_alone_and_in_a_batch(value: bytes, expected: str | None) -> None:
    assert code_of(RETAIL_DECODER.decode(value)) == expected
    assert [r.code for r in batch_of([line(), value, line(CustomerID=None)], RETAIL_DECODER).rejects.values()] == (
        [expected] if expected else []
    )


def test_good_rows_are_settled_by_the_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[object] = []
    decoder = decode.compile(RETAIL)
    monkeypatch.setattr(decoder, "_examine", lambda value, _: examined.append(value))
    good = [line(), line(CustomerID=None), line(CustomerID=ABSENT), line(Description="Gift Voucher £20.00")]
    assert batch_of(good, decoder).counts == {"valid": 4}
    assert examined == []


def test_ignored_unknown_fields_are_ignored_on_both_paths() -> None:
    text = contract_file.shipped_text("sales").replace("value: reject", "value: ignore")
    decoder = decode.compile(contract_file.parse(text, "t.yaml"))
    values = [
        sale(extra={"a": [1, "x"]}),
        sale(),
        sale(extra=1)[:-1] + b',"price":1}',
        with_literal("region", b'"north","x":' + b"[" * 40 + b"]" * 40),
    ]
    expected = [None, None, "duplicate_key", "depth"]
    assert [code_of(decoder.decode(v, APPENDED)) for v in values] == expected
    decoded = batch_of(values, decoder)
    assert [decoded.rejects[i].code if i in decoded.rejects else None for i in range(4)] == expected


# -- properties ---------------------------------------------------------------------------------------------------------

plain_text = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn")), min_size=1, max_size=64)
good_sales = st.fixed_dictionaries(
    {
        "order_id": plain_text,
        "customer_id": plain_text,
        "product_id": plain_text,
        "category": st.sampled_from(SALES.field("category").allowed or ()),
        "region": st.sampled_from(SALES.field("region").allowed or ()),
        "channel": st.sampled_from(SALES.field("channel").allowed or ()),
        "quantity": st.integers(0, 1000),
        "price": st.floats(0, 1e6),
        "discount": st.floats(0, 1),
        "order_date": st.dates().map(str),
        "event_time": st.datetimes(datetime(1970, 1, 1), datetime(2026, 3, 4, 6)).map(lambda t: t.isoformat() + "Z"),
    }
)
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["web", "2026-02-30", "2026-03-04T05:06:07Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def agree(values: list[bytes | None], decoder: decode.Decoder) -> None:
    """The batch's verdicts and cells are those of each record alone."""
    decoded = batch_of(values, decoder)
    alone = [decoder.decode(v, APPENDED) for v in values]
    assert {i: r for i, r in enumerate(alone) if isinstance(r, Reject)} == decoded.rejects
    good = [r for r in alone if not isinstance(r, Reject)]
    valid = [row for row in decoded.batch.to_pylist() if row[REJECT] is None]
    assert [{k: row[k] for k in (f.name for f in decoder.contract.fields)} for row in valid] == good
    assert decoded.counts["valid"] == len(good)
    decoded.batch.validate(full=True)


@given(st.lists(good_sales, max_size=4), st.booleans())
@settings(max_examples=150)
def test_any_valid_record_is_valid_and_comes_back_as_it_was(records: list[dict], ascii_only: bool) -> None:
    values = [json.dumps(r, ensure_ascii=ascii_only).encode() for r in records]
    decoded = batch_of(values)
    assert decoded.rejects == {}
    agree(values, DECODER)
    for sent, row in zip(records, decoded.batch.to_pylist(), strict=True):
        assert (row["quantity"], row["price"], str(row["order_date"])) == (
            sent["quantity"],
            sent["price"],
            sent["order_date"],
        )
        since = datetime.fromisoformat(sent["event_time"]) - row["event_time"]
        assert timedelta(0) <= since < timedelta(milliseconds=1)


@given(
    st.lists(
        st.tuples(
            good_sales,
            st.dictionaries(st.sampled_from([*SALE, "x"]), any_json, max_size=3),
            st.sets(st.sampled_from(list(SALE)), max_size=2),
        ),
        max_size=4,
    )
)
@settings(max_examples=300)
def test_batch_and_single_verdict_agree_on_any_object(drawn: list[tuple[dict, dict, set[str]]]) -> None:
    agree(
        [
            json.dumps({k: v for k, v in {**good, **changed}.items() if k not in left_out}).encode()
            for good, changed, left_out in drawn
        ],
        DECODER,
    )


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from([*LINE, "x"]), any_json, max_size=3),
            st.sets(st.sampled_from(list(LINE)), max_size=3),
        ),
        max_size=4,
    )
)
@settings(max_examples=300)
def test_batch_and_single_verdict_agree_with_optional_fields(drawn: list[tuple[dict, set[str]]]) -> None:
    agree(
        [
            json.dumps({k: v for k, v in {**LINE, **changed}.items() if k not in left_out}).encode()
            for changed, left_out in drawn
        ],
        RETAIL_DECODER,
    )


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), st.binary(max_size=12)), max_size=3), st.booleans())
@settings(max_examples=500)
@example([(1, 0, b'"price":1,')], False)
def test_bytes_spliced_into_a_record_never_crash_and_verdicts_agree(
    cuts: list[tuple[int, int, bytes]], retail: bool
) -> None:
    value = line() if retail else sale()
    for at, length, inserted in cuts:
        value = value[:at] + inserted + value[at + length :]
    agree([value, line() if retail else sale()], RETAIL_DECODER if retail else DECODER)


@given(st.lists(st.binary(max_size=60) | st.none(), max_size=5))
@settings(max_examples=300)
def test_any_bytes_never_crash(values: list[bytes | None]) -> None:
    agree(values, DECODER)


def test_request_schema_names_every_field_and_its_rules() -> None:
    schema = decode.request_schema(SALES)
    properties = schema["properties"]
    assert isinstance(properties, dict) and list(properties) == list(SALE)
    assert properties["quantity"]["maximum"] == 1000
    assert properties["category"]["enum"][0] == "electronics"
    assert schema["additionalProperties"] is False
    assert decode.request_schema(RETAIL)["properties"]["CustomerID"]["type"] == ["string", "null"]  # type: ignore[index]


def test_field_names_that_are_no_names_never_become_code() -> None:
    from dataclasses import replace

    evil = replace(SALES, fields=(*SALES.fields, replace(SALES.fields[0], name="x for x in ().__class__")))
    with pytest.raises(ValueError, match="no name for a column"):
        decode.compile(evil)


def test_raw_helper_is_compact_json() -> None:
    assert raw({"a": 1, "b": "é"}, b=ABSENT) == b'{"a":1}'
