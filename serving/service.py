"""EDGE. The prediction service on BentoML: /predict, /predict_batch, /explain, /model.

A gate in front reads the body within its bounds, refuses what is too much, and fixes the model that answers: the champion is
read once a request, so an answer comes from exactly one version. Behind it an endpoint judges the raw body by the contract
(`serving.admission`) and scores it (`serving.scoring`); BentoML keeps workers, health and the OpenAPI page.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import bentoml
import msgspec
import pydantic
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch import plan, tree_shap
from batch.answer_log import request_id
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, decode
from pipeline.settings import from_environment
from serving import time_limit
from serving.admission import Admission
from serving.body import Bodies
from serving.champion import ChampionFollower
from serving.explained import Explanation
from serving.feature_store import FeatureStore
from serving.logged import Explaining
from serving.overload import Slots, Turns
from serving.prediction_log import PredictionLog
from serving.refusal import MAX_BODY, MAX_RECORD, Refusal
from serving.scoring import Answer, Champion, Prediction, Predictions, Scoring
from serving.worker_metrics import forget_dead_workers
from stream_processors.live.model_features import check_history

time_limit.install()
SETTINGS = from_environment(os.environ)
CONTRACT = contract_file.load(SETTINGS.contract)
assert CONTRACT.label is not None, f"{CONTRACT.name} has no label: there is nothing to predict"
MODEL = f"{CONTRACT.id}-{CONTRACT.label.name}"
METER = PrometheusMeter()
FEATURES = FeatureStore(SETTINGS, CONTRACT, METER)
SCORING = Scoring(CONTRACT, MODEL, Admission(decode.compile(CONTRACT)), FEATURES, new_id=lambda: request_id(time.time_ns() // 1_000_000, os.urandom(10)))  # fmt: skip
CHAMPION = ChampionFollower(SETTINGS, MODEL, METER, check=lambda scorer: check_history(scorer.features, CONTRACT))
EXPLAINING = Explaining(SETTINGS, CONTRACT, SCORING, CHAMPION.model_of)
BODIES, BATCHES = Bodies(), Slots()
EXPLANATIONS = Slots(4)  # asked by people, one by one
WORKERS = int(os.environ.get("DRIFTLINE_SERVING_WORKERS", "2"))


@dataclass(frozen=True, slots=True)
class Route:
    """How a path answers: a function of the model that answers, the content type and the body."""

    answer: Callable[[Champion, str, bytes], Answer]
    limit: int  # bytes of a body
    slots: Slots | None = None  # None: answered on the event loop, bounded by its turns


ROUTES = {
    "/predict": Route(SCORING.one, MAX_RECORD),
    "/predict_batch": Route(SCORING.many, MAX_BODY, BATCHES),
    "/explain": Route(EXPLAINING.explain, MAX_RECORD, EXPLANATIONS),
    "/model": Route(SCORING.model, MAX_RECORD),
}


@dataclass(frozen=True, slots=True)
class Asked:
    route: Route
    champion: Champion
    content_type: str
    body: bytes


ASKED: ContextVar[Asked] = ContextVar("asked")


def _schema() -> dict[str, Any]:
    """The contract's schema as OpenAPI takes it: it knows no `$schema`."""
    return {k: v for k, v in decode.request_schema(CONTRACT).items() if not k.startswith("$")}


class Record(pydantic.RootModel[dict[str, Any]]):
    """One record of the contract; the contract's own decoder judges it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return _schema()


class Subject(pydantic.RootModel[dict[str, Any]]):
    """What is to be explained: a record of the contract, or `{"prediction_id": id}`."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        id = {"type": "object", "properties": {"prediction_id": {"type": "string"}}, "required": ["prediction_id"], "additionalProperties": False}  # fmt: skip
        return {"oneOf": [_schema(), id]}


class Batch(pydantic.RootModel[dict[str, Any]]):
    """`{"rows": [record, ...]}`, or the same rows as an Arrow stream."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": _schema()}},
            "required": ["rows"],
            "additionalProperties": False,
        }


def _documented(said: type[msgspec.Struct]) -> type[pydantic.BaseModel]:
    """The fields of an answer for the OpenAPI page; what is sent is `serving.scoring`'s own bytes."""
    kinds = get_type_hints(said)
    fields: dict[str, Any] = {
        f.name: (_documented_kind(kinds[f.name]), ... if f.required else None) for f in msgspec.structs.fields(said)
    }
    return pydantic.create_model(said.__name__, **fields)


def _documented_kind(kind: Any) -> Any:
    if get_origin(kind) is list:
        return list[_documented_kind(get_args(kind)[0])]  # type: ignore[misc]
    return _documented(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else kind


class Gate:
    """Reads the body once, within its bounds, and hands it on beside the model that answers."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._turns: Turns | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        began, endpoint = time.perf_counter(), scope["path"].lstrip("/")

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                METER.inc("driftline_prediction_errors_total", endpoint=endpoint, status=str(message["status"]))
            await send(message)

        try:
            self._take()
            headers = Headers(scope=scope)
            body = await BODIES.read(receive, headers, route.limit)
            with route.slots or nullcontext():  # only now: a client that sends slowly holds up nobody
                ASKED.set(Asked(route, _serving(), headers.get("content-type", ""), body))
                await self._app(_of_no_type(scope), _nothing_to_read, watched)
        except Refusal as refusal:
            await _refused(refusal)(scope, receive, watched)
            return
        METER.observe("driftline_prediction_seconds", time.perf_counter() - began, endpoint=endpoint)

    def _take(self) -> None:
        if self._turns is None:
            # the thread's own time: a machine that is busy with other things is no reason to refuse a request
            self._turns = Turns(time.thread_time, asyncio.get_running_loop().call_soon)
        self._turns.take()


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status, {"Retry-After": "1"} if refusal.status in (429, 503) else None)


def _serving() -> Champion:
    """The model that answers this request; nothing is answered by one that has not passed the gate."""
    if CHAMPION.current is None:
        raise Refusal(503, f"{MODEL}: no model has passed the gate yet; `driftline models history` tells why")
    return CHAMPION.current


def _of_no_type(scope: Scope) -> Scope:
    """Without a content type: BentoML takes it for JSON and does not look for forms in the empty object."""
    return {**scope, "headers": [header for header in scope["headers"] if header[0] != b"content-type"]}


async def _nothing_to_read() -> Message:
    """The endpoint's own parser gets an empty object: the gate has read the body."""
    return {"type": "http.request", "body": b"{}", "more_body": False}


@bentoml.service(
    name="driftline",
    workers=WORKERS,
    threads=1,  # batches one after another: two at once take turns at the interpreter, and both come late
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
)
class Serving:
    def __init__(self) -> None:
        forget_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        plan.warm_up()
        tree_shap.warm_up()
        FEATURES.start()
        CHAMPION.start()
        self._log = PredictionLog(SETTINGS, CONTRACT, MODEL, METER)
        # What is imported and compiled by now, 300,000 objects, is never garbage: the collector need not walk it, which
        # takes 0.2 s (measured) and keeps every answer waiting.
        gc.collect()
        gc.freeze()

    @bentoml.api(route="/predict", output_spec=_documented(Prediction))
    async def predict(self, record: Record, /) -> Any:
        return self._answer("predict")

    @bentoml.api(route="/predict_batch", output_spec=_documented(Predictions))
    def predict_batch(self, batch: Batch, /) -> Any:
        return self._answer("predict_batch")

    @bentoml.api(route="/explain", output_spec=_documented(Explanation))
    async def explain(self, record: Subject, /) -> Any:
        """In a thread of its own, so that nothing waits for it while it reads the log."""
        return await asyncio.to_thread(self._answer, "explain")

    @bentoml.api(route="/model", output_spec=dict)
    async def model(self) -> Any:
        """What answers now: model, version, digest, contract, and the facts its training left."""
        return self._answer("model")

    async def __is_ready__(self) -> bool:
        return CHAMPION.ready.is_set() and FEATURES.ready.is_set()

    @bentoml.on_shutdown
    def close(self) -> None:
        CHAMPION.stop()
        FEATURES.stop()
        self._log.close()

    def _answer(self, endpoint: str) -> Response:
        asked = ASKED.get()
        try:
            answer = asked.route.answer(asked.champion, asked.content_type, asked.body)
        except Refusal as refusal:
            return _refused(refusal)
        if (made := answer.answered) is not None:
            self._log.record(made)
            METER.inc("driftline_predictions_total", float(len(made.scores)), endpoint=endpoint, version=made.version)
        return Response(answer.body, media_type=answer.media_type)


Serving.add_asgi_middleware(Gate)
