"""PURE. The data contract as types: what a dataset promises, compiled from one YAML file.

Knows no YAML (`contract_file` reads it), no JSON (`decode` compiles the record checks), no Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import pyarrow as pa

LogicalType = Literal["string", "integer", "number", "boolean", "date", "timestamp"]
Severity = Literal["info", "degraded", "critical"]
Status = Literal["ok", "degraded", "critical", "unknown"]
Classification = Literal["public", "internal", "confidential", "personal"]

ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
}

# Columns that a block and a lake row carry beside the contract's own.
RAW_OFFSET = "raw_offset"  # int64, offset of the record in the raw topic
APPEND_TIME = "append_time"  # timestamp[ms, UTC], when the broker appended it
REJECT = "reject"  # reason code, null = valid (blocks only)
RAW_PARTITION = "raw_partition"  # int32 (lake only; in a block it is a header)
RESERVED = (RAW_OFFSET, APPEND_TIME, REJECT, RAW_PARTITION, "event_date")  # no field may be called so


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record; every bound is inclusive; None means "no such rule"."""

    name: str
    type: LogicalType
    required: bool = False  # present and not null
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None  # anchored at both ends
    format: str | None = None  # strftime format of a date or timestamp; None = ISO 8601
    allowed: tuple[str, ...] | None = None
    classification: Classification = "internal"
    description: str = ""

    @property
    def arrow_type(self) -> pa.DataType:
        return ARROW_TYPES[self.type]


@dataclass(frozen=True, slots=True)
class CrossFieldRule:
    """A record rule over several fields: `when` holds => `then` must hold (both as polars-free comparisons).

    Each side is a tuple of (field, op, value) joined by "and"; op is one of == != < <= > >= matches.
    An empty `when` always holds.
    """

    name: str
    when: tuple[tuple[str, str, object], ...]
    then: tuple[tuple[str, str, object], ...]
    code: str  # stable reject code
    field: str  # the field named in the reject


@dataclass(frozen=True, slots=True)
class DatasetRule:
    """A rule over the rows of a window: it gives a verdict, not a dead letter."""

    name: str  # unique in the contract, used in sales.quality and in messages
    kind: Literal["row_count", "mean", "unique", "freshness"]
    columns: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    severity: Severity = "degraded"
    window: timedelta | None = None  # event time; None = the whole run (the whole table)
    description: str = ""


Rhythm = Literal["auto", "none", "hour", "week"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The smallest effect worth a page; 0 = none is too small, so whatever is significant pages."""

    kind: Literal["distance", "wasserstein", "share"] = "distance"  # D; the feature's own units; share points
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class MonitoredFeature:
    """A column watched for drift."""

    name: str
    kind: Literal["numeric", "categorical"]
    tolerance: Tolerance = Tolerance()
    weight: float = 1.0  # share of the page budget, relative
    rhythm: Rhythm | None = None  # None = the plan's


REJECTS = MonitoredFeature(REJECT, "categorical")  # reason codes, and `valid`; no column, so no field can shadow it

SCORE = "score"  # the model's calibrated probability
CONFIDENCE = "confidence"  # max(p, 1 - p)
MODEL_VERSION = "model_version"  # that gave them
SCORES = (MonitoredFeature(SCORE, "numeric"), MonitoredFeature(CONFIDENCE, "numeric"))
SCORE_COLUMNS = (SCORE, CONFIDENCE, MODEL_VERSION)  # of a block of scores, so no field may be called so beside them


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """What windows are compared with: the training rows, those of the last week, or those of the last `span`."""

    kind: Literal["training", "last-week", "rolling"] = "training"
    span: timedelta = timedelta(days=7)
    every: timedelta = timedelta(days=1)  # how often a last-week or rolling reference is replaced
    rows: int = 200_000  # kept exactly; a larger sample is thinned to this many


@dataclass(frozen=True, slots=True)
class DriftPlan:
    features: tuple[MonitoredFeature, ...]
    segments: tuple[tuple[str, ...], ...] = ()  # each a tuple of categorical columns; the whole (`*`) is always there
    window: timedelta = timedelta(hours=1)  # of windows by rows: the pane, for they begin and end with one
    pane: timedelta = timedelta(minutes=5)
    pages: float = 1.0  # page budget: at most `pages` expected false pages ...
    pages_per: timedelta = timedelta(days=30)  # ... in this much event time, over everything monitored
    rule: Literal["bank", "scan", "confseq", "ks_alpha"] = "bank"
    alpha: float = 0.05  # of the published K-S critical value, and of rule ks_alpha
    window_rows: int | None = None  # windows by rows: whole panes until they hold this many on-time rows
    slide: timedelta | None = None  # windows begin this often and overlap; None = they tumble
    rhythm: Rhythm = "auto"
    dependence: Literal["auto", "none"] = "auto"
    reference: ReferencePlan = ReferencePlan()
    rejects: bool = True  # the share of rejected records is a feature too
    null_monitor: bool = True  # the monitor measures its own false-alarm rate
    scores: tuple[MonitoredFeature, ...] = ()  # what is watched of the model: its answers, what it knew of the past
    beside: tuple[MonitoredFeature, ...] = ()  # share the page budget, and are judged from another stream

    @property
    def watched(self) -> tuple[MonitoredFeature, ...]:
        """Everything that verdicts speak of: the features, the model's scores, the rejects unless they are switched off."""
        rejects = (REJECTS,) if self.rejects and self.features else ()
        return (*self.features, *self.scores, *rejects)

    @property
    def of_rows(self) -> DriftPlan:
        """What is judged from the rows themselves."""
        return replace(self, scores=(), beside=self.scores) if self.scores else self

    @property
    def of_scores(self) -> DriftPlan:
        """What is judged from the stream of scores."""
        others = replace(self, scores=()).watched
        return replace(self, features=self.scores, scores=(), rejects=False, beside=others)


@dataclass(frozen=True, slots=True)
class TimePlan:
    field: str  # the event-time field
    lateness: timedelta = timedelta(minutes=10)
    idle: timedelta = timedelta(seconds=5)  # wall clock
    future: timedelta | None = timedelta(hours=1)  # ahead of append time by more: reject time_future; None = off
    revise_within: timedelta | None = timedelta(days=14)  # None = off


@dataclass(frozen=True, slots=True)
class OutcomeLabel:
    """The label arrives later as a record of its own on `<dataset>.outcomes`, joined on `key`."""

    name: str  # e.g. returned
    key: str  # e.g. order_id
    delay: timedelta  # event time after which a missing label counts as missing


@dataclass(frozen=True, slots=True)
class MatchLabel:
    """The label is made from the events themselves: an event in whose `field` `pattern` is found marks an earlier row.

    It joins the latest earlier row (not itself a match) with equal `on` columns within `horizon`; matches without one are counted.
    Rows with a null in `on` carry no label.
    """

    name: str
    field: str
    pattern: str
    on: tuple[str, ...]
    horizon: timedelta


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """How a model's answers are held against what happened: the probability acted on, what each ending costs, by which slices."""

    threshold: float = 0.5
    true_negative: float = 0.0  # cost of a row, in whatever unit the contract's people think in
    false_positive: float = 1.0
    false_negative: float = 1.0
    true_positive: float = 0.0
    slices: tuple[str, ...] = ()  # fields with a list of allowed values


@dataclass(frozen=True, slots=True)
class HistoryFeature:
    """One number about an entity's past: what had arrived before the row did, over the `horizon` up to its event time."""

    name: str  # customer_rate_14d
    entity: str
    kind: Literal["count", "sum", "mean", "rate"]  # events; their amount; amount an event; share of positive labels
    horizon: timedelta


@dataclass(frozen=True, slots=True)
class HistoryEntity:
    name: str  # customer: as it stands in the keys of `<dataset>.features`
    field: str
    amount: tuple[str, ...] = ()  # numeric fields whose product is what an event is worth


@dataclass(frozen=True, slots=True)
class HistoryPlan:
    """What models know of an entity's past. A rate is shrunk: (positive + weight * prior) / (labelled + weight)."""

    entities: tuple[HistoryEntity, ...]
    features: tuple[HistoryFeature, ...]
    step: timedelta = timedelta(hours=6)  # horizons are whole steps of event time, the running one included
    prior: float = 0.5
    weight: float = 10.0


@dataclass(frozen=True, slots=True)
class Contract:
    """One dataset's contract. `id` names the dataset and prefixes its topics."""

    id: str
    version: str
    fields: tuple[Field, ...]
    key: str | None  # field whose value is the Kafka key
    time: TimePlan
    drift: DriftPlan
    rules: tuple[CrossFieldRule, ...] = ()
    dataset_rules: tuple[DatasetRule, ...] = ()
    label: OutcomeLabel | MatchLabel | None = None
    evaluation: EvaluationPlan = EvaluationPlan()
    history: HistoryPlan | None = None
    unknown_fields: Literal["reject", "ignore"] = "reject"
    valid_topic: bool = True  # also write <dataset>.valid
    partitions: int = 4
    description: str = ""
    owner: str = ""

    @property
    def name(self) -> str:
        """`sales@1.0.0`, as it stands in headers and verdicts."""
        return f"{self.id}@{self.version}"

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)

    @property
    def slices(self) -> tuple[str, ...]:
        """`region=north`, ...: every slice that live figures are told by; a closed set."""
        return tuple(f"{name}={value}" for name in self.evaluation.slices for value in self.field(name).allowed or ())

    @property
    def of_rows(self) -> Contract:
        """With the drift plan of what is judged from the rows themselves."""
        return replace(self, drift=self.drift.of_rows) if self.drift.scores else self

    @property
    def of_scores(self) -> Contract:
        """With the drift plan of what is judged from the stream of scores."""
        return replace(self, drift=self.drift.of_scores)

    @property
    def watched_history(self) -> tuple[str, ...]:
        """The history features that are watched beside the model's answers, as the model saw them."""
        answers = {f.name for f in SCORES}
        return tuple(f.name for f in self.drift.scores if f.name not in answers)

    @property
    def judges_scores(self) -> bool:
        """Whether the features of its drift plan are a model's answers and no fields of its own (`of_scores`)."""
        return SCORE in {f.name for f in self.drift.features} - {f.name for f in self.fields}

    @property
    def score_schema(self) -> pa.Schema:
        """What a block of scores holds of each row: its time and segments, its offset, the model's answer and what it knew
        of the past, as far as that is watched; `reject` is null."""
        plan = dict.fromkeys((self.time.field, *(c for s in self.drift.segments for c in s)))
        own = [pa.field(name, self.field(name).arrow_type) for name in plan]
        answers = [
            pa.field(SCORE, pa.float64()),
            pa.field(CONFIDENCE, pa.float64()),
            pa.field(MODEL_VERSION, pa.string()),
            *(pa.field(name, pa.float64()) for name in self.watched_history),
        ]
        return pa.schema([*own, pa.field(RAW_OFFSET, pa.int64()), *answers, pa.field(REJECT, pa.string())])

    @property
    def row_schema(self) -> pa.Schema:
        """The contract's columns, all nullable, in contract order."""
        return pa.schema([pa.field(f.name, f.arrow_type) for f in self.fields])

    @property
    def block_schema(self) -> pa.Schema:
        """What a block's batch holds: the contract's columns, then raw_offset, append_time, reject."""
        return (
            self.row_schema.append(pa.field(RAW_OFFSET, pa.int64()))
            .append(pa.field(APPEND_TIME, pa.timestamp("ms", tz="UTC")))
            .append(pa.field(REJECT, pa.string()))
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a record broke its contract: a value, never an exception."""

    code: str  # stable: syntax, type, range, not_null, format, allowed, unknown_field, time_future, size ...
    field: str  # "" where no field is to blame
    message: str  # expected ..., got ...
