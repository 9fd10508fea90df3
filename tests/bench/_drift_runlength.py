"""Question: does the run length that is stated come true, whatever reference was drawn?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from stream_processors.detectors.detector import Detectors
from tests.bench._drift_answers import Answer, Picture, Size, Table, shared_out
from tests.bench._drift_streams import TEN, Counter, World, pages
from tests.bench.report import bar, progress

ROWS = 100  # a pane
TARGET = 10_000  # panes: a million events
SORTS = ("normal", "cents", "country")
SIZES = (1_000, 10_000, 100_000)
REFERENCES = {"short": 1, "default": 100, "full": 100}
PANES = {"short": 2_000, "default": 40_000, "full": 100_000}
CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Draw:
    reference: int  # rows
    seed: int
    panes: int


def one(draw: Draw) -> dict[str, int] | None:
    """Pages by feature against one drawn reference; None if it is refused."""
    rng = np.random.Generator(np.random.SFC64([21, draw.reference, draw.seed]))
    world = World([f for f in TEN if f.name in SORTS], 0.0)
    references = world.references(rng, draw.reference)
    # equal weights: each feature has a budget of one page in TARGET panes
    detectors = Detectors(references, world.plan(float(len(SORTS)), TARGET))
    if len(detectors.budget.refused) == len(SORTS):
        return None
    state, counter, found = detectors.start(), Counter(world, references, detectors), []
    for first in range(0, draw.panes, CHUNK):
        found += pages(detectors, state, counter.panes(rng, CHUNK, ROWS), first)
    return {name: sum(key[0] == name for _, key in found) for name in SORTS}


def run(size: Size) -> Answer:
    bars, rows, shares = [], [], {}
    number, panes = REFERENCES[size], PANES[size]
    for m in SIZES:
        found = list(shared_out(one, [Draw(m, seed, panes) for seed in range(number)]))
        refused = sum(f is None for f in found)
        progress(
            f"run-length: reference of {m}: {refused} of {number} refused, {sum(sum(f.values()) for f in found if f)} pages"
        )
        if refused == number:
            bars.append(bar(f"run-length: references of {m:,} rows that may page", number - refused, "==", 0))
            rows.append((f"{m:,}", "all", "refused: below the floor", "", ""))
            continue
        for name in SORTS:
            counts = np.array([f[name] for f in found if f])
            events = panes * ROWS * len(counts)
            realised = events / max(1, counts.sum())
            ratio = realised / (TARGET * ROWS)
            worst = float(np.quantile(counts, 0.95)) / (panes / TARGET)
            shares[m, name] = counts / (panes / TARGET)
            bars.append(
                bar(
                    f"run-length: realised / stated, {name}, reference of {m:,}",
                    round(ratio, 3),
                    ">=",
                    0.8,
                    size != "short",
                )
            )
            bars.append(
                bar(
                    f"run-length: 95th percentile over references of the rate / nominal, {name}, {m:,}",
                    round(worst, 3),
                    "<=",
                    2.0,
                    False,
                )
            )
            at_least = ">= " if not counts.sum() else ""
            rows.append((f"{m:,}", name, f"{at_least}{realised:.3g}", f"{at_least}{ratio:.2f}", f"{worst:.2f}"))

    def draw(axes: Axes) -> None:
        labels = list(shares)
        axes.boxplot([shares[k] for k in labels], tick_labels=[f"{n}\n{m:,}" for m, n in labels], whis=(5, 95))
        axes.axhline(1, linestyle=":", color="grey")
        axes.set_ylabel("false pages / nominal, by reference")

    return Answer(
        "The run length that is stated comes true",
        f"One page in a million events is the budget of each of three features ({', '.join(SORTS)}), panes of {ROWS} rows; "
        f"{number} references of each size are drawn and each watches {panes * ROWS:,} quiet events. "
        "Realised is events over pages; a page starts the detector anew.",
        bars,
        {"stated_events": TARGET * ROWS, "references": number, "events_each": panes * ROWS},
        [
            Table(
                "Realised run length",
                (
                    "reference rows",
                    "feature",
                    "events a page",
                    "of stated",
                    "95 % of references page at most x nominal",
                ),
                rows,
            )
        ],
        [Picture("runlength", "false pages over nominal by reference", draw)] if shares else [],
        [
            "Above the stated run length is on the safe side: the threshold is a bound that holds at every pane size and for every law, nothing is fitted."
        ],
    )
