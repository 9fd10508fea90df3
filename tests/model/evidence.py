"""Evidence in which everything is in order, for tests and benches that are about one part of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from batch import gate, policy
from batch.policy import Decision

_BETTER = {"rows": 5_000, "mean": -0.02, "error": 0.006, "upper": -0.01, "loss": 0.4}
FILES: dict[str, object] = {
    "golden": {"rows": 16, "worst": 0.0},
    "schema": {"missing": [], "label": True},
    "cost": {"bytes": 200_000, "row_ms": 0.3, "batch_us": 4.0},
    "rolled_back": False,
}
NOBODY_ASKED: dict[str, object] = {"requests": 0, "lost": 0, "unscored": 0, "loss": {"rows": 0}}
CALM: dict[str, object] = {"kind": "challenger", "force": False, "episode": False, "harm": "none"}
CHALLENGER: dict[str, object] = {
    **CALM,
    **FILES,
    "overall": _BETTER,
    "after": None,
    "slices": {f"region={r}": {**_BETTER, "p": 0.001} for r in ("north", "south")},
    "groups": {f"region={r}": {"gap": 0.01, "low": -0.01, "high": 0.03, "wider": 0.01} for r in ("north", "south")},
    "calibration": {"champion": 0.02, "challenger": 0.02},
    "replay": {**NOBODY_ASKED, "requests": 4_000, "disagreement": 0.02, "loss": {**_BETTER, "rows": 2_000}},
}
FIRST: dict[str, object] = {
    **{k: CHALLENGER[k] for k in (*CALM, *FILES, "overall")},
    "kind": "first",
    "calibration": {"champion": None, "challenger": 0.02},
}
FORCED: dict[str, object] = {**CHALLENGER, "force": True}


def decide(
    label: np.ndarray,
    champion: np.ndarray,
    challenger: np.ndarray,
    slices: Mapping[str, np.ndarray],
    *,
    after: np.ndarray | None = None,
    **situation: object,
) -> Decision:
    """The policy's decision over paired scores, all else in order."""
    numbers = gate.compared(label, champion, challenger, slices, policy.limits(), after=after)
    return policy.decide({**CALM, **FILES, "replay": NOBODY_ASKED, **numbers, **situation})


def decide_first(label: np.ndarray, challenger: np.ndarray, base_rate: float) -> Decision:
    return policy.decide({**CALM, "kind": "first", **FILES, **gate.first(label, challenger, base_rate)})
