"""EDGE. The model in service: follows the ledger and swaps the champion by one reference assignment.

The ledger's topic decides, never the registry's alias. A model whose files do not match the ledger's digest, or whose
golden rows do not come out, is refused, and the last good one goes on. The last models stay in memory: going back to one
of them reads no file.
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
        self._wanted: Promotion | None = None
        self._taken = 0  # seq of the last entry
        self._warm: OrderedDict[str, Scorer] = OrderedDict()
        self._crowned: dict[str, Artifact] = {}  # by digest: all that ever served
        self._recalled: tuple[str, Scorer] | None = None  # the last one that `model_of` had to read
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> ChampionFollower:
        self._thread.start()
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
        if entry is None or entry.seq <= self._taken:
            return  # two publishers: a repeat or an older entry says nothing new
        self._crowned[entry.artifact.sha256] = entry.artifact
        self._taken, self._wanted = entry.seq, entry
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
        began = time.perf_counter()
        try:
            scorer = self._scorer(entry.artifact)
        except Exception as error:  # whatever is wrong with the files, the last good model goes on
            reason = error.reason if isinstance(error, BadBundle) else "content"
            log("model_refused", "error", model=self._model, version=entry.version, reason=reason, error=error)
            self._meter.inc(REFUSALS, model=self._model, reason=reason)
            self._meter.set(REFUSED, 1.0, model=self._model)
            return
        self.current = Champion(entry.version, entry.artifact.sha256, scorer)
        seconds = time.perf_counter() - began
        self._meter.set(REFUSED, 0.0, model=self._model)
        self._meter.set(VERSION, float(entry.version), model=self._model)
        self._meter.observe(LOAD_SECONDS, seconds, model=self._model)
        log("model_loaded", model=self._model, version=entry.version, seq=entry.seq, seconds=f"{seconds:.3f}")

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
