"""The four loads of the serving bench; each returns its bars and figures."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from batch import model
from serving.admission import ARROW_TYPE
from serving.feature_store import FeatureStore
from serving.refusal import MAX_ROWS
from tests.bench._serving_client import Connection, request
from tests.bench._serving_world import WORKERS, World, follow, versions, wait
from tests.bench.report import Bar, bar

Found = tuple[list[Bar], dict[str, object]]
FOLLOW_S = 2.0  # all workers, from the promotion on
CLIENTS = 4  # saturate two workers
KEPT = 2.0  # times the calm p99: what counts as an accepted request that keeps its latency
BATCH_ROWS = 5_000
ONE_VERSION = 1e-12  # how far an answer may be from its version's recomputed scores


def milliseconds(seconds: list[float]) -> dict[str, float]:
    found = np.array(seconds) * 1e3
    named = {f"p{q:g}": round(float(np.percentile(found, q)), 3) for q in (50, 90, 99, 99.9)}
    return {**named, "max": round(float(found.max()), 1)}


# -- latency ---------------------------------------------------------------------------------------------------------------


def latency(world: World, port: int, other: int, count: int) -> Found:
    """`count` requests to each, in turn, so that whatever else the machine does falls on both alike."""
    ours = [request("/predict", r) for r in world.records(2_000)]
    theirs = request("/empty", b"{}")
    to_us, to_empty = [Connection(port) for _ in range(2 * WORKERS)], [Connection(other) for _ in range(2 * WORKERS)]
    seconds: tuple[list[float], list[float]] = ([], [])
    failed = 0
    for i in range(-1_000, count):  # the first thousand warm up
        began = time.perf_counter()
        status, _ = to_us[i % len(to_us)].ask(ours[i % len(ours)])
        between = time.perf_counter()
        plain, _ = to_empty[i % len(to_empty)].ask(theirs)
        ended = time.perf_counter()
        if i >= 0:
            seconds[0].append(between - began)
            seconds[1].append(ended - between)
            failed += (status, plain) != (200, 200)
    for connection in (*to_us, *to_empty):
        connection.close()
    mine, base = milliseconds(seconds[0]), milliseconds(seconds[1])
    bars = [
        bar("predict_p50_over_empty", round(mine["p50"] / base["p50"], 3), "<=", 1.5),
        bar("predict_p99_over_empty", round(mine["p99"] / base["p99"], 3), "<=", 2.0),
        bar("latency_failed", failed, "==", 0),
    ]
    return bars, {"requests_each": count, "predict_ms": mine, "empty_ms": base}


# -- batches ---------------------------------------------------------------------------------------------------------------


def batches(world: World, port: int, seconds: float) -> Found:
    rows = [r for r in world.records(BATCH_ROWS)]
    bodies = {
        "json": request("/predict_batch", b'{"rows":[' + b",".join(rows) + b"]}"),
        "arrow": request("/predict_batch", stream(world.frame(MAX_ROWS)), ARROW_TYPE),
    }
    bars, figures = [], {}
    for name, size, target in (("json", BATCH_ROWS, 50_000), ("arrow", MAX_ROWS, 100_000)):
        asked = ask(port, [bodies[name]], CLIENTS, seconds)
        rate = size * asked.statuses[200] / asked.seconds
        failed = sum(asked.statuses.values()) - asked.statuses[200]
        bars += [
            bar(f"batch_{name}_rows_per_s", round(rate), ">=", target),
            bar(f"batch_{name}_failed", failed, "==", 0),
        ]
        figures[name] = {"rows_a_request": size, "rows_per_s": round(rate), "ms": milliseconds(asked.latencies(200))}
        settle(world, port)
    figures["prediction_log_dropped"] = metric(port, "driftline_prediction_log_dropped_total")
    return bars, figures


def stream(frame: pl.DataFrame) -> bytes:
    table, sink = frame.to_arrow(), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def settle(world: World, port: int) -> None:
    """Until the prediction log has caught up: the next question is not about this one's leftovers."""
    record = world.records(1)[0]

    def quick() -> bool:
        with Connection(port) as connection:
            began = time.perf_counter()
            connection.post("/predict", record)
            return time.perf_counter() - began < 0.02

    wait(lambda: all(quick() for _ in range(20)), "the service to be at rest", 30)


# -- swaps -----------------------------------------------------------------------------------------------------------------


def swaps(world: World, port: int, count: int) -> Found:
    """Promotions one after another, each awaited on every worker, while clients ask for batches and single rows."""
    frame, record = world.frame(50), world.records(1)[0]
    whole = b'{"rows":[' + b",".join(world.records(50)) + b"]}"
    done, taken = threading.Event(), []
    asked = Asked()
    loads = [
        threading.Thread(target=asked.run, args=(port, [request(path, body)], done.is_set))
        for path, body in (("/predict_batch", whole), ("/predict", record))
    ]
    for thread in loads:
        thread.start()
    names = sorted(world.artifacts)
    for i in range(count):
        world.promote(names[(i + 1) % len(names)])
        taken.append(follow(world))
    done.set()
    for thread in loads:
        thread.join()
    scores = recomputed(world, frame)
    mixed = sum(not one_version(json.loads(body), world, scores) for _, status, body in asked.answers if status == 200)
    failed = sum(asked.statuses.values()) - asked.statuses[200]
    bars = [
        bar("swaps", len(taken), ">=", 100),
        bar("swap_failed_requests", failed, "==", 0),
        bar("swap_answers_not_of_one_version", mixed, "==", 0),
        bar("swap_slowest_seconds", round(max(taken), 2), "<=", FOLLOW_S),
        bar(
            "swap_versions_seen",
            len({json.loads(b)["version"] for _, s, b in asked.answers if s == 200}),
            "==",
            len(names),
        ),
    ]
    loading = metric(port, "driftline_model_load_seconds_sum") / max(
        1.0, metric(port, "driftline_model_load_seconds_count")
    )
    return bars, {
        "requests": sum(asked.statuses.values()),
        "seconds_until_all_workers_follow": {k: round(v / 1e3, 3) for k, v in milliseconds(taken).items()},
        "mean_load_seconds": round(loading, 3),
        "ms": milliseconds(asked.latencies(200)),
    }


def recomputed(world: World, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """Digest -> what the files of that version answer to the frame, nothing known of anybody's past."""
    found = {}
    store = FeatureStore(world.run.settings, world.run.contract, meter=Silent())
    for artifact in world.artifacts.values():
        scorer = model.load(world.run.settings.home / artifact["uri"], artifact["sha256"])
        found[artifact["sha256"]] = scorer.score_matrix(scorer.features.matrix(frame, store.matrix(frame)[0]))
    return found


def one_version(told: dict[str, object], world: World, scores: dict[str, np.ndarray]) -> bool:
    digest = str(told["digest"])
    given = np.array(told["scores"] if "scores" in told else [told["score"]], float)
    right = world.artifacts[str(told["version"])]["sha256"] == digest
    return right and float(np.max(np.abs(given - scores[digest][: len(given)]))) <= ONE_VERSION


class Silent:
    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None: ...
    def set(self, name: str, value: float, /, **labels: str) -> None: ...
    def observe(self, name: str, value: float, /, **labels: str) -> None: ...


# -- overload --------------------------------------------------------------------------------------------------------------


def overload(world: World, port: int, seconds: float) -> Found:
    """The clients that saturate it, then ten times as many, then so many that most must be refused."""
    messages = [request("/predict", r) for r in world.records(200)]
    calm = ask(port, messages, CLIENTS, seconds)
    usual = milliseconds(calm.latencies(200))
    bars: list[Bar] = []
    figures: dict[str, object] = {"calm": {"clients": CLIENTS, "answers_per_s": round(rate(calm)), "ms": usual}}
    for name, times in (("overload", 10), ("flood", 60)):
        storm = ask(port, messages, times * CLIENTS, seconds)
        settle(world, port)
        accepted, refused = milliseconds(storm.latencies(200)), storm.latencies(429) + storm.latencies(503)
        other = sum(storm.statuses.values()) - storm.statuses[200] - len(refused)
        bars += [
            bar(f"{name}_accepted_p99_ms", accepted["p99"], "<=", 250.0),
            bar(f"{name}_accepted_p99_over_calm", round(accepted["p99"] / usual["p99"], 2), "<=", KEPT, False),
            bar(f"{name}_accepted_per_s_over_calm", round(rate(storm) / rate(calm), 2), ">=", 0.5, name == "overload"),
            bar(f"{name}_other_answers", other, "==", 0),
            bar(f"{name}_still_serves", len(versions(port, world.records(1)[0])), "==", 1),
        ]
        figures[name] = {
            "clients": times * CLIENTS,
            "accepted_per_s": round(rate(storm)),
            "refused": len(refused),
            "accepted_ms": accepted,
            "refused_ms": milliseconds(refused) if refused else None,
        }
    bars.append(bar("flood_refused", len(refused), ">", 0))  # else it was none
    return bars, figures


def rate(asked: Asked) -> float:
    return asked.statuses[200] / asked.seconds


# -- clients ---------------------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What clients were answered: (seconds, status, body)."""

    answers: list[tuple[float, int, bytes]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for _, status, _ in self.answers)

    def latencies(self, status: int) -> list[float]:
        return [s for s, found, _ in self.answers if found == status]

    def run(self, port: int, messages: list[bytes], ended: Callable[[], bool]) -> None:
        with Connection(port) as connection:
            i = 0
            while not ended():
                began = time.perf_counter()
                try:
                    status, body = connection.ask(messages[i % len(messages)])
                except OSError as error:  # a reset connection is a failed request
                    self.answers.append((time.perf_counter() - began, 0, repr(error).encode()))
                    return
                self.answers.append((time.perf_counter() - began, status, body if len(body) < 10_000 else b""))
                i += 1


def ask(port: int, messages: list[bytes], clients: int, seconds: float) -> Asked:
    """Clients that ask one thing after another, each on its own connection, for so long."""
    asked, began = Asked(), time.monotonic()

    def ended() -> bool:
        return time.monotonic() >= began + seconds

    threads = [
        threading.Thread(target=asked.run, args=(port, messages[i:] + messages[:i], ended)) for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked.seconds = time.monotonic() - began
    return asked


def metric(port: int, name: str) -> float:
    with Connection(port) as connection:
        lines = connection.get("/metrics")[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " ")))
