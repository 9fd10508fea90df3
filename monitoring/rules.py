"""PURE. Recording and alerting rules, as data; `render` writes them for Prometheus, promtool tests each one.

Every alert pages somebody for a reason, so each has a line of docs/runbooks.md and two promtool cases: it fires, it stays
silent. Drift itself is decided by the drift engine under its page budget; Prometheus only passes the episode on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    name: str
    expr: str
    wait: str  # Prometheus' `for`
    severity: str
    summary: str  # one constant sentence
    description: str  # may use {{ $labels }} and {{ $value }}


@dataclass(frozen=True, slots=True)
class Recording:
    record: str
    expr: str


RECORDINGS: tuple[Recording, ...] = (
    Recording("dataset:driftline_records:rate1m", "sum by (dataset) (rate(driftline_records_validated_total[1m]))"),
    Recording(
        "dataset:driftline_rejects:ratio_rate5m",
        "sum by (dataset) (rate(driftline_rejects_total[5m])) / (sum by (dataset) (rate(driftline_records_validated_total[5m])) > 0)",
    ),
    Recording(
        "endpoint:driftline_prediction_seconds:p99_5m",
        "histogram_quantile(0.99, sum by (endpoint, le) (rate(driftline_prediction_seconds_bucket[5m])))",
    ),
)

ALERTS: tuple[Alert, ...] = (
    Alert(
        "DriftlineProcessDown",
        "up == 0",
        "1m",
        "critical",
        "A process does not answer its scrape.",
        "{{ $labels.job }} at {{ $labels.instance }} has not answered for a minute.",
    ),
    Alert(
        "DriftlineEpisodeFiring",
        'max by (dataset, source) (driftline_episode_state{state="firing"}) == 1',
        "0m",
        "critical",
        "A drift episode is firing and has no decision yet.",
        "{{ $labels.dataset }} ({{ $labels.source }}): `driftline alerts` names the features, `driftline models history` the decision.",
    ),
    Alert(
        "DriftlineRejectRatioHigh",
        "dataset:driftline_rejects:ratio_rate5m > 0.1",
        "2m",
        "warning",
        "More than a tenth of the records break the contract.",
        "{{ $labels.dataset }}: {{ $value | humanizePercentage }} of the records of the last five minutes became dead letters.",
    ),
    Alert(
        "DriftlineRejectBreakerOpen",
        "max by (dataset, partition) (driftline_reject_breaker_open) == 1",
        "0m",
        "critical",
        "The reject breaker has stopped a partition.",
        "{{ $labels.dataset }} partition {{ $labels.partition }} is stopped; look at the dead letters, then `driftline breaker resume`.",
    ),
    Alert(
        "DriftlineRowsLate",
        'sum by (dataset) (rate(driftline_late_rows_total[5m])) / (sum by (dataset) (rate(driftline_records_validated_total{outcome="valid"}[5m])) > 0) > 0.2',
        "5m",
        "warning",
        "More than a fifth of the rows come behind their partition's watermark.",
        "{{ $labels.dataset }}: {{ $value | humanizePercentage }} of the valid rows of the last five minutes were late; a sender's clock may run ahead.",
    ),
    Alert(
        "DriftlineReadingBehind",
        "max by (process, topic) (driftline_oldest_unread_age_seconds) > 120",
        "2m",
        "warning",
        "A process is two minutes behind its topic.",
        "{{ $labels.process }} has not read {{ $labels.topic }} for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "DriftlinePartitionUnowned",
        "max by (process, topic) (driftline_partitions) - sum by (process, topic) (driftline_partitions_owned) > 0",
        "2m",
        "critical",
        "Partitions belong to nobody alive: nothing of them is read.",
        "{{ $value }} partitions of {{ $labels.topic }} are with no {{ $labels.process }} that answers: start one more instance.",
    ),
    Alert(
        "DriftlineLakeStale",
        'time() - max(driftline_last_commit_timestamp_seconds{table=~".*events"}) > 300 and on() sum(dataset:driftline_records:rate1m) > 0',
        "1m",
        "critical",
        "Records flow, and the lake has had no commit for five minutes.",
        "The last commit is {{ $value | humanizeDuration }} old.",
    ),
    Alert(
        "DriftlineQualityCritical",
        'max by (dataset) (driftline_quality_status{status="critical"}) == 1',
        "0m",
        "critical",
        "A critical dataset rule failed: training on this data is halted.",
        "{{ $labels.dataset }}: `driftline quality` names the rule.",
    ),
    Alert(
        "DriftlineMonitorSilent",
        "sum(dataset:driftline_records:rate1m) > 0 unless on() sum(rate(driftline_windows_closed_total[10m])) > 0",
        "10m",
        "critical",
        "Records flow, and no drift window has closed for ten minutes.",
        "The drift monitor is blind: look at the process `drift` and at the watermark.",
    ),
    Alert(
        "DriftlineScoresBehind",
        "max by (dataset) (driftline_watermark_seconds) - max by (dataset) (driftline_scores_watermark_seconds) > 7200",
        "15m",
        "warning",
        "The model's scores are judged more than two hours of event time behind the rows.",
        "{{ $labels.dataset }}: a drift of the score is told as late as that; look at the process `score` and at its consumer lag.",
    ),
    Alert(
        "DriftlineFalsePagesAboveBudget",
        'max by (dataset) (driftline_drift_false_pages_ratio{bound="low"}) > 1 or max by (dataset) (driftline_drift_stated_false_pages_ratio) > 1.01',
        "0m",
        "warning",
        "The drift monitor raises more false alarms than its page budget allows.",
        "{{ $labels.dataset }}: {{ $value | humanize }} times the budget, measured on rows drawn from the reference or stated by the thresholds in force.",
    ),
    Alert(
        "DriftlineRecordsQuarantined",
        'sum by (dataset) (increase(driftline_rejects_total{reason=~"quarantined|batch_undecodable"}[15m])) > 0',
        "0m",
        "warning",
        "Records ended the validator, or came in a batch that no client can open.",
        "{{ $labels.dataset }}: `driftline dead-letters list --reason quarantined` shows the bytes; a batch that cannot be opened is named by its offsets.",
    ),
    Alert(
        "DriftlineCircuitOpen",
        "max by (process, target) (driftline_circuit_open) == 1",
        "2m",
        "warning",
        "A process has given up calling a dependency for now.",
        "{{ $labels.process }} waits for {{ $labels.target }}.",
    ),
    Alert(
        "DriftlinePredictionErrors",
        'sum(rate(driftline_prediction_errors_total{status=~"5.."}[5m])) / (sum(rate(driftline_predictions_total[5m])) + sum(rate(driftline_prediction_errors_total[5m])) > 0) > 0.01',
        "2m",
        "critical",
        "More than one percent of the prediction requests fail.",
        "{{ $value | humanizePercentage }} of the requests are answered with a server error.",
    ),
    Alert(
        "DriftlinePredictionSlow",
        'endpoint:driftline_prediction_seconds:p99_5m{endpoint="predict"} > 0.25',
        "5m",
        "warning",
        "Single predictions are slow.",
        "The 99th percentile of /predict is {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "DriftlinePredictionLogDropped",
        "sum(increase(driftline_prediction_log_dropped_total[5m])) > 0",
        "0m",
        "warning",
        "Predictions were answered and not written to the log.",
        "{{ $value }} predictions of the last five minutes are missing from the prediction topic.",
    ),
    Alert(
        "DriftlineModelRefused",
        "max by (model) (driftline_serving_model_refused) == 1",
        "0m",
        "critical",
        "A serving worker refuses the ledger's champion: its files are not what the ledger names.",
        "{{ $labels.model }}: the last good model goes on; the worker's log line `model_refused` says which check failed.",
    ),
    Alert(
        "DriftlineFeaturesStale",
        "max by (process, dataset) (driftline_feature_staleness_seconds) > 60",
        "2m",
        "warning",
        "Models answer with an old picture of customers and products.",
        "{{ $labels.process }}: the newest history feature is {{ $value | humanizeDuration }} old.",
    ),
    Alert(
        "DriftlineServingBehindLedger",
        "min by (model) (driftline_serving_model_version) != on (model) max by (model) (driftline_champion_version)",
        "1m",
        "critical",
        "A serving worker does not run the ledger's champion.",
        "{{ $labels.model }}: a worker serves version {{ $value }}.",
    ),
    Alert(
        "DriftlineModelRolledBack",
        "time() - max by (model) (driftline_rollback_timestamp_seconds) < 3600",
        "0m",
        "warning",
        "A champion was rolled back within the hour.",
        "{{ $labels.model }}: `driftline models history` has the evidence.",
    ),
    Alert(
        "DriftlineLedgerBroken",
        "min by (model) (driftline_ledger_intact) == 0",
        "0m",
        "critical",
        "The ledger was edited, cut or replaced; nothing is decided.",
        "{{ $labels.model }}: `driftline models history` names the entry.",
    ),
)


def as_groups() -> dict[str, object]:
    """The document that Prometheus reads as a rule file."""
    recording = [{"record": r.record, "expr": r.expr} for r in RECORDINGS]
    alerting = [
        {
            "alert": a.name,
            "expr": a.expr,
            **({"for": a.wait} if a.wait != "0m" else {}),
            "labels": {"severity": a.severity},
            "annotations": {
                "summary": a.summary,
                "description": a.description,
                "runbook_url": f"docs/runbooks.md#{a.name.lower()}",
            },
        }
        for a in ALERTS
    ]
    return {
        "groups": [{"name": "driftline-recording", "rules": recording}, {"name": "driftline-alerts", "rules": alerting}]
    }
