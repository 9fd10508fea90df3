"""EDGE. Faust's app with a driver of our own: read_committed, our positions, no commit of its own.

Faust stays what it is good at here: group membership, fetching, an async stream of messages. Nothing is patched: the
isolation level is set between construction and start of the consumer and asserted after it, so that a new aiokafka
fails at start and not in the data.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from pipeline import topics
from pipeline.kafka import password
from pipeline.logs import log
from pipeline.settings import Settings

FETCH_WAIT_MS = 100  # Faust's own 1500 would keep a partition with news waiting for a fetch of the quiet ones
SESSION_S = 8.0  # a killed process's successor waits this long; Faust's own is a minute
READ_COMMITTED = 1  # as on the wire
Positions = Callable[[set[TP]], Awaitable[Mapping[TP, int]]]


class Thread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: driver.Transport) -> object:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        assert self._consumer is not None
        level = self._consumer._fetcher._isolation_level
        assert level == READ_COMMITTED, f"aiokafka fetches with isolation level {level}, expected read_committed"

    def highwater(self, tp: TP) -> int:
        return self._ensure_consumer().last_stable_offset(tp)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return await self.call_thread(self._seek_own)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Not while the group rebalances: the broker reads nothing of a member behind its JoinGroup, so the commit arrives with
        the former generation, aiokafka answers that by joining anew, and two members kept each other at it for ever."""
        coordinator = self._ensure_consumer()._coordinator
        return not coordinator._rejoin_needed_fut.done() and await super()._commit(offsets)

    async def _seek_own(self) -> Mapping[TP, int]:
        """The one place where Faust is positioned; called on every assignment, for the partitions it keeps too."""
        consumer = self._ensure_consumer()
        positions = await self.app.own_positions({TP(t.topic, t.partition) for t in consumer.assignment()})
        for tp, offset in positions.items():
            consumer.seek(driver.ensure_aiokafka_TP(tp), offset)
        return positions


class Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> Thread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return True


class Transport(driver.Transport):
    Consumer = Consumer


class App(faust.App):
    own_positions: Positions

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """None: Faust would make `<app id>-data` for its tables where the process was started, and we have no tables."""

    async def show_progress(self, offsets: Mapping[TP, int]) -> bool:
        """Commit for lag tools only; nothing reads it back. False while the group rebalances."""
        return await self.consumer._thread.commit(dict(offsets))


def build(settings: Settings, dataset: str, own_positions: Positions, **more: object) -> App:
    """The app of a dataset's drift group. Never give it an empty group instance id: two members would fight for ever."""
    app = App(
        topics.group(dataset, "drift"),
        broker=f"kafka://{settings.bootstrap.replace(',', ';')}",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        store="memory://",
        value_serializer="raw",
        key_serializer="raw",
        consumer_max_fetch_size=4 << 20,
        broker_max_poll_records=50,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=SESSION_S / 4,
        **_security(settings),
        **more,
    )
    app.own_positions = own_positions
    return app


def _security(settings: Settings) -> dict[str, object]:
    if settings.security.profile == "plain":
        return {}
    context = ssl.create_default_context(cafile=settings.security.ca_file)
    return {
        "broker_credentials": faust.SASLCredentials(
            mechanism="SCRAM-SHA-512",
            username=settings.security.username,
            password=password(settings),
            ssl_context=context,
        )
    }


class _OncePerMinute(logging.Handler):
    """aiokafka writes 1,800 error lines in 25 s while a broker is away (measured): say each kind once a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind, now = f"{record.name}:{record.msg}"[:200], time.monotonic()
        if now - self._said.get(kind, -60.0) >= 60:
            self._said[kind] = now
            log("library", record.levelname.lower(), name=record.name, message=record.getMessage()[:500])


def quiet_libraries() -> None:
    for name in ("aiokafka", "faust", "mode", "kafka"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_OncePerMinute()], False
        logger.setLevel(logging.WARNING)
