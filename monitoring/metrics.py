"""PURE. The metric catalogue: every metric's name, kind, unit, labels and meaning, in base units, in one place.

Label values come from closed sets (reason codes, features and segments of a contract, process and topic names, model
versions), never from data. `PrometheusMeter` is the sink that processes pass to `pipeline` as a `Meter`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (10, 100, 500, 1000, 2000, 4000, 8000, 16000)


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


CATALOGUE: tuple[Metric, ...] = (
    # every process
    Metric("driftline_process_info", "gauge", "1, with the process's name and contract.", ("process", "contract")),
    Metric("driftline_kafka_errors_total", "counter", "Errors reported by a Kafka client.", ("process", "code")),
    Metric("driftline_retries_total", "counter", "Remote calls tried again after a failure.", ("process", "target")),
    Metric(
        "driftline_circuit_open",
        "gauge",
        "1 while the circuit breaker around a remote call is open.",
        ("process", "target"),
    ),
    Metric(
        "driftline_lineage_events_total",
        "counter",
        "OpenLineage events sent, and dropped because no transport took them.",
        ("result",),
    ),
    Metric("driftline_process_restarts_total", "counter", "Restarts by the watchdog.", ("process", "reason")),
    Metric(
        "driftline_consumer_lag_records",
        "gauge",
        "Records between the process's position and the end of the partition.",
        ("process", "topic", "partition"),
    ),
    Metric("driftline_partitions", "gauge", "Partitions of the topic that the group reads.", ("process", "topic")),
    Metric("driftline_partitions_owned", "gauge", "Those of them that this process has.", ("process", "topic")),
    Metric(
        "driftline_oldest_unread_age_seconds",
        "gauge",
        "Age of the oldest record the process has not read yet; 0 when caught up.",
        ("process", "topic"),
    ),
    # producer
    Metric("driftline_events_produced_total", "counter", "Events acknowledged by the broker.", ("dataset",)),
    # validator
    Metric("driftline_records_validated_total", "counter", "Raw records judged, by outcome.", ("dataset", "outcome")),
    Metric("driftline_rejects_total", "counter", "Dead letters by reason.", ("dataset", "reason")),
    Metric("driftline_late_rows_total", "counter", "Valid rows behind their partition's watermark.", ("dataset",)),
    Metric("driftline_blocks_total", "counter", "Blocks written.", ("dataset",)),
    Metric("driftline_block_rows", "histogram", "Rows in a block.", ("dataset",), ROWS),
    Metric("driftline_transactions_total", "counter", "Transactions by result.", ("process", "result")),
    Metric("driftline_transaction_seconds", "histogram", "From begin to commit of a transaction.", ("process",)),
    Metric("driftline_validate_phase_seconds_total", "counter", "Validator time by phase.", ("dataset", "phase")),
    Metric(
        "driftline_reject_breaker_open",
        "gauge",
        "1 while a partition is stopped by the reject breaker.",
        ("dataset", "partition"),
    ),
    Metric("driftline_event_time_seconds", "gauge", "Newest event time seen, Unix seconds.", ("process", "dataset")),
    # drift
    Metric("driftline_blocks_summarised_total", "counter", "Blocks turned into counts.", ("dataset",)),
    Metric(
        "driftline_late_beyond_rows_total",
        "counter",
        "Rows too late to revise a window; they reach the lake.",
        ("dataset",),
    ),
    Metric(
        "driftline_rejects_unplaced_total",
        "counter",
        "Records before their partition's first valid row: no event time places them, so the share of rejects leaves them out.",
        ("dataset",),
    ),
    Metric(
        "driftline_scores_other_model_total",
        "counter",
        "Scores of another model version than the judging reference's: not counted.",
        ("dataset",),
    ),
    Metric(
        "driftline_score_blocks_repeated_total",
        "counter",
        "Blocks of scores that stood there already: the first one counts.",
        ("dataset",),
    ),
    Metric("driftline_scores_watermark_seconds", "gauge", "Watermark of the scores, Unix seconds.", ("dataset",)),
    Metric("driftline_windows_closed_total", "counter", "Windows closed, by kind of close.", ("dataset", "close")),
    Metric(
        "driftline_drift_statistic",
        "gauge",
        "K-S distance (numbers) or Jensen-Shannon distance (categories) of the last closed window.",
        ("dataset", "feature", "segment"),
    ),
    Metric(
        "driftline_drift_critical_value",
        "gauge",
        "Critical value of the K-S distance at the contract's alpha for the last closed window.",
        ("dataset", "feature", "segment"),
    ),
    Metric("driftline_drift_p_value", "gauge", "p-value of the last closed window.", ("dataset", "feature", "segment")),
    Metric(
        "driftline_drift_psi",
        "gauge",
        "Population stability index of the last closed window.",
        ("dataset", "feature", "segment"),
    ),
    Metric(
        "driftline_drift_null_ratio",
        "gauge",
        "Share of nulls in the last closed window.",
        ("dataset", "feature", "segment"),
    ),
    Metric(
        "driftline_drift_window_rows", "gauge", "Rows in the last closed window.", ("dataset", "feature", "segment")
    ),
    Metric(
        "driftline_drift_evidence", "gauge", "Natural log of the alarm statistic.", ("dataset", "feature", "segment")
    ),
    Metric(
        "driftline_drift_threshold",
        "gauge",
        "Natural log of the alarm threshold that the page budget gives.",
        ("dataset", "feature", "segment"),
    ),
    Metric(
        "driftline_drift_state",
        "gauge",
        "1 for the state the last verdict has, 0 for the others.",
        ("dataset", "feature", "segment", "state"),
    ),
    Metric("driftline_watermark_seconds", "gauge", "Global watermark, Unix seconds of event time.", ("dataset",)),
    Metric("driftline_reference_version", "gauge", "Reference version in force.", ("dataset",)),
    Metric("driftline_reference_rows", "gauge", "Rows of the reference in force.", ("dataset", "feature", "segment")),
    Metric(
        "driftline_episode_state",
        "gauge",
        "1 for the state of the current episode (none, pending, firing).",
        ("dataset", "source", "state"),
    ),
    Metric("driftline_episodes_total", "counter", "Episodes by state reached.", ("dataset", "source", "state")),
    # the drift monitor, watched by itself
    Metric(
        "driftline_drift_null_panes_total",
        "counter",
        "Panes, times detectors, of rows drawn from the reference that went through the detectors.",
        ("dataset",),
    ),
    Metric("driftline_drift_null_alarms_total", "counter", "Alarms that these raised: false ones.", ("dataset",)),
    Metric(
        "driftline_drift_false_pages_ratio",
        "gauge",
        "Measured false pages as a share of the page budget: estimate, and its 95 % interval.",
        ("dataset", "bound"),
    ),
    Metric(
        "driftline_drift_false_pages_covered_ratio",
        "gauge",
        "Share of the page budget whose features and segments the measured rate covers so far.",
        ("dataset",),
    ),
    Metric(
        "driftline_drift_stated_false_pages_ratio",
        "gauge",
        "False pages that the thresholds in force allow by theory, as a share of the page budget.",
        ("dataset",),
    ),
    Metric(
        "driftline_drift_smallest_shift",
        "gauge",
        "Smallest shift caught within a window with 90 % chance: standard deviations, share points of categories.",
        ("dataset", "feature", "segment"),
    ),
    Metric(
        "driftline_drift_canaries_total",
        "counter",
        "Windows with a shift of that size planted, by whether they were caught.",
        ("dataset", "result"),
    ),
    Metric("driftline_drift_canary_caught_ratio", "gauge", "Share of these that were caught.", ("dataset",)),
    # lake
    Metric("driftline_lake_commits_total", "counter", "Table commits by result.", ("table", "result")),
    Metric(
        "driftline_lake_commit_seconds", "histogram", "Time of a table commit, files and fsync included.", ("table",)
    ),
    Metric("driftline_lake_rows_total", "counter", "Rows committed.", ("table",)),
    Metric("driftline_table_version", "gauge", "Newest table version.", ("table",)),
    Metric("driftline_table_files", "gauge", "Live files of the table.", ("table",)),
    Metric("driftline_last_commit_timestamp_seconds", "gauge", "Unix time of the last commit.", ("table",)),
    Metric(
        "driftline_quality_status",
        "gauge",
        "1 for the quality status of the last commit, 0 for the others.",
        ("dataset", "status"),
    ),
    Metric(
        "driftline_quality_verdicts_total",
        "counter",
        "Dataset-rule verdicts by rule and result.",
        ("dataset", "rule", "result"),
    ),
    # model
    Metric("driftline_champion_version", "gauge", "Model version that the ledger names champion.", ("model",)),
    Metric(
        "driftline_ledger_intact", "gauge", "1 while the ledger's chain holds and its copy in Kafka agrees.", ("model",)
    ),
    Metric("driftline_rollback_timestamp_seconds", "gauge", "When a champion was last rolled back.", ("model",)),
    Metric("driftline_watch_rows", "gauge", "Labelled answers of the watched champion at the last look.", ("model",)),
    Metric(
        "driftline_watch_log_e",
        "gauge",
        "Natural log of the evidence that the watched champion is worse; 4.6 rolls it back.",
        ("model",),
    ),
    Metric("driftline_decisions_total", "counter", "Ledger entries by action.", ("model", "action")),
    Metric(
        "driftline_training_seconds",
        "histogram",
        "Duration of a training run.",
        ("model",),
        (1, 5, 10, 30, 60, 120, 300),
    ),
    Metric(
        "driftline_model_figure",
        "gauge",
        "Figure of recent labelled predictions, in whole windows; bound: value, and low and high of its 95 % interval.",
        ("model", "version", "slice", "figure", "bound"),
    ),
    Metric(
        "driftline_model_estimate",
        "gauge",
        "The same figure as the scores promise it before labels, with its interval.",
        ("model", "version", "figure", "bound"),
    ),
    Metric(
        "driftline_estimate_windows_total",
        "counter",
        "Closed windows by whether the realised loss lay within its estimate.",
        ("model", "result"),
    ),
    Metric("driftline_labels_total", "counter", "Outcomes by how they joined.", ("dataset", "result")),
    Metric(
        "driftline_loss_detector_state",
        "gauge",
        "1 while a live error detector signals a change.",
        ("model", "detector"),
    ),
    Metric("driftline_labelled_rows", "gauge", "Labelled predictions that the figures speak of.", ("model", "version")),
    Metric(
        "driftline_attribution_input_distance",
        "gauge",
        "How far a feature lies from the champion's reference: K-S distance, of categories the largest move of a share.",
        ("model", "feature"),
    ),
    Metric(
        "driftline_attribution_answer_change",
        "gauge",
        "By how much what the feature adds now, and did not then, changes the mean answer, as a probability.",
        ("model", "feature"),
    ),
    Metric(
        "driftline_attribution_log_odds_change",
        "gauge",
        "Change of a feature's contributions against the champion's reference, of their mean and of their mean size; bound: value, and low and high of its 95 % interval.",
        ("model", "feature", "figure", "bound"),
    ),
    Metric(
        "driftline_attribution_ranking",
        "gauge",
        "nDCG of the features' ranking by size: 1 = the order of the reference.",
        ("model",),
    ),
    Metric(
        "driftline_attribution_window_end_seconds",
        "gauge",
        "Event time up to which attribution was compared.",
        ("model",),
    ),
    # serving
    Metric("driftline_predictions_total", "counter", "Predictions answered.", ("endpoint", "version")),
    Metric("driftline_prediction_seconds", "histogram", "Time to answer a request, model included.", ("endpoint",)),
    Metric("driftline_prediction_errors_total", "counter", "Requests refused, by HTTP status.", ("endpoint", "status")),
    Metric(
        "driftline_prediction_log_dropped_total", "counter", "Predictions that could not be written to the log.", ()
    ),
    Metric(
        "driftline_serving_model_version",
        "gauge",
        "Model version loaded by the workers (minimum over workers).",
        ("model",),
    ),
    Metric(
        "driftline_serving_model_refused",
        "gauge",
        "1 while a worker refuses the model that the ledger names and answers with the last good one, else 0.",
        ("model",),
    ),
    Metric(
        "driftline_models_refused_total",
        "counter",
        "Models that a worker refused to load, by the check that they failed.",
        ("model", "reason"),
    ),
    Metric(
        "driftline_model_load_seconds",
        "histogram",
        "From reading a promotion to answering by it: digest, types and golden rows checked.",
        ("model",),
    ),
    Metric(
        "driftline_feature_staleness_seconds",
        "gauge",
        "Age of the newest knowledge in the history features: published, and in a serving worker's store.",
        ("process", "dataset"),
    ),
    Metric("driftline_feature_entities", "gauge", "Entities with a past that is kept.", ("process", "dataset")),
    Metric(
        "driftline_feature_bytes",
        "gauge",
        "Size of the fold's state on disk, and of a serving worker's store.",
        ("process", "dataset"),
    ),
    Metric(
        "driftline_feature_forgotten_total",
        "counter",
        "Entities, waiting events and remembered outcomes given up for the bound on memory.",
        ("dataset", "what"),
    ),
    Metric("driftline_scored_rows_total", "counter", "Rows of the stream scored.", ("dataset",)),
    Metric("driftline_unscored_rows_total", "counter", "Rows before the first champion.", ("dataset",)),
)


class PrometheusMeter:
    """The catalogue as live metrics; an unknown name raises KeyError, NaN is refused (it would poison a counter for ever)."""

    def __init__(self, registry: CollectorRegistry | None = None, catalogue: Iterable[Metric] = CATALOGUE):
        self.registry = registry or CollectorRegistry()
        self._declared = {m.name: m for m in catalogue}
        self._live: dict[str, Counter | Gauge | Histogram] = {}
        self._creating = threading.Lock()  # two threads that meet a name for the first time make it once

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        self._child(name, labels).inc(_finite(name, amount))

    def set(self, name: str, value: float, /, **labels: str) -> None:
        self._child(name, labels).set(_finite(name, value))

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        self._child(name, labels).observe(_finite(name, value))

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        if name not in self._live:
            with self._creating:
                if name not in self._live:
                    self._live[name] = _create(self._declared[name], self.registry)
        return self._live[name].labels(**{k: _label(v) for k, v in labels.items()}) if labels else self._live[name]


def _create(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    return {"counter": Counter, "gauge": Gauge}[metric.kind](metric.name, metric.help, metric.labels, registry=registry)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite value, got {value}")
    return value


def _label(value: object) -> str:
    """A lone surrogate in one label would break the whole exposition."""
    return str(value).encode("utf-8", "replace").decode()
