import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract import Reject
from pipeline.topics import DEAD_LETTER_KEEP, DEAD_LETTER_LIMIT
from stream_processors.dead_letters import letter as dead_letters
from stream_processors.dead_letters.letter import BadDeadLetter, DeadLetter

NOW = 1_800_000_000_123
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
times = st.integers(0, 4_000_000_000_000)
letters = st.builds(
    DeadLetter,
    topic=texts,
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    message=texts,
    sha256=texts,
    rule=texts,
    field=texts,
    contract=texts,
    attempt=st.integers(1, 999),
    first_rule=texts,
    first_failed_at=times,
    last_failed_at=times,
    timestamp=times,
    replay_of=st.none() | texts,
    truncated=st.none() | st.integers(0, 2**40),
    headers_dropped=st.integers(0, 1000),
)
raw_headers = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=30)), max_size=8)


REJECT = Reject("range", "quantity", "expected >= 0, got -3")


def describe(key=b"k", value=b"{}", headers=(), reject=REJECT):
    return dead_letters.describe(
        coordinate=("sales.events", 2, 1841),
        reject=reject,
        key=key,
        value=value,
        headers=headers,
        timestamp=NOW - 1000,
        contract="sales@1.0.0",
        now=NOW,
    )


@given(letters, raw_headers)
def test_headers_read_back_as_they_were_written_whatever_the_original_had(letter, original):
    assert dead_letters.from_headers(dead_letters.to_headers(letter, original)) == letter


@given(raw_headers)
def test_original_headers_come_first_in_their_order_and_unchanged(original):
    ours = [h for h in original if not h[0].startswith(("__connect.errors.", "driftline."))]
    assert dead_letters.to_headers(describe(), original)[: len(ours)] == ours


def test_every_header_of_the_design_is_there_as_text():
    found = {k: v.decode() for k, v in dead_letters.to_headers(describe())}
    assert found == {
        "__connect.errors.topic": "sales.events",
        "__connect.errors.partition": "2",
        "__connect.errors.offset": "1841",
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.exception.class.name": "driftline.reject.range",
        "__connect.errors.exception.message": "expected >= 0, got -3",
        "driftline.sha256": hashlib.sha256(b"k{}").hexdigest(),
        "driftline.rule": "range",
        "driftline.field": "quantity",
        "driftline.contract": "sales@1.0.0",
        "driftline.attempt": "1",
        "driftline.first-rule": "range",
        "driftline.first-failed-at": "2027-01-15T08:00:00.123Z",
        "driftline.last-failed-at": "2027-01-15T08:00:00.123Z",
        "driftline.timestamp": "2027-01-15T07:59:59.123Z",
    }


def test_a_replay_that_fails_again_keeps_its_first_failure_and_counts_on():
    first = dead_letters.to_headers(describe())
    replayed = [*first, ("driftline.replay-of", b"sales.events/2/1841")]
    again = describe(headers=replayed, reject=Reject("type", "price", "expected a number"))
    assert (again.attempt, again.rule, again.first_rule, again.first_failed_at) == (2, "type", "range", NOW)
    assert again.replay_of == "sales.events/2/1841"


def test_a_strangers_headers_do_not_count_as_a_replay():
    letter = describe(headers=[("driftline.attempt", b"77"), ("driftline.rule", b"none")])
    assert (letter.attempt, letter.rule) == (1, "range")


@pytest.mark.parametrize("junk", [b"", b"minus", b"-5", b"9" * 50, "\u0665".encode(), b"\xff"])
def test_a_forged_replay_header_is_no_error(junk):
    headers = [("driftline.replay-of", junk), ("driftline.attempt", junk), ("driftline.first-failed-at", junk)]
    assert describe(headers=headers).attempt == 2


@pytest.mark.parametrize(
    "key, value", [(None, None), (b"", b""), (b"k", None), (b"k" * 10, b"v" * (DEAD_LETTER_KEEP - 10))]
)
def test_up_to_a_mebibyte_key_and_value_are_kept_as_they_are(key, value):
    assert dead_letters.kept(key, value) == (key, value)
    assert describe(key, value).truncated is None


@given(st.none() | st.integers(0, 200_000), st.integers(DEAD_LETTER_KEEP - 100_000, DEAD_LETTER_KEEP + 100_000))
def test_beyond_it_the_first_64_kib_stay_with_size_and_digest_of_the_whole(key_size, value_size):
    key, value = None if key_size is None else b"k" * key_size, b"v" * value_size
    whole = (key or b"") + value
    if len(whole) > DEAD_LETTER_KEEP:
        short_key, short_value = dead_letters.kept(key, value)
        assert (short_key or b"") + short_value == whole[: 64 * 1024]
        assert (short_key is None) == (key is None)
        letter = describe(key, value)
        assert (letter.truncated, letter.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_the_largest_letter_fits_its_topic():
    original = [(f"h{i}", b"x" * 1000) for i in range(5000)]
    reject = Reject("range", "f" * 64, "\U0001f600" * 5000)
    letter = describe(b"k" * 1024, b"v" * (DEAD_LETTER_KEEP - 1024), original, reject)
    headers = dead_letters.to_headers(letter, original)
    assert DEAD_LETTER_KEEP + sum(len(k) + len(v) + 16 for k, v in headers) < DEAD_LETTER_LIMIT
    assert letter.headers_dropped + sum(1 for k, _ in headers if k.startswith("h")) == 5000
    assert dead_letters.from_headers(headers) == letter


def test_a_message_that_quotes_a_lone_surrogate_is_still_text():
    letter = describe(reject=Reject("encoding", "a\ud800b", "got \ud800"))
    assert dead_letters.from_headers(dead_letters.to_headers(letter)).message == "got ?"


@pytest.mark.parametrize("name", ["__connect.errors.offset", "driftline.sha256", "driftline.last-failed-at"])
def test_a_missing_header_is_named(name):
    headers = [h for h in dead_letters.to_headers(describe()) if h[0] != name]
    with pytest.raises(BadDeadLetter, match=name):
        dead_letters.from_headers(headers)
