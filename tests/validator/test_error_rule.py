"""What a transactional call does about an error: again, give the transaction up, or end the process."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline import kafka
from pipeline.errors import Fatal
from stream_processors.validator import transaction
from stream_processors.validator.transaction import GivenUp


def error(*, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    return KafkaException(KafkaError(KafkaError.REQUEST_TIMED_OUT, "x", fatal, retriable, abort))


@pytest.mark.parametrize(
    ("given", "decision"),
    [
        (error(retriable=True), "retry"),
        (error(abort=True), "abort"),
        (error(abort=True, retriable=True), "abort"),
        (error(fatal=True), "fatal"),
        (error(fatal=True, retriable=True, abort=True), "fatal"),
        (error(), "fatal"),  # what nobody has classified ends the process: a new one reads again
    ],
)
def test_the_worst_word_of_an_error_decides(given: KafkaException, decision: str):
    assert kafka.decide(given) == decision


def calling(*errors: KafkaException) -> int:
    left = list(errors)
    made = 0

    def action(timeout: float) -> None:
        nonlocal made
        made += 1
        if left:
            raise left.pop(0)

    transaction._call("commit", action)
    return made


def test_a_call_is_made_again_as_long_as_the_error_says_so():
    assert calling(error(retriable=True), error(retriable=True)) == 3


def test_an_abortable_error_gives_the_transaction_up_and_a_fatal_one_the_process():
    with pytest.raises(GivenUp):
        calling(error(abort=True))
    with pytest.raises(Fatal):
        calling(error(fatal=True))
    with pytest.raises(Fatal):
        calling(error())


def test_past_the_transactions_timeout_the_outcome_is_unknown_and_it_is_given_up(monkeypatch):
    monkeypatch.setattr(transaction, "TRANSACTION_TIMEOUT_S", 0.0)
    with pytest.raises(GivenUp, match="no success within the transaction's timeout"):
        calling(error(retriable=True))


def test_a_failed_produce_is_never_made_again():
    with pytest.raises(GivenUp), transaction.giving_up("produce"):
        raise BufferError("queue full")
    with pytest.raises(GivenUp), transaction.giving_up("produce"):
        raise error(retriable=True)
    with pytest.raises(Fatal), transaction.giving_up("produce"):
        raise error(fatal=True)
