"""PURE. OpenLineage events (spec 2-0-2) as JSON: what was read, by what, into what, and which assertions held.

A run is short, a minute of a process that never ends or one training, for consumers show a run when it completes. Its id
is a UUIDv5 of job, outputs and key, so an event that is sent twice names the same run. A topic's version is the raw
offsets that were taken, a table's is its commit. Knows no transport (`lineage_send`) and no process.
"""

from __future__ import annotations

import functools
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version

from pipeline.times import to_text

NAMESPACE = "driftline"  # of jobs
MOST_VERDICTS = 500  # in one event, failed ones first: a replay judges a year of windows in a minute
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "datasetVersion": "1-0-1/DatasetVersionDatasetFacet",
    "datasetType": "1-0-1/DatasetTypeDatasetFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "dataQualityAssertions": "1-1-0/DataQualityAssertionsDatasetFacet",
    "inputStatistics": "1-0-0/InputStatisticsInputDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "tags": "1-0-0/TagsRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
}
Json = dict[str, object]
Ranges = Mapping[int, tuple[int, int]]  # partition -> [first, last + 1)


@dataclass(frozen=True, slots=True)
class Assertion:
    """A check and whether it held; `expected` and `actual` are text."""

    assertion: str  # what kind of check
    success: bool
    name: str | None = None
    description: str | None = None
    severity: str | None = None  # error or warn
    expected: str | None = None
    actual: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    namespace: str
    name: str
    version: str | None = None
    kind: str | None = None  # TOPIC, TABLE, FILE, MODEL
    rows: int | None = None
    fields: tuple[tuple[str, str], ...] = ()  # name, type
    assertions: tuple[Assertion, ...] = ()  # of an input


@dataclass(frozen=True, slots=True)
class Run:
    job: str  # sales.train
    key: str  # what tells this run from the job's others
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{self.job}/{self.key}"))


def started(run: Run, at_ms: int) -> Json:
    """START names the run and its inputs; what was measured of them, and the outputs, come with the end."""
    named = tuple(replace(d, rows=None, fields=(), assertions=()) for d in run.inputs)
    return _event("START", Run(run.job, run.key, named), at_ms)


def completed(run: Run, at_ms: int) -> Json:
    return _event("COMPLETE", run, at_ms)


def failed(run: Run, at_ms: int, message: str) -> Json:
    return _event(
        "FAIL", run, at_ms, {"errorMessage": _facet("errorMessage", message=message, programmingLanguage="PYTHON")}
    )


def whole(run: Run, began_ms: int, ended_ms: int) -> tuple[Json, Json]:
    """START and COMPLETE of a run that is over: nothing dangles if the process dies in the middle."""
    return started(run, began_ms), completed(run, ended_ms)


def kafka_namespace(bootstrap: str) -> str:
    """`kafka://host:port` of the first broker.

    >>> kafka_namespace("127.0.0.1:9092,127.0.0.1:9192")
    'kafka://127.0.0.1:9092'
    """
    return f"kafka://{bootstrap.partition(',')[0]}"


def ranges_text(ranges: Ranges) -> str:
    """
    >>> ranges_text({1: (0, 10), 0: (5, 9)})
    '0@5-9,1@0-10'
    """
    return ",".join(f"{p}@{start}-{end}" for p, (start, end) in sorted(ranges.items()))


@dataclass(slots=True)
class Tally:
    """What a process did since it began, by dataset name; `run` makes a run of it."""

    taken: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    versions: dict[str, str] = field(default_factory=dict)
    rejects: Counter[str] = field(default_factory=Counter)  # by reason code
    verdicts: list[Assertion] = field(default_factory=list)

    def take(self, topic: str, partition: int, start: int, end: int) -> None:
        """[start, end) of a partition; the next call goes on where this one ends."""
        ranges = self.taken.setdefault(topic, {})
        first, last = ranges.get(partition, (start, end))
        ranges[partition] = min(first, start), max(last, end)

    def count(self, name: str, records: int, version: str | None = None) -> None:
        """Records read from or written to a dataset, and the version that it has by now."""
        self.rows[name] += records
        if version is not None:
            self.versions[name] = version

    def run(
        self, job: str, key: str, inputs: Sequence[Dataset], outputs: Sequence[Dataset], rules: Sequence[str]
    ) -> Run:
        """`rules`: reason codes of the record rules; their assertions, like the verdicts, are about the first input."""
        codes = dict.fromkeys([*rules, *self.rejects])
        worst_first = sorted(self.verdicts, key=lambda a: a.success)[:MOST_VERDICTS]
        checked = (*(_record_rule(code, self.rejects[code]) for code in codes), *worst_first)
        read = tuple(replace(self._measured(d), assertions=() if i else checked) for i, d in enumerate(inputs))
        return Run(job, key, read, tuple(self._measured(d) for d in outputs if d.name in self.rows))

    def _measured(self, d: Dataset) -> Dataset:
        text = ranges_text(self.taken[d.name]) if d.name in self.taken else self.versions.get(d.name)
        return replace(d, version=text, rows=self.rows.get(d.name))


def _record_rule(code: str, rejected: int) -> Assertion:
    return Assertion(code, rejected == 0, severity="error", expected="0 records", actual=f"{rejected} records")


def _event(kind: str, run: Run, at_ms: int, facets: Json | None = None) -> Json:
    tags = [{"key": k, "value": v, "source": "driftline"} for k, v in run.tags.items()]
    return {
        "eventType": kind,
        "eventTime": to_text(at_ms),
        "run": {"runId": run.id, "facets": {**({"tags": _facet("tags", tags=tags)} if tags else {}), **(facets or {})}},
        "job": {
            "namespace": NAMESPACE,
            "name": run.job,
            "facets": {"jobType": _facet("jobType", processingType="BATCH", integration="DRIFTLINE", jobType="JOB")},
        },
        "inputs": [_dataset(d, "input") for d in run.inputs],
        "outputs": [_dataset(d, "output") for d in run.outputs],
        "producer": _producer(),
        "schemaURL": SPEC,
    }


def _dataset(d: Dataset, side: str) -> Json:
    facets: Json = {}
    if d.version is not None:
        facets["datasetVersion"] = _facet("datasetVersion", datasetVersion=d.version)
    if d.kind is not None:
        facets["datasetType"] = _facet("datasetType", datasetType=d.kind)
    if d.fields:
        columns = [{"name": n, "type": t, "fields": []} for n, t in d.fields]
        facets["schema"] = _facet("schema", fields=columns)
    own: Json = {}
    if d.rows is not None:
        own[f"{side}Statistics"] = _facet(f"{side}Statistics", rowCount=d.rows)
    if d.assertions and side == "input":
        own["dataQualityAssertions"] = _facet("dataQualityAssertions", assertions=[_assertion(a) for a in d.assertions])
    return {"namespace": d.namespace, "name": d.name, "facets": facets, f"{side}Facets": own}


def _assertion(a: Assertion) -> Json:
    return {**{k: v for k, v in asdict(a).items() if v is not None}, "params": {}}


def _facet(name: str, **fields: object) -> Json:
    number, kind = _FACETS[name].split("/")
    return {
        "_producer": _producer(),
        "_schemaURL": f"https://openlineage.io/spec/facets/{number}/{kind}.json#/$defs/{kind}",
        **fields,
    }


@functools.cache
def _producer() -> str:
    return f"urn:driftline:{version('driftline')}"
