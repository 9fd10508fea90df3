"""`make test`: a suite that collected nothing is a failure, and the last line counts everything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import top
from tests import run


def suite(folder: Path, text: str) -> run.Result:
    (folder / "tests" / "one").mkdir(parents=True)
    (folder / "tests" / "one" / "test_it.py").write_text(text)
    return run.run("one", 60, folder / "tests")


def test_passed_failed_and_skipped_are_counted(tmp_path):
    text = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    result = suite(tmp_path, text)
    assert (result.passed, result.failed, result.skipped, result.complaint) == (1, 1, 1, "")


def test_a_suite_that_collects_nothing_has_failed(tmp_path):
    assert suite(tmp_path, "").complaint == "collected nothing"


def test_a_suite_that_cannot_be_imported_has_failed(tmp_path):
    assert suite(tmp_path, "import nowhere_at_all\n").failed == 1


def test_a_suite_that_takes_its_process_down_has_failed(tmp_path):
    assert "no report" in suite(tmp_path, "import os\ndef test_a(): os._exit(0)\n").complaint


def test_a_suite_past_the_budget_is_stopped(tmp_path):
    folder = tmp_path / "tests" / "one"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text("import threading\ndef test_a(): threading.Event().wait(60)\n")
    assert "stopped" in run.run("one", 1, tmp_path / "tests").complaint


def test_every_folder_with_tests_is_a_suite():
    files = run.TESTS.rglob("test_*.py")
    assert {f.relative_to(run.TESTS).parts[0] for f in files} <= set(run.suites())


def test_the_exit_code_and_the_last_line_agree(monkeypatch, capsys):
    monkeypatch.setattr(run, "suites", lambda: ["a", "b"])
    monkeypatch.setattr(
        run, "run", lambda s, left: run.Result(s, 2, 0, 1, 1.0, "collected nothing" if s == "b" else "")
    )
    assert run.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 1 failed, 2 skipped"
    assert run.main(["nowhere"]) == 2


@pytest.mark.parametrize("script", ["setup.sh", ".ci/run"])
def test_a_script_is_one_that_the_shell_can_read(script):
    assert subprocess.run(["bash", "-n", str(run.TESTS.parent / script)]).returncode == 0


def test_setup_has_nothing_to_do_twice():
    done = subprocess.run([str(run.TESTS.parent / "setup.sh")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_requirement_names_where_it_comes_from():
    for name in ("requirements.lock", "requirements-uv.lock", "requirements.in"):
        assert "://" not in (run.TESTS.parent / name).read_text()
    for line in (run.TESTS.parent / "requirements-uv.lock").read_text().splitlines():
        assert line.startswith(("#", "uv==", "    --hash=sha256:"))


def test_top_names_the_counter_that_rises_fastest_and_adds_up_the_lag():
    before = top.Look("validator", "ready", 100.0, 10.0, {"driftline_a_total": 10.0, "driftline_b_total": 0.0})
    series = top.series(
        'driftline_a_total{x="} 1"} 20\ndriftline_b_total 2 1700000000\ndriftline_c_lag_records{p="0"} 3\n'
    )
    [line] = top.lines([before], [top.Look("validator", "ready", 101.0, 12.0, series)])
    assert (line.counter, line.rate, line.lag) == ("driftline_a_total", 5.0, 3.0)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout's set-up files on a machine with the shell's tools and Python, and nothing else of what is needed."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (
        "bash",
        "cat",
        "sha256sum",
        "cut",
        "ls",
        "mkdir",
        "flock",
        "dirname",
        "grep",
        "wc",
        "head",
        "rm",
        "env",
    ):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3.11").symlink_to(sys.executable)
    for name in ("setup.sh", "requirements.lock", "requirements-uv.lock", "pyproject.toml", "pom.xml"):
        shutil.copy(run.TESTS.parent / name, tmp_path / name)
    return tmp_path


def tool(bare: Path, name: str, script: str) -> None:
    (bare / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
    (bare / "bin" / name).chmod(0o755)


def set_up(bare: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(bare / "bin")}
    return subprocess.run([str(bare / "bin" / "bash"), str(bare / "setup.sh")], env=env, capture_output=True, text=True)


def test_setup_without_rights_says_what_to_install(bare):
    tool(bare, "id", "echo 1000")
    tool(bare, "apt-get", "exit 0")
    tool(bare, "apt-cache", "exit 0")
    done = set_up(bare)
    assert done.returncode == 1
    wanted = "openjdk-17-jre-headless maven prometheus prometheus-alertmanager strace"
    assert f"apt-get install --no-install-recommends {wanted}" in done.stderr


def test_setup_without_apt_says_what_is_missing(bare):
    tool(bare, "id", "echo 0")
    tool(bare, "apt-cache", "exit 1")
    done = set_up(bare)
    assert done.returncode == 1
    assert "No apt-get here" in done.stderr


def test_setup_installs_only_what_is_missing_and_without_recommended_packages(bare):
    for name in ("prometheus", "promtool", "prometheus-alertmanager", "mvn", "strace"):
        tool(bare, name, "exit 0")
    tool(bare, "id", "echo 0")
    tool(bare, "tee", "cat > /dev/null")  # the policy file of this machine is left alone
    tool(bare, "chmod", "exit 0")
    tool(bare, "apt-cache", "exit 1")  # a release without Java 17
    tool(bare, "apt-get", f'echo "$@" >> {bare}/asked')
    set_up(bare)
    assert (bare / "asked").read_text().splitlines() == [
        "update -qq",
        "install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 default-jre-headless",
    ]
