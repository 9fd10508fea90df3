"""EDGE. The pictures of a training run: ROC, calibration, importance, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from batch.gate import BINS

WIDTH = 1.96  # standard errors


def draw(out: Path, label: np.ndarray, p: np.ndarray, names: Sequence[str], importance: np.ndarray) -> list[Path]:
    """Three files in `out`, named after what they show."""
    out.mkdir(parents=True, exist_ok=True)
    figures = {"roc": roc(label, p), "calibration": calibration(label, p), "importance": importances(names, importance)}
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=100)
    return [out / f"{name}.png" for name in figures]


def roc(label: np.ndarray, p: np.ndarray) -> Figure:
    false, true, _ = roc_curve(label, p)
    figure, axes = _figure("ROC on the newest rows", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(false, true, linewidth=1.6)
    return figure


def calibration(label: np.ndarray, p: np.ndarray) -> Figure:
    parts = np.array_split(np.argsort(p, kind="stable"), BINS)
    promised, seen = ([float(np.mean(v[i])) for i in parts] for v in (p, label))
    error = [WIDTH * (share * (1 - share) / len(i)) ** 0.5 for share, i in zip(seen, parts, strict=True)]
    figure, axes = _figure("Calibration, ten bins of equal count", "promised probability", "observed share, 95 %")
    top = max(max(promised), *(s + e for s, e in zip(seen, error, strict=True))) * 1.05
    axes.plot([0, top], [0, top], color="0.7", linewidth=1)
    axes.errorbar(promised, seen, error, marker="o", linewidth=1.2, elinewidth=0.8)
    return figure


def importances(names: Sequence[str], values: np.ndarray) -> Figure:
    order = np.argsort(values)
    figure, axes = _figure("Permutation importance", "rise of the log loss", "")
    axes.barh([names[i] for i in order], values[order], height=0.6)
    return figure


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
