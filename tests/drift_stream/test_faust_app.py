"""Blocks of aborted transactions are never read by our app, which leaves no folder behind; Faust's own does both."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faust
import pytest
from faust.types import TP

from pipeline import topics
from stream_processors.drift import faust_app
from tests.drift_stream.samples import DAY0, block
from tests.drift_stream.stream import write, writer

TRANSACTIONS = 9  # every third one is aborted
BLOCKS = 2  # in each


async def read(app: faust.App, until: set[int], deadline_s: float) -> list[int]:
    """Raw offsets of the blocks that the app sees, once all of `until` are among them."""
    seen: list[int] = []
    enough = asyncio.Event()
    source = app.topic(
        topics.blocks("tiny"), value_type=bytes, value_serializer="raw", key_serializer="raw", acks=False
    )

    async def note(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            seen.append(int(dict(event.message.headers)["driftline.start"]))
            if until <= set(seen):
                enough.set()

    app.agent(source, concurrency=1, name="note")(note)
    app.in_worker = True
    app.finalize()
    await app.start()
    try:
        await asyncio.wait_for(enough.wait(), deadline_s)
    finally:
        await app.stop()
    return seen


@pytest.mark.parametrize("ours", [True, False], ids=["our driver", "Faust's own driver"])
def test_only_our_app_leaves_aborted_blocks_and_folders_out(fresh_topics, ours, tmp_path, monkeypatch):
    settings = fresh_topics("tiny", 1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    faust_app.quiet_libraries()
    made = writer(settings)
    written = [list(range(i * BLOCKS, (i + 1) * BLOCKS)) for i in range(TRANSACTIONS)]
    for i, starts in enumerate(written):
        write(made, [block(0, s, [(DAY0, 1.0, "north")], None) for s in starts], abort=i % 3 == 0)
    good = {s for i, starts in enumerate(written) if i % 3 for s in starts}

    async def from_the_start(assigned: set[TP]) -> dict[TP, int]:
        return dict.fromkeys(assigned, 0)

    stock = {"web_enabled": False, "topic_disable_leader": True, "topic_allow_declare": False, "store": "memory://"}
    app = (
        faust_app.build(settings, "tiny", from_the_start)
        if ours
        else faust.App("stock", broker=f"kafka://{settings.bootstrap}", **stock)
    )
    seen = asyncio.run(read(app, good if ours else {s for starts in written for s in starts}, 40))
    assert sorted(seen) == sorted(good if ours else [s for starts in written for s in starts])
    assert [path.name for path in Path.cwd().iterdir()] == ([] if ours else ["stock-data"])
