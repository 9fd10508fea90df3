"""What the demo sees of the running system: it follows the public topics, as any user could."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import Message

from pipeline import topics
from pipeline.contract import Contract
from pipeline.kafka import follow
from pipeline.settings import Settings

T = TypeVar("T")
Json = dict[str, object]


class StepFailed(Exception):
    """A step's condition did not come true before its deadline; the message says what was waited for and what was seen."""


class Watch:
    """Alerts, verdicts and ledger entries as they arrive, oldest first."""

    def __init__(self, settings: Settings, contract: Contract):
        self.alerts: list[Json] = []
        self.verdicts: list[Json] = []
        self.ledger: list[Json] = []
        self._stopped = threading.Event()
        self._contract = contract
        for topic, kept in (
            (topics.ALERTS, self.alerts),
            (topics.VERDICTS, self.verdicts),
            (topics.LEDGER, self.ledger),
        ):
            threading.Thread(
                target=follow, args=(settings, topic, self._stopped, self._keeper(kept)), daemon=True
            ).start()

    def close(self) -> None:
        self._stopped.set()

    def _keeper(self, kept: list[Json]) -> Callable[[Message], None]:
        def keep(message: Message) -> None:
            entry = json.loads(message.value())
            if entry.get("contract", entry.get("contract_version", self._contract.name)) in (
                self._contract.name,
                self._contract.version,
            ):
                kept.append(entry)

        return keep

    def windows(self, feature: str, segment: str = "*") -> list[Json]:
        """Latest revision of each window of one feature, in window order."""
        latest: dict[str, Json] = {}
        for v in list(self.verdicts):
            if (v["feature"], v["segment"]) == (feature, segment):
                latest[str(v["window_start"])] = v
        return [latest[start] for start in sorted(latest)]


def wait_for(
    condition: Callable[[], T],
    deadline_s: float,
    what: str,
    seen: Callable[[], object] = lambda: "",
    alive: Callable[[], None] = lambda: None,
) -> T:
    """The first truthy value of the condition. `alive` raises when waiting has become pointless (a process died)."""
    until = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        alive()
        if time.monotonic() > until:
            raise StepFailed(f"waited {deadline_s:.0f} s for {what}; seen so far: {seen() or 'nothing'}")
        time.sleep(0.1)
