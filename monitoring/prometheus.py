"""PURE. The configuration files of Prometheus, Alertmanager and Grafana's provisioning, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SCRAPE_INTERVAL = (
    "2s"  # event time may run 1,440 times faster than the wall clock in a demo; 15 s would show nothing of it
)
SERIES_LIMIT = 5000  # of one target: a label that escaped its closed set must not fill the database


def prometheus_config(targets: Mapping[str, str], alertmanager: str, rule_files: Iterable[str]) -> dict[str, object]:
    """prometheus.yml. `targets`: job name -> host:port; every target answers /metrics."""
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": list(rule_files),
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [target]}],
                "sample_limit": SERIES_LIMIT,
                "label_value_length_limit": 256,
                # BentoML makes every unknown path a label value; only its own closed set may reach the database.
                "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": "bentoml_.*", "action": "drop"}],
            }
            for job, target in sorted(targets.items())
        ],
    }


def alertmanager_config() -> dict[str, object]:
    """alertmanager.yml: one incident, one notification; a team adds its Slack, Teams or mail receiver to `people`."""
    return {
        "route": {
            "receiver": "people",
            "group_by": ["alertname", "dataset"],
            "group_wait": "5s",
            "group_interval": "1m",
            "repeat_interval": "4h",
        },
        "receivers": [{"name": "people"}],
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="DriftlineProcessDown"'],
                "target_matchers": ['alertname=~"DriftlineReadingBehind|DriftlineMonitorSilent"'],
                "equal": [],
            }
        ],
    }


def grafana_datasource(url: str) -> dict[str, object]:
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": "prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": url,
                "isDefault": True,
                "editable": False,
            }
        ],
    }


def grafana_provider(folder: str) -> dict[str, object]:
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "driftline",
                "folder": "driftline",
                "type": "file",
                "disableDeletion": True,
                "allowUiUpdates": False,
                "options": {"path": folder},
            }
        ],
    }
