"""EDGE. The comparison: one validator and one drift process that nobody disturbs read the same raw topic and references again.

The outputs of the disturbed run are deleted and their topics made anew, so names, keys and settings are the same and a verdict
may be compared byte by byte.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException

from pipeline import kafka, topics
from pipeline.contract import Contract
from pipeline.settings import Settings
from pipeline.times import ms, to_ms
from pipeline.topics import Topic
from stream_processors.drift.read_verbs import read
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
QUIET_S = 3.0  # without a new verdict, behind the last window: the judge has said everything
SETTLE_S, CATCH_UP_S = 120.0, 900.0
Place = tuple[str, str, str]  # window, feature, segment


def latest(settings: Settings, dataset: str) -> dict[Place, bytes]:
    """The newest verdict of each window, feature and segment, as it was written."""
    found: dict[Place, bytes] = {}
    for message in kafka.read_all(settings, topics.VERDICTS, deadline_s=300):
        value = message.value()
        if value and (message.key() or b"").startswith(f"{dataset}/".encode()):
            said = json.loads(value)
            found[said["window_start"], said["feature"], said["segment"]] = value
    return found


def differences(one: Mapping[Place, bytes], other: Mapping[Place, bytes]) -> list[str]:
    """Places at which they do not say the same, with both."""
    return [
        f"{'/'.join(place)}: {one.get(place)!r} against {other.get(place)!r}"
        for place in sorted(one.keys() | other.keys())
        if one.get(place) != other.get(place)
    ]


def await_verdicts(settings: Settings, contract: Contract, deadline_s: float = SETTLE_S) -> None:
    """Wait until the last window that the rows can close is judged, and nothing more is said."""
    last = _last_window(settings, contract)
    client = kafka.consumer(settings, "faults-verdicts")
    until, quiet_since, before = time.monotonic() + deadline_s, time.monotonic(), -1
    try:
        while True:
            end = sum(high for _, high in kafka.bounds(client, topics.VERDICTS).values())
            now = time.monotonic()
            if end != before:
                before, quiet_since = end, now
            elif now - quiet_since > QUIET_S:
                windows = {to_ms(str(v["window_start"])) for v in read(settings, topics.VERDICTS, contract.id)}
                if last in windows:
                    return
                quiet_since = now
            assert now < until, f"no verdict of the last window {last} within {deadline_s:.0f} s"
            time.sleep(0.1)
    finally:
        client.close()


def _last_window(settings: Settings, contract: Contract) -> int:
    """Start of the last window that ends at or before the newest event time less the lateness."""
    newest = max(
        t
        for m in kafka.read_all(settings, topics.blocks(contract.id), deadline_s=300)
        for k, v in kafka.headers_of(m)
        if k == "driftline.max-event-time" and v
        for t in [to_ms(v.decode())]
    )
    length = ms(contract.drift.window)
    return (newest - ms(contract.time.lateness)) // length * length - length


def again(settings: Settings, contract: Contract, environment: Mapping[str, str], logs: Path) -> dict[Place, bytes]:
    """The latest verdicts of a run of its own, from the raw topic's first record."""
    _forget(settings, contract)
    _run(["validate", "--exit-at-end"], environment, logs / "undisturbed-validate.log")
    with (logs / "undisturbed-drift.log").open("ab") as log:
        drift = subprocess.Popen(_command(["drift"]), cwd=ROOT, env=dict(environment), stdout=log, stderr=log)
        try:
            await_verdicts(settings, contract, CATCH_UP_S)
        finally:
            drift.terminate()
            drift.wait(40)
    return latest(settings, contract.id)


def _forget(settings: Settings, contract: Contract) -> None:
    """Delete what was made of the raw records: topics and the validator's position. References stay."""
    client = kafka.admin(settings)
    made = [t for t in topics.all_topics(contract.id, contract.partitions) if _made(t, contract.id)]
    for group in ("validate", "drift"):
        wait_until(lambda g=group: _deleted(client, topics.group(contract.id, g)), 60, "the group to be empty")
    for future in client.delete_topics([t.name for t in made], operation_timeout=30).values():
        future.result(30)
    names = {t.name for t in made}
    wait_until(lambda: not names & set(client.list_topics(timeout=10).topics), 30, "the topics to be gone")
    kafka.create_topics(settings, made)


def _made(topic: Topic, dataset: str) -> bool:
    return topic.name not in (topics.events(dataset), topics.REFERENCES, topics.outcomes(dataset))


def _deleted(client: object, group: str) -> bool:
    """A static member that was stopped leaves when its session ends."""
    try:
        [future] = client.delete_consumer_groups([group], request_timeout=10).values()  # type: ignore[attr-defined]
        future.result(10)
        return True
    except KafkaException as error:
        return error.args[0].name() == "GROUP_ID_NOT_FOUND"


def _run(arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as out:
        done = subprocess.run(_command(arguments), cwd=ROOT, env=dict(environment), stdout=out, stderr=out, timeout=CATCH_UP_S)  # fmt: skip
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {log.read_text()[-2000:]}"


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *arguments]
