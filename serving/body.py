"""PURE. A request's body into bytes, or a Refusal: bounded in size, in time, and in what all requests hold together.

A body that is too large is read to its end and thrown away before it is refused: a server that answers and closes with
bytes unread has its kernel reset the connection, and the client never sees the 413. One that announces itself with
`Expect: 100-continue` is refused before it is sent. Knows no contract; the clock is the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serving.refusal import Refusal

WITHIN_S = 10.0  # 16 MiB at 14 Mbit/s; a client that sends a byte a second is let go
THROWN_AWAY = 256 * 1024 * 1024  # read and dropped of a body that is too large; whoever sends more sees a reset
HELD = 128 * 1024 * 1024  # bytes of bodies that a worker holds at once: a memory bound, whatever the number of requests

Receive = Callable[[], Awaitable[Mapping[str, object]]]


@dataclass
class Bodies:
    """Reads bodies of one worker."""

    within_s: float = WITHIN_S
    most_held: int = HELD
    held: int = 0

    async def read(self, receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
        """The whole body. Refusal 400 bad length or cut off, 408 too slow, 413 too large, 503 no room now."""
        announced = _announced(headers)
        if announced > limit and headers.get("expect", "").lower() == "100-continue":
            raise _too_large(limit, announced)
        try:
            async with asyncio.timeout(self.within_s):
                return await self._read(receive, limit, announced)
        except TimeoutError:
            raise Refusal(408, f"expected the whole body within {self.within_s:g} s", field="", rule="slow") from None

    async def _read(self, receive: Receive, limit: int, announced: int) -> bytes:
        if announced > limit:
            size = await _throw_away(receive, 0)
            raise _too_large(limit, max(size, announced))
        chunks: list[bytes] = []
        size, held, more = 0, 0, True
        try:
            while more:
                chunk, more = await _next(receive)
                size += len(chunk)
                if size > limit:
                    chunks.clear()
                    raise _too_large(limit, await _throw_away(receive, size) if more else size)
                held += len(chunk)
                self.held += len(chunk)
                chunks.append(chunk)
                if self.held > self.most_held:
                    raise Refusal(503, "the requests that are being read fill this worker's memory bound; try again")
            return b"".join(chunks)
        finally:
            self.held -= held


def _announced(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refusal(400, "expected a content length in digits", field="", rule="size")
    return int(text)


async def _next(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Refusal(400, "the connection ended before the body did", field="", rule="cut_off")
    chunk = message.get("body", b"")
    assert isinstance(chunk, bytes)
    return chunk, bool(message.get("more_body", False))


async def _throw_away(receive: Receive, size: int) -> int:
    more = True
    while more and size <= THROWN_AWAY:
        chunk, more = await _next(receive)
        size += len(chunk)
    return size


def _too_large(limit: int, size: int) -> Refusal:
    return Refusal(413, f"expected a body of at most {limit} bytes, got {size}", field="", rule="size")
