"""EDGE. What the controller hears: the latest word about each episode, and every request by people."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Literal

from confluent_kafka import KafkaException, Message

from batch.decisions import Episode, Request
from batch.train import model_name
from pipeline import topics
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.kafka import follow, json_of
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms

REQUESTED = ("retrain", "promote", "rollback")


class Heard:
    """The latest word about each episode, and every request about the model, if there is one, as two threads read them."""

    def __init__(self, contract: Contract):
        self._contract, self._lock = contract, threading.Lock()
        self._episodes: dict[str, Episode] = {}
        self._requests: dict[str, Request] = {}
        self._handlers = {topics.ALERTS: self.alert, **({topics.REQUESTS: self.request} if contract.label else {})}
        self._ends = {topic: threading.Event() for topic in self._handlers}

    @property
    def caught_up(self) -> bool:
        """The topics were read to their end once: before that, an old alert could look like the newest."""
        return all(end.is_set() for end in self._ends.values())

    def listen(self, settings: Settings, stopped: threading.Event) -> list[threading.Thread]:
        def run(topic: str) -> None:
            while not stopped.is_set():
                try:
                    follow(settings, topic, stopped, self._handlers[topic], caught_up=self._ends[topic].set)
                except (KafkaException, Unreachable) as error:
                    log("follow_failed", "warning", topic=topic, error=error)
                    stopped.wait(1.0)

        threads = [threading.Thread(target=run, args=(t,), name=t, daemon=True) for t in self._handlers]
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
        found = episode_of(json_of(message), self._contract)
        if found:
            with self._lock:
                before = self._episodes.get(found.id)
                fired = found.state == "firing" or bool(before and before.seen_firing)
                moved, causes = (before.moved, before.causes) if before else (frozenset(), frozenset())
                self._episodes[found.id] = replace(
                    found, seen_firing=fired, moved=found.moved | moved, causes=found.causes | causes
                )

    def request(self, message: Message) -> None:
        found = request_of(
            json_of(message), f"{message.topic()}[{message.partition()}]@{message.offset()}", model_name(self._contract)
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
        moved, causes = (_moved(body), _cause(body)) if source == "data" else (frozenset[str](), frozenset[str]())
        resolution = _text(body.get("resolution"))
        return Episode(str(body["episode"]), source, state, onset, high, resolution, moved=moved, causes=causes)
    except (KeyError, ValueError):
        return None


def _moved(alert: dict[str, object]) -> frozenset[str]:
    """Features whose evidence is past its threshold; one without such figures was named by another rule, and counts."""

    def alarmed(feature: dict[str, object]) -> bool:
        value, threshold = feature.get("e_value"), feature.get("threshold")
        return value is None or threshold is None or float(str(value)) >= float(str(threshold))

    return frozenset(str(f["feature"]) for f in _items(alert.get("features")) if alarmed(f))


def _cause(alert: dict[str, object]) -> frozenset[str]:
    return frozenset(str(c["kind"]) for c in _items(alert.get("causes"))[:1])


def _items(value: object) -> list[dict[str, object]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


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


def _text(value: object) -> str | None:
    return None if value is None else str(value)
