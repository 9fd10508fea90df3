import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.validator import reject_breaker
from stream_processors.validator.reject_breaker import Limits, Opened, Recent, Stop, admit

LIMITS = Limits(ratio=0.5, over=6, run=4)


def where(outcomes, limits, cuts=()):
    """(record at which it opens, cause) when the outcomes come cut at these places."""
    recent, done = Recent.empty(), 0
    for batch in np.split(np.array(outcomes, dtype=bool), sorted(cuts)):
        recent, opened = admit(recent, batch, limits)
        if opened:
            return done + opened.admitted, opened.cause
        done += len(batch)
    return None


def slowly(outcomes, limits):
    """The definition: the first record at which the last `run` are all rejects, or too many of the last `over`."""
    for end in range(1, len(outcomes) + 1):
        if end >= limits.run and all(outcomes[end - limits.run : end]):
            return end, "run"
        if end >= limits.over and sum(outcomes[end - limits.over : end]) > limits.ratio * limits.over:
            return end, "ratio"
    return None


@given(st.lists(st.booleans(), max_size=60), st.data())
def test_it_opens_at_the_same_record_however_the_records_are_batched(outcomes, data):
    cuts = data.draw(st.lists(st.integers(0, len(outcomes)), max_size=5))
    found, expected = where(outcomes, LIMITS, cuts), slowly(outcomes, LIMITS)
    assert (found and found[0]) == (expected and expected[0])
    assert found is None or found[1] in ("run", "ratio")


def test_a_run_opens_at_its_last_record_and_says_so():
    _, opened = admit(Recent.empty(), np.array([0, 1, 1, 1, 1, 1, 0], dtype=bool), LIMITS)
    assert opened == Opened(admitted=5, cause="run", rejected=4, of=4)


def test_half_rejects_do_not_open_and_more_than_half_do():
    half = [True, False] * 20
    assert where(half, LIMITS) is None
    assert where([*half, True, True], LIMITS) == (41, "ratio") or where([*half, True, True], LIMITS) == (42, "ratio")


def test_too_few_records_give_no_ratio():
    assert where([True, True, True, False, True], LIMITS) is None


def test_the_defaults_let_bad_days_pass_and_stop_a_wrong_feed():
    rng = np.random.default_rng(1)
    limits = Limits()
    assert where(rng.random(200_000) < 0.02, limits) is None  # scenario bad-records
    assert where(rng.random(200_000) < 0.30, limits) is None
    assert where([False] * 9_000 + [True] * 900 + [False] * 9_000, limits) is None
    assert where([False] * 9_000 + [True] * 5_000, limits) == (10_000, "run")
    assert where(rng.random(50_000) < 0.6, limits)[1] == "ratio"


def test_the_stop_reads_back_from_the_offsets_metadata():
    stop = Stop(4711, "ratio", 2600, 5000, "2026-11-21T00:00:00.000Z")
    assert reject_breaker.from_metadata(reject_breaker.to_metadata(stop)) == stop


def test_metadata_of_others_and_none_mean_a_running_partition():
    for text in (None, "", "{}", "[]", "null", '{"stopped": 1}', "not json"):
        assert reject_breaker.from_metadata(text) is None


def test_a_resume_is_for_one_stop_of_one_dataset():
    value = reject_breaker.resume_request("sales", 2, 4711, "ann", "fixed", "2026-11-21T00:00:00.000Z")
    assert reject_breaker.resumed(value, "sales") == (2, 4711)
    assert reject_breaker.resumed(value, "paper") is None
    for other in (None, b"", b"[]", b"3", b"\xff", b'{"action":"retrain","model":"m"}'):
        assert reject_breaker.resumed(other, "sales") is None


def test_a_window_that_is_just_full_counts_also_at_the_end_of_a_batch():
    assert where([True] * 4, LIMITS) == (4, "run")
    assert where([True] * 5, LIMITS, cuts=[4]) == (4, "run")
    assert where([True, True, True, False, True, False], LIMITS) == (6, "ratio")
