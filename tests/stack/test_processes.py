"""The process table, and what is made from it for the supervisor."""

from __future__ import annotations

import configparser
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import contract_file
from pipeline.access import roles
from pipeline.contract import ReferencePlan
from pipeline.processes import Place, Process, port_setting, scrape_targets, stages, table, urls
from pipeline.settings import PORTS
from pipeline.supervision import START_RETRIES, command_line, configuration

PLACE = Place(("driftline",), "/home of it", PORTS, "sales")
CONTRACT = contract_file.load("sales")
TABLE = table(PLACE, CONTRACT)


def named(name: str, place: Place = PLACE) -> Process:
    return next(p for p in table(place, CONTRACT) if p.name == name)


def test_the_broker_is_first_and_mlflow_last():
    groups = stages(TABLE)
    assert [p.name for p in groups[0]] == ["kafka"]
    assert [p.name for p in groups[-1]] == ["mlflow"]


def test_every_port_is_used_once():
    ports = [p.port for p in TABLE] + [PORTS["kafka_controller"], PORTS["page"]]
    assert len(ports) == len(set(ports))


def test_the_exporters_keep_their_order_of_ports():
    first = PORTS["exporters"]
    expected = ["validator", "drift", "compactor", "score", "evaluate", "control", "page", "watch", "features"]
    assert {p.port - first: p.name for p in TABLE if p.env.get("DRIFTLINE_METRICS_PORT")} == dict(enumerate(expected))


def test_a_dataset_without_a_label_has_no_process_for_a_model():
    names = {p.name for p in table(PLACE, replace(CONTRACT, label=None))}
    assert names == {p.name for p in TABLE} - {"score", "evaluate", "control", "serve"}
    moving = replace(CONTRACT.drift, reference=ReferencePlan("rolling"))
    assert names | {"control"} == {p.name for p in table(PLACE, replace(CONTRACT, label=None, drift=moving))}


def test_every_process_but_the_broker_says_whether_it_is_ready():
    assert [p.name for p in TABLE if p.ready is None] == ["kafka"]


def test_prometheus_scrapes_what_has_metrics():
    targets = scrape_targets(TABLE, PLACE)
    assert set(targets) == {p.name for p in TABLE} - {"kafka", "mlflow"}
    assert targets["validator"] == "127.0.0.1:9400"
    there = replace(PLACE, containers=True)
    assert scrape_targets(table(there, CONTRACT), there)["drift"] == "drift:9400"


def test_the_page_is_not_on_its_exporters_port():
    assert urls(TABLE, PLACE)["page"] == f"http://127.0.0.1:{PORTS['page']}"


@pytest.mark.parametrize("process", TABLE, ids=lambda p: p.name)
def test_the_setting_that_moves_a_port_is_a_setting(process):
    assert port_setting(process.name) in PORTS


def test_each_process_of_a_secured_stack_has_a_principal_of_its_own():
    place = replace(PLACE, scram=True)
    users = {p.name: p.env.get("DRIFTLINE_USERNAME") for p in table(place, CONTRACT)}
    principals = {r.principal for r in roles("sales")}
    assert {user for user in users.values() if user} <= principals
    assert all(users[name] == name for name in ("validator", "drift", "serve", "watch"))


def test_the_supervisors_file_starts_nothing_by_itself_and_restarts_everything():
    parser = configparser.RawConfigParser()
    parser.read_string(configuration(TABLE, "/tmp/s", "/tmp/f", "/tmp/l"))
    programs = [s for s in parser.sections() if s.startswith("program:")]
    assert programs == [f"program:{p.name}" for p in TABLE]
    for program in programs:
        assert parser[program]["autostart"] == "false"
        assert parser[program]["autorestart"] == "true"
        assert int(parser[program]["startretries"]) == START_RETRIES


def test_a_command_with_spaces_and_percent_signs_arrives_as_it_was():
    process = replace(named("prometheus"), command=("run", "a b", "100%"), env={"SAID": 'x "y"'})
    assert shlex.split(command_line(process)) == [
        "env",
        'SAID=x "y"',
        f"DRIFTLINE_PROCESS={process.name}",
        "run",
        "a b",
        "100%",
    ]
    assert "100%%" in configuration([process], "/tmp/s", "/tmp/f", "/tmp/l")


def test_mlflow_runs_without_its_job_routes():
    assert named("mlflow").env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "127.0.0.1" in named("mlflow").command


def test_the_documented_caps_are_those_of_the_table():
    text = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    section = text.partition("## Memory\n")[2].partition("\n## ")[0]
    stated = {name: int(cap) for name, cap in re.findall(r"^\| (\S+) \| (\d+) \|", section, re.M)}
    assert stated == {p.name: p.memory_mb for p in TABLE}
    by_kernel = set(re.findall(r"^\| (\S+) \| \d+ \| the kernel \|", section, re.M))
    assert by_kernel == {p.name for p in TABLE if p.env.get("DRIFTLINE_MEMORY_MB") == str(p.memory_mb)}
