"""EDGE. The model card of a training: measured on its test rows, written beside the bundle, kept with the MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batch import card, card_figures, compare, policy, registry
from batch.compare import Judged
from batch.dataset import Labelled
from batch.promotion import now
from pipeline.contract import Contract
from pipeline.errors import Unreachable
from pipeline.logs import log
from pipeline.settings import Settings

if TYPE_CHECKING:
    from batch.train import Built


def write(
    settings: Settings,
    contract: Contract,
    built: Built,
    data: Labelled,
    judged: Judged,
    registered: registry.Registered,
    artifact: Mapping[str, object],
    recipe: Mapping[str, object],
) -> None:
    """`<version>-card.html` beside the bundle; a registry that is away by now costs the run's copy only."""
    fitted, parts, test = built.fitted, built.parts, data.rows[built.parts.test]
    fewest = int(policy.limits()["rows"])
    bundle = settings.home / str(artifact["uri"])
    made = card.Card(
        contract=contract,
        model=bundle.parent.name,
        version=registered.version,
        at=now(),
        data=data.identity.json(),
        recipe=recipe,
        params=built.params,
        metrics=fitted.metrics,
        baseline=fitted.baseline,
        figures=card_figures.measure(
            compare.label_of(test), fitted.scores, compare.slices(contract, test), fitted.base_rate, fewest
        ),
        features=built.features.names,
        gate=judged.json(),
        artifact=artifact,
        tested_from=built.tested_from,
        sizes=(len(parts.train), len(parts.calibrate), len(parts.test)),
        fewest=fewest,
    )
    pictures = {p.stem: p.read_bytes() for p in sorted((bundle.parent / f"{bundle.name}-plots").glob("*.png"))}
    path = bundle.parent / f"{bundle.name}-card.html"
    path.write_text(card.page(made, pictures), encoding="utf-8")
    try:
        registry.keep(settings, registered.run_id, path)
    except Unreachable as error:
        log("card_not_registered", "warning", card=path, error=error)
