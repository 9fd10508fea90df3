"""Every question of the bench `drift` in its short form: each line of it runs, and what even a few streams must show holds."""

from __future__ import annotations

import importlib
import math

import pytest

from tests.bench.drift import QUESTIONS

SHORT = [name for name in QUESTIONS if name != "broker"]  # a real broker: the stream's own tests have one


@pytest.mark.parametrize("name", SHORT)
def test_question_answers_and_its_required_bars_hold(name, monkeypatch):
    monkeypatch.setenv("DRIFTLINE_BENCH_PROCESSES", "1")
    answer = importlib.import_module(f"tests.bench.{QUESTIONS[name]}").run("short")
    assert answer.bars
    assert all(str(b["name"]).startswith(f"{name}: ") for b in answer.bars)
    assert [b for b in answer.bars if b["required"] and not b["pass"]] == []
    assert all(math.isfinite(float(b["value"])) for b in answer.bars if b["required"])
    assert all(len(row) == len(table.head) for table in answer.tables for row in table.rows)
