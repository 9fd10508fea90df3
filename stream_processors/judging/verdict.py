"""PURE. A verdict: what a closed window says about one feature in one segment, as published on `drift.verdicts`.

Equal rows and equal references give equal bytes: nothing of the run that made it (wall time, order of arrival) is in it.
`state`, `e_value`, `threshold`, `rule` and `change` depend on the on-time rows alone; n, the statistic and the rest
describe every row, late ones included. `revision` is the number of late rows in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "warning", "alarm", "undefined", "reference_missing", "reference_too_small"]
STATES: tuple[State, ...] = ("ok", "warning", "alarm", "undefined", "reference_missing", "reference_too_small")
Quantiles = tuple[float, ...]  # at 5, 25, 50, 75 and 95 %


@dataclass(frozen=True, slots=True)
class Verdict:
    contract: str  # sales@1.0.0
    dataset: str
    window_start: str
    window_end: str
    feature: str
    segment: str
    kind: Literal["numeric", "categorical"]
    n: int  # rows with a value
    reference_n: int
    statistic: float | None  # K-S distance of numbers, Jensen-Shannon distance of categories
    p_value: float | None
    rule: str  # the rule that decided, or the contract's while none has
    alpha: float
    critical_value: float | None
    threshold: float | None  # natural log
    e_value: float | None  # natural log; the window's highest
    effect: float | None
    psi: float | None
    js: float | None
    null_ratio: float | None
    quantiles_reference: Quantiles | None
    quantiles_window: Quantiles | None
    change: str | None  # the kind of change that fits best
    state: State
    provisional: bool
    revision: int
    reference_version: int
    contract_version: str
    offsets: Mapping[str, tuple[int, int]]  # raw offsets [start, end) that hold the window's rows, by partition
    cramer_von_mises: float | None = None
    wasserstein: float | None = None  # in units of the feature
    quantile_shifts: Quantiles | None = None  # window - reference, in units of the feature
    null_p_value: float | None = None
    reject_p_value: float | None = None  # of rejected records against valid ones; the feature `reject` alone
    new_share: float | None = None  # of values never seen
    vanished: tuple[str, ...] = ()  # categories that the window should hold and lacks
    top_moves: tuple[tuple[str, float], ...] = ()  # (category, its share - the reference's)
    slot: str | None = None  # the hours of the week whose law it was compared with; None = there is one law
    lower_effect: float | None = None  # the effect is at least this, in the tolerance's unit
    tolerance: float = 0.0
    at: float | str | None = None  # where the laws differ most: a value; the category whose share moved most
    sign: int = 0  # +1: the window lies above the reference there (larger values; a larger share), -1 below
    cvm_p_value: float | None = None
    g_statistic: float | None = None
    g_p_value: float | None = None
    other_model: int = 0  # rows that another model version answered than the reference's; they are not in n
    undefined: Mapping[str, str] = field(default_factory=dict)  # null figure -> why; `statistic` = all; `state`

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.window_start}/{self.feature}/{self.segment}/{self.revision}"

    @property
    def place(self) -> tuple[str, str, str]:
        return self.window_start, self.feature, self.segment

    def to_bytes(self) -> bytes:
        return json.dumps(
            {n: getattr(self, n) for n in self.__slots__}, separators=(",", ":"), allow_nan=False
        ).encode()
