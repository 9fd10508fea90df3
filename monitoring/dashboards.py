"""PURE. The Grafana dashboards *Overview* and *Drift*, built from the catalogue: a query can only name a metric that exists.

Knows no contract: features, segments and datasets come as template variables out of the label values themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from monitoring.metrics import CATALOGUE

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ROW_HEIGHT, COLUMNS = 8, 24


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    description: str
    queries: tuple[tuple[str, str], ...]  # (PromQL, legend)
    unit: str = "short"
    kind: str = "timeseries"  # or stat, table, state-timeline
    width: int = 8
    threshold: float | None = None  # a value from which the panel turns red


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    variables: tuple[tuple[str, str], ...]  # (name, label_values query)
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> Iterable[Panel]:
        return (panel for _, row in self.rows for panel in row)


OVERVIEW = Dashboard(
    "driftline-overview",
    "driftline / Overview",
    (("dataset", "label_values(driftline_records_validated_total, dataset)"),),
    (
        (
            "Flow",
            (
                Panel(
                    "Records judged",
                    "Records a second by outcome: valid, or a dead letter.",
                    (
                        (
                            'sum by (outcome) (rate(driftline_records_validated_total{dataset=~"$dataset"}[$__rate_interval]))',
                            "{{outcome}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Dead letters by reason",
                    "Which rule of the contract the rejected records broke.",
                    (
                        (
                            'sum by (reason) (rate(driftline_rejects_total{dataset=~"$dataset"}[$__rate_interval]))',
                            "{{reason}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Reject ratio",
                    "Share of records that became dead letters.",
                    (('dataset:driftline_rejects:ratio_rate5m{dataset=~"$dataset"}', "{{dataset}}"),),
                    "percentunit",
                    threshold=0.1,
                ),
                Panel(
                    "Lag",
                    "Records between a process and the end of its topic.",
                    (("sum by (process, topic) (driftline_consumer_lag_records)", "{{process}} {{topic}}"),),
                ),
                Panel(
                    "Age of the oldest unread record",
                    "How old the next record is that a process will read; 0 when caught up.",
                    (("max by (process, topic) (driftline_oldest_unread_age_seconds)", "{{process}} {{topic}}"),),
                    "s",
                    threshold=120,
                ),
                Panel(
                    "Late rows",
                    "Valid rows behind their partition's watermark: they reach the lake and revise their window.",
                    (('sum(rate(driftline_late_rows_total{dataset=~"$dataset"}[$__rate_interval]))', "late"),),
                    "reqps",
                ),
            ),
        ),
        (
            "Lake",
            (
                Panel(
                    "Table version",
                    "Version of each Delta table.",
                    (("max by (table) (driftline_table_version)", "{{table}}"),),
                    "none",
                    "stat",
                    6,
                ),
                Panel(
                    "Age of the last commit",
                    "Seconds since each table's last commit.",
                    (("time() - max by (table) (driftline_last_commit_timestamp_seconds)", "{{table}}"),),
                    "s",
                    "timeseries",
                    6,
                    300,
                ),
                Panel(
                    "Rows committed",
                    "Rows a second that reach a table.",
                    (("sum by (table) (rate(driftline_lake_rows_total[$__rate_interval]))", "{{table}}"),),
                    "reqps",
                    "timeseries",
                    6,
                ),
                Panel(
                    "Quality status",
                    "Status of the newest commit by the contract's dataset rules.",
                    (('max by (status) (driftline_quality_status{dataset=~"$dataset"})', "{{status}}"),),
                    "none",
                    "state-timeline",
                    6,
                ),
            ),
        ),
        (
            "Model",
            (
                Panel(
                    "Champion",
                    "Version that the ledger names champion, and the one the workers serve.",
                    (
                        ("max by (model) (driftline_champion_version)", "ledger {{model}}"),
                        ("min by (model) (driftline_serving_model_version)", "served {{model}}"),
                    ),
                    "none",
                    "stat",
                    6,
                ),
                Panel(
                    "Log loss by version",
                    "Mean log loss of recent labelled predictions, and what their scores promised before labels came.",
                    (
                        (
                            'max by (version) (driftline_model_figure{slice="*",figure="log_loss",bound="value"})',
                            "v{{version}}",
                        ),
                        (
                            'max by (version) (driftline_model_estimate{figure="log_loss",bound="value"})',
                            "v{{version}} before labels",
                        ),
                    ),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "ROC-AUC by version",
                    "Ranking quality of recent labelled predictions.",
                    (
                        (
                            'max by (version) (driftline_model_figure{slice="*",figure="roc_auc",bound="value"})',
                            "v{{version}}",
                        ),
                    ),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "Decisions",
                    "Ledger entries by action.",
                    (("sum by (action) (driftline_decisions_total)", "{{action}}"),),
                    "none",
                    "stat",
                    6,
                ),
                Panel(
                    "Predictions",
                    "Predictions a second by endpoint and model version.",
                    (
                        (
                            "sum by (endpoint, version) (rate(driftline_predictions_total[$__rate_interval]))",
                            "{{endpoint}} v{{version}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Age of the history features",
                    "How old the newest knowledge of customers and products is: as published, and in the serving workers.",
                    (("max by (process) (driftline_feature_staleness_seconds)", "{{process}}"),),
                    "s",
                ),
                Panel(
                    "Request latency",
                    "Median and 99th percentile of /predict.",
                    (
                        (
                            'histogram_quantile(0.5, sum by (le) (rate(driftline_prediction_seconds_bucket{endpoint="predict"}[$__rate_interval])))',
                            "p50",
                        ),
                        ('endpoint:driftline_prediction_seconds:p99_5m{endpoint="predict"}', "p99"),
                    ),
                    "s",
                ),
                Panel(
                    "Refused and failed requests",
                    "Requests a second that were not answered with a prediction, by status.",
                    (("sum by (status) (rate(driftline_prediction_errors_total[$__rate_interval]))", "{{status}}"),),
                    "reqps",
                ),
                Panel(
                    "Evidence against the new champion",
                    "Log evidence that it does worse on live outcomes than the one before; 4.6 rolls it back.",
                    (("max by (model) (driftline_watch_log_e)", "{{model}}"),),
                    "none",
                ),
                Panel(
                    "Answers watched",
                    "Labelled answers of the new champion at the last look.",
                    (("max by (model) (driftline_watch_rows)", "{{model}}"),),
                    "none",
                ),
            ),
        ),
        (
            "Processes",
            (
                Panel(
                    "Up",
                    "1 while a process answers its scrape.",
                    (("min by (job) (up)", "{{job}}"),),
                    "none",
                    "state-timeline",
                    12,
                ),
                Panel(
                    "Restarts by the watchdog",
                    "Processes restarted because they hung or died.",
                    (("sum by (process, reason) (driftline_process_restarts_total)", "{{process}} {{reason}}"),),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "Transactions",
                    "Kafka transactions a second, by result.",
                    (
                        (
                            "sum by (process, result) (rate(driftline_transactions_total[$__rate_interval]))",
                            "{{process}} {{result}}",
                        ),
                    ),
                    "reqps",
                    "timeseries",
                    6,
                ),
            ),
        ),
    ),
)

_DRIFT = '{dataset=~"$dataset",feature=~"$feature",segment=~"$segment"}'

DRIFT = Dashboard(
    "driftline-drift",
    "driftline / Drift",
    (
        ("dataset", "label_values(driftline_drift_statistic, dataset)"),
        ("feature", 'label_values(driftline_drift_statistic{dataset=~"$dataset"}, feature)'),
        ("segment", 'label_values(driftline_drift_statistic{dataset=~"$dataset"}, segment)'),
    ),
    (
        (
            "Alarm",
            (
                Panel(
                    "Episode",
                    "State of the current episode, by source: data, or the model's loss.",
                    (
                        (
                            'max by (source, state) (driftline_episode_state{dataset=~"$dataset"})',
                            "{{source}} {{state}}",
                        ),
                    ),
                    "none",
                    "state-timeline",
                    12,
                ),
                Panel(
                    "Evidence against its threshold",
                    "Natural log of the alarm statistic; a page needs it above the dashed threshold, which the page budget gives.",
                    (
                        (f"max by (feature, segment) (driftline_drift_evidence{_DRIFT})", "{{feature}} {{segment}}"),
                        (f"max(driftline_drift_threshold{_DRIFT})", "threshold"),
                    ),
                    "none",
                    "timeseries",
                    12,
                ),
            ),
        ),
        (
            "Windows",
            (
                Panel(
                    "K-S distance",
                    "Distance of the last closed window from the reference (Jensen-Shannon for categories).",
                    ((f"max by (feature, segment) (driftline_drift_statistic{_DRIFT})", "{{feature}} {{segment}}"),),
                    "none",
                ),
                Panel(
                    "Critical value",
                    "Critical value of the K-S distance at the contract's alpha: what the papers' rule compares with. It pages nobody here.",
                    (
                        (
                            f"max by (feature, segment) (driftline_drift_critical_value{_DRIFT})",
                            "{{feature}} {{segment}}",
                        ),
                    ),
                    "none",
                ),
                Panel(
                    "p-value",
                    "p-value of the last closed window.",
                    ((f"min by (feature, segment) (driftline_drift_p_value{_DRIFT})", "{{feature}} {{segment}}"),),
                    "none",
                ),
                Panel(
                    "Population stability index",
                    "PSI of the last closed window.",
                    ((f"max by (feature, segment) (driftline_drift_psi{_DRIFT})", "{{feature}} {{segment}}"),),
                    "none",
                ),
                Panel(
                    "Nulls",
                    "Share of nulls in the last closed window.",
                    ((f"max by (feature, segment) (driftline_drift_null_ratio{_DRIFT})", "{{feature}} {{segment}}"),),
                    "percentunit",
                ),
                Panel(
                    "Rows in the window",
                    "Rows the last closed window was judged on.",
                    ((f"max by (feature, segment) (driftline_drift_window_rows{_DRIFT})", "{{feature}} {{segment}}"),),
                ),
            ),
        ),
        (
            "Answers",
            (
                Panel(
                    "Inputs of the model moved by",
                    "Distance of each of the model's features from what the champion was measured on, newest whole window; history included.",
                    (("max by (feature) (driftline_attribution_input_distance)", "{{feature}}"),),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "Mean answer moved by",
                    "How much of the mean answer is due to each feature's moved contributions: a feature that moves and is not asked stays at 0.",
                    (("max by (feature) (driftline_attribution_answer_change)", "{{feature}}"),),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "How much answers hang on a feature",
                    "Change of the mean size of its contributions, in log odds, against what the champion was measured on.",
                    (
                        (
                            'max by (feature) (driftline_attribution_log_odds_change{figure="size",bound="value"})',
                            "{{feature}}",
                        ),
                    ),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "Ranking of the features",
                    "nDCG of the features by the size of their contributions: 1 = the order of then; managed services warn below 0.9.",
                    (("max by (model) (driftline_attribution_ranking)", "{{model}}"),),
                    "none",
                    "timeseries",
                    6,
                ),
            ),
        ),
        (
            "The monitor itself",
            (
                Panel(
                    "False pages against the budget",
                    "Measured on rows drawn from the reference, as a share of the page budget, with a 95 % interval; 1 is the budget. `covered` is the share of the budget that was measured so far.",
                    (
                        (
                            'max by (bound) (driftline_drift_false_pages_ratio{dataset=~"$dataset"})',
                            "{{bound}}",
                        ),
                        ('max(driftline_drift_stated_false_pages_ratio{dataset=~"$dataset"})', "stated"),
                        ('max(driftline_drift_false_pages_covered_ratio{dataset=~"$dataset"})', "covered"),
                    ),
                    "none",
                    "timeseries",
                    6,
                    1,
                ),
                Panel(
                    "Alarms of the null stream",
                    "False alarms that rows drawn from the reference have raised, and the panes they took, since the process began.",
                    (
                        ('sum(driftline_drift_null_alarms_total{dataset=~"$dataset"})', "alarms"),
                        ('sum(driftline_drift_null_panes_total{dataset=~"$dataset"})', "panes"),
                    ),
                    "none",
                    "stat",
                    6,
                ),
                Panel(
                    "Smallest shift caught now",
                    "Shift that a window catches with 90 % chance at the present rate: standard deviations, share points of categories.",
                    (
                        (
                            f"max by (feature, segment) (driftline_drift_smallest_shift{_DRIFT})",
                            "{{feature}} {{segment}}",
                        ),
                    ),
                    "none",
                    "timeseries",
                    6,
                ),
                Panel(
                    "Canaries caught",
                    "Share of planted shifts of that size that were caught within their window; nine in ten are to be expected.",
                    (('max by (dataset) (driftline_drift_canary_caught_ratio{dataset=~"$dataset"})', "{{dataset}}"),),
                    "percentunit",
                    "timeseries",
                    6,
                ),
            ),
        ),
        (
            "Clock and reference",
            (
                Panel(
                    "Event time",
                    "Newest event time, the global watermark, and up to where attribution was compared.",
                    (
                        ('max by (process) (driftline_event_time_seconds{dataset=~"$dataset"}) * 1000', "{{process}}"),
                        ('max(driftline_watermark_seconds{dataset=~"$dataset"}) * 1000', "watermark"),
                        ("max(driftline_attribution_window_end_seconds) * 1000", "attribution"),
                    ),
                    "dateTimeAsIso",
                ),
                Panel(
                    "Scores behind rows",
                    "Event time by which the judged scores of the model lie behind the judged rows.",
                    (
                        (
                            'max by (dataset) (driftline_watermark_seconds{dataset=~"$dataset"}) - max by (dataset) (driftline_scores_watermark_seconds{dataset=~"$dataset"})',
                            "{{dataset}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Windows closed",
                    "Windows closed a second, by kind of close.",
                    (
                        (
                            'sum by (close) (rate(driftline_windows_closed_total{dataset=~"$dataset"}[$__rate_interval]))',
                            "{{close}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Reference",
                    "Reference version in force and its rows.",
                    (
                        ('max(driftline_reference_version{dataset=~"$dataset"})', "version"),
                        (f"min by (feature) (driftline_reference_rows{_DRIFT})", "rows {{feature}}"),
                    ),
                    "none",
                    "stat",
                ),
            ),
        ),
    ),
)

DASHBOARDS = (OVERVIEW, DRIFT)


def metrics_in(query: str) -> set[str]:
    """Catalogue names that a query uses; a histogram's series count as the histogram."""
    names = {re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"(?<![a-z0-9_:])driftline_[a-z0-9_]+", query)}
    declared = {m.name for m in CATALOGUE}
    return {n for n in names if n in declared}


def as_grafana(dashboard: Dashboard) -> dict[str, object]:
    """The dashboard as Grafana's JSON model."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in dashboard.rows:
        panels.append(
            {
                "type": "row",
                "title": title,
                "id": len(panels) + 1,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > COLUMNS:
                y, x = y + ROW_HEIGHT, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x += panel.width
        y += ROW_HEIGHT
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["driftline"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [_datasource_variable(), *(_variable(n, q) for n, q in dashboard.variables)]},
        "panels": panels,
        "annotations": {"list": []},
        "links": [],
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    steps: list[dict[str, object]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": ROW_HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend, "range": True}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _datasource_variable() -> dict[str, object]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
    }


def _variable(name: str, query: str) -> dict[str, object]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }
