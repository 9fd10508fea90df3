"""EDGE. The model in service: follows the ledger and swaps the champion by one reference assignment.

The ledger's topic decides, never the registry's alias. A model whose files do not match the ledger's digest, or whose
golden rows do not come out, is refused, and the last good one goes on: that which serves, or, in a worker that has just
started, the newest former champion whose files are sound. A refused one is looked at again, for its files may be brought
back. The last models stay in memory: going back to one of them reads no file.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import msgspec
from confluent_kafka import Message

from batch.model import BadBundle, Scorer, load, locate
from pipeline.errors import DriftlineError
from pipeline.kafka import follow
from pipeline.logs import log
from pipeline.meter import Meter
from pipeline.settings import Settings
from pipeline.topics import LEDGER
from serving.scoring import Champion

CHAMPION_ACTIONS = ("promote", "rollback")
AGAIN_S = 5.0  # between two looks at the files of a model that was refused
WARM = 3  # models kept: the champion, the former one, one more; a few MB each

REFUSED = "driftline_serving_model_refused"
REFUSALS = "driftline_models_refused_total"
VERSION = "driftline_serving_model_version"
LOAD_SECONDS = "driftline_model_load_seconds"


class Artifact(msgspec.Struct, frozen=True):
    uri: str
    sha256: str


class Promotion(msgspec.Struct, frozen=True):
    """What serving needs of a ledger entry."""

    seq: int
    model: str
    version: str
    action: str
    artifact: Artifact


class ChampionFollower:
    """`current` is None until a promoted model was loaded; `ready` once the ledger was read to its end."""

    def __init__(
        self, settings: Settings, model: str, meter: Meter, check: Callable[[Scorer], None] = lambda scorer: None
    ):
        self.current: Champion | None = None
        self.ready = threading.Event()
        self._settings, self._model, self._meter, self._check = settings, model, meter, check
        self._entries: list[Promotion] = []  # in the order of the ledger
        self._refused: Promotion | None = None  # the last entry, while its files are not taken
        self._loading = threading.Lock()
        self._warm: OrderedDict[str, Scorer] = OrderedDict()
        self._crowned: dict[str, Artifact] = {}  # by digest: all that ever served
        self._recalled: tuple[str, Scorer] | None = None  # the last one that `model_of` had to read
        self._stopped = threading.Event()

    def start(self) -> ChampionFollower:
        for name, run in (("ledger", self._run), ("refused", self._look_again)):
            threading.Thread(target=run, name=name, daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped.set()

    def model_of(self, digest: str) -> Scorer | None:
        """A model that serves or has served, by its digest; None if its files are gone, or refused. Any thread may ask."""
        kept, artifact = self._recalled, self._crowned.get(digest)
        if (scorer := self._warm.get(digest)) is not None or artifact is None:
            return scorer
        if kept is None or kept[0] != digest:
            try:
                kept = (digest, load(locate(self._settings.home, artifact.uri), digest))
            except (DriftlineError, OSError) as error:
                log("model_not_recalled", "warning", model=self._model, digest=digest[:16], error=error)
                return None
            self._recalled = kept
        return kept[1]

    def _run(self) -> None:
        try:
            follow(self._settings, LEDGER, self._stopped, self._read, caught_up=self._caught_up)
        except Exception as error:  # a worker that no longer hears of decisions must not go on answering
            log("ledger_lost", "error", model=self._model, error=error)
            os._exit(70)

    def _read(self, message: Message) -> None:
        """While catching up only the last promotion counts; afterwards each one is loaded as it comes."""
        entry = promotion(message.value() or b"", self._model)
        if entry is None or (self._entries and entry.seq <= self._entries[-1].seq):
            return  # two publishers: a repeat or an older entry says nothing new
        self._crowned[entry.artifact.sha256] = entry.artifact
        self._entries.append(entry)
        if self.ready.is_set():
            self._load()

    def _caught_up(self) -> None:
        if not self.ready.is_set():
            self._load()
            self.ready.set()

    def _load(self) -> None:
        """The last champion; in a worker that serves none yet the newest one that can be."""
        with self._loading:
            for entry in reversed(self._entries):
                newest = entry is self._entries[-1]
                if self._take(entry, newest):
                    if not newest:
                        log("model_stands_in", "warning", model=self._model, version=entry.version, seq=entry.seq)
                    return
                if self.current is not None:
                    return

    def _look_again(self) -> None:
        while not self._stopped.wait(AGAIN_S):
            with self._loading:
                if self._refused is not None:
                    self._take(self._refused, True)

    def _take(self, entry: Promotion, newest: bool) -> bool:
        """Serve by the entry from now on; False, told once, if its files are not to be trusted. `newest`: it is the champion."""
        began, again = time.perf_counter(), entry is self._refused
        try:
            scorer = self._scorer(entry.artifact)
        except Exception as error:  # whatever is wrong with the files, the last good model goes on
            if not again:
                reason = error.reason if isinstance(error, BadBundle) else "content"
                log("model_refused", "error", model=self._model, version=entry.version, reason=reason, error=error)
                self._meter.inc(REFUSALS, model=self._model, reason=reason)
                self._meter.set(REFUSED, 1.0, model=self._model)
            self._refused = entry if newest else self._refused
            return False
        self.current = Champion(entry.version, entry.artifact.sha256, scorer)
        seconds = time.perf_counter() - began
        if newest:
            self._refused = None
            self._meter.set(REFUSED, 0.0, model=self._model)
        self._meter.set(VERSION, float(entry.version), model=self._model)
        self._meter.observe(LOAD_SECONDS, seconds, model=self._model)
        log("model_loaded", model=self._model, version=entry.version, seq=entry.seq, seconds=f"{seconds:.3f}")
        return True

    def _scorer(self, artifact: Artifact) -> Scorer:
        """A loaded model is what its digest says; one in memory needs no second look at its files."""
        bundle, scorer = locate(self._settings.home, artifact.uri), self._warm.get(artifact.sha256)
        if scorer is None:
            scorer = load(bundle, artifact.sha256)
            self._check(scorer)
        self._warm[artifact.sha256] = scorer
        self._warm.move_to_end(artifact.sha256)
        while len(self._warm) > WARM:
            self._warm.popitem(last=False)
        return scorer


def promotion(value: bytes, model: str) -> Promotion | None:
    """The entry, if it names a champion of this model; what is no such entry is passed over, a damaged one is logged."""
    try:
        head = msgspec.json.decode(value)
        if not isinstance(head, Mapping) or head.get("model") != model or head.get("action") not in CHAMPION_ACTIONS:
            return None
        entry = msgspec.convert(head, Promotion)
        float(entry.version)
        return entry
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log("ledger_entry_unreadable", "error", model=model, error=error)
        return None
