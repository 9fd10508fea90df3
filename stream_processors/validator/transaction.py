"""EDGE. One transaction after another, each committed by a helper thread while the caller prepares the next.

Owns the error rule: what is retried, what gives the transaction up, what ends the process. A transaction that was given
up is never aborted by hand: its producer is thrown away, and the next one's `init_transactions` aborts what is open and
bumps the epoch, so that nothing delayed can end a later transaction (librdkafka lacks KIP-890). Aborting by hand before
the first acknowledgement can even be fatal (librdkafka #4849).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from confluent_kafka import KafkaException, Producer, TopicPartition

from pipeline import kafka
from pipeline.errors import Fatal
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.retry import until_success
from pipeline.settings import Settings

# After it the broker aborts by itself. Ten times a slow commit on a busy machine; a killed member's successor on
# other partitions waits this long (and the broker's 10 s scan) for the last stable offset to move.
TRANSACTION_TIMEOUT_S = 20.0
INIT_TRY_S = 5.0
COMMIT_DEADLINE_S = (
    2 * TRANSACTION_TIMEOUT_S + 5
)  # both calls at their slowest; a client that hangs longer never returns


class GroupMetadata(Protocol):
    """What `consumer_group_metadata()` returns: opaque, it names the member and its generation."""


class GivenUp(Exception):
    """The transaction will not be committed: read again from what is committed."""


class Hung(Fatal):
    """A commit that never returns, and with it the thread that asked for it."""


class Transactions:
    """At most one transaction is open; `broken` says that the next needs a new producer (`start`)."""

    def __init__(
        self,
        settings: Settings,
        transactional_id: str,
        process: str,
        meter: Meter,
        stopped: threading.Event,
        alive: Callable[[], None],
    ):
        self._settings, self._id, self._process = settings, transactional_id, process
        self._meter, self._stopped, self._alive = meter, stopped, alive
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._producer: Producer | None = None
        self._open: Future[float] | None = None

    @property
    def broken(self) -> bool:
        return self._producer is None

    def start(self) -> None:
        """A new producer under our transactional id; waits for a broker, raises Unreachable when stopped."""
        self.give_up()
        producer = kafka.producer(
            self._settings,
            self._id,
            transactional_id=self._id,
            **{
                "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
                "queue.buffering.max.messages": 500_000,
            },
        )

        def init() -> None:
            self._alive()
            try:
                producer.init_transactions(INIT_TRY_S)
            except KafkaException as error:
                if error.args[0].fatal():
                    raise Fatal(f"{self._id}: init_transactions: {error.args[0].str()}") from error
                raise

        until_success(
            init,
            what=f"init_transactions of {self._id}",
            errors=(KafkaException,),
            sleep=self._stopped.wait,
            stopped=self._stopped.is_set,
            on_failure=lambda error, wait: log(
                "transactions_not_ready", "warning", error=error, retry_in_s=f"{wait:.1f}"
            ),
        )
        self._producer = producer

    def begin(self) -> Producer:
        """The producer, with a transaction open. Join the former one first."""
        assert self._producer is not None and self._open is None
        with giving_up("begin"):
            self._producer.begin_transaction()
        return self._producer

    def commit(self, offsets: Sequence[TopicPartition], group: GroupMetadata) -> None:
        """Hand the open transaction to the helper thread."""
        assert self._producer is not None
        self._open = self._helper.submit(_finish, self._producer, list(offsets), group)

    def join(self) -> None:
        """Wait for the helper, a bounded time; GivenUp or Fatal if it could not commit."""
        if self._open is None:
            return
        open_, self._open = self._open, None
        try:
            seconds = open_.result(COMMIT_DEADLINE_S)
        except TimeoutError as error:
            raise Hung(f"{self._id}: a commit did not return within {COMMIT_DEADLINE_S:.0f} s") from error
        self._meter.inc("driftline_transactions_total", process=self._process, result="committed")
        self._meter.observe("driftline_transaction_seconds", seconds, process=self._process)

    def wait_until_readable(self) -> None:
        """After the last one, joined: return once its records can be read."""
        self.give_up()
        kafka.wait_until_readable(self._settings, self._id)

    def give_up(self) -> None:
        """Drop the producer and whatever it has open."""
        if self._producer is None:
            return
        self._producer.purge()
        self._producer, self._open = None, None

    def close(self) -> None:
        self._helper.shutdown(wait=False)


def _finish(producer: Producer, offsets: list[TopicPartition], group: GroupMetadata) -> float:
    """Send the offsets, commit; returns the seconds it took. Runs in the helper thread."""
    began = time.monotonic()
    _call("send_offsets", lambda left: producer.send_offsets_to_transaction(offsets, group, left))
    _call("commit", producer.commit_transaction)
    return time.monotonic() - began


def _call(name: str, action: Callable[[float], None]) -> None:
    """Call again while the error says so; past the transaction's timeout the outcome is unknown, which is given up too."""
    until = time.monotonic() + TRANSACTION_TIMEOUT_S
    while True:
        try:
            return action(max(1.0, until - time.monotonic()))
        except KafkaException as error:
            said = f"{name}: {error.args[0].name()}: {error.args[0].str()}"
            match kafka.decide(error):
                case "fatal":
                    raise Fatal(said) from error
                case "abort":
                    raise GivenUp(said) from error
                case "retry" if time.monotonic() >= until:
                    raise GivenUp(f"{said}; no success within the transaction's timeout") from error
            time.sleep(0.1)


@contextmanager
def giving_up(name: str) -> Iterator[None]:
    """Around begin and produce: after an error there is nothing to retry, the batch is read again."""
    try:
        yield
    except KafkaException as error:
        kafka_error = error.args[0]
        stop = Fatal if kafka_error.fatal() else GivenUp
        raise stop(f"{name}: {kafka_error.name()}: {kafka_error.str()}") from error
    except BufferError as error:
        raise GivenUp(f"{name}: {error}") from error
