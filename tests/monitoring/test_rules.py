"""Each alert has a case in which it fires and one in which it stays silent, judged by promtool itself."""

import subprocess

import pytest
import yaml

from monitoring.rules import ALERTS, as_groups

FLOW = ('driftline_records_validated_total{dataset="sales",outcome="valid"}', "0+6000x60")
QUIET_FLOW = ('driftline_records_validated_total{dataset="sales",outcome="valid"}', "0x60")
CLOSING = ('driftline_windows_closed_total{dataset="sales",close="final"}', "0+1x60")

# alert: (series in which it fires, series in which it is silent); one sample a minute, judged after 30 minutes
CASES: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    "DriftlineFeaturesStale": (
        [('driftline_feature_staleness_seconds{process="serve",dataset="sales"}', "0+60x60")],
        [('driftline_feature_staleness_seconds{process="serve",dataset="sales"}', "20x60")],
    ),
    "DriftlineModelRolledBack": (
        [('driftline_rollback_timestamp_seconds{model="sales-returned"}', "600x60")],
        [('driftline_rollback_timestamp_seconds{model="sales-returned"}', "-7200x60")],
    ),
    "DriftlineLedgerBroken": (
        [('driftline_ledger_intact{model="sales-returned"}', "1x10 0x50")],
        [('driftline_ledger_intact{model="sales-returned"}', "1x60")],
    ),
    "DriftlineProcessDown": (
        [('up{job="drift",instance="a"}', "1x10 0x50")],
        [('up{job="drift",instance="a"}', "1x60")],
    ),
    "DriftlineEpisodeFiring": (
        [('driftline_episode_state{dataset="sales",source="data",state="firing"}', "0x20 1x40")],
        [
            ('driftline_episode_state{dataset="sales",source="data",state="pending"}', "1x60"),
            ('driftline_episode_state{dataset="sales",source="data",state="firing"}', "0x60"),
        ],
    ),
    "DriftlineRejectRatioHigh": (
        [FLOW, ('driftline_rejects_total{dataset="sales",reason="range"}', "0+900x60")],
        [FLOW, ('driftline_rejects_total{dataset="sales",reason="range"}', "0+120x60")],
    ),
    "DriftlineRejectBreakerOpen": (
        [('driftline_reject_breaker_open{dataset="sales",partition="2"}', "1x60")],
        [('driftline_reject_breaker_open{dataset="sales",partition="2"}', "0x60")],
    ),
    "DriftlineRowsLate": (
        [FLOW, ('driftline_late_rows_total{dataset="sales"}', "0+1500x60")],
        [FLOW, ('driftline_late_rows_total{dataset="sales"}', "0+900x60")],
    ),
    "DriftlineReadingBehind": (
        [('driftline_oldest_unread_age_seconds{process="compactor",topic="sales.blocks"}', "0+30x60")],
        [('driftline_oldest_unread_age_seconds{process="compactor",topic="sales.blocks"}', "100x60")],
    ),
    "DriftlinePartitionUnowned": (
        [
            ('driftline_partitions{process="validator",topic="sales.events",instance="a"}', "4x60"),
            ('driftline_partitions_owned{process="validator",topic="sales.events",instance="a"}', "2x60"),
            ('driftline_partitions_owned{process="validator",topic="sales.events",instance="b"}', "2x9 stale"),
        ],
        [
            ('driftline_partitions{process="validator",topic="sales.events",instance="a"}', "4x60"),
            ('driftline_partitions_owned{process="validator",topic="sales.events",instance="a"}', "2x9 4x51"),
            ('driftline_partitions_owned{process="validator",topic="sales.events",instance="b"}', "2x9 stale"),
        ],
    ),
    "DriftlineLakeStale": (
        [FLOW, ('driftline_last_commit_timestamp_seconds{table="sales/events"}', "60x60")],
        [QUIET_FLOW, ('driftline_last_commit_timestamp_seconds{table="sales/events"}', "60x60")],
    ),
    "DriftlineQualityCritical": (
        [('driftline_quality_status{dataset="sales",status="critical"}', "1x60")],
        [
            ('driftline_quality_status{dataset="sales",status="critical"}', "0x60"),
            ('driftline_quality_status{dataset="sales",status="degraded"}', "1x60"),
        ],
    ),
    "DriftlineMonitorSilent": (
        [FLOW, ('driftline_windows_closed_total{dataset="sales",close="final"}', "5x60")],
        [FLOW, CLOSING],
    ),
    "DriftlineScoresBehind": (
        [
            ('driftline_watermark_seconds{dataset="sales"}', "100000+60x60"),
            ('driftline_scores_watermark_seconds{dataset="sales"}', "90000x60"),
        ],
        [
            ('driftline_watermark_seconds{dataset="sales"}', "100000+60x60"),
            ('driftline_scores_watermark_seconds{dataset="sales"}', "96000+60x60"),
        ],
    ),
    "DriftlineFalsePagesAboveBudget": (
        [('driftline_drift_false_pages_ratio{dataset="sales",bound="low"}', "2.5x60")],
        [
            ('driftline_drift_false_pages_ratio{dataset="sales",bound="low"}', "0.2x60"),
            ('driftline_drift_false_pages_ratio{dataset="sales",bound="high"}', "1.4x60"),
            ('driftline_drift_stated_false_pages_ratio{dataset="sales"}', "1x60"),
        ],
    ),
    "DriftlineRecordsQuarantined": (
        [('driftline_rejects_total{dataset="sales",reason="quarantined"}', "0x26 1x40")],
        [
            ('driftline_rejects_total{dataset="sales",reason="quarantined"}', "3x60"),
            ('driftline_rejects_total{dataset="sales",reason="range"}', "0+10x60"),
        ],
    ),
    "DriftlineCircuitOpen": (
        [('driftline_circuit_open{process="control",target="mlflow"}', "1x60")],
        [('driftline_circuit_open{process="control",target="mlflow"}', "0x60")],
    ),
    "DriftlinePredictionErrors": (
        [
            ('driftline_predictions_total{endpoint="predict",version="1"}', "0+600x60"),
            ('driftline_prediction_errors_total{endpoint="predict",status="503"}', "0+60x60"),
        ],
        [
            ('driftline_predictions_total{endpoint="predict",version="1"}', "0+600x60"),
            ('driftline_prediction_errors_total{endpoint="predict",status="422"}', "0+600x60"),
        ],
    ),
    "DriftlinePredictionSlow": (
        [
            ('driftline_prediction_seconds_bucket{endpoint="predict",le="0.25"}', "0+1x60"),
            ('driftline_prediction_seconds_bucket{endpoint="predict",le="1"}', "0+60x60"),
            ('driftline_prediction_seconds_bucket{endpoint="predict",le="+Inf"}', "0+60x60"),
        ],
        [
            ('driftline_prediction_seconds_bucket{endpoint="predict",le="0.25"}', "0+60x60"),
            ('driftline_prediction_seconds_bucket{endpoint="predict",le="+Inf"}', "0+60x60"),
        ],
    ),
    "DriftlinePredictionLogDropped": (
        [("driftline_prediction_log_dropped_total", "0x26 5x10")],
        [("driftline_prediction_log_dropped_total", "5x60")],
    ),
    "DriftlineModelRefused": (
        [
            ('driftline_serving_model_refused{model="m",pid="1"}', "0x60"),
            ('driftline_serving_model_refused{model="m",pid="2"}', "0x20 1x40"),
        ],
        [
            ('driftline_serving_model_refused{model="m",pid="1"}', "0x60"),
            ('driftline_models_refused_total{model="m",reason="digest"}', "3x60"),
        ],
    ),
    "DriftlineServingBehindLedger": (
        [
            ('driftline_serving_model_version{model="m",pid="1"}', "1x60"),
            ('driftline_serving_model_version{model="m",pid="2"}', "2x60"),
            ('driftline_champion_version{model="m"}', "2x60"),
        ],
        [
            ('driftline_serving_model_version{model="m",pid="1"}', "2x60"),
            ('driftline_champion_version{model="m"}', "2x60"),
        ],
    ),
}


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / "driftline.yml"
    path.write_text(yaml.safe_dump(as_groups()))
    return path


def fired(rule_file, alert: str, series: list[tuple[str, str]]) -> bool:
    """Whether promtool sees the alert firing after 30 minutes: it must agree with exactly one of "fires" and "silent"."""
    document = {
        "rule_files": [str(rule_file)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series],
                "alert_rule_test": [{"eval_time": "30m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    path = rule_file.with_name(f"{alert}.yml")
    path.write_text(yaml.safe_dump(document))
    result = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    output = result.stdout + result.stderr
    assert result.returncode == 0 or f"alertname: {alert}" in output, output
    return result.returncode != 0


def test_the_rule_file_is_valid(rule_file):
    result = subprocess.run(["promtool", "check", "rules", str(rule_file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_its_two_cases():
    assert set(CASES) == {a.name for a in ALERTS}


@pytest.mark.parametrize("alert", sorted(CASES))
def test_alert_fires(rule_file, alert):
    assert fired(rule_file, alert, CASES[alert][0])


@pytest.mark.parametrize("alert", sorted(CASES))
def test_alert_stays_silent(rule_file, alert):
    assert not fired(rule_file, alert, CASES[alert][1])
