"""EDGE. Asks one URL whether it answers 200; also a container's health check: `python -m pipeline.probe URL`.

Standard library only: it is started every few seconds.
"""

from __future__ import annotations

import http.client
import sys
from urllib.parse import urlsplit


def problem(url: str, timeout_s: float = 3.0) -> str | None:
    """None if the URL answers 200 in time, otherwise what it did instead."""
    try:
        status, body = _get(url, timeout_s)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return None if status == 200 else f"{status} {body[:200].strip()}".strip()


def text(url: str, timeout_s: float = 3.0) -> str:
    """The body of a 200 answer; "" if there is none."""
    try:
        status, body = _get(url, timeout_s)
    except (OSError, http.client.HTTPException):
        return ""
    return body if status == 200 else ""


def _get(url: str, timeout_s: float) -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path or "/", headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def main() -> int:
    found = problem(sys.argv[1])
    if found:
        print(f"{sys.argv[1]}: {found}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
