import json

import pytest

from pipeline import decode
from serving.admission import MAX_BODY, MAX_ROWS, Admission, Refusal
from tests.serving.conftest import body, order

JSON = "application/json"


@pytest.fixture(scope="module")
def admission(sales):
    return Admission(decode.compile(sales))


def refused(call) -> tuple[int, str, str]:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.status, caught.value.body["field"], caught.value.body["rule"]


def test_a_good_record_becomes_a_row_of_the_contracts_columns(admission, sales):
    row = admission.one(JSON, body(order(price=3)))
    assert list(row) == [f.name for f in sales.fields]
    assert row["price"] == 3.0


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (order(quantity="1"), (422, "quantity", "type")),
        (order(quantity=True), (422, "quantity", "type")),
        (order(quantity=1.0), (422, "quantity", "type")),
        (order(quantity=1001), (422, "quantity", "range")),
        (order(quantity=-1), (422, "quantity", "range")),
        (order(customer_id=17), (422, "customer_id", "type")),
        (order(order_date="2026-02-30"), (422, "order_date", "format")),
        (order(colour="red"), (422, "colour", "unknown_field")),
        (order(category="cars"), (422, "category", "allowed")),
    ],
)
def test_a_broken_field_is_named_with_its_rule(admission, record, expected):
    assert refused(lambda: admission.one(JSON, body(record))) == expected


def test_a_missing_field_is_named(admission):
    status, field, _ = refused(lambda: admission.one(JSON, body(order(product_id=None))))
    assert (status, field) == (422, "product_id")


@pytest.mark.parametrize("text", [b"{", b"not json", b'{"a":1}{"b":2}', b"[" * 60_000, b"\xff\xfe"])
def test_what_is_not_json_is_a_400(admission, text):
    assert refused(lambda: admission.one(JSON, text))[0] == 400


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_no_json(admission, number):
    text = body(order()).replace(b"12.5", number.encode())
    assert refused(lambda: admission.one(JSON, text)) == (400, "price", "syntax")
    assert refused(lambda: admission.many(JSON, b'{"rows":[%b]}' % text)) == (400, "price", "syntax")


def test_a_number_too_large_for_a_float_is_a_422(admission):
    status, field, rule = refused(lambda: admission.one(JSON, body(order()).replace(b"12.5", b"1e400")))
    assert (status, field, rule) == (422, "price", "range")


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-pickle", "multipart/form-data; boundary=x"])
def test_another_content_type_is_a_415(admission, kind):
    assert refused(lambda: admission.one(kind, body(order())))[0] == 415


def test_an_oversized_record_is_a_413(admission):
    assert refused(lambda: admission.one(JSON, body(order(product_id="x" * 70_000))))[0] == 413


def test_a_batch_names_the_row_that_breaks_the_contract(admission):
    with pytest.raises(Refusal) as caught:
        admission.many(JSON, body({"rows": [order(0), order(1), order(2, quantity=5000)]}))
    assert caught.value.status == 422
    assert {k: caught.value.body[k] for k in ("row", "field", "rule")} == {
        "row": 2,
        "field": "quantity",
        "rule": "range",
    }


def test_a_batch_keeps_its_order_and_its_coordinates(admission):
    admitted = admission.many(
        JSON,
        body(
            {
                "rows": [order(i) for i in range(5)],
                "raw": {"topic": "sales.events", "partition": 1, "offsets": [4, 5, 6, 7, 9]},
            }
        ),
    )
    assert admitted.batch["order_id"].to_pylist() == [order(i)["order_id"] for i in range(5)]
    assert admitted.raw.offsets == [4, 5, 6, 7, 9]


@pytest.mark.parametrize(
    ("batch", "status"),
    [
        ({"rows": []}, 422),
        ({"rows": [order()] * (MAX_ROWS + 1)}, 413),
        ({"rows": 1}, 422),
        ({}, 422),
        ({"rows": [order()], "raw": {"topic": "t", "partition": 0, "offsets": []}}, 422),
        ({"rows": [order()], "more": 1}, 422),
    ],
)
def test_a_batch_of_another_shape_is_refused(admission, batch, status):
    assert refused(lambda: admission.many(JSON, json.dumps(batch).encode()))[0] == status


def test_an_oversized_batch_is_a_413_before_it_is_parsed(admission):
    assert refused(lambda: admission.many(JSON, b"[" * (MAX_BODY + 1)))[0] == 413


@pytest.mark.parametrize("text", [b'{"row\xcf":1}', b'{"rows\xff":[]}', b'{"rows":["\xed\xa0\x80"]}'])
def test_a_batch_with_bytes_that_are_no_utf8_is_a_400(admission, text):
    assert refused(lambda: admission.many(JSON, text))[0] == 400
