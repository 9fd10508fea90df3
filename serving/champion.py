"""EDGE. The model in service: follows the ledger and swaps the champion by one reference assignment.

The ledger's topic decides, never the registry's alias. A model whose files do not match the ledger's digest, or whose
golden rows do not come out, is refused, and the last good one goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Message

from batch.model import Scorer, load
from pipeline.kafka import follow
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.topics import LEDGER

CHAMPION_ACTIONS = ("promote", "rollback")


@dataclass(frozen=True, slots=True)
class Champion:
    version: str
    digest: str
    scorer: Scorer


class ChampionFollower:
    """`current` is None until a promoted model was loaded; `ready` once the ledger was read to its end."""

    def __init__(self, settings: Settings, model: str, on_swap: Callable[[Champion], None] = lambda champion: None):
        self.current: Champion | None = None
        self.ready = threading.Event()
        self._settings, self._model, self._on_swap = settings, model, on_swap
        self._wanted: dict[str, object] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> ChampionFollower:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        follow(self._settings, LEDGER, self._stopped, self._read, caught_up=self._caught_up)

    def _read(self, message: Message) -> None:
        """While catching up only the last promotion counts; afterwards each one is loaded as it comes."""
        entry = json.loads(message.value())
        if entry["model"] == self._model and entry["action"] in CHAMPION_ACTIONS:
            self._wanted = entry
            if self.ready.is_set():
                self._load()

    def _caught_up(self) -> None:
        if not self.ready.is_set():
            self._load()
            self.ready.set()

    def _load(self) -> None:
        entry, self._wanted = self._wanted, None
        if entry is None:
            return
        artifact = entry["artifact"]
        try:
            scorer = load(self._settings.home / str(artifact["uri"]), str(artifact["sha256"]))
        except Exception as error:  # whatever is wrong with the files, the last good model goes on
            log("model_refused", "error", model=self._model, version=entry["version"], error=error)
            return
        self.current = Champion(str(entry["version"]), str(artifact["sha256"]), scorer)
        log("model_loaded", model=self._model, version=entry["version"], seq=entry["seq"])
        self._on_swap(self.current)
