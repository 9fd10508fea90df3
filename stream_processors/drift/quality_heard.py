"""EDGE. Dataset-rule verdicts as the drift process hears them, for the causes of an alert; nothing waits for them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

from confluent_kafka import Message

from pipeline import topics
from pipeline.kafka import follow
from pipeline.settings import Settings
from stream_processors.judging.causes import Quality, quality_of

KEPT = 500  # verdicts, the newest by arrival; each window and rule once


class QualityHeard:
    """Fed with messages in topic order; safe to read from any thread."""

    def __init__(self, dataset: str):
        self._dataset = dataset
        self._found: OrderedDict[tuple[str, int], Quality] = OrderedDict()
        self._lock = threading.Lock()

    def handle(self, message: Message) -> None:
        try:
            body = json.loads(message.value() or b"{}")
        except ValueError:
            return  # somebody else's message
        found = quality_of(body) if isinstance(body, dict) else None
        if found is None:
            return
        with self._lock:
            self._found[found.rule, found.start] = found
            self._found.move_to_end((found.rule, found.start))
            while len(self._found) > KEPT:
                self._found.popitem(last=False)

    def recent(self) -> tuple[Quality, ...]:
        with self._lock:
            return tuple(self._found.values())

    def follow(self, settings: Settings, stopped: threading.Event) -> threading.Thread:
        """Follow the topic in a thread for as long as the process lives."""
        topic = topics.quality(self._dataset)
        thread = threading.Thread(
            target=follow, args=(settings, topic, stopped, self.handle), name="quality", daemon=True
        )
        thread.start()
        return thread
