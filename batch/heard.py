"""EDGE. What the controller hears: the latest word about each episode, and every request by people."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Literal

from confluent_kafka import KafkaException, Message

from batch.decisions import Episode, Request
from batch.train import model_name
from pipeline import topics
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.kafka import follow
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms

REQUESTED = ("retrain", "promote", "rollback")


class Heard:
    """The latest word about each episode, and every request, as two threads read them."""

    def __init__(self, contract: Contract):
        self._contract, self._lock = contract, threading.Lock()
        self._episodes: dict[str, Episode] = {}
        self._requests: dict[str, Request] = {}
        self._ends = {topics.ALERTS: threading.Event(), topics.REQUESTS: threading.Event()}

    @property
    def caught_up(self) -> bool:
        """Both topics were read to their end once: before that, an old alert could look like the newest."""
        return all(end.is_set() for end in self._ends.values())

    def listen(self, settings: Settings, stopped: threading.Event) -> list[threading.Thread]:
        handlers = {topics.ALERTS: self.alert, topics.REQUESTS: self.request}

        def run(topic: str) -> None:
            while not stopped.is_set():
                try:
                    follow(settings, topic, stopped, handlers[topic], caught_up=self._ends[topic].set)
                except (KafkaException, Unreachable) as error:
                    log("follow_failed", "warning", topic=topic, error=error)
                    stopped.wait(1.0)

        threads = [threading.Thread(target=run, args=(t,), name=t, daemon=True) for t in handlers]
        for thread in threads:
            thread.start()
        return threads

    def episodes(self) -> list[Episode]:
        with self._lock:
            return list(self._episodes.values())

    def requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests.values())

    def alert(self, message: Message) -> None:
        found = episode_of(_json(message), self._contract)
        if found:
            with self._lock:
                before = self._episodes.get(found.id)
                fired = found.state == "firing" or bool(before and before.seen_firing)
                self._episodes[found.id] = replace(found, seen_firing=fired)

    def request(self, message: Message) -> None:
        found = request_of(
            _json(message), f"{message.topic()}[{message.partition()}]@{message.offset()}", model_name(self._contract)
        )
        if found:
            with self._lock:
                self._requests[found.id] = found


def episode_of(body: dict[str, object], contract: Contract) -> Episode | None:
    """An alert of this contract as an episode; None for another dataset's, or for what is no alert."""
    try:
        if body.get("dataset", contract.id) != contract.id or body["state"] not in ("pending", "firing", "resolved"):
            return None
        source: Literal["data", "loss"] = "loss" if body["source"] == "loss" else "data"
        onset = to_ms(str(body.get("onset") or body["event_time"]))
        high = to_ms(str(body["onset_high"])) if body.get("onset_high") else onset
        state: Literal["pending", "firing", "resolved"] = body["state"]  # type: ignore[assignment]
        return Episode(str(body["episode"]), source, state, onset, high, _text(body.get("resolution")))
    except (KeyError, ValueError):
        return None


def request_of(body: dict[str, object], id: str, model: str) -> Request | None:
    """A request for this model; None for what is meant for somebody else."""
    action = body.get("action")
    if action not in REQUESTED or body.get("model", model) != model:
        return None
    kind: Literal["retrain", "promote", "rollback"] = action  # type: ignore[assignment]
    try:
        expires = to_ms(str(body["expires"])) / 1000 if body.get("expires") else None
    except ValueError:
        return None
    return Request(
        id,
        kind,
        _text(body.get("version")),
        str(body.get("actor", "unknown")),
        str(body.get("reason", "")),
        body.get("force") is True,
        expires,
    )


def _json(message: Message) -> dict[str, object]:
    try:
        body = json.loads(message.value() or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
