"""EDGE. A challenger beside the champion: loads, scores, measures, and asks the policy.

Three things are gathered. On the same labelled rows: paired losses, slices, groups, calibration. On the same recorded
requests: what the champion answered users, and what the challenger would have said. Of the files: golden rows, size, time.
Also looks back at what the champion did to the rows since the shift (live loss against what its probabilities promised).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from confluent_kafka import KafkaException

from batch import gate, policy
from batch.gate import LiveLoss
from batch.labels import LABEL
from batch.policy import Decision
from batch.recorded import ANSWER, Recorded, answers, recorded
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.logs import log
from pipeline.settings import Settings

if TYPE_CHECKING:
    from batch.model import Scorer

REQUESTS = 20_000  # newest recorded answers that a challenger is asked again
TIMED = 30  # single rows whose median counts
Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A challenger's bundle, loaded."""

    scorer: Scorer
    directory: Path
    rolled_back: bool = False  # from this very version, before


@dataclass(frozen=True, slots=True)
class Judged:
    """The policy's answer in a form that travels between processes."""

    champion: str | None
    decision: Decision
    live: LiveLoss | None

    def json(self) -> dict[str, object]:
        d, live, levels = self.decision, self.live, policy.limits()
        told = ("overall", "after", "slices", "groups", "calibration", "replay", "cost", "golden", "harm")
        found = {
            "champion": self.champion,
            "promote": d.promote,
            "superior": d.superior,
            "material": d.material,
            "reasons": list(d.reasons),
            "denied": list(d.denied),
            "policy": d.policy,
            "worst_slice": d.worst_slice,
            **{name: d.evidence.get(name) for name in told},
            "live": None if live is None else {**asdict(live), "lower": live.lower, "upper": live.upper},
            "harm": None if live is None else live.harm(levels["live"]),
            "within": None if live is None else live.within(levels["live"]),
        }
        return policy.readable(found)  # type: ignore[return-value]


def first(contract: Contract, candidate: Candidate, test: pl.DataFrame, base_rate: float) -> Judged:
    """A first champion: superior to always answering the base rate, and calibrated."""
    numbers = gate.first(label_of(test), candidate.scorer.score(test), base_rate)
    situation = {"kind": "first", "force": False, "episode": False, "harm": "none"}
    return Judged(None, policy.decide({**situation, **numbers, **_files(contract, candidate, test)}), None)


def against(
    contract: Contract,
    champion: Scorer,
    version: str,
    candidate: Candidate,
    test: pl.DataFrame,
    *,
    recent: pl.DataFrame | None = None,
    since: int | None = None,
    in_episode: bool = False,
    asked: Recorded | None = None,
) -> Judged:
    """`test`: labelled rows that the challenger was not trained on; `since`: event time of the shift in ms, and `recent`
    all labelled rows since; `asked`: the champion's answers."""
    levels = policy.limits()
    live = None if recent is None else gate.live_loss(label_of(recent), champion.score(recent))
    numbers = gate.compared(
        label_of(test),
        champion.score(test),
        candidate.scorer.score(test),
        slices(contract, test),
        levels,
        after=None if since is None else (test[contract.time.field].dt.epoch("ms") >= since).to_numpy(),
    )
    situation = {
        "kind": "challenger",
        "force": False,
        "episode": in_episode,
        "harm": "none" if live is None else live.harm(levels["live"]),
    }
    evidence = {**situation, **numbers, "replay": replay(contract, candidate.scorer, asked, test)}
    return Judged(version, policy.decide({**evidence, **_files(contract, candidate, test)}), live)


def forced(contract: Contract, version: str | None, candidate: Candidate, rows: pl.DataFrame) -> Judged:
    """By force: only what keeps broken files out of service."""
    kind = "challenger" if version else "first"
    return Judged(version, policy.decide({"kind": kind, "force": True, **_files(contract, candidate, rows)}), None)


def replay(contract: Contract, challenger: Scorer, asked: Recorded | None, test: pl.DataFrame) -> Json:
    """The challenger's answers to recorded requests beside those that users got; they disagree about one that the contract's threshold parts.

    A log that could not be read (None) leaves nothing, which the policy refuses. `loss` counts requests since the first test row only: on older ones the challenger may have been taught.
    """
    if asked is None:
        return {}
    counted = {"lost": asked.lost, "waiting": asked.waiting, "unsent": asked.unsent}
    if asked.rows.is_empty():
        return {"requests": 0, **counted, "unscored": 0, "loss": {"rows": 0}}
    then, ours = asked.rows[ANSWER].to_numpy(), challenger.score(asked.rows)
    sane = np.isfinite(ours) & (ours >= 0) & (ours <= 1)
    unseen = (
        asked.rows[LABEL].is_not_null().to_numpy() & (asked.rows["append_time"] >= test["append_time"].min()).to_numpy()
    )
    side = contract.evaluation.threshold
    label, base = asked.rows[LABEL].fill_null(False).to_numpy()[unseen], then[unseen]
    loss = gate.log_loss(label, base)
    return {
        "requests": len(then),
        **counted,
        "unscored": int((~sane).sum()),
        "shift": float(np.mean(ours - then)),
        "distance": float(np.mean(np.abs(ours - then))),
        "disagreement": float(np.mean((ours >= side) != (then >= side))),
        "loss": asdict(gate.bound(gate.log_loss(label, ours[unseen]) - loss, loss)),
    }


def asked_of(settings: Settings, contract: Contract, version: str) -> Recorded | None:
    """The champion's newest answers with their rows; None where the log cannot be read."""
    try:
        return recorded(settings, contract, answers(settings, contract, version, most=REQUESTS))
    except (Unreachable, KafkaException, KeyError) as error:
        log("answers_unread", "warning", version=version, error=error)
        return None


def slices(contract: Contract, rows: pl.DataFrame) -> dict[str, np.ndarray]:
    """Each row's value of the contract's monitored categories, "" for none."""
    names = [f.name for f in contract.drift.features if f.kind == "categorical"]
    return {name: rows[name].cast(pl.String).fill_null("").to_numpy() for name in names}


def bundle_path(home: Path, artifact: object) -> tuple[Path, str]:
    """Directory and digest from a ledger entry's `artifact`; BadBundle if it points out of the home's models."""
    from batch.model import locate  # imports scikit-learn

    assert isinstance(artifact, dict)
    return locate(home, str(artifact["uri"])), str(artifact["sha256"])


def label_of(rows: pl.DataFrame) -> np.ndarray:
    return rows[LABEL].to_numpy().astype(np.int8)


def _files(contract: Contract, candidate: Candidate, rows: pl.DataFrame) -> dict[str, object]:
    """Golden rows again (loading has checked them), what the contract must offer, size and time on this machine."""
    from batch.model import GOLDEN, SCORE

    scorer = candidate.scorer
    golden = pl.read_ipc((candidate.directory / GOLDEN).read_bytes())
    worst = float(np.max(np.abs(scorer.score(golden) - golden[SCORE].to_numpy()), initial=0.0))
    known = {f.name for f in contract.fields} | set(getattr(scorer.features, "history", ()))
    return {
        "golden": {"rows": golden.height, "worst": worst},
        "schema": {
            "missing": [c for c in scorer.columns if c not in known],
            "label": contract.label is not None and scorer.meta.get("label") == contract.label.name,
        },
        "cost": {
            "bytes": sum(f.stat().st_size for f in candidate.directory.iterdir()),
            "row_ms": 1e3
            * float(np.median([_seconds(scorer, rows[i : i + 1]) for i in range(min(TIMED, rows.height))])),
            "batch_us": 1e6 * min(_seconds(scorer, rows) for _ in range(3)) / rows.height,
        },
        "rolled_back": candidate.rolled_back,
    }


def _seconds(scorer: Scorer, rows: pl.DataFrame) -> float:
    """Of this process's CPU: by the wall clock a busy machine refused a good challenger."""
    began = time.process_time()
    scorer.score(rows)
    return time.process_time() - began
