"""EDGE. The prediction service on BentoML: /predict, /predict_batch, /model.

A gate in front judges the raw body by the contract (`serving.admission`) and answers every 4xx itself; behind it an
endpoint only scores. The champion is read once a request, so an answer comes from exactly one version.
"""

from __future__ import annotations

import os
import time
from typing import Any

import bentoml
import pydantic
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitoring.metrics import PrometheusMeter
from pipeline import contract_file, decode
from pipeline.contract import OutcomeLabel
from pipeline.settings import from_environment
from serving.admission import MAX_BODY, MAX_RECORD, Admission, Admitted, Refusal
from serving.body import Bodies
from serving.champion import Champion, ChampionFollower
from serving.prediction_log import PredictionLog

SETTINGS = from_environment(os.environ)
CONTRACT = contract_file.load(SETTINGS.contract)
assert CONTRACT.label is not None, f"{CONTRACT.name} has no label: there is nothing to predict"
MODEL = f"{CONTRACT.id}-{CONTRACT.label.name}"
KEY = CONTRACT.label.key if isinstance(CONTRACT.label, OutcomeLabel) else CONTRACT.key
METER = PrometheusMeter()
ADMISSION = Admission(decode.compile(CONTRACT))
ROUTES = {"/predict": ADMISSION.one, "/predict_batch": ADMISSION.many, "/model": lambda content_type, body: None}
LIMITS = {"/predict": MAX_RECORD, "/predict_batch": MAX_BODY, "/model": MAX_RECORD}  # bytes of a body
BODIES = Bodies()
CHAMPION = ChampionFollower(
    SETTINGS, MODEL, on_swap=lambda c: METER.set("driftline_serving_model_version", float(c.version), model=MODEL)
)
WORKERS = int(os.environ.get("DRIFTLINE_SERVING_WORKERS", "2"))


def _schema() -> dict[str, Any]:
    """The contract's schema as OpenAPI takes it: it knows no `$schema`."""
    return {k: v for k, v in decode.request_schema(CONTRACT).items() if not k.startswith("$")}


class Record(pydantic.RootModel[dict[str, Any]]):
    """One record of the contract; the gate has judged it before it comes here, so nothing is checked twice."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return _schema()


class Batch(pydantic.RootModel[dict[str, Any]]):
    """`{"rows": [record, ...]}`."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": _schema()}},
            "required": ["rows"],
            "additionalProperties": False,
        }


class Prediction(pydantic.BaseModel):
    key: str | None
    score: float
    model: str
    version: str


class Predictions(pydantic.BaseModel):
    model: str
    version: str
    digest: str
    keys: list[str | None]
    scores: list[float]


class Gate:
    """Reads the body once, judges it, answers refusals, and hands the admitted rows on in the request's state."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        judge = ROUTES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if judge is None:
            await self._app(scope, receive, send)
            return
        began, endpoint = time.perf_counter(), scope["path"].lstrip("/")
        try:
            request = Request(scope, receive)
            body = await BODIES.read(receive, request.headers, LIMITS[scope["path"]])
            state = scope.setdefault("state", {})
            state["champion"] = _serving()
            state["admitted"] = judge(request.headers.get("content-type", ""), body)
        except Refusal as refusal:
            METER.inc("driftline_prediction_errors_total", endpoint=endpoint, status=str(refusal.status))
            await JSONResponse(refusal.body, refusal.status)(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                METER.inc("driftline_prediction_errors_total", endpoint=endpoint, status=str(message["status"]))
            await send(message)

        await self._app(scope, _nothing_to_read, watched)
        METER.observe("driftline_prediction_seconds", time.perf_counter() - began, endpoint=endpoint)


def _serving() -> Champion:
    """The model that answers this request; nothing is answered by one that has not passed the gate."""
    if CHAMPION.current is None:
        raise Refusal(503, f"{MODEL}: no model has passed the gate yet; `driftline models history` tells why")
    return CHAMPION.current


async def _nothing_to_read() -> Message:
    """The endpoint's own parser gets an empty object: the rows are in the request's state already."""
    return {"type": "http.request", "body": b"{}", "more_body": False}


@bentoml.service(
    name="driftline",
    workers=WORKERS,
    threads=4,
    traffic={"timeout": 30, "max_concurrency": 128},
    logging={"access": {"enabled": False}},
)
class Serving:
    def __init__(self) -> None:
        CHAMPION.start()
        self._log = PredictionLog(SETTINGS, CONTRACT, MODEL, METER)

    @bentoml.api(route="/predict", output_spec=Prediction)
    async def predict(self, record: Record, /, ctx: bentoml.Context) -> Prediction:
        champion, admitted = ctx.request.state.champion, ctx.request.state.admitted
        keys, scores = self._score(champion, admitted, "predict")
        return Prediction(key=keys[0], score=scores[0], model=MODEL, version=champion.version)

    @bentoml.api(route="/predict_batch", output_spec=Predictions)
    def predict_batch(self, batch: Batch, /, ctx: bentoml.Context) -> Predictions:
        champion, admitted = ctx.request.state.champion, ctx.request.state.admitted
        keys, scores = self._score(champion, admitted, "predict_batch")
        return Predictions(model=MODEL, version=champion.version, digest=champion.digest, keys=keys, scores=scores)

    @bentoml.api(route="/model")
    def model(self, ctx: bentoml.Context) -> dict[str, Any]:
        """What answers now: model, version, digest, contract, and the facts its training left."""
        champion: Champion = ctx.request.state.champion
        return {
            "model": MODEL,
            "version": champion.version,
            "digest": champion.digest,
            "contract": CONTRACT.name,
            "meta": champion.scorer.meta,
        }

    async def __is_ready__(self) -> bool:
        return CHAMPION.ready.is_set()

    @bentoml.on_shutdown
    def close(self) -> None:
        CHAMPION.stop()
        self._log.close()

    def _score(self, champion: Champion, admitted: Admitted, endpoint: str) -> tuple[list[str | None], list[float]]:
        scores = champion.scorer.score(admitted.frame).tolist()
        keys = admitted.frame[KEY].to_list() if KEY else [None] * len(scores)
        times = admitted.frame[CONTRACT.time.field].to_list()
        self._log.record(KEY or "key", keys, times, scores, champion.version, champion.digest, admitted.raw)
        METER.inc("driftline_predictions_total", float(len(scores)), endpoint=endpoint, version=champion.version)
        return keys, scores


Serving.add_asgi_middleware(Gate)
