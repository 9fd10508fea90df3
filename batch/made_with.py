"""EDGE. Which code made a model: our version and a digest of our source, and the libraries whose version can change a model."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

OURS = ("batch", "pipeline", "stream_processors")
LIBRARIES = ("scikit-learn", "numpy", "scipy", "polars", "skops")


@functools.cache
def made_with() -> dict[str, str]:
    """{"driftline": "0.1.0+<12 hex>", "python", and each library}; equal for equal code, wherever it is installed."""
    known = {name: version(name) for name in LIBRARIES}
    return {"driftline": f"{version('driftline')}+{source_digest()[:12]}", "python": platform.python_version(), **known}


def source_digest() -> str:
    """SHA-256 over path and bytes of every Python, Rego and contract file of the packages that a training imports."""
    found = hashlib.sha256()
    for package in OURS:
        root = Path(str(import_module(package).__file__)).parent
        for file in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".rego", ".yaml")):
            body = file.read_bytes()
            found.update(f"{package}/{file.relative_to(root)}\0{len(body)}\0".encode() + body)
    return found.hexdigest()
