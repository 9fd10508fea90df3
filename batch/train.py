"""EDGE. `driftline train`: labelled rows of the lake -> a calibrated model, a registry version, a bundle, a ledger entry.

Trains only; nothing it makes serves before the gate. With a champion in the ledger the gate's answer is part of the
report, so that the controller (its usual caller) needs no scikit-learn of its own. Exit 1: the data must not be trained on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from batch import compare, dataset, ledger, ledger_topic, registry
from batch.compare import Judged
from batch.dataset import DataIdentity
from batch.labels import LABEL
from batch.ledger import Draft, Ledger
from pipeline import contract_file
from pipeline.contract import Contract
from pipeline.errors import Unreachable, UsageError
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text

if TYPE_CHECKING:
    from batch.fitting import Fitted, Split
    from stream_processors.live.model_features import FeatureSet

SEED = 20261121
GOLDEN_ROWS = 16


@dataclass(frozen=True, slots=True)
class Order:
    """What to train: rows of [start, end), tested on rows since `since`; times are event time in ms, None = open."""

    start: int | None = None
    end: int | None = None
    since: int | None = None
    seed: int = SEED
    episode: str | None = None
    reason: str = "by hand"


@dataclass(frozen=True, slots=True)
class Trained:
    model: str
    version: str
    artifact: dict[str, object]
    metrics: dict[str, float]
    baseline: dict[str, float]
    data: DataIdentity
    run_id: str
    judged: Judged
    seconds: float

    def json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "version": self.version,
            "artifact": self.artifact,
            "metrics": self.metrics,
            "baseline": self.baseline,
            "data": self.data.json(),
            "run_id": self.run_id,
            "gate": self.judged.json(),
            "seconds": round(self.seconds, 2),
        }


class Train:
    summary = "Train a model on labelled rows of the lake and register it; serves nothing before it passed the gate."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--from", dest="start", metavar="TIME", help="first event time, RFC 3339 (default: all)")
        parser.add_argument("--to", dest="end", metavar="TIME", help="event time to stop before (default: the newest)")
        parser.add_argument(
            "--since", metavar="TIME", help="onset of a shift: calibrate and test on rows since then only"
        )
        parser.add_argument("--model", help="name in the registry (default: <contract>-<label>)")
        parser.add_argument("--seed", type=int, default=SEED)
        parser.add_argument("--episode", help="drift episode that asks for it, for the ledger")
        parser.add_argument("--reason", default="by hand")
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        order = Order(
            _ms(args.start, "--from"),
            _ms(args.end, "--to"),
            _ms(args.since, "--since"),
            args.seed,
            args.episode,
            args.reason,
        )
        trained = train(settings, contract, order, args.model)
        print(json.dumps(trained.json()) if args.json else _text(trained))
        return 0


def model_name(contract: Contract) -> str:
    """`sales-returned`."""
    if contract.label is None:
        raise UsageError(f"contract {contract.name}: expected a label to train on, it states none")
    return f"{contract.id}-{contract.label.name}"


def train(settings: Settings, contract: Contract, order: Order, name: str | None = None) -> Trained:
    """Everything from the lake to the ledger's `train` entry; CheckFailed, Unreachable as their messages say."""
    # 1. data, refused if critical  2. registry there?  3. fit, gate  4. MLflow run and version  5. bundle  6. ledger
    # A crash after 4 leaves a version in MLflow that no ledger entry names: it can never serve.
    began, model = time.monotonic(), name or model_name(contract)
    data = dataset.labelled(settings, contract, order.start, order.end)
    log(
        "data_read", model=model, rows=data.identity.rows, digest=data.identity.digest[:12], status=data.identity.status
    )
    registry.wait(settings)
    return _train(settings, contract, order, model, data, began)


def _train(
    settings: Settings, contract: Contract, order: Order, model: str, data: dataset.Labelled, began: float
) -> Trained:
    from batch import fitting, plots
    from batch import model as bundles
    from stream_processors.live import model_features

    features = model_features.with_categories(model_features.features_for(contract), data.rows)
    matrix, label = features.matrix(data.rows), data.rows[LABEL].to_numpy()
    times = data.rows[contract.time.field].dt.epoch("ms").to_numpy()
    parts = fitting.split(times, order.since)
    fitted = fitting.fit(matrix, label, parts, order.seed)
    log(
        "fitted",
        model=model,
        rows=len(parts.train),
        seconds=f"{time.monotonic() - began:.1f}",
        **_rounded(fitted.metrics),
    )

    judged = _judge(settings, contract, order, model, data.rows, parts, fitted)
    with tempfile.TemporaryDirectory(prefix="driftline-train-") as scratch:
        weights = fitting.importance(fitted, matrix[parts.test], label[parts.test], order.seed)
        files = plots.draw(Path(scratch), label[parts.test].astype(np.int8), fitted.scores, features.names, weights)
        run = registry.Run(
            experiment=model,
            name=f"{order.reason[:60]}",
            params={**fitting.PARAMS, "seed": order.seed, "rows_train": len(parts.train), "rows_test": len(parts.test)},
            metrics={**fitted.metrics, **{f"baseline_{k}": v for k, v in fitted.baseline.items()}},
            tags=_tags(data.identity, features, order),
            files=files,
            classifier=fitted.classifier,
            example=matrix[parts.test][:5],
            names=features.names,
            trusted=bundles.TRUSTED,
        )
        registered = registry.register(settings, model, run)
        target = bundles.directory(settings, model, registered.version)
        meta = {
            "model": model,
            "version": registered.version,
            "label": contract.label.name if contract.label else "",
            "contract": contract.name,
            "metrics": fitted.metrics,
            "baseline": fitted.baseline,
            "data": data.identity.json(),
            "params": fitting.PARAMS,
            "seed": order.seed,
            "run_id": registered.run_id,
        }
        sha256 = bundles.save(target, fitted.classifier, features, meta, _golden(data.rows, parts.test))
        shutil.copytree(scratch, target.parent / f"{registered.version}-plots", dirs_exist_ok=True)
    registry.attach(settings, model, registered, target, sha256)
    artifact: dict[str, object] = {"uri": str(target.relative_to(settings.home)), "sha256": sha256}
    trained = Trained(
        model,
        registered.version,
        artifact,
        fitted.metrics,
        fitted.baseline,
        data.identity,
        registered.run_id,
        judged,
        time.monotonic() - began,
    )
    _enter(settings, order, trained)
    return trained


def _judge(
    settings: Settings, contract: Contract, order: Order, model: str, rows: pl.DataFrame, parts: Split, fitted: Fitted
) -> Judged:
    from batch import model as bundles

    entries = Ledger(ledger.path_of(settings)).entries(model)
    now = ledger.champion(entries)
    test = rows[parts.test]
    if now is None:
        return compare.first(test[LABEL].to_numpy().astype(np.int8), fitted.scores, fitted.base_rate)
    champion = bundles.load(*compare.bundle_path(settings.home, now.draft.artifact))
    clock = pl.col(contract.time.field).dt.epoch("ms")
    recent = None if order.since is None else rows.filter(clock >= order.since)
    return compare.against(
        contract,
        champion,
        str(now.draft.version),
        test,
        fitted.scores,
        recent=recent,
        in_episode=order.episode is not None,
    )


def _enter(settings: Settings, order: Order, trained: Trained) -> None:
    book = Ledger(ledger.path_of(settings))
    book.append(
        Draft(
            at=to_text(int(datetime.now(UTC).timestamp() * 1000)),
            model=trained.model,
            action="train",
            version=trained.version,
            actor=settings.actor,
            reason=order.reason,
            policy=trained.judged.decision.policy,
            metrics={**trained.metrics, "baseline_log_loss": trained.baseline["log_loss"]},
            data=trained.data.json(),
            artifact=trained.artifact,
            episode=order.episode,
        )
    )
    try:
        ledger_topic.publish(settings, book.entries(), deadline_s=10)
    except (
        Unreachable
    ) as error:  # the file holds the entry; the controller publishes what the topic lacks when it starts
        log("ledger_not_published", "warning", error=error)


def _golden(rows: pl.DataFrame, test: np.ndarray) -> pl.DataFrame:
    """Rows spread over the test slice."""
    return rows[test[np.linspace(0, len(test) - 1, GOLDEN_ROWS).astype(int)]]


def _tags(identity: DataIdentity, features: FeatureSet, order: Order) -> dict[str, str]:
    named = {f"data.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in identity.json().items()}
    own = {"features": f"{features.name}@{features.version}", "episode": order.episode or "", "reason": order.reason}
    return {f"driftline.{k}": v for k, v in {**named, **own}.items()}


def _ms(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else to_ms(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from error


def _rounded(values: dict[str, float]) -> dict[str, str]:
    return {k: f"{v:.4f}" for k, v in values.items()}


def _text(trained: Trained) -> str:
    m, b, g = trained.metrics, trained.baseline, trained.judged.decision
    return "\n".join(
        [
            f"{trained.model} version {trained.version}: {trained.data.rows} labelled rows, {trained.data.positives} positive",
            f"log loss {m['log_loss']:.4f} (always the base rate: {b['log_loss']:.4f}), AUC {m.get('auc', float('nan')):.3f}, "
            f"calibration error {m.get('calibration_error', float('nan')):.3f}",
            f"gate: {'would promote' if g.promote else 'would not promote'}: {'; '.join(g.reasons)}",
            f"data: table version {trained.data.table_version}, digest {trained.data.digest[:16]}; bundle {trained.artifact['uri']}",
        ]
    )
