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
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from batch import compare, dataset, labels, ledger, ledger_topic, lineage_runs, registry, table
from batch.compare import Judged
from batch.dataset import DataIdentity
from batch.labels import LABEL
from batch.ledger import Draft, Ledger
from batch.made_with import made_with
from batch.promotion import now
from pipeline import contract_file
from pipeline.contract import Contract, OutcomeLabel
from pipeline.errors import DriftlineError, Unreachable, UsageError
from pipeline.lineage import Run, completed, failed, started
from pipeline.lineage_send import Lineage
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import ms, to_ms, to_text

if TYPE_CHECKING:
    from batch.fitting import Fitted, Split
    from batch.model import Scorer
    from batch.search import Found
    from stream_processors.live.model_features import FeatureSet

SEED = 20261121
CANDIDATES = 24  # some 4 s of one core
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
    search: int = 0  # candidates for the trees' parameters; 0: those at hand


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
    recipe: Mapping[str, object] = field(default_factory=dict)  # with the data, all that makes the bundle again
    online: Mapping[str, object] = field(default_factory=dict)  # what the online challenger is worth by now

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
            "online": dict(self.online),
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Built:
    """What rows, an onset and a seed give."""

    features: FeatureSet
    matrix: np.ndarray
    label: np.ndarray
    parts: Split
    fitted: Fitted
    found: Found
    tested_from: str  # event time; rows before it were taught

    @property
    def params(self) -> dict[str, object]:
        """Of the trees, and the features that had no value in what they were taught."""
        empty = [self.features.names[i] for i in self.fitted.empty]
        return {**self.fitted.params, **({"features_empty": ", ".join(empty)} if empty else {})}


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
        parser.add_argument(
            "--search",
            type=int,
            default=CANDIDATES,
            metavar="N",
            help=f"candidates for the trees' parameters, by successive halving; 0: none (default {CANDIDATES})",
        )
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
            args.search,
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
    model, lineage = name or model_name(contract), Lineage(settings)
    run = _run(settings, contract, model)
    lineage.send(started(run, to_ms(now())))
    try:
        trained = _trained(settings, contract, order, model)
        lineage.send(completed(lineage_runs.trained(run, settings, order, trained), to_ms(now())))
        return trained
    except DriftlineError as error:
        lineage.send(failed(run, to_ms(now()), str(error)))
        raise
    finally:
        lineage.close()


def _trained(settings: Settings, contract: Contract, order: Order, model: str) -> Trained:
    began = time.monotonic()
    data = dataset.labelled(settings, contract, order.start, order.end)
    log(
        "data_read", model=model, rows=data.identity.rows, digest=data.identity.digest[:12], status=data.identity.status
    )
    registry.wait(settings)
    return _train(settings, contract, order, model, data, began)


def _train(
    settings: Settings, contract: Contract, order: Order, model: str, data: dataset.Labelled, began: float
) -> Trained:
    from batch import card_file, fitting, online_file, plots
    from batch import model as bundles

    built = build(contract, data.rows, order.since, order.seed, order.search)
    features, matrix, label, parts, fitted = built.features, built.matrix, built.label, built.parts, built.fitted
    code = made_with()
    log(
        "fitted",
        model=model,
        rows=len(parts.train),
        seconds=f"{time.monotonic() - began:.1f}",
        **_rounded(fitted.metrics),
    )

    with tempfile.TemporaryDirectory(prefix="driftline-train-") as scratch:
        weights = fitting.importance(fitted, matrix[parts.test], label[parts.test], order.seed)
        files = plots.draw(Path(scratch), label[parts.test].astype(np.int8), fitted.scores, features.names, weights)
        run = registry.Run(
            experiment=model,
            name=f"{order.reason[:60]}",
            params={
                **built.params,
                "seed": order.seed,
                "search": len(built.found.candidates),
                "rows_train": len(parts.train),
                "rows_test": len(parts.test),
            },
            metrics={**fitted.metrics, **{f"baseline_{k}": v for k, v in fitted.baseline.items()}},
            tags={**_tags(data.identity, features, order), "driftline.code": json.dumps(code)},
            files=files,
            tables={"search.json": built.found.table()} if built.found.candidates else {},
            classifier=fitted.classifier,
            example=matrix[parts.test][:5],
            names=features.names,
            trusted=bundles.TRUSTED,
        )
        registered = registry.register(settings, model, run)
        target = bundles.directory(settings, model, registered.version)
        since = None if order.since is None else to_text(order.since)
        recipe = {"seed": order.seed, "since": since, "run_id": registered.run_id, "code": code, "search": order.search}
        sha256 = save(target, contract, model, registered.version, built, data.rows, data.identity.json(), recipe)
        shutil.copytree(scratch, target.parent / f"{registered.version}-plots", dirs_exist_ok=True)
    registry.attach(settings, model, registered, target, sha256)
    champion = online_file.champion_of(settings, model)
    judged = _judge(settings, contract, order, champion, data.rows, parts, fitted.base_rate, target, sha256)
    artifact: dict[str, object] = {"uri": str(target.relative_to(settings.home)), "sha256": sha256}
    card_file.write(settings, contract, built, data, judged, registered, artifact, recipe)
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
        recipe,
        online_file.update(settings, contract, model, data.rows, champion, order.start),
    )
    _enter(settings, order, trained)
    return trained


def build(contract: Contract, rows: pl.DataFrame, since: int | None, seed: int, search: int = 0) -> Built:
    """The same rows, onset, seed and number of candidates give the same model, in any process that runs the same code."""
    from batch import fitting
    from stream_processors.live import model_features

    features = model_features.with_categories(model_features.features_for(contract), rows)
    matrix, label = features.matrix(rows), rows[LABEL].to_numpy()
    times = rows[contract.time.field].dt.epoch("ms").to_numpy()
    parts = fitting.split(times, since, ms(labels.overlap(contract)))
    found = fitting.searched(matrix, label, parts, seed, search)
    fitted = fitting.fit(matrix, label, parts, seed, found.params)
    return Built(features, matrix, label, parts, fitted, found, to_text(int(times[parts.test[0]])))


def save(
    target: Path,
    contract: Contract,
    model: str,
    version: str,
    built: Built,
    rows: pl.DataFrame,
    data: Mapping[str, object],
    recipe: Mapping[str, object],
) -> str:
    """Write the bundle; its digest, which the arguments determine."""
    from batch import model as bundles

    fitted = built.fitted
    meta = {
        "model": model,
        "version": version,
        "label": contract.label.name if contract.label else "",
        "contract": contract.name,
        "metrics": fitted.metrics,
        "baseline": fitted.baseline,
        "data": data,
        "params": built.params,
        "tested_from": built.tested_from,
        **recipe,
    }
    return bundles.save(target, fitted.classifier, built.features, meta, _golden(rows, built.parts.test))


def _judge(
    settings: Settings,
    contract: Contract,
    order: Order,
    champion: tuple[str, Scorer] | None,
    rows: pl.DataFrame,
    parts: Split,
    base_rate: float,
    bundle: Path,
    sha256: str,
) -> Judged:
    """The gate asks the bundle as it lies on the disk, not the model in memory."""
    from batch import model as bundles

    test = rows[parts.test]
    candidate = compare.Candidate(bundles.load(bundle, sha256), bundle)
    if champion is None:
        return compare.first(contract, candidate, test, base_rate)
    version, serving = champion
    clock = pl.col(contract.time.field).dt.epoch("ms")
    return compare.against(
        contract,
        serving,
        version,
        candidate,
        test,
        recent=None if order.since is None else rows.filter(clock >= order.since),
        since=order.since,
        in_episode=order.episode is not None,
        asked=compare.asked_of(settings, contract, version),
    )


def _enter(settings: Settings, order: Order, trained: Trained) -> None:
    book = Ledger(ledger.path_of(settings))
    book.append(
        Draft(
            at=now(),
            model=trained.model,
            action="train",
            version=trained.version,
            actor=settings.actor,
            reason=order.reason,
            policy=trained.judged.decision.policy,
            metrics={**trained.metrics, "baseline_log_loss": trained.baseline["log_loss"], "online": trained.online},
            data={**trained.data.json(), "recipe": trained.recipe},
            artifact=trained.artifact,
            episode=order.episode,
        )
    )
    try:
        ledger_topic.publish(settings, book, deadline_s=10)
    except (
        Unreachable
    ) as error:  # the file holds the entry; the controller publishes what the topic lacks when it starts
        log("ledger_not_published", "warning", error=error)


def _run(settings: Settings, contract: Contract, model: str) -> Run:
    names = [table.EVENTS, *([table.OUTCOMES] if isinstance(contract.label, OutcomeLabel) else [])]
    paths = [table.location(settings, contract.id, name) for name in names]
    return lineage_runs.training(model, uuid.uuid4().hex, paths)


def _golden(rows: pl.DataFrame, test: np.ndarray) -> pl.DataFrame:
    """Rows spread over the test slice."""
    return rows[test[np.linspace(0, len(test) - 1, GOLDEN_ROWS).astype(int)]]


def _tags(identity: DataIdentity, features: FeatureSet, order: Order) -> dict[str, str]:
    kept = {
        k: v for k, v in identity.json().items() if k != "read"
    }  # a tag has a limit; the ledger and the bundle hold it
    named = {f"data.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in kept.items()}
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
    from batch import online

    m, b, g = trained.metrics, trained.baseline, trained.judged.decision
    return "\n".join(
        [
            f"{trained.model} version {trained.version}: {trained.data.rows} labelled rows, {trained.data.positives} positive",
            f"log loss {m['log_loss']:.4f} (always the base rate: {b['log_loss']:.4f}), AUC {m.get('auc', float('nan')):.3f}, "
            f"calibration error {m.get('calibration_error', float('nan')):.3f}",
            f"gate: {'would promote' if g.promote else 'would not promote'}: {'; '.join(g.reasons)}",
            online.text(trained.online),
            f"data: table version {trained.data.table_version}, digest {trained.data.digest[:16]}; bundle {trained.artifact['uri']}",
        ]
    )
