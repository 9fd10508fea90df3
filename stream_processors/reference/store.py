"""EDGE. References as processes see them: records on `drift.references`, Arrow files beside the lake.

A version is used once all its records have arrived. The topic is compacted, so the newest record of a version also
names the versions before it, whose files stay where they are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec
from confluent_kafka import Message

from pipeline import topics
from pipeline.errors import Fatal
from pipeline.kafka import follow, read_all
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms
from stream_processors.judging.panes import Key
from stream_processors.judging.timeline import Members, ReferenceSet, Timeline
from stream_processors.reference import cells

LOADED_SETS = 3  # versions kept in memory; an older one is read again if a late row needs it


class ReferenceRecord(msgspec.Struct, frozen=True):
    """One feature and segment of one version; key `contract/feature/segment`."""

    contract: str  # dataset, e.g. sales
    feature: str
    segment: str
    kind: str
    version: int
    effective_from: str
    rows: int
    cells: int
    digest: str
    uri: str
    set_size: int  # records of this version
    earlier: tuple[tuple[int, str], ...] = ()  # (version, effective_from) of the versions before
    model: str = ""  # version of the model whose answers these are; empty = no answers

    @property
    def key(self) -> str:
        return f"{self.contract}/{self.feature}/{self.segment}"


decode_record = msgspec.json.Decoder(ReferenceRecord).decode


class ReferenceStore:
    """The timeline of one dataset, fed with records in topic order; safe to read from any thread."""

    def __init__(self, dataset: str):
        self.timeline = Timeline()
        self.caught_up = threading.Event()
        self._dataset = dataset
        self._records: dict[int, dict[Key, ReferenceRecord]] = {}
        self._loaded: OrderedDict[int, Members] = OrderedDict()
        self._lock = threading.Lock()

    def handle(self, message: Message) -> None:
        if message.value() is not None and (message.key() or b"").decode().startswith(f"{self._dataset}/"):
            self.add(decode_record(message.value()))

    def add(self, record: ReferenceRecord) -> None:
        members = self._records.setdefault(record.version, {})
        members[record.feature, record.segment] = record
        if len(members) < record.set_size or record.version in {s.version for s in self.timeline.sets}:
            return
        directory = Path(record.uri).parent
        sets = {s.version: s for s in self.timeline.sets}
        for version, since in record.earlier:
            sets.setdefault(version, self._set(version, to_ms(since), directory.parent / f"v{version}"))
        sets[record.version] = self._set(record.version, to_ms(record.effective_from), directory)
        self.timeline = Timeline(tuple(sets[v] for v in sorted(sets)))
        log("reference_known", dataset=self._dataset, version=record.version, effective_from=record.effective_from)

    def follow(self, settings: Settings, stopped: threading.Event) -> threading.Thread:
        """Follow the topic in a thread for as long as the process lives."""
        thread = threading.Thread(
            target=lambda: follow(settings, topics.REFERENCES, stopped, self.handle, caught_up=self.caught_up.set),
            name="references",
            daemon=True,
        )
        thread.start()
        return thread

    def records(self, version: int) -> dict[Key, ReferenceRecord]:
        return self._records.get(version, {})

    def _set(self, version: int, effective_from: int, directory: Path) -> ReferenceSet:
        return ReferenceSet(version, effective_from, self._loader(version, directory))

    def _loader(self, version: int, directory: Path) -> Callable[[], Members]:
        def load() -> Members:
            with self._lock:
                if version not in self._loaded:
                    self._loaded[version] = self._read(version, directory)
                    while len(self._loaded) > LOADED_SETS:
                        self._loaded.popitem(last=False)
                self._loaded.move_to_end(version)
                return self._loaded[version]

        return load

    def _read(self, version: int, directory: Path) -> Members:
        members = {}
        for file in sorted(directory.glob("*.arrow")):
            reference = cells.from_arrow(file.read_bytes())
            told = self._records.get(version, {}).get((reference.feature, reference.segment))
            if told and told.digest != cells.digest(reference):
                raise Fatal(
                    f"{file}: expected digest {told.digest}, got {cells.digest(reference)}; publish the reference again"
                )
            members[reference.feature, reference.segment] = reference
        if not members:
            raise Fatal(
                f"{directory}: expected the files of reference version {version}, got none; is DRIFTLINE_LAKE the same everywhere?"
            )
        return members


def read_store(settings: Settings, dataset: str, deadline_s: float = 30) -> ReferenceStore:
    """The store as of now, for one-shot verbs."""
    store = ReferenceStore(dataset)
    for message in read_all(settings, topics.REFERENCES, deadline_s=deadline_s):
        store.handle(message)
    store.caught_up.set()
    return store
