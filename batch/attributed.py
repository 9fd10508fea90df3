"""EDGE. `driftline models attribution`: what moved a model's answers, window by window, from the rows of the lake.

    lake rows --> a sample by coordinate --> features, history included --> contributions --> beside the reference's

The reference is what the model was measured on: the rows from `tested_from` to the end of its training data. A sample is a
function of the rows that the lake holds, so a look can be repeated. Needs no broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from scipy.special import expit

from batch import attribution, compare, dataset, ledger, table
from batch import model as bundles
from batch.attribution import Look, Reference, Sample
from batch.attribution_live import window_length
from batch.labels import COORDINATE
from batch.ledger import Ledger
from batch.model import Scorer
from batch.tree_shap import explainer_of
from pipeline.contract import APPEND_TIME, RAW_OFFSET, RAW_PARTITION, Contract
from pipeline.errors import CheckFailed
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text
from stream_processors.live.model_features import check_history

REFERENCE_ROWS = 20_000  # its means are then known far better than a window's


def look(
    settings: Settings,
    contract: Contract,
    model: str,
    version: str | None = None,
    *,
    since: int | None = None,
    until: int | None = None,
    window: int | None = None,
    rows: int = 1_000,
) -> Look:
    """At most `rows` rows of each window with event time in [since, until), ms; None: behind the training data, to the newest.

    CheckFailed if there is no such model, its bundle does not say what it was measured on, or the lake lacks the rows.
    """
    version, scorer = _model(settings, contract, model, version)
    first, last = _measured_on(model, version, scorer)
    lake = _Lake(settings, contract, table.versions(settings, contract.id, limit=1)[0].version, scorer)
    taught, _ = lake.sample(first, last + 1, last + 1 - first, REFERENCE_ROWS)
    if taught.rows < attribution.FEWEST:
        raise CheckFailed(
            f"{model} version {version}: expected {attribution.FEWEST} or more of the rows that it was measured on, of "
            f"{_span(first, last)}; the lake holds {taught.rows}"
        )
    odds = taught.log_odds
    reference = Reference(first, last + 1, taught.rows, float(expit(odds).mean()), float(odds.mean()))

    length = window or window_length(contract)
    begin = -(-(last + 1) // length) * length if since is None else since // length * length
    now, times = lake.sample(begin, until, length, rows)
    starts = times // length * length
    at = {int(s): starts == s for s in np.unique(starts)}
    names, categories = scorer.features.names, scorer.features.categorical
    windows = tuple(
        attribution.compared(taught, now.only(mask), names, categories, start=s, end=s + length, windows=len(at))
        for s, mask in at.items()
    )
    whole = attribution.compared(taught, now, names, categories, start=windows[0].start, end=windows[-1].end)
    return Look(model, version, reference, whole, windows)


@dataclass(frozen=True, slots=True)
class _Lake:
    """One version of the table, as a model sees its rows."""

    settings: Settings
    contract: Contract
    version: int
    scorer: Scorer

    def sample(self, since: int, until: int | None, length: int, most: int) -> tuple[Sample, np.ndarray]:
        """Of each stretch of `length` ms from `since` on, the `most` rows with the smallest lots; their event times, ms."""
        clock = self.contract.time.field
        time = pl.col(clock)
        inside = time >= datetime.fromtimestamp(since / 1000, UTC)
        if until is not None:
            inside &= time < datetime.fromtimestamp(until / 1000, UTC)
        names = [f.name for f in self.contract.fields] + [*COORDINATE, APPEND_TIME]
        frame = table.scan(self.settings, self.contract.id, version=self.version).select(names).filter(inside)
        found = frame.select(*COORDINATE, stretch=(time.dt.epoch("ms") - since) // length).collect()
        if found.is_empty():
            raise CheckFailed(
                f"{self.contract.id}: expected rows of {_span(since, until)}, the lake holds {self._held()}"
            )
        lots = attribution.lot(found[RAW_PARTITION].to_numpy(), found[RAW_OFFSET].to_numpy())
        drawn = found.with_columns(lot=pl.Series(lots)).sort("lot").group_by("stretch").head(most)
        rows = frame.join(drawn.lazy().select(COORDINATE), on=COORDINATE, how="semi").collect().sort(COORDINATE)
        if self.scorer.features.history:
            rows = dataset.with_history(self.settings, self.contract, rows, self.version)
        matrix, explainer = self.scorer.features.matrix(rows), explainer_of(self.scorer.plan)
        return Sample(matrix, explainer.contributions(matrix), explainer.base), rows[clock].dt.epoch("ms").to_numpy()

    def _held(self) -> str:
        ends = dataset.event_times(self.settings, self.contract)
        return _span(*ends) if ends else "none"


def _model(settings: Settings, contract: Contract, model: str, version: str | None) -> tuple[str, Scorer]:
    entries = Ledger(ledger.path_of(settings)).entries(model)
    champion = ledger.champion(entries)
    version = version or (champion and champion.draft.version)
    artifact = version and ledger.artifact_of(entries, version)
    if not version or not artifact:
        asked = f"version {version}" if version else "champion"
        raise CheckFailed(f"{model}: the ledger knows no {asked}; `driftline models list` shows what there is")
    scorer = bundles.load(*compare.bundle_path(settings.home, artifact))
    check_history(scorer.features, contract)
    return version, scorer


def _measured_on(model: str, version: str, scorer: Scorer) -> tuple[int, int]:
    """(first, last) event time of the rows that the model was tested on."""
    data = scorer.meta.get("data")
    first, last = scorer.meta.get("tested_from"), data.get("end") if isinstance(data, dict) else None
    if first is None or last is None:
        raise CheckFailed(f"{model} version {version}: its bundle does not say what it was measured on; train it again")
    return to_ms(str(first)), to_ms(str(last))


def _span(since: int, until: int | None) -> str:
    return f"{to_text(since)} to {'the newest' if until is None else to_text(until)}"
