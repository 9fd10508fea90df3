"""PURE. What kind of change an episode is, by name: from what moved, what it did to the loss, and how sound the data is.

    data fault       records are damaged, late, sent twice or missing, or a dataset rule is newly broken: what the rows say
                     about the world is not to be trusted
    harmful shift    inputs moved, and the champion loses more than before
    harmless shift   inputs moved, and the champion is shown to lose what its scores promise
    concept drift    the champion loses more than its scores promise, and no input moved
    undecided        the labels so far show neither

In this order: a fault in the data moves inputs and loss by itself. Neither the model's own score nor what it knows of the
past is an input: where the relation changes, the history features carry it into the scores. Knows no Kafka and no ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from batch.decisions import Episode
from pipeline.contract import REJECT, SCORE_COLUMNS
from pipeline.times import to_ms

Case = Literal["harmless shift", "harmful shift", "concept drift", "data fault", "undecided"]
Loss = Literal["within", "beyond", "unclear"]

MATERIAL = 0.10  # of the loss: the bound of the gate and of the watch
# Causes that are no change of the world. A new category or a moved level may be one.
FAULTS = frozenset({"clock_skew", "duplicate_producer", "null_burst", "unit_change", "dropped_segment"})


@dataclass(frozen=True, slots=True)
class Seen:
    """`estimate`: by how much the promised loss is above that of the champion's test rows, as a share; None = not known."""

    moved: frozenset[str] = frozenset()  # features in alarm
    causes: frozenset[str] = frozenset()  # the most probable one of each alert
    loss: Loss = "unclear"  # of the labelled rows since the onset, against what the scores promise
    estimate: float | None = None
    rules: frozenset[str] = frozenset()  # dataset rules that the episode's windows broke

    @property
    def inputs(self) -> frozenset[str]:
        return self.moved - {REJECT, *SCORE_COLUMNS}


def case_of(seen: Seen) -> Case:
    """The name of what was seen.

    >>> case_of(Seen(frozenset({"price"}), loss="beyond"))
    'harmful shift'
    >>> case_of(Seen(frozenset({"score"}), loss="beyond"))
    'concept drift'
    """
    if REJECT in seen.moved or seen.causes & FAULTS or seen.rules:
        return "data fault"
    if not seen.inputs:
        return "concept drift" if seen.loss == "beyond" else "undecided"
    if seen.loss == "beyond" or (seen.estimate is not None and seen.estimate > MATERIAL):
        return "harmful shift"
    return "harmless shift" if seen.loss == "within" else "undecided"


def broken(violations: Iterable[Mapping[str, str]], onset: int) -> frozenset[str]:
    """The dataset rules that failed since the onset (ms): critical ones, and others that had not failed before.

    A rule that the world breaks by nature fails in windows of every kind and says nothing of the episode. An onset is an
    estimate, so the window before the one it lies in is neither. `violations` as the table's commits carry them.
    """
    windows = [(v, to_ms(v["window_start"]), to_ms(v["window_end"])) for v in violations if v["window_start"] != "run"]
    before = {v["rule"] for v, start, end in windows if end + (end - start) <= onset}
    since = (v for v, _, end in windows if end > onset)
    return frozenset(v["rule"] for v in since if v["severity"] == "critical" or v["rule"] not in before)


def seen(
    episodes: Iterable[Episode],
    gate: Mapping[str, object] | None = None,
    tested: object = None,
    violations: Iterable[Mapping[str, str]] = (),
    history: Iterable[str] = (),
) -> Seen:
    """From the episodes that one decision answers, the gate's report, the champion's log loss on its test rows, the
    dataset rules that the lake says failed, and the names of the history features.

    Without a report, or where it leaves the matter open, a firing episode of the loss speaks for the labels.
    """
    listed = list(episodes)
    harm, live = (gate or {}).get("harm"), (gate or {}).get("live")
    fired = any(e.source == "loss" and e.state == "firing" for e in listed)
    loss: Loss = "within" if harm == "none" else "beyond" if harm == "harmful" or fired else "unclear"
    promised = live.get("promised") if isinstance(live, Mapping) else None
    known = isinstance(promised, float) and isinstance(tested, float) and tested > 0
    return Seen(
        frozenset().union(*(e.moved for e in listed)) - frozenset(history),
        frozenset().union(*(e.causes for e in listed)),
        loss,
        promised / tested - 1 if known else None,  # type: ignore[operator]
        broken(violations, min(e.onset for e in listed)) if listed else frozenset(),
    )
