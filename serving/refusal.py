"""PURE. What a request may hold, and the answer to one that may not."""

from __future__ import annotations

MAX_ROWS = 10_000
MAX_BODY = 16 * 1024 * 1024
MAX_RECORD = 64 * 1024  # as on the stream


class Refusal(Exception):
    """An answer with a 4xx or 5xx status; `body` says what was expected, where, and what came."""

    def __init__(self, status: int, error: str, **detail: object):
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **detail}
