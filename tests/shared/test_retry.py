import logging
import random
from itertools import islice
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from pipeline.errors import Unreachable
from pipeline.kafka import bounds
from pipeline.retry import CircuitBreaker, CircuitOpen, until_success, waits


def test_waits_grow_to_their_ceiling_and_never_pass_it():
    drawn = [list(islice(waits(random.Random(seed), 0.2, 15), 12)) for seed in range(200)]
    for k in range(12):
        assert all(0 < d[k] <= min(15, 0.2 * 2**k) for d in drawn)
    assert max(d[11] for d in drawn) > 10


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(times: int):
    left = iter(range(times))

    def action() -> str:
        if next(left, None) is not None:
            raise OSError("away")
        return "here"

    return action


def test_a_call_is_repeated_until_it_succeeds():
    clock = Clock()
    assert until_success(failing(4), what="it", errors=(OSError,), sleep=clock.sleep, clock=clock) == "here"
    assert clock.now > 0


def test_past_the_deadline_the_error_names_what_was_tried_and_the_last_failure():
    clock = Clock()
    with pytest.raises(Unreachable, match=r"the thing: no success within .* last error: away"):
        until_success(
            failing(10**6), what="the thing", errors=(OSError,), sleep=clock.sleep, deadline_s=30, clock=clock
        )
    assert clock.now <= 30


def test_an_error_of_another_kind_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        until_success(lambda: 1 / 0, what="it", errors=(OSError,), sleep=lambda s: None)


def test_the_breaker_opens_after_a_run_of_failures_rests_and_closes_on_success():
    clock = Clock()
    breaker = CircuitBreaker("serving", failures=3, rest=10, clock=clock)
    action = failing(3)
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            breaker.call(action)
    with pytest.raises(CircuitOpen, match=r"next try in 10\.0 s"):
        breaker.call(action)
    clock.sleep(10)
    assert breaker.state == "half-open"
    assert breaker.call(action) == "here"
    assert breaker.state == "closed"


def test_a_failure_while_half_open_opens_it_again():
    clock = Clock()
    breaker = CircuitBreaker("serving", failures=1, rest=10, clock=clock)
    action = failing(2)
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            breaker.call(action)
        assert breaker.state == "open"
        clock.sleep(10)
    assert breaker.call(action) == "here"


class BetweenLeaders(Consumer):
    """A client whose partition has no leader at the first question."""

    def __init__(self) -> None:
        super().__init__({"bootstrap.servers": "127.0.0.1:1", "group.id": "test", "logger": logging.getLogger("test")})
        self.asked = 0

    def list_topics(self, topic: str = "", timeout: float = -1) -> object:  # type: ignore[override]
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions={0: None})})

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:  # type: ignore[override]
        self.asked += 1
        if self.asked == 1:
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
        return 3, 7


def test_a_partition_between_two_leaders_is_asked_again():
    client = BetweenLeaders()
    assert bounds(client, "events") == {0: (3, 7)} and client.asked == 2
