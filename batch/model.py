"""EDGE. A model on disk: a bundle of files under one digest, written once, checked at every load.

    model.skops    the classifier, loaded with a constant list of trusted types (never the list that the file brings)
    meta.json      feature set, schema of the input, metrics, identity of the training data
    golden.arrow   rows of the contract's columns with the scores that they must get

Knows no MLflow and no ledger: who calls `load` says which digest it must have. Files are read once, through no symbolic
link and up to a bound, and what was hashed is what is loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import skops.io
from sklearn.calibration import CalibratedClassifierCV

from batch import model_bytes
from batch.fitting import one_thread
from batch.plan import Plan, compile_plan
from pipeline.errors import CheckFailed
from pipeline.settings import Settings
from stream_processors.live import model_features
from stream_processors.live.model_features import FeatureSet

MODEL, META, GOLDEN = "model.skops", "meta.json", "golden.arrow"
FILES = (GOLDEN, META, MODEL)
TRUSTED = [
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
]
SCORE = "expected_score"  # column of the golden rows
GOLDEN_TOLERANCE = 1e-9  # two builds of one library may differ in the last bits
MOST_FILE = 64 * 1024 * 1024  # bytes of a bundle's file; a model of 150 trees has 200 KB
MOST_UNPACKED = 256 * 1024 * 1024  # bytes that the model's archive may unpack to
MOST_MEMBERS = 20_000  # of that archive: three a tree

Reason = Literal["path", "files", "digest", "content", "golden"]


class BadBundle(CheckFailed):
    """A bundle that must not serve; `reason` says which check it failed, in the order of `Reason`."""

    def __init__(self, message: str, reason: Reason = "files"):
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Scorer:
    """A loaded model. `columns` are the contract columns that a frame must have."""

    features: FeatureSet
    meta: Mapping[str, object]
    digest: str
    classifier: CalibratedClassifierCV
    plan: Plan

    @property
    def columns(self) -> tuple[str, ...]:
        return self.features.columns

    def score(self, rows: pl.DataFrame) -> np.ndarray:
        """Probability of the label, float64, one a row, in order."""
        return self.score_matrix(self.features.matrix(rows))

    def score_matrix(self, matrix: np.ndarray) -> np.ndarray:
        return self.plan.score(matrix)


def directory(settings: Settings, model: str, version: str) -> Path:
    return settings.home / "models" / model / version


def locate(home: Path, uri: str) -> Path:
    """The directory that a ledger's `uri` names; BadBundle unless it lies under the home's `models`, through no link.

    A ledger entry comes from Kafka: a path that leads elsewhere is not followed, whatever digest stands beside it.
    """
    root = (home / "models").resolve()
    named = home.resolve() / uri
    if ".." in named.parts or root not in named.parents or named.resolve() != named:
        raise BadBundle(f"{uri}: expected a directory under {root}, reached without a symbolic link", "path")
    return named


def save(
    target: Path,
    classifier: CalibratedClassifierCV,
    features: FeatureSet,
    meta: Mapping[str, object],
    golden: pl.DataFrame,
) -> str:
    """Write a bundle; its digest. The directory appears whole or not at all, and is never written again."""
    if target.exists():
        raise BadBundle(f"{target}: expected a new directory, a bundle is there already; versions are never rewritten")
    staging = target.parent / f".{target.name}.{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    scores = classifier.predict_proba(features.matrix(golden))[:, 1]
    (staging / MODEL).write_bytes(model_bytes.dumps(classifier))
    (staging / META).write_text(json.dumps({**meta, "features": features.spec()}, indent=1, sort_keys=True) + "\n")
    golden.select(features.columns).with_columns(pl.Series(SCORE, scores)).write_ipc(staging / GOLDEN)
    for path in (*(staging / f for f in FILES), staging):
        _fsync(path)
    staging.rename(target)
    _fsync(target.parent)
    return digest_of(target)


def digest_of(bundle: Path) -> str:
    """SHA-256 over the names and SHA-256 of the bundle's files; BadBundle if one is missing."""
    return _digest(_read(bundle))


def load(bundle: Path, sha256: str) -> Scorer:
    """The scorer of a bundle whose digest is `sha256` and whose golden rows still get their scores; else BadBundle."""
    one_thread()
    files = _read(bundle)
    found = _digest(files)
    if found != sha256:
        raise BadBundle(
            f"{bundle}: expected digest {sha256}, got {found}; the files are not those that the ledger names", "digest"
        )
    try:  # from the bytes that were hashed, so that a file swapped in between is never read
        _check_archive(files[MODEL])
        meta = json.loads(files[META])
        classifier = skops.io.loads(files[MODEL], trusted=TRUSTED)
        features = model_features.from_spec(meta["features"])
        scorer = Scorer(features, meta, found, classifier, compile_plan(classifier))
        golden = pl.read_ipc(files[GOLDEN])
    except Exception as error:
        raise BadBundle(f"{bundle}: expected a model bundle, got {type(error).__name__}: {error}", "content") from error
    _check_golden(bundle, scorer, golden)
    return scorer


def _check_golden(bundle: Path, scorer: Scorer, golden: pl.DataFrame) -> None:
    expected, matrix = golden[SCORE].to_numpy(), scorer.features.matrix(golden)
    for way, scores in (
        ("plan", scorer.plan.score(matrix)),
        ("library", scorer.classifier.predict_proba(matrix)[:, 1]),
    ):
        worst = float(np.max(np.abs(scores - expected), initial=0.0))
        if not worst <= GOLDEN_TOLERANCE:
            raise BadBundle(
                f"{bundle}: golden rows scored by {way} differ by {worst:.3g}; expected at most {GOLDEN_TOLERANCE}",
                "golden",
            )


def _check_archive(body: bytes) -> None:
    """Sizes as the archive declares them, which bound what is read of it."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = archive.infolist()
    unpacked = sum(m.file_size for m in members)
    if len(members) > MOST_MEMBERS or unpacked > MOST_UNPACKED:
        raise ValueError(
            f"an archive of {len(members)} files and {unpacked} bytes; expected at most {MOST_MEMBERS} and {MOST_UNPACKED}"
        )


def _read(bundle: Path) -> dict[str, bytes]:
    try:
        folder = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            return {name: _read_file(folder, name) for name in FILES}
        finally:
            os.close(folder)
    except OSError as error:
        raise BadBundle(f"{bundle}: expected the files {', '.join(FILES)}, got {error}") from error


def _read_file(folder: int, name: str) -> bytes:
    """A regular file of a bounded size; a link, a pipe or a device is no part of a bundle."""
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_FILE:
            raise OSError(f"{name}: no regular file of at most {MOST_FILE} bytes")
        body = file.read(MOST_FILE + 1)
    if len(body) > MOST_FILE:
        raise OSError(f"{name}: it grew beyond {MOST_FILE} bytes while it was read")
    return body


def _digest(files: Mapping[str, bytes]) -> str:
    lines = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in FILES)
    return hashlib.sha256(lines.encode()).hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
