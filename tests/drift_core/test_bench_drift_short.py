"""Every question of the bench `drift` in its short form: each line of it runs, and what even a few streams must show holds."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from tests.bench import _drift_others
from tests.bench.drift import QUESTIONS

ON_A_BROKER = ("broker", "scenes")  # a real one: the stream's own tests have one
SHORT = [name for name in QUESTIONS if name not in ON_A_BROKER]


@pytest.mark.parametrize("name", SHORT)
def test_question_answers_and_its_required_bars_hold(name, monkeypatch):
    monkeypatch.setenv("DRIFTLINE_BENCH_PROCESSES", "1")
    answer = importlib.import_module(f"tests.bench.{QUESTIONS[name]}").run("short")
    assert answer.bars
    assert all(str(b["name"]).startswith(f"{name}: ") for b in answer.bars)
    assert [b for b in answer.bars if b["required"] and not b["pass"]] == []
    assert all(math.isfinite(float(b["value"])) for b in answer.bars if b["required"])
    assert all(len(row) == len(table.head) for table in answer.tables for row in table.rows)


def test_a_tool_that_is_not_installed_has_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(_drift_others, "ENVIRONMENTS", tmp_path)
    assert _drift_others.ask("evidently", {"asked": []}, {}) is None


@pytest.mark.parametrize("tool", ["alibi", "evidently", "nannyml"])
def test_every_other_tool_is_locked_by_hash(tool):
    lock = (_drift_others.ASKING / f"{tool}.lock").read_text()
    assert (_drift_others.ASKING / f"ask_{tool}.py").exists()
    assert "://" not in lock
    packages = [line for line in lock.splitlines() if line[:1].isalnum()]
    assert packages
    assert all("==" in line and line.endswith("\\") for line in packages)
    wanted = (_drift_others.ASKING / f"{tool}.in").read_text().splitlines()[0]
    assert f"{wanted} \\" in packages


@pytest.mark.skipif(not (_drift_others.ENVIRONMENTS / "nannyml").exists(), reason="make peers installs it")
def test_an_installed_tool_answers_from_its_own_environment():
    rng = np.random.default_rng(1)
    stream = np.concatenate((rng.standard_normal((2_000, 1)), 1 + rng.standard_normal((2_000, 1))))
    arrays = {"reference": rng.standard_normal((10_000, 1)), "stream": stream}
    said = _drift_others.ask("nannyml", {"rows": 1_000, "methods": ["kolmogorov_smirnov"]}, arrays)
    assert said["alarms"]["kolmogorov_smirnov"][0][2:] == [1, 1]
