"""EDGE. One look at the champion since its promotion: its recorded answers, their outcomes, the former champion asked again.

Stateless: everything is read anew from the ledger, the prediction log and the lake, so that a look can be repeated by
anybody (`driftline models watch`) and a controller that was killed looks again. Scoring imports scikit-learn; the
controller therefore looks through a child process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from batch import compare, dataset, ledger, policy, watch
from batch.compare import label_of
from batch.labels import LABEL
from batch.ledger import Entry, Ledger
from batch.recorded import ANSWER, answers, recorded
from batch.watch import Watched
from pipeline.contract import Contract
from pipeline.errors import CheckFailed
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms

_NOTHING = np.zeros(0)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look found, and what the policy makes of it."""

    seq: int  # of the promotion that is watched
    champion: str
    former: str | None
    former_loads: bool
    answers: int  # recorded since the promotion
    arrived: int  # labelled rows since the promotion, answered by it or not
    watched: Watched
    verdict: str
    policy: str

    def json(self) -> dict[str, object]:
        found = {**asdict(self), **asdict(self.watched), "excess": self.watched.excess}
        del found["watched"]
        return policy.readable(found)  # type: ignore[return-value]


def look(settings: Settings, contract: Contract, model: str) -> Look:
    """CheckFailed if no promotion is there to be watched."""
    entries = Ledger(ledger.path_of(settings)).entries(model)
    now = ledger.champion(entries)
    if now is None or now.draft.action != "promote":
        raise CheckFailed(f"{model}: expected a promoted champion to watch, got {now.draft.action if now else 'none'}")
    limits = policy.limits("watch")
    asked = answers(
        settings,
        contract,
        str(now.draft.version),
        most=int(limits["arrived"]),  # not every answer gets a label
        since_ms=to_ms(now.draft.at),
    )
    rows = recorded(settings, contract, asked).rows
    rows = rows.filter(pl.col(LABEL).is_not_null()) if rows.height else rows
    scores = _former_scores(settings, entries, now, rows)
    found = _measure(rows, scores, limits)
    loads = scores is not None
    arrived = dataset.count_labelled(settings, contract, arrived_since=to_ms(now.draft.at))
    said = policy.verdict({**asdict(found), "former_loads": loads, "arrived": arrived})
    return Look(
        now.seq,
        str(now.draft.version),
        now.draft.former,
        loads,
        asked.height,
        arrived,
        found,
        said,
        policy.version(),
    )


def _measure(rows: pl.DataFrame, former: np.ndarray | None, limits: Mapping[str, float]) -> Watched:
    if rows.is_empty():
        return watch.against_former(_NOTHING, _NOTHING, _NOTHING, limits)
    label, answered = label_of(rows), rows[ANSWER].to_numpy()
    if former is None:
        return watch.against_promise(label, answered, limits)
    return watch.against_former(label, answered, former, limits)


def _former_scores(settings: Settings, entries: list[Entry], now: Entry, rows: pl.DataFrame) -> np.ndarray | None:
    """What the former champion says to the rows; None if there is none, or its files are refused."""
    from batch import model as bundles

    artifact = ledger.artifact_of(entries, str(now.draft.former))
    if now.draft.former is None or artifact is None:
        return None
    try:
        scorer = bundles.load(*compare.bundle_path(settings.home, artifact))
    except CheckFailed as error:
        log("former_refused", "warning", version=now.draft.former, error=error)
        return None
    return scorer.score(rows) if rows.height else _NOTHING
