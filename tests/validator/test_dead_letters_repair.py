"""Repairs, choices and masks: what an expression may say, which letters are meant, what a person gets to see."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import contract_file
from pipeline.contract import Reject
from pipeline.errors import UsageError
from pipeline.record import examiner
from stream_processors.dead_letters.choice import Choice, place
from stream_processors.dead_letters.letter import describe
from stream_processors.dead_letters.mask import fields_of, key_text, message_text, shape, value_text
from stream_processors.dead_letters.repair import compile_repair, unchanged
from stream_processors.dead_letters.repair_file import load_repair
from stream_processors.dead_letters.replay import Marker, Original, marker_from, marker_of, replay_headers, step

SALES = contract_file.load("sales")
NOW = 1_790_000_000_000
GOOD = {
    "order_id": "o-1",
    "customer_id": "C000123",
    "product_id": "P1",
    "category": "home",
    "region": "east",
    "channel": "web",
    "quantity": 1,
    "price": 9.5,
    "discount": 0.0,
    "order_date": "2026-09-21",
    "event_time": "2026-09-21T12:00:00.000Z",
}


def record(**changes):
    return json.dumps({**GOOD, **changes}).encode()


def mended(expression, **fields):
    after = compile_repair(expression, SALES)(json.dumps(fields).encode())
    return after.why or json.loads(after.value)


@pytest.mark.parametrize(
    "expression, before, after",
    [
        ("quantity = abs(quantity)", {"quantity": -3}, {"quantity": 3}),
        ("quantity = int(quantity)", {"quantity": "12"}, {"quantity": 12}),
        ("quantity = int(quantity)", {"quantity": 2.0}, {"quantity": 2}),
        ("price = price / 100 if price > 10000 else price", {"price": 12050}, {"price": 120.5}),
        ("del coupon", {"coupon": "SPRING", "price": 1}, {"price": 1}),
        ("customer_id = client; del client", {"client": "C1"}, {"customer_id": "C1"}),
        ("order_date = order_date[:10]", {"order_date": "2026-09-21T00:00"}, {"order_date": "2026-09-21"}),
        ("region = lower(strip(region))", {"region": " East "}, {"region": "east"}),
        ("if channel in ('www', 'site'):\n    channel = 'web'", {"channel": "site"}, {"channel": "web"}),
        ("discount = coalesce(discount, 0.0)", {"price": 1}, {"price": 1, "discount": 0.0}),
        ("price *= 2; price -= 1", {"price": 3}, {"price": 5}),
        (
            "event_time = add_seconds(event_time, -3600)",
            {"event_time": "2026-09-21T01:00:00.000Z"},
            {"event_time": "2026-09-21T00:00:00.000Z"},
        ),
        ("discount = min(max(discount, 0.0), 1.0)", {"discount": 1.5}, {"discount": 1.0}),
    ],
)
def test_an_expression_mends_a_record(expression, before, after):
    assert mended(expression, **before) == after


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "quantity =",
        "quantty = 1",
        "quantity = 9 ** 9 ** 9",
        "quantity = open('f')",
        "quantity = ().__class__",
        "quantity = [x for x in region]",
        "import os",
        "while True: quantity = 1",
        "quantity = (lambda: 1)()",
        "region['a'] = 1",
        "quantity = f'{price}'",
        "quantity = 1 + " * 900 + "1",
    ],
)
def test_what_is_no_repair_is_refused_before_anything_is_read(expression):
    with pytest.raises(UsageError, match="--repair"):
        compile_repair(expression, SALES)


@pytest.mark.parametrize(
    "expression, fields, why",
    [
        ("quantity = abs(quantity)", {}, "needs quantity"),
        ("quantity = abs(quantity)", {"quantity": "x"}, "expected a number"),
        ("quantity = quantity // 0", {"quantity": 1}, "zero"),
        ("quantity = quantity % 0", {"quantity": 1}, "zero"),
        ("region = replace(region, 'a', region)", {"region": "a" * 1000}, "65536 characters"),
        ("quantity = quantity * quantity * quantity", {"quantity": 2**63}, "127 bits"),
        ("price = price * 10.0", {"price": 1e308}, "no JSON"),
        ("quantity = int(price)", {"price": 1.5}, "whole number"),
        ("quantity = 1 if price < region else 2", {"price": 1, "region": "x"}, "not supported"),
    ],
)
def test_a_record_that_cannot_be_mended_says_why(expression, fields, why):
    assert why in mended(expression, **fields)


@pytest.mark.parametrize(
    "expression, text, why",
    [
        ("quantity = round(7, -1000000000000)", "x", "at most 308 digits"),
        ("region = replace(region, '', region)", "x" * 1_000, "a text of more than"),
    ],
)
def test_an_expression_ends(expression, text, why):
    assert why in mended(expression, region=text)


def test_equal_keys_are_never_resolved_by_the_way():
    value = record().replace(b'"quantity": 1', b'"quantity": -5, "quantity": 7')
    assert "'quantity' stands twice" in compile_repair("price = 1", SALES)(value).why
    assert json.loads(compile_repair("quantity = 7", SALES)(value).value)["quantity"] == 7


def test_bytes_that_are_no_record_need_a_file(tmp_path):
    broken = b'{"quantity": 1,,}'
    assert "needs a JSON object" in compile_repair("quantity = 1", SALES)(broken).why
    file = tmp_path / "mend.py"
    file.write_text("def repair_bytes(value):\n    return value.replace(b',,', b',').replace(b',}', b'}')\n")
    assert load_repair(file)(broken).value == b'{"quantity": 1}'


def test_a_function_in_a_file_gets_the_record_and_its_faults_stay_its_own(tmp_path):
    file = tmp_path / "mend.py"
    file.write_text("def repair(record):\n    record['quantity'] = {-3: 3}[record['quantity']]\n    return record\n")
    repair = load_repair(file)
    assert json.loads(repair(b'{"quantity": -3}').value) == {"quantity": 3}
    assert repair(b'{"quantity": 5}').why == "the repair raised KeyError: 5"
    assert "JSON object" in repair(b"[").why
    for wrong in ("x = 1", "def repair(", "raise SystemError"):
        file.write_text(wrong)
        with pytest.raises(UsageError, match="repair-file"):
            load_repair(file)
    with pytest.raises(UsageError, match="expected a Python file"):
        load_repair(tmp_path / "none.py")


def test_untouched_fields_keep_their_values():
    value = record(price=0.1, quantity=2**53 + 1, customer_id="Zoë")
    after = compile_repair("region = 'east'", SALES)(value).value
    assert json.loads(after) == json.loads(value)


# -- which letters -----------------------------------------------------------------------------------------------------


def letter(offset=7, field="quantity", code="range", message="expected >= 0, got -3", partition=0, **more):
    made = describe(
        coordinate=("sales.events", partition, offset),
        reject=Reject(code, field, message),
        key=b"C000123",
        value=more.pop("value", record(quantity=-3)),
        headers=more.pop("headers", ()),
        timestamp=NOW - 1000,
        contract=more.pop("contract", "sales@1.0.0"),
        now=NOW,
    )
    assert not more
    return made


@pytest.mark.parametrize(
    "choice, wanted",
    [
        (Choice(), True),
        (Choice(rule="range", field="quantity"), True),
        (Choice(rule="type"), False),
        (Choice(field="price"), False),
        (Choice(since=NOW, until=NOW + 1), True),
        (Choice(until=NOW), False),
        (Choice(since=NOW + 1), False),
        (Choice(event_since=100, event_until=101), True),
        (Choice(event_since=101), False),
        (Choice(contract="sales@1.0.0"), True),
        (Choice(contract="sales@2.0.0"), False),
        (Choice(attempt=2), False),
        (Choice(state="open"), True),
        (Choice(state="replayed"), False),
        (Choice(places=(place("0/5-7", "sales.events"),)), True),
        (Choice(places=(place("0/8", "sales.events"), place("1/7", "sales.events"))), False),
    ],
)
def test_every_condition_must_hold(choice, wanted):
    assert choice.wants(letter(), 100, False) == wanted


def test_a_record_without_an_event_time_is_not_chosen_by_it():
    assert not Choice(event_since=0).wants(letter(), None, False)


@pytest.mark.parametrize("text", ["", "0", "0/", "a/b", "0/5-", "0/5-4", "other/0/5", "0/-1"])
def test_a_place_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        place(text, "sales.events")


def test_the_audit_names_the_given_conditions_only():
    given = Choice(rule="range", since=0, places=(place("2/1-3", "sales.events"),)).described()
    assert given == {"rule": "range", "since": "1970-01-01T00:00:00.000Z", "places": ["2/1-3"]}


# -- what becomes of each ----------------------------------------------------------------------------------------------


def planned(one, marker=None, repair=unchanged, force=False, original=None):
    original = original or Original(b"C000123", record(quantity=-3), [("trace", b"1"), ("driftline.rule", b"x")])
    return step(one, original, marker, repair, examiner(SALES), NOW, force=force)


def test_it_foresees_what_the_contract_will_say():
    assert planned(letter()).foreseen.startswith("range: ")
    after = planned(letter(), repair=compile_repair("quantity = abs(quantity)", SALES))
    assert (after.action, after.foreseen, after.changed) == ("replay", "valid", True)


def test_a_marked_coordinate_is_skipped_even_with_force():
    marker = Marker("sales.events/0/7", "sales.events/0/7", 1, "r", "ann", "2026-09-21T12:00:00.000Z", "")
    skipped = planned(letter(), marker, force=True)
    assert (skipped.action, skipped.why) == ("skip", "replayed at 2026-09-21T12:00:00.000Z by ann")


def test_the_third_attempt_needs_force_and_the_second_keeps_the_first_error():
    headers = planned(letter()).headers
    assert headers == (
        ("trace", b"1"),
        ("driftline.attempt", b"1"),
        ("driftline.first-rule", b"range"),
        ("driftline.first-failed-at", b"2026-09-21T14:13:20.000Z"),
        ("driftline.replay-of", b"sales.events/0/7"),
    )
    second = letter(offset=90, code="type", headers=headers)
    assert (second.attempt, second.first_rule, second.rule) == (2, "range", "type")
    assert planned(second).why == "attempt 2 failed (type); attempt 3 needs --force"
    third = planned(second, force=True)
    assert dict(third.headers)["driftline.replay-of"] == b"sales.events/0/7"
    assert dict(third.headers)["driftline.attempt"] == b"2"


@pytest.mark.parametrize("code, forced", [("quarantined", "replay"), ("batch_undecodable", "refuse")])
def test_what_ended_the_validator_is_not_sent_again_by_accident(code, forced):
    assert planned(letter(code=code)).action == "refuse"
    assert planned(letter(code=code), force=True).action == forced


def test_a_cut_letter_whose_record_is_gone_and_one_that_is_too_large_are_refused():
    assert planned(letter(), original=Original(None, None, (), "gone")).why == "gone"
    assert "do not fit" in planned(letter(), original=Original(None, b"x" * 1_040_000, ())).why


@given(st.text(max_size=30), st.integers(1, 9), st.text(max_size=10))
def test_a_marker_reads_back(replay_of, attempt, actor):
    marker = Marker("sales.events/0/7", replay_of, attempt, "run", actor, "at", "sha")
    assert marker_from(marker.coordinate.encode(), marker.to_bytes()) == marker


@pytest.mark.parametrize("junk", [b"", None, b"{}", b"[1]", b"\xff"])
def test_what_is_no_marker_is_none(junk):
    assert marker_from(b"k", junk) is None


def test_a_marker_is_keyed_by_the_letter_and_names_the_first_record():
    headers = replay_headers(letter(), ())
    marker = marker_of(planned(letter(offset=90, headers=headers), force=True), "run", "ann", "at")
    assert (marker.coordinate, marker.replay_of, marker.attempt) == ("sales.events/0/90", "sales.events/0/7", 2)


# -- what a person sees ------------------------------------------------------------------------------------------------


def test_classified_fields_and_the_key_made_of_one_are_masked():
    shown = fields_of(record(quantity=-3, email="a@b", region={"name": "Ann"}), SALES)
    assert (shown["customer_id"], shown["email"], shown["region"]) == ("***", "***", "***")
    assert (shown["quantity"], shown["order_id"]) == (-3, "o-1")
    assert key_text(b"C000123", SALES) == "***"
    assert "C000123" not in value_text(record(), SALES)


def test_broken_bytes_show_their_shape_only():
    broken = record(customer_id="Ann Miller, 12 High Street").decode()[:-1]
    assert not {"Ann", "Miller", "12"} & set(shape(broken, SALES).replace('"', " ").split())
    assert '"customer_id": "xxx xxxxxx, 00 xxxx xxxxxx"' in shape(broken, SALES)


def test_a_reason_about_a_masked_field_does_not_quote_it():
    about = letter(field="customer_id", code="type", message="expected a string, got 'Ann'; also price range")
    assert message_text(about, SALES) == "expected a string, got ***; also price range"
    assert message_text(letter(), SALES) == "expected >= 0, got -3"
