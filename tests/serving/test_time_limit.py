"""A request's time limit as BentoML builds it into its application: late ones end, answered ones leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from bentoml._internal.server.base_app import BaseAppFactory

from serving import time_limit


class Factory(BaseAppFactory):
    name = "test"


def limited(app, seconds):
    """`app` behind what BentoML puts in front of it."""
    time_limit.install()
    (middleware,) = Factory(timeout=seconds).middlewares
    return middleware.cls(app, **middleware.kwargs)


class Held:
    """Something in a request's scope, to see when it is let go."""


async def ask(app, held=None):
    """The status and the body that a client sees."""
    said = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        said.append(message)

    await app({"type": "http", "method": "POST", "path": "/", "headers": [], "held": held}, receive, send)
    return said[0]["status"], b"".join(m.get("body", b"") for m in said)


def test_what_does_not_begin_to_answer_in_time_is_cancelled_and_told():
    ended = []

    async def never(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(scope["path"])

    status, body = asyncio.run(ask(limited(never, 0.05)))
    assert (status, ended) == (504, ["/"])
    assert b"expected an answer within 0.05 s" in body


def test_an_answer_that_has_begun_takes_as_long_as_it_takes():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await asyncio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"last"})

    assert asyncio.run(ask(limited(app, 0.05))) == (200, b"first last")


def test_a_timeout_of_the_application_itself_is_not_taken_for_ours():
    async def fails(scope, receive, send):
        raise TimeoutError("a broker")

    with pytest.raises(TimeoutError, match="a broker"):
        asyncio.run(ask(limited(fails, 30)))


def test_answered_requests_are_let_go_long_before_their_limit():
    """BentoML's own keeps each for the whole limit: half a million objects for the collector at 800 requests a second."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def many():
        behind, seen = limited(app, 3_600), []
        for _ in range(2_000):
            held = Held()
            seen.append(weakref.ref(held))
            await asyncio.create_task(ask(behind, held))  # a context of its own, as a server's requests have
            del held
        gc.collect()
        return sum(there() is not None for there in seen), len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]

    kept, timers = asyncio.run(many())
    assert kept <= 1 and timers <= 300  # asyncio sweeps cancelled timers once they are a hundred and half of all
