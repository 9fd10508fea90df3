"""EDGE. A challenger beside the champion on the same labelled rows: loads both, scores, asks the gate.

Also looks back at what the champion did to the rows since the shift (live loss against what its probabilities promised).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from batch import gate
from batch.gate import Bound, Decision, LiveLoss
from batch.labels import LABEL
from pipeline.contract import Contract

if TYPE_CHECKING:
    from batch.model import Scorer


@dataclass(frozen=True, slots=True)
class Judged:
    """The gate's answer in a form that travels between processes."""

    champion: str | None
    decision: Decision
    live: LiveLoss | None

    def json(self) -> dict[str, object]:
        d, live = self.decision, self.live
        return {
            "champion": self.champion,
            "promote": d.promote,
            "superior": d.superior,
            "material": d.material,
            "reasons": list(d.reasons),
            "policy": d.policy,
            "overall": finite(asdict(d.overall)),
            "worst_slice": d.worst_slice,
            "slices": {name: finite(_short(b)) for name, b in d.slices.items()},
            "live": None if live is None else finite({**asdict(live), "lower": live.lower, "upper": live.upper}),
            "harm": None if live is None else live.harm(),
            "within": None if live is None else live.within(),
        }


def first(label: np.ndarray, scores: np.ndarray, base_rate: float) -> Judged:
    return Judged(None, gate.decide_first(label, scores, base_rate), None)


def against(
    contract: Contract,
    champion: Scorer,
    version: str,
    test: pl.DataFrame,
    scores: np.ndarray,
    *,
    recent: pl.DataFrame | None = None,
    in_episode: bool = False,
) -> Judged:
    """`test`: labelled rows that the challenger was not trained on, `scores`: what it says to them; `recent`: rows since the shift."""
    live = None if recent is None else gate.live_loss(_label(recent), champion.score(recent))
    decision = gate.decide(
        _label(test),
        champion.score(test),
        scores,
        {c: test[c].cast(pl.String).fill_null("").to_numpy() for c in slice_columns(contract)},
        after=np.ones(test.height, dtype=bool) if in_episode else None,
        harm="none" if live is None else live.harm(),
        in_episode=in_episode,
    )
    return Judged(version, decision, live)


def slice_columns(contract: Contract) -> list[str]:
    """The contract's monitored categories."""
    return [f.name for f in contract.drift.features if f.kind == "categorical"]


def finite(values: dict[str, object]) -> dict[str, object]:
    """JSON knows no NaN: it becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def bundle_path(home: Path, artifact: object) -> tuple[Path, str]:
    """Directory and digest from a ledger entry's `artifact`."""
    assert isinstance(artifact, dict)
    return home / str(artifact["uri"]), str(artifact["sha256"])


def _label(rows: pl.DataFrame) -> np.ndarray:
    return rows[LABEL].to_numpy().astype(np.int8)


def _short(b: Bound) -> dict[str, object]:
    return {"rows": b.rows, "mean": b.mean, "upper": b.upper, "champion_loss": b.champion_loss}
