import subprocess
from pathlib import Path

import pytest

from monitoring.render import container_files, local_files
from pipeline import contract_file
from pipeline.settings import from_environment

ROOT = Path(__file__).parents[2]
CONTRACT = contract_file.load("sales")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name, text in local_files(CONTRACT, from_environment({"DRIFTLINE_HOME": str(home)})).items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


def test_the_repositorys_files_are_what_render_writes():
    for name, text in container_files(CONTRACT).items():
        assert (ROOT / name).read_text() == text, f"{name} is out of date: driftline render --checkout ."


def test_prometheus_accepts_its_configuration_and_rules(home):
    done = subprocess.run(
        ["promtool", "check", "config", str(home / "monitoring/prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_accepts_its_configuration(home):
    done = subprocess.run(
        ["amtool", "check-config", str(home / "monitoring/alertmanager.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
