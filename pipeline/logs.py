"""EDGE. Structured logs on stderr: an event name, then fields. One line a block, never one a record."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime

_lock = threading.Lock()


def log(event: str, /, level: str = "info", **fields: object) -> None:
    """`2026-11-21T03:00:00.000Z info block_validated topic=sales.events rows=5000`."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = " ".join([now, level, event, *(f"{k}={_plain(v)}" for k, v in fields.items())])
    with _lock:
        sys.stderr.write(f"{line}\n")  # in one piece: print writes the line's end apart, and others write there, too
        sys.stderr.flush()


def _plain(value: object) -> str:
    text = str(value).encode("utf-8", "replace").decode()
    return repr(text) if any(c.isspace() or c in '"=' for c in text) or not text else text
