"""Every test that the guarantees name exists, and every hop names one."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
HOPS = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| **")]


@lru_cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_named_test_exists(path, name):
    assert name.startswith("test_") and name in names_in(path)


def test_every_hop_names_what_shows_it_and_nothing_is_named_in_another_form():
    rows = [line for line in PAGE.splitlines() if line.startswith("| **")]
    assert len(rows) >= 14 and all(re.search(r"`tests/[\w/]+\.py::test_\w+`", row) for row in rows), HOPS
    assert len(re.findall(r"::", PAGE)) == len(NAMED) + len(re.findall(r"PATH::NAME", PAGE))


def test_the_pages_that_point_here_find_it():
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").count("(guarantees.md)") >= 1
