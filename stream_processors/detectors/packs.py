"""PURE. The banks of every key of a reference set, end to end in flat arrays, for one compiled call a pane.

A key's numbers stand in its row of `at` (where its arrays begin and how large they are) and of `real` (thresholds and the
like); NaN = the contract's rule does not use that threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from pipeline.contract import Tolerance
from stream_processors.detectors import material
from stream_processors.detectors.bank import Bank
from stream_processors.detectors.budget import Thresholds
from stream_processors.detectors.engine import GROUPS, LEVELS, SLOTS
from stream_processors.reference.cells import FeatureReference


class Pack(NamedTuple):
    at: np.ndarray  # int64[K, 16]
    real: np.ndarray  # float64[K, 6]
    groups: np.ndarray  # int32, of each coarse cell
    laws: np.ndarray  # float64[slots, groups] of each key
    rows: np.ndarray  # float64[slots]
    scores: np.ndarray  # float32[slots, groups, alternatives]
    slack: np.ndarray  # float64[slots, alternatives]
    weights: np.ndarray  # float64[alternatives]
    eta: np.ndarray
    sizes: np.ndarray
    week: np.ndarray  # int64, slot of each stretch of the week
    wide: np.ndarray  # float64[value cells], for Wasserstein tolerances
    place: np.ndarray


def pack(
    keys: Sequence[tuple[str, str]],
    references: Mapping[tuple[str, str], FeatureReference],
    banks: Mapping[tuple[str, str], Bank],
    limits: Mapping[tuple[str, str], Thresholds],
    tolerances: Mapping[tuple[str, str], Tolerance],
) -> Pack:
    at, real = np.zeros((len(keys), 16), np.int64), np.full((len(keys), 6), np.nan)
    flat: dict[str, list[np.ndarray]] = {name: [] for name in Pack._fields[2:]}
    place = {name: 0 for name in (*flat, "level")}

    def add(name: str, values: np.ndarray) -> int:
        start = place[name]
        flat[name].append(np.ascontiguousarray(values).reshape(-1))
        place[name] += values.size
        return start

    for k, key in enumerate(keys):
        reference, bank, limit, tolerance = references[key], banks[key], limits[key], tolerances[key]
        slots = len(reference.slots.names) if reference.slots else 0
        alt = add("weights", bank.weights)
        add("eta", bank.eta)
        add("sizes", bank.sizes)
        fine = tolerance.kind == "wasserstein" and tolerance.value > 0
        wide, places = material.widths(reference) if fine else (np.empty(0), np.empty(0))
        add("place", places)
        at[k] = (
            add("groups", bank.groups), len(bank.groups), bank.laws.shape[1], alt, len(bank.names), slots,
            add("laws", bank.laws), add("scores", bank.scores), add("slack", bank.slack), add("rows", bank.rows), place["level"],
            add("week", np.array(reference.slots.of if reference.slots else (), np.int64)),
            len(reference.slots.of) if reference.slots else 0,
            add("wide", wide), material.KINDS.index(tolerance.kind), limit.confseq,
        )  # fmt: skip
        place["level"] += LEVELS * 4 * (bank.laws.shape[1] + slots)
        real[k] = (
            _nan(limit.bank), _nan(limit.scan), limit.material, tolerance.value,
            reference.temper.tail if reference.temper else 1.0, special.kolmogi(limit.alpha),
        )  # fmt: skip
    empty = {"groups": np.int32, "scores": np.float32, "week": np.int64}
    joined = (
        np.concatenate(parts).astype(empty.get(name, np.float64), copy=False)
        if parts
        else np.empty(0, empty.get(name, np.float64))
        for name, parts in flat.items()
    )
    return Pack(at, real, *joined)


def level_sizes(pack: Pack) -> np.ndarray:
    return LEVELS * 4 * (pack.at[:, GROUPS] + pack.at[:, SLOTS])


def _nan(value: float | None) -> float:
    return np.nan if value is None else value
