"""How a body is read: bounded in size, time and memory, and never answered by a reset connection."""

from __future__ import annotations

import asyncio

import pytest

from serving.body import Bodies
from serving.refusal import Refusal


def of(*chunks: bytes, then: str = "end"):
    """A client that sends these chunks, and then ends, waits for ever, or goes away. `.left` = what was not read."""
    messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    if then == "end":
        messages[-1]["more_body"] = False

    async def receive():
        if messages:
            return messages.pop(0)
        if then == "waits":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    receive.left = messages
    return receive


def read(receive, limit: int = 10, bodies: Bodies | None = None, **headers: str) -> bytes:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return asyncio.run((bodies or Bodies(within_s=0.2)).read(receive, named, limit))


def status(receive, **more) -> int:
    with pytest.raises(Refusal) as caught:
        read(receive, **more)
    return caught.value.status


def test_chunks_come_together():
    assert read(of(b"ab", b"", b"cd")) == b"abcd"
    assert read(of(b"0123456789")) == b"0123456789"


@pytest.mark.parametrize("headers", [{}, {"content_length": "15"}])
def test_a_body_that_is_too_large_is_read_to_its_end_before_it_is_refused(headers):
    client = of(b"01234", b"56789", b"abcde")
    assert status(client, **headers) == 413
    assert client.left == []


def test_one_that_asks_first_is_refused_before_it_is_sent():
    client = of(b"01234", b"56789", b"abcde")
    assert status(client, content_length="15", expect="100-continue") == 413
    assert len(client.left) == 3


def test_a_slow_body_is_a_408_and_a_cut_off_one_a_400():
    assert status(of(b"a", then="waits")) == 408
    assert status(of(b"a", then="goes")) == 400
    assert status(of(b"a" * 20, then="waits")) == 408


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "٣", "a", ""])
def test_a_length_that_is_no_number_is_a_400(length):
    assert status(of(b"a"), content_length=length) == 400


def test_bodies_that_are_read_at_once_share_a_memory_bound():
    async def both() -> tuple[bytes, int]:
        bodies, go_on = Bodies(within_s=5, most_held=8), asyncio.Event()
        first = iter([b"012345", b"6"])

        async def slow():
            chunk = next(first)
            if chunk == b"6":
                await go_on.wait()
            return {"type": "http.request", "body": chunk, "more_body": chunk != b"6"}

        task = asyncio.create_task(bodies.read(slow, {}, 10))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await bodies.read(of(b"abcd"), {}, 10)
        go_on.set()
        return await task, caught.value.status, bodies.held

    assert asyncio.run(both()) == (b"0123456", 503, 0)
