"""Contract texts for tests: a shipped contract under another dataset id, so that a test's topics are its own."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.contract_file import shipped_text


def renamed(text: str, id: str) -> str:
    """The contract text with another dataset id."""
    return re.sub(r"(?m)^id: .*$", f"id: {id}", text, count=1)


def contract_file_named(tmp_path: Path, base: str = "sales", id: str = "sales_x") -> Path:
    """A file with the shipped contract `base` under the dataset id `id`."""
    path = tmp_path / f"{id}.yaml"
    path.write_text(renamed(shipped_text(base), id), encoding="utf-8")
    return path
