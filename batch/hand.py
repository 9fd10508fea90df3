"""EDGE. A promotion by hand: through the same gate, or by force with a reason; loads models, so it imports scikit-learn."""

from __future__ import annotations

import polars as pl

from batch import compare, dataset, ledger, promotion
from batch import model as bundles
from batch.compare import Candidate, Judged
from batch.decisions import KEPT
from batch.ledger import Draft, Entry, Ledger
from batch.promotion import Refused, now
from pipeline.contract import Contract
from pipeline.errors import CheckFailed
from pipeline.settings import Settings
from pipeline.times import to_ms

GATE_ROWS = 20_000  # newest labelled rows that it is judged on


def promote(
    settings: Settings,
    contract: Contract,
    model: str,
    version: str | None,
    *,
    actor: str,
    reason: str,
    force: bool = False,
    request: str,
    since: int | None = None,
) -> Entry:
    """The version becomes champion, or CheckFailed says what the gate says. The reference stays as it is.

    It is judged on rows that it was not taught: those since its own test rows began. `since`: the onset (event time, ms)
    of an episode that nobody has answered yet. Rows may lie on both sides of it, and the gate asks about those after it, too.
    """
    entries = Ledger(ledger.path_of(settings)).entries(model)
    champion, artifact = ledger.champion(entries), ledger.artifact_of(entries, str(version))
    if artifact is None:
        raise CheckFailed(f"{model}: the ledger knows no trained version {version}; `driftline models list` shows them")
    if champion and champion.draft.version == version:
        raise CheckFailed(f"{model}: version {version} is the champion already")
    where, sha256 = compare.bundle_path(settings.home, artifact)
    candidate = Candidate(bundles.load(where, sha256), where, str(version) in ledger.rolled_back(entries))
    tested_from = candidate.scorer.meta.get("tested_from")
    data = dataset.labelled(settings, contract, to_ms(str(tested_from)) if tested_from else None)
    rows = data.rows.tail(GATE_ROWS)
    if force:
        judged = compare.forced(contract, champion.draft.version if champion else None, candidate, rows)
    elif champion is None:
        judged = compare.first(contract, candidate, rows, float(compare.label_of(rows).mean()))
    else:
        serving = bundles.load(*compare.bundle_path(settings.home, champion.draft.artifact))
        asked = compare.asked_of(settings, contract, str(champion.draft.version))
        clock = pl.col(contract.time.field).dt.epoch("ms")
        judged = compare.against(
            contract,
            serving,
            str(champion.draft.version),
            candidate,
            rows,
            recent=None if since is None else data.rows.filter(clock >= since),
            since=since,
            in_episode=since is not None,
            asked=asked,
        )
    said = "; ".join(judged.decision.reasons)
    draft = Draft(
        at=now(),
        model=model,
        action="promote" if judged.decision.promote else "refuse",
        version=version,
        actor=actor,
        reason=f"{reason}; {said}",
        policy=judged.decision.policy,
        metrics={**_kept(judged), "request": request, **({"force": True} if force else {})},
        data=data.identity.json(),
        artifact=artifact,
    )
    if not judged.decision.promote:
        promotion.note(settings, draft)
        raise Refused(f"{model} version {version} does not pass the gate: {said}")
    if champion is None:
        start, end = to_ms(data.identity.start), to_ms(data.identity.end) + 1
        draft = promotion.with_reference(settings, contract, draft, start, end)
    return promotion.crown(settings, draft, champion.draft.version if champion else None)


def _kept(judged: Judged) -> dict[str, object]:
    found = judged.json()
    return {k: found[k] for k in KEPT}
