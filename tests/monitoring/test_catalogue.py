import subprocess

import pytest
from prometheus_client import CollectorRegistry

from monitoring.dashboards import DASHBOARDS, as_grafana, metrics_in
from monitoring.metrics import CATALOGUE, PrometheusMeter, _create
from monitoring.rules import ALERTS, RECORDINGS

NAMES = {m.name for m in CATALOGUE}
QUERIES = (
    [q for d in DASHBOARDS for p in d.panels for q, _ in p.queries]
    + [a.expr for a in ALERTS]
    + [r.expr for r in RECORDINGS]
)


def test_names_pass_promtools_lint():
    registry = CollectorRegistry()
    for metric in CATALOGUE:
        _create(metric, registry).labels(**dict.fromkeys(metric.labels, "x")) if metric.labels else _create
    meter = PrometheusMeter()
    for metric in CATALOGUE:
        labels = dict.fromkeys(metric.labels, "x")
        {"counter": meter.inc, "gauge": meter.set, "histogram": meter.observe}[metric.kind](metric.name, 1.0, **labels)
    result = subprocess.run(["promtool", "check", "metrics"], input=meter.exposition(), capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_query_names_metrics_of_the_catalogue():
    import re

    recorded = {r.record for r in RECORDINGS}
    for query in QUERIES:
        used = set(re.findall(r"(?<![a-z0-9_:])driftline_[a-z0-9_]+", query))
        assert len(metrics_in(query)) == len({re.sub(r"_(bucket|sum|count)$", "", u) for u in used}), query
        for record in re.findall(r"[a-z]+:driftline_[a-z0-9_:]+", query):
            assert record in recorded, query


def test_every_panel_says_what_it_shows():
    for dashboard in DASHBOARDS:
        titles = [p.title for p in dashboard.panels]
        assert len(titles) == len(set(titles))
        for panel in dashboard.panels:
            assert panel.description.endswith("."), panel.title


def test_panels_of_a_dashboard_do_not_overlap():
    for dashboard in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in as_grafana(dashboard)["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
            taken |= cells


def test_an_unknown_metric_and_a_nan_are_refused():
    meter = PrometheusMeter()
    with pytest.raises(KeyError):
        meter.inc("driftline_no_such_total")
    with pytest.raises(ValueError, match="finite"):
        meter.inc("driftline_events_produced_total", float("nan"), dataset="sales")


def test_a_lone_surrogate_in_a_label_does_not_break_the_exposition():
    meter = PrometheusMeter()
    meter.inc("driftline_rejects_total", dataset="sales", reason="\ud800")
    assert b'reason="?"' in meter.exposition()


def test_every_alert_has_its_runbook():
    from pathlib import Path

    headings = {
        line[3:].strip()
        for line in (Path(__file__).parents[2] / "docs/runbooks.md").read_text().splitlines()
        if line.startswith("## ")
    }
    assert headings == {a.name for a in ALERTS}
