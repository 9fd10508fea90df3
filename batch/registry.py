"""EDGE. The one module that speaks MLflow: runs, model versions, and the alias that repeats the ledger's champion.

MLflow gives a version its number; the ledger decides what serves. MLflow away means no new version: every call has a
deadline and a circuit breaker, and fails closed. The import costs up to 10 s, so it happens inside the first call.
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import Unreachable
from pipeline.logs import log
from pipeline.retry import CircuitBreaker, CircuitOpen, until_success
from pipeline.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from sklearn.calibration import CalibratedClassifierCV

T = TypeVar("T")
ALIAS = "champion"
DEADLINE_S = 60.0  # a cold MLflow server takes about 20 s on two cores
CALL_S = 20  # one HTTP call
_BREAKERS: dict[str, CircuitBreaker] = {}


@dataclass(frozen=True, slots=True)
class Run:
    """What is recorded of a training run."""

    experiment: str
    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]  # the data's identity
    files: Sequence[Path]
    tables: Mapping[str, Mapping[str, Sequence[object]]]  # file name -> columns
    classifier: CalibratedClassifierCV
    example: np.ndarray  # a few rows of the feature matrix
    names: Sequence[str]  # its columns
    trusted: Sequence[str]


@dataclass(frozen=True, slots=True)
class Registered:
    version: str
    run_id: str


def wait(settings: Settings, deadline_s: float = DEADLINE_S) -> None:
    """Return when the registry answers an API call; Unreachable past the deadline. /health would lie: see research on Host headers."""
    url = f"{settings.mlflow.rstrip('/')}/api/2.0/mlflow/registered-models/search?max_results=1"

    def ask() -> None:
        with urllib.request.urlopen(url, timeout=5):
            pass

    until_success(
        ask,
        what=f"MLflow at {settings.mlflow}",
        errors=(urllib.error.URLError, OSError),
        sleep=time.sleep,
        deadline_s=deadline_s,
        on_failure=lambda error, pause: log(
            "mlflow_unreachable", "warning", url=settings.mlflow, error=error, retry_in_s=f"{pause:.1f}"
        ),
        rng=random.Random(),
    )


def register(settings: Settings, model: str, run: Run) -> Registered:
    """Record the run with its model and make a new version of `model`. The version serves nothing yet."""

    def record() -> Registered:
        import mlflow

        client = _client(settings)
        mlflow.set_experiment(run.experiment)
        with mlflow.start_run(run_name=run.name, tags=dict(run.tags)) as active:
            mlflow.log_params(dict(run.params))
            mlflow.log_metrics(dict(run.metrics))
            for file in run.files:
                mlflow.log_artifact(str(file), "plots")
            for name, columns in run.tables.items():
                mlflow.log_table(dict(columns), name)
            version = _log_model(client, model, run)
        return Registered(version, active.info.run_id)

    return _through(settings, record)


def attach(settings: Settings, model: str, registered: Registered, bundle: Path, sha256: str) -> None:
    """Keep the bundle with the run, and its digest on the version."""

    def put() -> None:
        client = _client(settings)
        client.log_artifacts(registered.run_id, str(bundle), "bundle")
        client.set_model_version_tag(model, registered.version, "sha256", sha256)

    _through(settings, put)


def keep(settings: Settings, run: str, file: Path) -> None:
    """A file with a run that has ended: its model card."""
    _through(settings, lambda: _client(settings).log_artifact(run, str(file), "card"))


def point(settings: Settings, model: str, version: str) -> None:
    """Repeat the ledger's champion as the alias. A cache: nothing of ours reads it."""
    _through(settings, lambda: _rest(settings, "POST", {"name": model, "alias": ALIAS, "version": version}))


def data_of(settings: Settings, run: str) -> dict[str, str]:
    """The identity of the data that a run was trained on, from its tags."""
    found = _through(settings, lambda: _client(settings).get_run(run).data.tags)
    prefix = "driftline.data."
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def pointed(settings: Settings, model: str) -> str | None:
    """The version under the alias; None if there is none."""
    found = _through(settings, lambda: _rest(settings, "GET", {"name": model, "alias": ALIAS}))
    version = found.get("model_version")
    return str(version["version"]) if isinstance(version, dict) else None


def _rest(settings: Settings, method: str, fields: Mapping[str, str]) -> dict[str, object]:
    """The alias by plain HTTP: the controller stays 300 MB smaller without the library. {} where there is no alias."""
    url = f"{settings.mlflow.rstrip('/')}/api/2.0/mlflow/registered-models/alias"
    get = method == "GET"
    request = urllib.request.Request(
        f"{url}?{urllib.parse.urlencode(fields)}" if get else url,
        data=None if get else json.dumps(fields).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        if get and error.code in (400, 404):
            return {}
        raise


def _log_model(client: MlflowClient, model: str, run: Run) -> str:
    """The classifier over its feature matrix, in skops form (pip requirements given: guessing them imports everything)."""
    import mlflow.sklearn
    import pandas as pd
    import sklearn
    import skops
    from mlflow.models import infer_signature

    example = pd.DataFrame(run.example, columns=list(run.names))
    info = mlflow.sklearn.log_model(
        run.classifier,
        name="model",
        signature=infer_signature(example, run.classifier.predict_proba(run.example)[:, 1]),
        registered_model_name=model,
        skops_trusted_types=list(run.trusted),
        serialization_format="skops",
        pip_requirements=[f"scikit-learn=={sklearn.__version__}", f"skops=={skops.__version__}"],
        pyfunc_predict_fn="predict_proba",
    )
    return str(info.registered_model_version)


def _client(settings: Settings) -> MlflowClient:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(CALL_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for our JSON
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import logging

    import mlflow
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(settings.mlflow)
    mlflow.set_registry_uri(settings.mlflow)
    return MlflowClient(settings.mlflow, settings.mlflow)


def _through(settings: Settings, action: Callable[[], T]) -> T:
    """One try behind the breaker; whatever the library raises becomes Unreachable with its first line."""
    breaker = _BREAKERS.setdefault(settings.mlflow, CircuitBreaker("mlflow", failures=3, rest=30.0))
    try:
        return breaker.call(action)
    except CircuitOpen as error:
        raise Unreachable(str(error)) from error
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise Unreachable(f"MLflow at {settings.mlflow}: {first}") from error
